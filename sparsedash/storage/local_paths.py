"""What lies under a path that somebody typed, however long or odd it is."""

from pathlib import Path
from typing import Literal

Kind = Literal["file", "folder", "other", "nothing"]
"""other: a pipe, a device or a socket, which would be read for ever."""


def local_path(name: str) -> Path:
    """The path with `~` put in full; left as it is where nobody has that name."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def kind_of(path: Path) -> Kind:
    """What lies there, links followed; nothing as well where no file can have such a name."""
    try:
        if path.is_file():
            return "file"
        if path.is_dir():
            return "folder"
        return "other" if path.exists() else "nothing"
    except OSError:
        return "nothing"
