"""The files of a user's own task: its .yaml file, and the data that it names."""

from pathlib import Path
from typing import Any

import yaml

from sparsedash.storage.local_machine import local_path, path_kind
from sparsedash.storage.text_files import FILE

_MAX_YAML_BYTES = 1_000_000
"""Of a file that is looked into for the names of data."""

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Makes text, lists and mappings and nothing else: tags run no code, and `<<` copies nothing."""


def yaml_files(reference: str) -> list[Path]:
    """The .yaml file of a task's reference, or all in its folder."""
    path = local_path(reference.removeprefix(FILE)).absolute()
    if path_kind(path) == "file":
        return [path]
    return sorted(path.glob("*.yaml"))


def task_files(reference: str) -> list[Path]:
    """All existing files of a task's reference: every .yaml file and the data that it names."""
    paths = []
    for file in yaml_files(reference):
        paths.append(file)
        paths += [path for path in named_data(file) if path_kind(path) == "file"]
    return paths


def named_data(file: Path) -> list[Path]:
    """The data files that a .yaml file names, in its order; none where it cannot be read."""
    try:
        with file.open("rb") as stream:
            config = yaml.load(stream.read(_MAX_YAML_BYTES), Loader=_Loader)  # noqa: S506
        by_split = config["dataset_kwargs"]["data_files"]
    except (OSError, ValueError, yaml.YAMLError, RecursionError, KeyError, TypeError):
        return []
    paths = []
    for names in by_split.values() if isinstance(by_split, dict) else [by_split]:
        for name in names if isinstance(names, list) else [names]:
            paths.append(file.parent / str(name))
    return paths
