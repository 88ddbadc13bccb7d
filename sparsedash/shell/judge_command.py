"""`sparsedash judge`: models judged by answers that another program wrote."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsedash.reporting.judged_words import (
    Part,
    markdown_lines,
    models_document,
    models_parts,
    models_verdict,
)
from sparsedash.reporting.leaderboard import answers_leaderboard
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.slice_words import (
    questions_file,
    slice_documents,
    slice_table,
    slices_sentence,
)
from sparsedash.reporting.task_words import idle_limits, judge_document, task_rows
from sparsedash.reporting.wording import tolerance_words
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import QuestionSet
from sparsedash.shell.flags import tolerance_from_flags
from sparsedash.shell.terminal import (
    EXIT_BEYOND,
    Work,
    align_columns,
    one_line,
    print_warnings,
    result_writer,
)
from sparsedash.stats.answer_slices import clustered, slice_tasks
from sparsedash.stats.judged_models import judge_models, rank_models
from sparsedash.stats.task_verdicts import TaskResult
from sparsedash.storage.answers.answer_files import read_answers, read_models
from sparsedash.storage.local_machine import local_path, path_kind, writable_file, write_atomically


def judge_command(arguments: argparse.Namespace) -> Work:
    """Judge models against dense by answers that another program wrote."""
    tolerance = tolerance_from_flags(arguments)
    write = result_writer(arguments)
    dense = _absolute(arguments.dense)
    paths = list(map(_absolute, arguments.others))
    if arguments.questions is not None:
        writable_file(arguments.questions, "--questions")
    yield
    models = _answers_by_name(dense, paths, arguments.columns)
    if arguments.cluster:
        models = {name: clustered(sets, arguments.cluster) for name, sets in models.items()}
    (baseline, *_) = models
    judged = judge_models(
        models[baseline],
        {name: sets for name, sets in models.items() if name != baseline},
        tolerance,
    )
    results = list[TaskResult]()
    for name, answers in judged.items():
        prefix = f"{name}: " if len(judged) > 1 else ""
        print_warnings(f"{prefix}{note}" for note in answers.notes)
        results += answers.results
    print_warnings(idle_limits(results, tolerance))
    if len(judged) == 1:
        (name,) = judged
        slices = slice_tasks([result.pair for result in results], tolerance, arguments.slices)
        document = judge_document(name, results, tolerance)
        document["slices"] = slice_documents(slices)
        parts = [
            task_rows(results),
            document["sentence"],
            document["remarks"],
            slices_sentence(slices),
        ]
        if arguments.slices and slices:
            table = slice_table(slices)
            parts.append([table.head, *table.rows])
        if arguments.questions is not None:
            write_atomically(arguments.questions, questions_file(results))
    else:
        ranking = rank_models(judged, baseline)
        document = models_document(judged, ranking, tolerance)
        board = answers_leaderboard(models, tolerance)
        parts = models_parts(board, judged, ranking, drawn=not arguments.markdown)
    parts.append(f"Limits: {tolerance_words(tolerance)}.")
    write(markdown_lines(parts) if arguments.markdown else text_lines(parts), document)
    verdict = models_verdict(judged)
    is_allowed = verdict == "within" or not arguments.fail_unless_within
    if arguments.fail_beyond and verdict == "beyond":
        is_allowed = False
    return 0 if is_allowed else EXIT_BEYOND


def text_lines(parts: Sequence[Part]) -> list[str]:
    """Tables with aligned columns, an empty line around each, and sentences."""
    lines = list[str]()
    for part in filter(None, parts):
        if isinstance(part, str):
            lines.append(one_line(part))
            continue
        if lines and lines[-1]:
            lines.append("")
        lines += [*align_columns(part, numbers=True), ""]
    return lines


def _answers_by_name(
    dense: Path, paths: Sequence[Path], columns: Mapping[str, str] | None
) -> dict[str, list[QuestionSet]]:
    """The answers of each model, the baseline first: from a path each, or all from one file."""
    if not paths:
        models = read_models(dense, columns)
        if len(models) < 2:
            raise CorpusError(
                f"{dense.name} holds one model's answers.", "Name those of another model as well."
            )
        return models
    titles = {str(dense): _name(dense)}
    for i, path in enumerate(paths):
        titles[f"{i}"] = _title(path, dense)
    names = list(unique_names(titles).values())
    models = {}
    for name, path in zip(names, [dense, *paths], strict=True):
        models[name] = read_answers(path, columns)
    return models


def _absolute(path: Path) -> Path:
    return local_path(str(path)).absolute()


def _title(path: Path, dense: Path) -> str:
    """The name of a file or folder, with its parent's where the dense one has the same."""
    name = _name(path)
    return f"{path.parent.name}/{name}" if name == _name(dense) else name


def _name(path: Path) -> str:
    return path.stem if path_kind(path) == "file" else path.name
