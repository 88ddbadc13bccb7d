"""`sparsedash judge`: models judged by answers that another program wrote."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsedash.reporting.judged_words import (
    interval_lines,
    models_document,
    models_sentences,
    models_verdict,
    ranking_caption,
    ranking_rows,
    ranking_sentence,
)
from sparsedash.reporting.leaderboard import answers_leaderboard
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.task_words import idle_limits, judge_document, task_rows
from sparsedash.reporting.wording import tolerance_words
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.shell.flags import tolerance_from_flags
from sparsedash.shell.terminal import (
    EXIT_BEYOND,
    Work,
    align_columns,
    one_line,
    print_warnings,
    result_writer,
)
from sparsedash.stats.judged_models import JudgedModel, judge_models, rank_models
from sparsedash.storage.answers.answer_files import read_answers, read_models
from sparsedash.storage.local_machine import local_path, path_kind


def judge_command(arguments: argparse.Namespace) -> Work:
    """Judge models against dense by answers that another program wrote."""
    tolerance = tolerance_from_flags(arguments)
    write = result_writer(arguments)
    dense = _absolute(arguments.dense)
    paths = list(map(_absolute, arguments.others))
    yield
    models = _answers_by_name(dense, paths, arguments.columns)
    (baseline, *_) = models
    judged = judge_models(
        models[baseline],
        {name: sets for name, sets in models.items() if name != baseline},
        tolerance,
    )
    for model in judged:
        prefix = f"{model.name}: " if len(judged) > 1 else ""
        print_warnings(f"{prefix}{note}" for note in model.notes)
    results = [result for model in judged for result in model.results]
    print_warnings(idle_limits(results, tolerance))
    if len(judged) == 1:
        (model,) = judged
        document = judge_document(model.name, model.results, tolerance)
        lines = [
            *align_columns(task_rows(model.results), numbers=True),
            "",
            *map(one_line, filter(None, [document["sentence"], document["remarks"]])),
        ]
    else:
        ranking = rank_models(judged, baseline)
        document = models_document(judged, ranking, tolerance)
        lines = _models_lines(models, judged, tolerance)
    lines.append(f"Limits: {tolerance_words(tolerance)}.")
    write(lines, document)
    verdict = models_verdict(judged)
    return EXIT_BEYOND if arguments.fail_beyond and verdict == "beyond" else 0


def _models_lines(
    models: Mapping[str, Sequence[QuestionSet]],
    judged: Sequence[JudgedModel],
    tolerance: Tolerance,
) -> list[str]:
    """The leaderboard, the ranking, and a sentence a model."""
    board = answers_leaderboard(models, tolerance)
    table = board.table(board.rows(only_beyond=False, order=""))
    cells = []
    for texts in (table.head, *table.rows):
        cells.append([" ".join(text.split("\n")[:2]) for text in texts])
    lines = [*align_columns(cells), ""]
    (baseline, *_) = models
    ranking = rank_models(judged, baseline)
    if ranking is not None:
        head, *rows = align_columns(ranking_rows(ranking), numbers=True)
        lines.append(head)
        for row, interval in zip(rows, interval_lines(ranking), strict=True):
            lines.append(f"{row:<{len(head)}}  {interval}".rstrip())
        lines += ["", one_line(ranking_sentence(ranking)), one_line(ranking_caption(ranking)), ""]
    return [*lines, *map(one_line, models_sentences(judged))]


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
