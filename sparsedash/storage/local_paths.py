"""What lies under a path that somebody typed, however long or odd it is."""

import os
import stat
from collections.abc import Collection
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
        # One look: a file that another process makes between two would be neither file nor folder, and yet be there.
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "nothing"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def mode_in(folder: Path, mode: int) -> int:
    """The mode of what is made in this folder, where `mode` is its owner's: its group's too where the folder is."""
    shared = folder.stat().st_mode & 0o020
    return mode | mode >> 3 if shared else mode


def lies_below(path: Path, folders: Collection[str]) -> bool:
    """Whether a path, with all that lies directly in it, is in one of these folders once every link is followed.

    Nothing is opened. `..` is refused, whatever it would lead to.
    """
    if ".." in path.parts or "\0" in str(path):
        return False
    inner = list(path.iterdir()) if kind_of(path) == "folder" and _is_below(path, folders) else []
    return all(_is_below(each, folders) for each in (path, *inner))


def _is_below(path: Path, folders: Collection[str]) -> bool:
    try:
        whole = Path(os.path.realpath(path))
        return any(whole.is_relative_to(os.path.realpath(folder)) for folder in folders)
    except (OSError, ValueError):
        return False
