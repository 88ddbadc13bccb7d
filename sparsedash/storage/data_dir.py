"""Where the data folder is unless somebody chooses another."""

import os
from pathlib import Path


def data_folder() -> Path:
    """The folder that SPARSEDASH_DATA_DIR names, else our own among the user's application data."""
    named = os.environ.get("SPARSEDASH_DATA_DIR")
    if named:
        return Path(named).expanduser()
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(shared).expanduser() / "sparsedash"
