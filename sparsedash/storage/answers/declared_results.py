"""What the results written with a file of answers say of its tasks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsedash.storage.answers.parsed_answers import (
    MAX_LINE_BYTES,
    UNREADABLE,
    Declared,
    nested_entry,
)


def results_in(folder: Path, date: str) -> Any:
    """The results of this date in a folder, or None where they cannot be read."""
    try:
        with (folder / f"results_{date}.json").open("rb") as stream:
            # Not msgspec: a result may be NaN.
            return json.loads(stream.read(MAX_LINE_BYTES))
    except (OSError, *UNREADABLE):
        return None


def declared_results(results: Any, task: str) -> Declared:
    """What results, of whatever form, say of a task. task: its whole name."""
    config = nested_entry(results, "configs", task)
    version = nested_entry(results, "versions", task)
    delimiter = nested_entry(config, "target_delimiter")
    prefix = nested_entry(config, "gen_prefix")
    if nested_entry(results, "chat_template") and (
        not prefix or str(prefix)[-1].isspace()
    ):
        # As the harness does where a chat's template ends the prompt.
        delimiter = ""
    directions = nested_entry(results, "higher_is_better", task)
    if not isinstance(directions, Mapping):
        directions = _lighteval_directions(results, task)
    return Declared(
        task=task,
        version="" if version is None else str(version)[:40],
        higher_is_better={
            name: higher
            for name, higher in directions.items()
            if isinstance(higher, bool)
        },
        delimiter=delimiter if isinstance(delimiter, str) else " ",
    )


def aggregated_group(results: Any, task: str) -> str:
    """The widest group with a score of its own that a task of lm-evaluation-harness is in; ""
    where there is none.
    """
    members = nested_entry(results, "group_subtasks")
    scores = nested_entry(results, "groups")
    if not isinstance(members, Mapping) or not isinstance(scores, Mapping):
        return ""
    widest = ""
    names = {task}
    while True:
        above = set[str]()
        for group, subtasks in members.items():
            if isinstance(subtasks, list) and names & set(map(str, subtasks)):
                above.add(str(group))
        above -= names
        if not above:
            return widest
        names |= above
        widest = min(above & scores.keys(), default=widest)


def _lighteval_directions(results: Any, task: str) -> dict[str, Any]:
    """Whether higher is better, by measure, in the results of lighteval. task: its whole name."""
    tasks = nested_entry(results, "config_tasks")
    config = nested_entry(tasks, task) or nested_entry(tasks, task.rpartition("|")[0])
    metrics = nested_entry(config, "metrics") or nested_entry(config, "metric") or ()
    directions = {}
    for metric in metrics if isinstance(metrics, list) else ():
        names = nested_entry(metric, "metric_name")
        higher = nested_entry(metric, "higher_is_better")
        for name in names if isinstance(names, list) else [names]:
            directions[str(name)] = (
                nested_entry(higher, str(name))
                if isinstance(higher, Mapping)
                else higher
            )
    return directions
