"""The config.json of a model on this machine: of a local folder, or of a hub model that was fetched before."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsedash.storage.local_paths import kind_of, local_path

MAX_CONFIG_BYTES = 4 * 1024 * 1024
"""Real ones have a few thousand."""

HUB_ID = re.compile(
    r"(?!.*\.\.)[a-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?(@(?=.{1,255}$)[\w-][\w.-]*(/[\w-][\w.-]*)*)?",
    re.ASCII | re.IGNORECASE,
)
"""OWNER/NAME[@REVISION], as long as the hub allows; a revision may have slashes, as git's branches do, and no `..`."""


def model_config(reference: str) -> Mapping[str, Any] | None:
    """The config of the model with this reference; None where none lies here or what lies here is none.

    reference: a folder's path, or the hub's OWNER/NAME[@REVISION]. The hub is not asked.
    """
    folder = local_path(reference)
    path = folder / "config.json" if kind_of(folder) == "folder" else _fetched(reference)
    if path is None or kind_of(path) != "file":
        return None
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        config = json.loads(text) if len(text) <= MAX_CONFIG_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _fetched(reference: str) -> Path | None:
    if not HUB_ID.fullmatch(reference):
        return None
    # Imported here: a third of a second, which a page that names no such model need not wait for.
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = reference.partition("@")
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    except (ValueError, OSError):
        return None
    return Path(found) if isinstance(found, str) else None
