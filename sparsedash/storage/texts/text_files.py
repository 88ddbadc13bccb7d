"""The texts of a file: `.jsonl` with a `text` field, `.txt` with blank lines between, `.parquet` with a `text`
column.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsedash.schema.errors import CorpusError
from sparsedash.storage.texts.text_refs import TEXT_KINDS

MAX_TEXT_BYTES = 200 * 1024 * 1024
"""Of all texts of a file together, some fifty million tokens: a small compressed file can hold more than memory."""

_BATCH_ROWS = 1024


def texts_of(path: Path) -> Iterator[str]:
    """The texts in their order, one after another, read as they are asked for.

    Raises CorpusError with the place where one cannot be read, and where they are more than MAX_TEXT_BYTES.
    """
    n_bytes = 0
    for text in _texts_of(path):
        n_bytes += len(text.encode())
        if n_bytes > MAX_TEXT_BYTES:
            raise _too_large(path)
        yield text


def _texts_of(path: Path) -> Iterator[str]:
    match path.suffix:
        case ".jsonl":
            yield from json_lines(path)
        case ".txt":
            if path.stat().st_size > MAX_TEXT_BYTES:
                raise _too_large(path)
            yield from re.split(r"\n\s*\n", "".join(_lines(path)))
        case ".parquet":
            yield from _column(path)
        case _:
            raise CorpusError(f"{path.name} is not of a kind that can be read; possible: {', '.join(TEXT_KINDS)}.")


def is_running(path: Path) -> bool:
    """Whether the texts are parts of one running text rather than documents of their own."""
    return path.suffix == ".txt"


def json_lines(path: Path) -> Iterator[str]:
    """The `text` of every line. Raises CorpusError with the number of the line that has none."""
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield _text_of(line, f"Line {number} of {path.name}")


def _text_of(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise CorpusError(
            f"{where} is not a JSON object with a text field.", 'Write one object a line: {"text": "..."}.'
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where} holds half a character: {error.reason}.") from error
    return text


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their ends, one after another; none is longer than all texts may be."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            while line := file.readline(MAX_TEXT_BYTES + 1):
                if len(line) > MAX_TEXT_BYTES:
                    raise _too_large(path)
                yield line
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path.name} is not text in UTF-8.", "Save it as UTF-8.") from error
    except OSError as error:
        raise CorpusError(f"{path.name} could not be read: {_first_line(error)}.") from error


def _column(path: Path) -> Iterator[str]:
    # Here, since it takes a third of a second and most files are not of this kind.
    import pyarrow
    from pyarrow import parquet

    try:
        # As a dictionary, so that a value that stands in a million rows is in memory once.
        with parquet.ParquetFile(path, read_dictionary=["text"]) as file:
            if _unpacked_bytes(file.metadata) > MAX_TEXT_BYTES:
                raise _too_large(path)
            for batch in file.iter_batches(_BATCH_ROWS, columns=["text"]):
                yield from _values(batch, path)
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise CorpusError(
            f"{path.name} could not be read: {_first_line(error)}", "It needs a column named text."
        ) from error


def _unpacked_bytes(metadata: Any) -> int:
    """What the columns named text take once they are unpacked, as the file says of itself; each value counts once."""
    columns = (
        metadata.row_group(group).column(i)
        for group in range(metadata.num_row_groups)
        for i in range(metadata.num_columns)
    )
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "text")


def _values(batch: Any, path: Path) -> Iterator[str]:
    for value in batch.column("text"):
        text = value.as_py()
        if not isinstance(text, str):
            raise CorpusError(f"The column text of {path.name} holds something that is not text.")
        yield text


def _too_large(path: Path) -> CorpusError:
    return CorpusError(
        f"{path.name} holds more than {MAX_TEXT_BYTES // 2**20} MB of text.", "Take a part of it: no run needs so much."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
