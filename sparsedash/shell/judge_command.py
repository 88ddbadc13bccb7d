"""`sparsedash judge`: a verdict on two models by the answers that another program wrote."""

import argparse
from pathlib import Path

from sparsedash.reporting.task_words import judge_document, task_rows
from sparsedash.reporting.verdicts import tolerance_words
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import QuestionSet
from sparsedash.shell import terminal
from sparsedash.shell.flags import tolerance_from_flags
from sparsedash.stats.task_verdicts import TaskPair, judge_tasks, pair_answers
from sparsedash.storage.local_machine import local_path
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
    write([*table, "", terminal.one_line(document["sentence"]), f"Limits: {tolerance_words(tolerance)}."], document)
    return terminal.EXIT_BEYOND if arguments.fail_beyond and document["verdict"] == "beyond" else 0


def pair_tasks(dense: list[QuestionSet], other: list[QuestionSet]) -> tuple[list[TaskPair], list[str]]:
    """The tasks that both answered, and sentences on what only one did. Raises CorpusError where there are none.

    Two files of one task each are that task, whatever their names.
    """
    if len(dense) == len(other) == 1:
        pairs = [pair_answers(dense[0], other[0])]
    else:
        known = {each.task: each for each in other}
        pairs = [pair_answers(each, known[each.task]) for each in dense if each.task in known]
    judged = {id(each) for pair in pairs for each in (pair.dense, pair.other)}
    alone = [f"Only one model answered {each.task}." for each in (*dense, *other) if id(each) not in judged]
    if not pairs:
        raise CorpusError("The two have no task in common.", " ".join(alone))
    for pair in pairs:
        n, most = len(pair.questions), max(len(each.questions) for each in (pair.dense, pair.other))
        if n < most:
            alone.append(f"{n:,} of {most:,} questions of {pair.dense.task} were answered by both; they are judged.")
    return pairs, alone


def _title(path: Path, beside: Path) -> str:
    """The shortest end of a path that tells it from the other."""
    return path.stem if path.stem != beside.stem else str(path)
