"""Checks of plain values, their canonical JSON and its sha256."""

import hashlib
import json
from typing import Annotated, Any

from msgspec import Meta

from sparsedash.schema.errors import SettingsError, looks_secret


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces. Raises TypeError on anything not
    plain.
    """
    _require_text_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Lower-case hexadecimal sha256 of the canonical JSON of a plain value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _require_text_keys(value: Any) -> None:
    """Raise TypeError where a mapping has a key that json would silently turn into text."""
    if isinstance(value, dict):
        if any(type(name) is not str for name in value):
            raise TypeError(f"keys must be text: {list(value)!r}")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _require_text_keys(part)


LOCK_TIMEOUT_S = 5.0
"""How long to wait for another process while a user waits for the page."""

Count = Annotated[int, Meta(ge=0)]
Permille = Annotated[int, Meta(ge=0, le=1000)]
Share = Annotated[float, Meta(ge=0, le=1)]
LogLikelihood = Annotated[float, Meta(le=0)]
NotNegative = Annotated[float, Meta(ge=0)]
"""Seconds, rates, and errors as shares of an output's energy, which can be more than all of it."""


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise SettingsError unless the value is a whole number from low to high."""
    if type(value) is not int or not low <= value <= high:
        raise SettingsError(name, value, f"a whole number from {low:,} to {high:,}")


def require_text(name: str, value: str) -> None:
    """Raise SettingsError unless the value says something, and not too much."""
    if not value.strip() or len(value) > 100_000:
        shown = value if len(value) < 100 else f"{len(value):,} characters"
        raise SettingsError(name, shown, "1 to 100,000 characters, not spaces alone")


def require_reference(name: str, value: object) -> None:
    """Raise SettingsError unless the value is one line that can name a model or a text."""
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise SettingsError(name, value, "a reference without spaces around it")
    if len(value) > 4096 or not value.isprintable():
        raise SettingsError(name, value[:40], "at most 4,096 printable characters")
    if looks_secret(value):
        # It would be kept with the job and its results, and shown to whoever sees them.
        instead = "Set the hub's token as HF_TOKEN in the environment that SparseDash is started in."
        raise SettingsError(
            name, value, "a reference without a token or a password in it", instead
        )
