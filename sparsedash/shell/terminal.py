"""What a command writes: results, complaints in one line, warnings, and nothing that libraries would add."""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from sparsedash.schema.errors import SparseDashError
from sparsedash.storage.whole_file import writable_file, write_whole

EXIT_FAILED = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_BEYOND = 3
EXIT_TO_MEND = 4
EXIT_STOPPED = 130
STDOUT = "-"
"""The file name that means standard output."""
MOST_SAID = 1_500
"""Characters of one complaint."""


class Parser(argparse.ArgumentParser):
    """Complains in one line, with the exit code that argparse uses as well."""

    def error(self, message: str) -> NoReturn:
        """End the program with the complaint."""
        self.exit(EXIT_BAD_ARGUMENTS, f"{self.prog}: {one_line(message)}\n")


def path(text: str) -> Path:
    """A path that an argument names."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a name is needed")
    return Path(text)


def ask_for_output(parser: argparse.ArgumentParser, holds: str = "the whole result") -> None:
    """Add the flags that say where the result goes, and whether progress is shown."""
    to = f"write {holds} there as JSON; {STDOUT} is standard output, and the table then goes to standard error"
    parser.add_argument("--json", type=_file_or_stdout, metavar="FILE", help=to)
    ask_for_quiet(parser)


def ask_for_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the flag that hides progress."""
    quiet = "show no progress: only the result, warnings and errors"
    parser.add_argument("--quiet", action="store_true", help=quiet)


def asked_output(arguments: argparse.Namespace) -> Callable[[Iterable[str], dict[str, Any]], None]:
    """Prints the lines of a result, and writes its document where --json says.

    Raises SettingsError where that file cannot be written.
    """
    file = writable_file(arguments.json, "--json") if isinstance(arguments.json, Path) else None

    def write(lines: Iterable[str], document: dict[str, Any]) -> None:
        text = "" if arguments.json is None else json.dumps(document, indent=1, allow_nan=False)
        if arguments.json != STDOUT:
            print(*lines, sep="\n")
        elif not arguments.quiet:
            print(*lines, sep="\n", file=sys.stderr)
        if arguments.json == STDOUT:
            print(text)
        if file is not None:
            write_whole(file, text)

    return write


def warn(said: Iterable[str]) -> None:
    """Print the warnings that the pages show of a run."""
    for line in said:
        print(f"sparsedash: warning: {one_line(line)}", file=sys.stderr)


def complain(error: SparseDashError, code: int) -> int:
    """Print what went wrong; gives back the exit code."""
    print(f"sparsedash: {one_line(str(error))}", file=sys.stderr)
    return code


def quieten() -> None:
    """Libraries' own bars and notices would tear ours apart; errors still come through."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "")
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")


def _file_or_stdout(text: str) -> Path | str:
    return STDOUT if text == STDOUT else path(text)


def one_line(text: str) -> str:
    """The text with what would break a line or steer a terminal spelt out, and cut where nobody reads on."""
    plain = text.replace("\u00a0", " ")
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in plain)
    return shown if len(shown) <= MOST_SAID else f"{shown[:MOST_SAID]} …"
