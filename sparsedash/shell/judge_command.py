"""`sparsedash judge`: models judged by answers that another program wrote."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsedash.reporting.divergence_words import divergence_document
from sparsedash.reporting.judged_words import (
    Part,
    divergence_parts,
    markdown_lines,
    models_document,
    models_parts,
    models_verdict,
)
from sparsedash.reporting.leaderboard import answers_leaderboard
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.slice_words import (
    differing_slices,
    questions_file,
    slice_documents,
    slice_table,
    slices_sentence,
)
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
from sparsedash.stats.answer_slices import clustered, slice_tasks
from sparsedash.stats.divergence_figures import (
    TokenDivergences,
    divergence_figures,
    joined_tokens,
    judge_perplexity,
    printed_figures,
    token_divergences,
)
from sparsedash.stats.judged_models import judge_models, rank_models
from sparsedash.stats.task_verdicts import TaskResult, TaskVerdict
from sparsedash.storage.answers.answer_files import read_answers, read_models
from sparsedash.storage.answers.logit_files import (
    is_logit_file,
    paired_rows,
    printed_divergence,
    read_logit_file,
)
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
    divergence = _divergence(dense, paths, tolerance)
    if divergence is not None:
        parts, document = divergence
        write(markdown_lines(parts) if arguments.markdown else text_lines(parts), document)
        return _exit_code(arguments, document["verdict"])
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
        listed = slices if arguments.slices else differing_slices(slices)
        if listed:
            table = slice_table(listed)
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
    return _exit_code(arguments, models_verdict(judged))


def _exit_code(arguments: argparse.Namespace, verdict: TaskVerdict) -> int:
    is_allowed = verdict == "within" or not arguments.fail_unless_within
    if arguments.fail_beyond and verdict == "beyond":
        is_allowed = False
    return 0 if is_allowed else EXIT_BEYOND


def _divergence(
    dense: Path, paths: Sequence[Path], tolerance: Tolerance
) -> tuple[list[Part], dict[str, Any]] | None:
    """What two base files of llama.cpp, or its printed output, say; None of other files."""
    if is_logit_file(dense):
        if len(paths) != 1:
            raise CorpusError("Two base files of llama.cpp are compared, the base model's first.")
        (changed,) = paths
        rows_by_chunk = dict[int, list[TokenDivergences]]()
        for rows in paired_rows(read_logit_file(dense), read_logit_file(changed)):
            tokens = token_divergences(rows.base, rows.changed, rows.targets)
            rows_by_chunk.setdefault(rows.chunk, []).append(tokens)
        blocks = [joined_tokens(parts) for parts in rows_by_chunk.values()]
        figures = divergence_figures(blocks)
        loss = judge_perplexity(blocks, tolerance)
        name = _title(changed, dense)
    else:
        printed = None if paths else printed_divergence(dense)
        if printed is None:
            return None
        figures = printed_figures(printed)
        loss = None
        name = _name(dense)
    parts = divergence_parts(name, figures, loss, tolerance)
    return parts, divergence_document(name, figures, loss, tolerance)


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
