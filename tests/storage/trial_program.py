"""A program that is tried: it does one thing that its limits, or its output, are about."""

import sys
import tempfile
from pathlib import Path

from sparsedash.storage.trials import run_trial

LIMIT = 500_000_000


def _noisy() -> str:
    print("a library's own words")
    return "is not good"


def _large() -> str:
    return f"took {len(bytearray(2 * LIMIT))}"


def _endless() -> str:
    while True:
        pass


def _leaves() -> str:
    Path(tempfile.mkdtemp(), "left").write_text("x", encoding="utf-8")
    return tempfile.gettempdir()


def _long_file() -> str:
    with tempfile.TemporaryFile() as file:
        file.truncate(100 * LIMIT)
    return "written"


if __name__ == "__main__":
    run_trial(
        {
            "noisy": _noisy,
            "large": _large,
            "endless": _endless,
            "leaves": _leaves,
            "long": _long_file,
        }[sys.argv[1]],
        LIMIT,
        1,
    )
