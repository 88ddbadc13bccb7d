"""Which file a text reference names: `file:PATH`, or `upload:NAME@HASH` for one that a visitor gave.

`[3600:]` after either takes a slice of its texts.
"""

import re
import sys
from pathlib import Path

from sparsedash.storage.local_paths import local_path

FILE, UPLOAD = "file:", "upload:"
TEXT_KINDS = (".jsonl", ".txt", ".parquet")

_SLICED = re.compile(r"(?P<name>.+?)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?", re.DOTALL)
# No slash and no leading dot can pass, so that no name leads out of the folder of uploads.
_UPLOADED = re.compile(r"(?P<file>[\w-]+\.(?:jsonl|txt|parquet))@(?P<hash>[0-9a-f]{32})")


def uploads_folder(data_dir: Path) -> Path:
    """Where uploads lie: each in a folder that is named by its content's hash."""
    return data_dir / "uploads"


def names_file(reference: str) -> bool:
    """Whether a reference names a file rather than a text set of the catalog."""
    return reference.startswith((FILE, UPLOAD))


def file_of(reference: str, data_dir: Path) -> Path | None:
    """The file behind a reference, whether or not it is there; None where no file can have that name."""
    name, _ = _parted(reference)
    if reference.startswith(FILE):
        return local_path(name)
    uploaded = _UPLOADED.fullmatch(name) if reference.startswith(UPLOAD) else None
    return uploaded and uploads_folder(data_dir) / uploaded["hash"] / uploaded["file"]


def chosen(reference: str) -> slice:
    """Which of the file's texts are meant."""
    return _parted(reference)[1]


def _parted(reference: str) -> tuple[str, slice]:
    named = _SLICED.fullmatch(reference.partition(":")[2])
    if named is None:
        return "", slice(None)
    # No file has more texts than a machine can count.
    start, stop = (min(int(end), sys.maxsize) if end else None for end in (named["start"], named["stop"]))
    return named["name"], slice(start, stop)
