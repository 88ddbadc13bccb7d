"""Names of the tasks, groups and tags of the installed lm-evaluation-harness, read from its files as text.

Importing it takes seconds and half a gigabyte, and its own index a quarter minute.
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
_LONGEST_SHOWN = 200


def tasks_folder() -> Path | None:
    """The folder of the harness's tasks; None where it is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "tasks"


@cache
def harness_tasks() -> Mapping[str, frozenset[str]]:
    """The names, each with the folders below `tasks_folder` whose files have it. Takes a second, once.

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
        for name in _names_in(file.read_text(encoding="utf-8", errors="replace")):
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
    """Why the harness cannot be asked for a task of this name, or nothing."""
    if name in harness_tasks():
        return ""
    shown = name[:_LONGEST_SHOWN]
    near = get_close_matches(shown, harness_tasks(), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"lm-evaluation-harness has no task {shown}.{hint} `lm_eval ls tasks` lists them."
