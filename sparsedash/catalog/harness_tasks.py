"""What the files of the installed lm-evaluation-harness say of its tasks, read as text: where they lie, and which data
sets of the hub they read.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_NAMED = re.compile(r"^\s*(?:-\s*|(?:-\s*)?(?:task|group|tag):\s*)[\"']?([^\s\"'#]+)[\"']?\s*(?:#.*)?$", re.MULTILINE)
"""A name after a key, or in a list of tags."""
_INCLUDED = re.compile(r"^\s*(?:-\s*)?include:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
_PLACES = r"""^[ \t]*(?:-[ \t]*)?dataset_path:[ \t]*["']?|(?:^[ \t]*DATASET_PATH = |load_dataset\(\s*)["']"""
_DATA = re.compile(rf"(?:{_PLACES})([\w.-]+(?:/[\w.-]+)?)", re.MULTILINE)
_FORMATS = {"json", "csv", "parquet", "arrow", "text", "null"}
"""In place of a name, where the data lie elsewhere."""


def package_folder() -> Path | None:
    """The folder of the harness's tasks; None where it is not installed."""
    spec = find_spec("lm_eval")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "tasks" if places else None


def task_folders(name: str) -> list[Path]:
    """The folders of the harness, directly below that of all tasks, whose files name this task, group or tag."""
    package = package_folder()
    if package is None:
        return []
    return [package / top for top in sorted(_tops_by_name(package).get(name, ()))]


@cache
def _tops_by_name(package: Path) -> dict[str, set[str]]:
    """The folders by the names in their files. It reads all of them, which takes seconds."""
    tops = dict[str, set[str]]()
    for file in package.rglob("*.yaml"):
        top = file.relative_to(package).parts[0]
        for name in _NAMED.findall(_text(file)):
            tops.setdefault(name, set()).add(top)
    return tops


@cache
def data_sets(name: str) -> tuple[str, ...]:
    """The data sets of the hub, as owner/name, that this task, group or tag may read.

    They are those of the folder that defines it, whose files share parts; of others that only list it, none.
    """
    key = r"(?:(?:task|group|tag):[ \t]*|tag:(?:\s+-[ \t]*\S+)*\s+-[ \t]*)"
    defined = re.compile(rf"""^{key}["']?{re.escape(name)}["']?[ \t]*(?:#.*)?$""", re.MULTILINE)
    names = set[str]()
    for folder in task_folders(name):
        # Some shared files have no suffix: `_default_template_yaml`.
        files = [file for file in folder.rglob("*") if file.name.endswith(("yaml", ".py"))]
        texts = [_text(file) for file in files]
        if not any(map(defined.search, texts)):
            continue
        for file, text in zip(files, texts, strict=True):
            names.update(_DATA.findall(text))
            for included in _INCLUDED.findall(text):
                names.update(_DATA.findall(_text(file.parent / included)))
    return tuple(sorted(names - _FORMATS))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
