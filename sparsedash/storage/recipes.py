"""The recipe that lies beside exported files, as far as it names their export; the engine writes it."""

import json
from pathlib import Path
from typing import Any

from sparsedash.schema.errors import ExportError

RECIPE = "recipe.json"
MAX_BYTES = 64 * 1024 * 1024


def export_key_of(folder: Path) -> str:
    """The key of the export that this folder says it is. Raises ExportError where it says none."""
    file = folder / RECIPE
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES)
        document: Any = json.loads(text)
        key = document["export"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(
            f"{folder} holds no {RECIPE} that can be read.", "Name a folder that `sparsedash export` has made."
        ) from error
    if not isinstance(key, str):
        raise ExportError(f"{file} names no export.", "Name a folder that `sparsedash export` has made.")
    return key
