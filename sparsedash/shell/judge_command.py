"""`sparsedash judge`: models judged by answers that another program wrote."""

import argparse
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sparsedash.reporting.divergence_words import (
    ModelDivergence,
    divergence_document,
    divergences_document,
)
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
from sparsedash.stats.tolerance import Loss
from sparsedash.storage.answers.answer_files import SUFFIXES, read_answers, read_models
from sparsedash.storage.answers.logit_files import (
    LogitFile,
    is_logit_file,
    paired_rows,
    printed_divergence,
    read_logit_file,
)
from sparsedash.storage.local_machine import (
    local_path,
    path_kind,
    writable_file,
    write_atomically,
)


def judge_command(arguments: argparse.Namespace) -> Work:
    """Judge models against dense by answers that another program wrote."""
    tolerance = tolerance_from_flags(arguments)
    write = result_writer(arguments)
    dense = _absolute(arguments.dense)
    paths = list(map(_absolute, arguments.others))
    if arguments.questions is not None:
        writable_file(arguments.questions, "--questions")
    yield
    divergence = _divergence(dense, paths, arguments.size, tolerance)
    if divergence is not None:
        parts, document = divergence
        write(
            markdown_lines(parts) if arguments.markdown else text_lines(parts), document
        )
        return _exit_code(arguments, document["verdict"])
    if arguments.size:
        raise CorpusError(
            "--size works only with llama.cpp's figures, not with answers."
        )
    models = _answers_by_name(dense, paths, arguments.columns)
    if arguments.cluster:
        models = {
            name: clustered(sets, arguments.cluster) for name, sets in models.items()
        }
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
        slices = slice_tasks(
            [result.pair for result in results], tolerance, arguments.slices
        )
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
    dense: Path, paths: Sequence[Path], sizes: Sequence[int], tolerance: Tolerance
) -> tuple[list[Part], dict[str, Any]] | None:
    """What base files of llama.cpp, the first of the base model, or what it printed of one model or
    several, say; None of other files.
    """
    losses = dict[str, Loss]()
    n_cut_by_name = dict[str, int]()
    if is_logit_file(dense):
        if not paths:
            raise CorpusError(
                "A base file of llama.cpp is compared with those of other models."
            )
        base = read_logit_file(dense)
        names = _names(dense, paths)[1:]
        blocks_by_name = {}
        for name, path in zip(names, paths, strict=True):
            blocks_by_name[name], n_cut_by_name[name] = _token_blocks(base, path)
        losses = judge_perplexity(blocks_by_name, tolerance, n_cut_by_name)
        figures = list(map(divergence_figures, blocks_by_name.values()))
        text = f"Text: the {base.tokens.size:,} tokens of {dense.name}."
    elif dense.suffix in SUFFIXES or printed_divergence(dense) is None:
        return None
    else:
        printed = [printed_divergence(path) for path in (dense, *paths)]
        names = _names(dense, paths)
        figures = []
        for name, figures_by_name in zip(names, printed, strict=True):
            if figures_by_name is None:
                raise CorpusError(
                    f"{name} holds no figures that llama-perplexity printed."
                )
            figures.append(printed_figures(figures_by_name))
        # A perplexity of the base model is of its text.
        text = ""
        if len({f"{model.base_perplexity:.4f}" for model in figures}) > 1:
            raise CorpusError(
                "The base model's perplexity differs: these figures are of other texts, or of other base models."
            )
    if sizes and len(sizes) != len(names):
        raise CorpusError(
            f"--size names {len(sizes)} sizes of {len(names)} models.",
            f"They are in this order: {', '.join(names)}.",
        )
    models = []
    for name, model_figures, size_bytes in zip_longest(names, figures, sizes):
        model = ModelDivergence(
            name=name,
            figures=model_figures,
            loss=losses.get(name),
            size_bytes=size_bytes,
            n_cut=n_cut_by_name.get(name, 0),
        )
        models.append(model)
    parts = divergence_parts(models, text, tolerance)
    if len(models) == 1:
        return parts, divergence_document(models[0], tolerance)
    return parts, divergences_document(models, text, tolerance)


def _token_blocks(base: LogitFile, path: Path) -> tuple[list[TokenDivergences], int]:
    """The divergences of a model from the base, a block a chunk of text, and how many right tokens
    its file cuts off. Raises CorpusError.
    """
    if not is_logit_file(path):
        raise CorpusError(
            f"{path.name} is no base file of llama.cpp, as {base.path.name} is."
        )
    rows_by_chunk = dict[int, list[TokenDivergences]]()
    n_cut = 0
    for rows in paired_rows(base, read_logit_file(path)):
        tokens = token_divergences(rows.base, rows.changed, rows.targets)
        rows_by_chunk.setdefault(rows.chunk, []).append(tokens)
        n_cut += rows.n_cut
    return [joined_tokens(parts) for parts in rows_by_chunk.values()], n_cut


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
                f"{dense.name} holds one model's answers.",
                "Name those of another model as well.",
            )
        return models
    models = {}
    for name, path in zip(_names(dense, paths), [dense, *paths], strict=True):
        models[name] = read_answers(path, columns)
    return models


def _names(dense: Path, paths: Sequence[Path]) -> list[str]:
    """A name of its own for each path, the dense one first."""
    titles = {str(dense): _name(dense)}
    for i, path in enumerate(paths):
        titles[f"{i}"] = _title(path, dense)
    return list(unique_names(titles).values())


def _absolute(path: Path) -> Path:
    return local_path(str(path)).absolute()


def _title(path: Path, dense: Path) -> str:
    """The name of a file or folder, with its parent's where the dense one has the same."""
    name = _name(path)
    return f"{path.parent.name}/{name}" if name == _name(dense) else name


def _name(path: Path) -> str:
    return path.stem if path_kind(path) == "file" else path.name
