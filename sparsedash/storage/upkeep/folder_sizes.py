"""How much lies in a folder: sizes as the file system says them, no file is opened and no link followed."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class FolderSize(NamedTuple):
    """Files, their bytes, and when the newest was written, in seconds since the epoch; 0 where there is none."""

    n_files: int
    n_bytes: int
    written_at: float


def folder_size(folder: Path) -> FolderSize:
    """What lies in the folder and the folders in it; nothing where there is no folder, or where it may not be read."""
    n_files, n_bytes, written_at, todo = 0, 0, 0.0, [str(folder)]
    while todo:
        # Somebody may delete what is looked at.
        with suppress(OSError), os.scandir(todo.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    n_files, n_bytes = n_files + 1, n_bytes + state.st_size
                    written_at = max(written_at, state.st_mtime)
    return FolderSize(n_files, n_bytes, written_at)
