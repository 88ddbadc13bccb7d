"""What every benchmark of answers is told: which model, which passages, and where it keeps its files."""

import argparse
import tempfile
from pathlib import Path

from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_MODEL


def answers_parser(description):
    """A parser with these arguments, to which a script adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=BUILTIN_MODEL)
    parser.add_argument("--evaluation", default=BUILTIN_CLOZE)
    parser.add_argument("--passages", type=int)
    parser.add_argument("--data-dir", type=Path, default=Path(tempfile.gettempdir()) / "sparsedash-benchmarks")
    return parser
