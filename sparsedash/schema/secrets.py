"""Makes text fit to be shown, kept or logged: without secrets, and without what UTF-8 cannot hold.

A hub may repeat in its answer the token that it was sent, and its client puts the answer into its errors. Two places
make use of this: every error of ours (`errors.py`), and all that a worker or the shell command prints.
"""

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
