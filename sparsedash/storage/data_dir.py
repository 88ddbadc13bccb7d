"""Where the data folder is unless somebody chooses another."""

import os
from pathlib import Path

from sparsedash.schema.errors import StoreError
from sparsedash.storage.local_paths import local_path


def data_folder() -> Path:
    """The folder that SPARSEDASH_DATA_DIR names, else our own among the user's application data."""
    named = os.environ.get("SPARSEDASH_DATA_DIR")
    if named:
        return local_path(named)
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return local_path(shared) / "sparsedash"


def in_full(folder: Path) -> Path:
    """The folder from the root on. Raises StoreError for a name that nobody means, before a folder is made of it."""
    expanded = local_path(str(folder))
    if expanded.parts[:1] and expanded.parts[0].startswith("~"):
        reason = f"nobody here is called {expanded.parts[0][1:]!r}"
    elif not all(part.strip() for part in expanded.parts) or any(ord(letter) < 32 for letter in str(expanded)):
        reason = "its name holds spaces alone, or signs that cannot be printed"
    else:
        return expanded.absolute()
    raise StoreError(
        f"The data folder {str(folder)!r} cannot be used: {reason}.",
        "Name another one with --data-dir or SPARSEDASH_DATA_DIR.",
    )
