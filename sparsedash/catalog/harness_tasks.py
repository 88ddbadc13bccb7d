"""Names of the tasks, groups and tags of the installed lm-evaluation-harness, and the hub's data
sets that they read.

Read from its files as text: importing it takes seconds and half a gigabyte, and its own index a
quarter minute.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_SUFFIXES = ("", ".yaml")
"""Of task files, and of what they include."""
_VALUE = re.compile(
    r"""
    ^[ \t]* (?:-[ \t]+)? ["']? (?:task|group|tag) ["']? [ \t]*:[ \t]* (?P<named> \S[^\#\n]* )
    | ^[ \t]* -[ \t]* (?P<listed> [^\#\n]+ )
    """,
    re.MULTILINE | re.VERBOSE,
)
_NAME = re.compile(r"[\w.()/+-]+")
_INCLUDED = re.compile(r"^\s*(?:-\s*)?include:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
_PLACES = r"""^[ \t]*(?:-[ \t]*)?dataset_path:[ \t]*["']?|(?:^[ \t]*DATASET_PATH = |load_dataset\(\s*)["']"""
_DATA = re.compile(rf"(?:{_PLACES})([\w.-]+(?:/[\w.-]+)?)", re.MULTILINE)
_FORMATS = {"json", "csv", "parquet", "arrow", "text", "null"}
"""In place of a name, where the data lie elsewhere."""
_LONGEST_SHOWN = 200


def tasks_folder() -> Path | None:
    """The folder of the harness's tasks; None where it is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "tasks"


@cache
def harness_tasks() -> Mapping[str, frozenset[str]]:
    """The names, each with the folders below `tasks_folder` whose files have it. Takes a second,
    once.

    A few are no tasks: a line of any other list may look like one of a group.
    """
    folder = tasks_folder()
    if folder is None:
        return {}
    tops: dict[str, set[str]] = {}
    for file in folder.rglob("*"):
        if file.suffix not in _SUFFIXES or not file.is_file():
            continue
        top = file.relative_to(folder).parts[0]
        for name in _names_in(_text(file)):
            tops.setdefault(name, set()).add(top)
    return {name: frozenset(folders) for name, folders in tops.items()}


def _names_in(text: str) -> Iterator[str]:
    for match in _VALUE.finditer(text):
        value = match["named"] or match["listed"]
        for part in value.strip().strip("[]").split(","):
            name = part.strip().strip("\"'")
            if _NAME.fullmatch(name):
                yield name


def no_such_task(name: str) -> str:
    """The reason the harness cannot be asked for a task of this name, or nothing."""
    if name in harness_tasks():
        return ""
    shown = name[:_LONGEST_SHOWN]
    near = get_close_matches(shown, harness_tasks(), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"lm-evaluation-harness has no task {shown}.{hint} `lm_eval ls tasks` lists them."


def task_folders(name: str) -> list[Path]:
    """Folders directly below the harness's tasks whose files name this task, group or tag."""
    folder = tasks_folder()
    if folder is None:
        return []
    return [folder / top for top in sorted(harness_tasks().get(name, ()))]


@cache
def data_sets(name: str) -> tuple[str, ...]:
    """The data sets of the hub, as owner/name, that this task, group or tag may read.

    They are those of the folder that defines it, whose files share parts; of others that only list
    it, none.
    """
    key = r"(?:(?:task|group|tag):[ \t]*|tag:(?:\s+-[ \t]*\S+)*\s+-[ \t]*)"
    defined = re.compile(
        rf"""^{key}["']?{re.escape(name)}["']?[ \t]*(?:#.*)?$""", re.MULTILINE
    )
    names = set[str]()
    for folder in task_folders(name):
        # Some shared files have no suffix: `_default_template_yaml`.
        files = [
            file for file in folder.rglob("*") if file.name.endswith(("yaml", ".py"))
        ]
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
