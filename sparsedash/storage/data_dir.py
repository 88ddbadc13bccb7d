"""Where things are kept when nobody says otherwise."""

import os
from pathlib import Path


def data_folder() -> Path:
    """SPARSEDASH_DATA_DIR, else a folder of ours where the system keeps users' data."""
    named = os.environ.get("SPARSEDASH_DATA_DIR")
    if named:
        return Path(named).expanduser()
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(shared).expanduser() / "sparsedash"
