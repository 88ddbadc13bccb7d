"""What is said on a terminal: complaints in one line, and nothing that libraries would add."""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from sparsedash.schema.errors import SparseDashError

EXIT_FAILED = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_BEYOND = 3
EXIT_TO_MEND = 4
EXIT_STOPPED = 130
MOST_SAID = 1_500
"""Characters of one complaint."""


class Parser(argparse.ArgumentParser):
    """Complains in one line, with the exit code that argparse uses as well."""

    def error(self, message: str) -> NoReturn:
        """End the program with the complaint."""
        self.exit(EXIT_BAD_ARGUMENTS, f"{self.prog}: {_one_line(message)}\n")


def path(text: str) -> Path:
    """A path that an argument names."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a name is needed")
    return Path(text)


def complain(error: SparseDashError, code: int) -> int:
    """Print what went wrong; gives back the exit code."""
    print(f"sparsedash: {_one_line(str(error))}", file=sys.stderr)
    return code


def quieten() -> None:
    """Libraries' own bars and notices would tear ours apart; errors still come through."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "")
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")


def _one_line(text: str) -> str:
    """The text with what would break a line or steer a terminal spelt out, and cut where nobody reads on."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return shown if len(shown) <= MOST_SAID else f"{shown[:MOST_SAID]} …"
