"""Where the data folder is unless somebody chooses another."""

import os
from pathlib import Path

from sparsedash.storage.local_paths import local_path


def data_folder() -> Path:
    """The folder that SPARSEDASH_DATA_DIR names, else our own among the user's application data."""
    named = os.environ.get("SPARSEDASH_DATA_DIR")
    if named:
        return local_path(named)
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return local_path(shared) / "sparsedash"
