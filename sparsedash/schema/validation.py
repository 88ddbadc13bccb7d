"""The kinds of checks that settings call with their own limits: one of a few, a whole number, a share, a text.

And the checks of what may be lost, whose limits are the same for all who ask, and the ranges of numbers in records,
which msgspec checks whenever one is read or written.
"""

from typing import Annotated, Any, get_args

from msgspec import Meta

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.secrets import looks_secret

Count = Annotated[int, Meta(ge=0)]
Permille = Annotated[int, Meta(ge=0, le=1000)]
Share = Annotated[float, Meta(ge=0, le=1)]
LogLikelihood = Annotated[float, Meta(le=0)]
NotNegative = Annotated[float, Meta(ge=0)]
"""Seconds, rates, and errors as shares of an output's energy, which can be more than all of it."""


def one_of(name: str, value: object, choices: Any) -> None:
    """Raise SettingsError unless the value is one of a Literal's."""
    if value not in get_args(choices):
        raise SettingsError(name, value, ", ".join(get_args(choices)))


def whole(name: str, value: object, low: int, high: int) -> None:
    """Raise SettingsError unless the value is a whole number from low to high."""
    if type(value) is not int or not low <= value <= high:
        raise SettingsError(name, value, f"a whole number from {low:,} to {high:,}")


def share(name: str, value: object) -> None:
    """Raise SettingsError unless the value is a number from 0 to 1."""
    if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator]
        raise SettingsError(name, value, "from 0 to 1")


def text(name: str, value: str) -> None:
    """Raise SettingsError unless the value says something, and not too much."""
    if not value.strip() or len(value) > 100_000:
        raise SettingsError(name, value[:40], "1 to 100,000 characters")


def reference(name: str, value: object) -> None:
    """Raise SettingsError unless the value is one line that can name a model or a text."""
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise SettingsError(name, value, "a reference without spaces around it")
    if len(value) > 4096 or not value.isprintable():
        raise SettingsError(name, value[:40], "at most 4,096 printable characters")
    if looks_secret(value):
        # It would be kept with the job and its results, and shown to whoever sees them.
        instead = "Set the hub's token as HF_TOKEN in the environment that SparseDash is started in."
        raise SettingsError(name, value, "a reference without a token or a password in it", instead)


def allowed_ratio(value: object) -> None:
    """Raise SettingsError unless the value can be what word perplexity may be, times the dense model's."""
    if type(value) not in (int, float) or not 1.0 < value <= 1000.0:  # type: ignore[operator]
        raise SettingsError("allowed word perplexity", value, "over 1 times dense's, to 1,000 times")


def allowed_points(value: object) -> None:
    """Raise SettingsError unless the value can be what accuracy may fall by, in percentage points."""
    if type(value) not in (int, float) or not 0.0 < value <= 100.0:  # type: ignore[operator]
        raise SettingsError("allowed points of accuracy", value, "over 0 to 100")
