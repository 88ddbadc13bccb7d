"""Every error a user can meet, and redaction of secrets in all text that is shown, stored or
logged.

A message says what was wrong and what is allowed; `advice` says what to do next. A hub may repeat
the token that it was sent, and its client puts that into errors: so every error, and all output of
a worker or shell command, is redacted.
"""

import os
import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

HIDDEN = "[hidden]"

_SECRET_NAMES = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIALS?)$", re.IGNORECASE
)
_SHORTEST = 8
"""A shorter value of such a variable is a word like `true`, common in texts."""

_SHAPES = (
    re.compile(r"()\bhf_[A-Za-z0-9]{30,}"),
    re.compile(r"(://)[^\s/@]{1,500}(?=@)"),
    re.compile(r"(\b(?:bearer|basic) )[\w.~+/=-]{12,}", re.IGNORECASE),
    re.compile(
        r"([?&](?:[a-z_-]{0,40}token|[a-z_-]{0,40}signature|sig|api_?key)=)[^&\s'\"<>]+",
        re.IGNORECASE,
    ),
)
"""Secrets outside of variables: the hub's tokens, `user:password@` and `?token=` in an address, a
header.

The group before the secret is kept.
"""


def redacted(text: str) -> str:
    """The text with [hidden] for secrets: by their shape, and those of the environment."""
    values = {
        value
        for name, value in os.environ.items()
        if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST
    }
    # The longest first: one may be the beginning of another.
    for secret in sorted(values, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for shape in _SHAPES:
        text = shape.sub(rf"\1{HIDDEN}", text)
    return text


def looks_secret(text: str) -> bool:
    """Whether something in it has the shape of a secret."""
    return any(shape.search(text) for shape in _SHAPES)


def redact_output() -> None:
    """Redact all that Python code prints and logs from now on.

    Existing loggers keep their streams: call it before they are imported.
    """
    if not isinstance(sys.stdout, _RedactedStream):
        # None where the stream was closed before the start.
        streams = [
            stream or Path(os.devnull).open("w")  # noqa: SIM115
            for stream in (sys.stdout, sys.stderr)
        ]
        for stream in streams:
            if isinstance(stream, TextIOWrapper):
                # A terminal of another encoding shows question marks, rather than the end of the
                # program.
                stream.reconfigure(
                    errors="replace" if stream is sys.stdout else "backslashreplace"
                )
        sys.stdout, sys.stderr = map(_RedactedStream, streams)


class _RedactedStream:
    """A stream that redacts each written text by itself."""

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


def encodable(text: str) -> str:
    """The text with a question mark for every half of a surrogate pair, which UTF-8 and SQLite
    refuse.
    """
    return text.encode("utf-8", "replace").decode()


_SHOWN = 200
"""Characters of a refused value in its message."""


class SparseDashError(Exception):
    """Root of the tree. `message` is one line of plain text, `advice` one more or empty."""

    def __init__(self, message: str, advice: str = "") -> None:
        self.message = redacted(message)
        self.advice = redacted(advice)
        # Some messages end in a library's own.
        stop = "." if self.advice and self.message[-1:] not in ".!?:…" else ""
        super().__init__(f"{self.message}{stop} {self.advice}".strip())


class SettingsError(SparseDashError):
    """A setting was refused. `field` names it.

    message: the whole sentence, where it is not one value that is wrong.
    """

    def __init__(
        self,
        field: str,
        value: object = None,
        allowed: str = "",
        advice: str = "",
        *,
        message: str = "",
    ) -> None:
        shown = repr(value)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}…"
        super().__init__(
            message
            or f"{field[:1].upper()}{field[1:]} must be {allowed}, not {shown}.",
            advice,
        )
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


class AccessError(SparseDashError):
    """The request concerns another user's data, or exceeds what this user may use."""


class JobError(SparseDashError):
    """A job cannot be found, or is not in a state that allows what was asked."""


class Cancelled(SparseDashError):  # noqa: N818 - a request to stop is no error
    """The work was stopped on request; results that were not finished were discarded."""

    def __init__(self) -> None:
        super().__init__(
            "Stopped on request.",
            "What was finished before is kept; start again to go on.",
        )


def first_line(error: BaseException) -> str:
    """The reason in a library's or the system's error, in one line, without a full stop."""
    text = (
        getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    )
    reason, *further = text.splitlines()
    if reason.endswith(":") and further:
        # Some say where in the first line and what in the second.
        reason = f"{reason} {further[0].strip()}"
    return reason[:300].rstrip(".")


def install_command(what: str) -> str:
    """The command that installs a package, or "-r" and a file of them, where this program runs."""
    in_environment = sys.prefix != sys.base_prefix
    pip = str(Path(sys.prefix) / "bin" / "pip") if in_environment else "pip"
    return f"{pip} install {what}"
