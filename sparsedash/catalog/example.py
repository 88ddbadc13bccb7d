"""The finished run that ships with the program, for who has not run anything yet: `make example` makes it again.

It was made by the program itself and is read as every result is. Its keys begin with EXAMPLE, which no key of a result
that was made here does, so that the two can never be taken for each other.
"""

import gzip
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from sparsedash.schema.records import Passages, R, Record, Run, from_lines, to_line

EXAMPLE = "example"
"""The key of the run."""

FILE = Path(__file__).parent / "example" / "run.jsonl.gz"


def is_example(key: str) -> bool:
    """Whether this is the key of the run, or of one of its records."""
    return key.split("-")[0] == EXAMPLE


def example_key(key: str) -> str:
    """The key that a result made under this key has in the example."""
    return f"{EXAMPLE}-{key}"


def shipped(kind: type[R], key: str) -> R | None:
    """What ships of this kind under this key, or None."""
    found = _all(FILE).get(key) if is_example(key) else None
    return found if isinstance(found, kind) else None


def write_example(parts: Iterable[Run | Record | Passages], file: Path = FILE) -> None:
    """Write what ships; the same parts give the same bytes."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress("".join(map(to_line, parts)).encode(), mtime=0))


@cache
def _all(file: Path) -> dict[str, Run | Record | Passages]:
    """Everything that ships, by its key; nothing where a build left the file out."""
    if not file.is_file():
        return {}
    kinds: tuple[type[Run | Record | Passages], ...] = (Run, Record, Passages)
    return {part.key: part for part in from_lines(gzip.decompress(file.read_bytes()).decode(), kinds)}
