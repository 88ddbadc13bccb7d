"""Every error a user can meet, and redaction of secrets in all text that is shown, stored or logged."""

import os
import re
import sys
from typing import TextIO

HIDDEN = "[hidden]"

_SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST = 8
"""A shorter value of such a variable is a word like `true`, which stands in many texts."""

_SHAPES = (
    re.compile(r"()\bhf_[A-Za-z0-9]{30,}"),
    re.compile(r"(://)[^\s/@]{1,500}(?=@)"),
    re.compile(r"(\b(?:bearer|basic) )[\w.~+/=-]{12,}", re.IGNORECASE),
    re.compile(r"([?&](?:[a-z_-]{0,40}token|[a-z_-]{0,40}signature|sig|api_?key)=)[^&\s'\"<>]+", re.IGNORECASE),
)
"""How a secret looks that no variable holds: the hub's tokens, `user:password@` and `?token=` in an address, a header.
What stands in the group before it is kept.
"""


def redacted(text: str) -> str:
    """The text with [hidden] for what looks like a secret, and for the secrets of the environment."""
    for secret in _of_the_environment():
        text = text.replace(secret, HIDDEN)
    for shape in _SHAPES:
        text = shape.sub(rf"\1{HIDDEN}", text)
    return text


def looks_secret(text: str) -> bool:
    """Whether something in it looks like a secret, whatever the environment holds."""
    return any(shape.search(text) for shape in _SHAPES)


def redact_output() -> None:
    """From now on what Python code prints and logs passes through `redacted`.

    Loggers that hold the streams already keep them: call it before they are imported.
    """
    if not isinstance(sys.stdout, _RedactedStream):
        sys.stdout = _RedactedStream(sys.stdout)
    if not isinstance(sys.stderr, _RedactedStream):
        sys.stderr = _RedactedStream(sys.stderr)


class _RedactedStream:
    """A stream in all but what is written to it. Each text that is written is looked at by itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _of_the_environment() -> list[str]:
    """The longest first: one may be the beginning of another."""
    values = {value for name, value in os.environ.items() if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST}
    return sorted(values, key=len, reverse=True)


def encodable(text: str) -> str:
    """The text with a question mark for every half of a character, which UTF-8 cannot hold and SQLite refuses."""
    return text.encode("utf-8", "replace").decode()


_SHOWN = 200
"""Characters of a refused value; more would hide what is allowed."""


class SparseDashError(Exception):
    """Root of the tree. `message` is one line of plain text, `advice` one more or empty."""

    def __init__(self, message: str, advice: str = "") -> None:
        self.message = redacted(message)
        self.advice = redacted(advice)
        # Some messages end in what a library said.
        stop = "." if self.advice and self.message[-1:] not in ".!?:…" else ""
        super().__init__(f"{self.message}{stop} {self.advice}".strip())


class SettingsError(SparseDashError):
    """A setting was refused. `field` names it."""

    def __init__(self, field: str, value: object, allowed: str, advice: str = "") -> None:
        shown = repr(value)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}…"
        super().__init__(f"{field}: {shown} is not possible; allowed: {allowed}.", advice)
        self.field = field


class ModelError(SparseDashError):
    """The model cannot be found, reached, read or pruned."""


class CorpusError(SparseDashError):
    """A text set cannot be found, reached or read."""


class CalibrationError(SparseDashError):
    """The calibration statistics do not support what was asked."""


class ExportError(SparseDashError):
    """A sparse model cannot be written in the form asked for, or its files are not that model."""


class StoreError(SparseDashError):
    """The data folder cannot be used, or an entry in it is damaged."""


class NewerError(StoreError):
    """An entry in the data folder is whole, but of a form that this version does not know. It is never replaced."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} in the data folder was written by another version of SparseDash, most likely a newer one, and is "
            "left as it is.",
            "Upgrade, or name another data folder.",
        )


class AccessError(SparseDashError):
    """It is somebody else's, or more than this visitor may."""


class JobError(SparseDashError):
    """A job cannot be found, or is not in a state that allows what was asked."""


class Cancelled(SparseDashError):  # noqa: N818 - it is not an error that somebody stopped it
    """Somebody asked the work to stop; nothing half-done was kept."""

    def __init__(self) -> None:
        super().__init__("Stopped on request.", "What was finished before is kept; start again to go on.")
