"""`sparsedash judge`: a verdict on two models by the answers that another program wrote."""

import argparse
from pathlib import Path

from sparsedash.reporting.task_words import judge_document, task_rows
from sparsedash.reporting.verdicts import tolerance_words
from sparsedash.shell import terminal
from sparsedash.shell.flags import tolerance_from_flags
from sparsedash.stats.task_verdicts import judge_tasks, pair_tasks
from sparsedash.storage.local_machine import local_path, path_kind
from sparsedash.storage.sample_files import read_answers


def judge_command(arguments: argparse.Namespace) -> terminal.Work:
    """Judge a model against dense by answers in files of lm-evaluation-harness or lighteval."""
    tolerance = tolerance_from_flags(arguments)
    write = terminal.result_writer(arguments)
    dense, other = (local_path(str(path)).absolute() for path in (arguments.dense, arguments.other))
    yield
    pairs, alone = pair_tasks(read_answers(dense), read_answers(other))
    terminal.print_warnings(alone)
    results = judge_tasks(pairs, tolerance)
    document = judge_document(_title(other, dense), results, tolerance)
    table = terminal.align_columns([list(map(terminal.one_line, row)) for row in task_rows(results)], numbers=True)
    said = [terminal.one_line(document[part]) for part in ("sentence", "remarks") if document[part]]
    write([*table, "", *said, f"Limits: {tolerance_words(tolerance)}."], document)
    return terminal.EXIT_BEYOND if arguments.fail_beyond and document["verdict"] == "beyond" else 0


def _title(path: Path, beside: Path) -> str:
    """The name of a file or folder, with its parent's where the other has the same."""
    name, other = (each.stem if path_kind(each) == "file" else each.name for each in (path, beside))
    return name if name != other else f"{path.parent.name}/{name}"
