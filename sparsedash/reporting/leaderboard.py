"""Models of several runs by tasks: each one beside a pinned baseline, with its cost; as a sentence,
a table, a page.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from statistics import median
from typing import NamedTuple

from sparsedash.catalog import model_sizes
from sparsedash.reporting.html import Html, Table, Value, element, heading, paragraph
from sparsedash.reporting.model_results import (
    Measured,
    ModelResult,
    judge,
    measure_beside,
)
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.run_reports import html_page
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.task_words import limit_on
from sparsedash.reporting.verdicts import (
    LEVELS,
    VERDICT_SIGNS,
    early_stopping_words,
    loss_interval,
    loss_value,
    loss_values,
    verdict_values,
)
from sparsedash.reporting.wording import (
    MINUS,
    NBSP,
    percent,
    perplexity,
    quantity,
    record_names,
    share_of,
    short_title,
    signed_points,
    size,
    tolerance_words,
    weights,
)
from sparsedash.schema.pair_records import Timing, TimingSettings
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.service.answer_cache import TaskComparison, compare_answers
from sparsedash.service.backend import Backend
from sparsedash.stats.task_verdicts import judge_losses, own_limit
from sparsedash.stats.tolerance import MIN_RIGHT, Loss, Verdict

MAX_MODELS = 32
"""Of one table: more could not be read at a glance, and together they would be judged with little
power.
"""
READING = (
    "Under each score: its change from the baseline on the same questions, in points; that of perplexity and of "
    "documents as a multiple. Then the interval behind the verdict.",
    "All models and tasks are judged together, whichever rows are shown: by Holm's steps the chance that any verdict "
    f"on a task is wrong is at most {100 * ALPHA:g}{NBSP}%. More models make "
    f"wider intervals. Passages are judged together likewise, at {LEVELS}",
    "Other questions: another prompt, other examples or another measure, so nothing is paired. No baseline: the "
    "baseline did not answer this task. –: the model did not.",
    "Weights: of the whole model, and the share of its blocks' that is gone or zero. Bytes: of the weights in 16 bits, "
    "or of a quantised model's file. ms a token: median of writing one passage, once “Measure speed” on Overview has "
    "timed the model.",
)
"""How to read the table, a paragraph each."""


class AnswersEntry(NamedTuple):
    """A model known by its answers alone."""

    base: str
    name: str = ""

    @property
    def title(self) -> str:
        """The whole name."""
        return self.base


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that the table can show. base: its base model. name: among the models of that.

    run: the first one with it. answers: keys of its answers to tasks. tasks: their names as runs
    asked for them.
    """

    run: RunResults
    model: ModelResult
    base: str
    name: str
    answers: tuple[str, ...]
    tasks: frozenset[str]

    @property
    def title(self) -> str:
        """The whole name."""
        return f"{self.base}, {self.name}"


def leaderboard_entries(runs: Sequence[RunResults]) -> tuple[dict[str, Entry], int]:
    """The models of these runs by their key in an address, grouped by base model, and how many are
    left out.
    """
    entries: dict[str, Entry] = {}
    for results in runs:
        for model in results.models:
            _add_entry(entries, results, model)
    by_base: dict[str, dict[str, Entry]] = {}
    for key, entry in entries.items():
        by_base.setdefault(entry.base, {})[key] = entry
    ordered = list(chain.from_iterable(group.items() for group in by_base.values()))
    return _with_unique_names(dict(ordered[:MAX_MODELS])), max(
        0, len(ordered) - MAX_MODELS
    )


def _add_entry(
    entries: dict[str, Entry], results: RunResults, model: ModelResult
) -> None:
    """Add a model, with its answers in both runs where an earlier run has it."""
    key = model.record.key
    name = record_names(results.run, named=True)[key]
    entry = Entry(
        run=results,
        model=model,
        base=short_title(model.record.model).rpartition("/")[2],
        name=name.replace(" %", f"{NBSP}%"),
        answers=results.run.answers.get(key, ()),
        tasks=frozenset(results.run.settings.evaluation.tasks),
    )
    if key in entries:
        known = entries[key]
        answers = tuple(dict.fromkeys((*known.answers, *entry.answers)))
        longest = max(len(known.answers), len(entry.answers))
        if known.tasks & entry.tasks and len(answers) > longest:
            # Asked the same task in another way: a row of its own.
            key = f"{key}-{len(entries)}"
        else:
            entry = replace(known, answers=answers, tasks=known.tasks | entry.tasks)
    entries[key] = entry


def _with_unique_names(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same with names that differ: after one that several have, the run's name, or how it was
    made.
    """
    n_titles = Counter(entry.title for entry in entries.values())
    titles = {}
    for key, entry in entries.items():
        titles[key] = entry.title
        if n_titles[entry.title] > 1:
            titles[key] = f"{entry.title}, {entry.run.name or _origin(entry)}"
    unique = unique_names(titles)
    return {
        key: replace(entry, name=unique[key].removeprefix(f"{entry.base}, "))
        for key, entry in entries.items()
    }


def _origin(entry: Entry) -> str:
    """Origin of a model, after its name: number format, calibration text, budget."""
    settings = entry.run.run.settings
    parts = [
        settings.dtype,
        short_title(settings.calibration.corpus) if settings.reads_text else "no text",
    ]
    if entry.model.record.pruned:
        parts.append(share_of(entry.model.method))
    return ", ".join(parts)


class _Cell(NamedTuple):
    """text: its lines. rank: what orders rows by it, the least first. values: of the table's
    file.
    """

    text: str
    rank: float
    values: Mapping[str, Value]
    verdict: Verdict | None = None


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Entries beside a baseline, one of their keys. columns: heads by their names. cells: by entry
    and column.
    """

    entries: Mapping[str, Entry | AnswersEntry]
    baseline: str
    tolerance: Tolerance
    columns: Mapping[str, str]
    cells: Mapping[str, Mapping[str, _Cell]]
    notes: Sequence[str]

    def verdict(self, key: str) -> Verdict | None:
        """Beyond if any measure is, within if passages and tasks are; None if nothing was judged.

        Undecided where passages are others than the baseline's, so that its tasks alone are within.
        """
        cells = self.cells[key]
        verdicts = {cell.verdict for cell in cells.values() if cell.verdict}
        if not verdicts:
            return None
        if "beyond" in verdicts:
            return "beyond"
        is_within = verdicts == {"within"} and not (
            "perplexity" in cells and cells["perplexity"].verdict is None
        )
        return "within" if is_within else "undecided"

    @property
    def sentence(self) -> str:
        """Numbers of models beyond, within, undecided."""
        judged = [self.verdict(key) for key in self.entries if key != self.baseline]
        beside = self.entries[self.baseline].title
        counts = []
        for verdict, words in _VERDICTS.items():
            if verdict in judged:
                counts.append(f"{judged.count(verdict)} {words}")
        if not counts:
            return f"No model can be compared with {beside}."
        n = sum(verdict is not None for verdict in judged)
        return f"Of {quantity(n, 'model')} against {beside}: {', '.join(counts)}."

    def rows(self, only_beyond: bool, order: str) -> list[str]:
        """The keys of the entries to show, the baseline first. order: a column, best first; else
        base by base.
        """
        others = [key for key in self.entries if key != self.baseline]
        shown = [
            key for key in others if not only_beyond or self.verdict(key) == "beyond"
        ]
        if order in self.columns:
            shown.sort(key=lambda key: self.cells[key][order].rank)
        return [self.baseline, *shown]

    def table(self, rows: Sequence[str], links: Sequence[Html] = ()) -> Table:
        """These rows as a table. links: in place of their names."""
        texts = []
        data = []
        for key in rows:
            entry = self.entries[key]
            cells = self.cells[key]
            is_baseline = key == self.baseline
            baseline = ", baseline" if is_baseline else ""
            below = f"{entry.name}{baseline}".removeprefix(", ")
            text = [f"{entry.base}\n{below}".rstrip()]
            text += [cells[name].text for name in self.columns]
            texts.append(text)
            values: dict[str, Value] = {
                "base": entry.base,
                "model": entry.name.replace(NBSP, " "),
                "baseline": is_baseline,
            }
            for cell in cells.values():
                values |= cell.values
            data.append(values)
        head = ["Model", *self.columns.values()]
        return Table("Models by tasks", "", head, texts, links, data, stacked=True)

    @property
    def has_tasks(self) -> bool:
        """Whether any of the models answered a task."""
        return any(name.startswith(_TASK) for name in self.columns)

    @property
    def caption(self) -> str:
        """The signs and the limits."""
        return (
            f"✓ within, ✕ beyond, ? undecided, on the same questions as the baseline. Limits: "
            f"{tolerance_words(self.tolerance)}."
        )

    def report(self, rows: Sequence[str]) -> bytes:
        """These rows as a page of its own in UTF-8."""
        body = [
            heading(self.sentence),
            paragraph(self.caption, css="sd-muted"),
            element("div", self.table(rows).html, css="numbers"),
        ]
        for text in (*self.notes, *READING):
            body.append(paragraph(text, css="sd-muted"))
        return html_page("Models by tasks", body)


_VERDICTS: dict[Verdict, str] = {
    "beyond": "beyond a limit",
    "within": "within the limits of perplexity and of every task judged",
    "undecided": "undecided",
}
_TASK = "task-"
_HEADS = {"perplexity": "Word perplexity", "accuracy": "Last words right"}
_COSTS = {"weights": "Weights", "bytes": "Bytes", "ms": "ms a token"}


def leaderboard(
    backend: Backend, entries: Mapping[str, Entry], baseline: str, tolerance: Tolerance
) -> Leaderboard:
    """The entries judged together beside the baseline, one of their keys."""
    pinned = entries[baseline].answers
    comparisons = {}
    for key, entry in entries.items():
        comparisons[key] = backend.answers.compared(pinned, entry.answers)
    cells = _passage_cells(backend, entries, baseline, tolerance)
    _add_task_cells(cells, comparisons, baseline, tolerance)
    machines = []
    for key, entry in entries.items():
        timing = _timing(backend, entry)
        cells[key] |= _cost_cells(backend, entry, timing)
        if timing is not None:
            threads = quantity(timing.n_threads, "thread")
            machines.append(f"Timed on {timing.machine}, {threads}, {timing.dtype}.")
    columns = _HEADS | _task_heads(comparisons, baseline)
    for name, head in _COSTS.items():
        if any(row[name].text for row in cells.values()):
            columns[name] = head
    records = {entry.title: entry.model.record for entry in entries.values()}
    notes = [
        *_task_notes(comparisons, baseline, tolerance),
        *dict.fromkeys(machines),
        early_stopping_words(records),
    ]
    return Leaderboard(
        entries=entries,
        baseline=baseline,
        tolerance=tolerance,
        columns=columns,
        cells=cells,
        notes=list(filter(None, notes)),
    )


def answers_leaderboard(
    models: Mapping[str, Sequence[QuestionSet]], tolerance: Tolerance
) -> Leaderboard:
    """The answers of models of other programs, judged together beside the first of them."""
    baseline = next(iter(models))
    if all(len(sets) == 1 for sets in models.values()):
        # Files of one task each are that task, whatever their names.
        task = models[baseline][0].task
        models = {name: [replace(sets[0], task=task)] for name, sets in models.items()}
    entries = {name: AnswersEntry(name) for name in models}
    pinned = {answers.task: answers for answers in models[baseline]}
    comparisons = dict[str, dict[str, TaskComparison]]()
    for name, sets in models.items():
        comparisons[name] = {}
        for answers in sets:
            beside = None if name == baseline else pinned.get(answers.task)
            comparisons[name][answers.task] = compare_answers(beside, answers)
    cells = {name: dict[str, _Cell]() for name in models}
    _add_task_cells(cells, comparisons, baseline, tolerance)
    return Leaderboard(
        entries=entries,
        baseline=baseline,
        tolerance=tolerance,
        columns=_task_heads(comparisons, baseline),
        cells=cells,
        notes=list(filter(None, _task_notes(comparisons, baseline, tolerance))),
    )


def _passage_cells(
    backend: Backend, entries: Mapping[str, Entry], baseline: str, tolerance: Tolerance
) -> dict[str, dict[str, _Cell]]:
    """The cells of word perplexity and of last words right."""
    dense = entries[baseline].model.record.key
    measured: dict[str, Measured] = {}
    for key, entry in entries.items():
        if key == baseline:
            continue
        with suppress(LookupError):
            model = measure_beside(backend, dense, entry.model.record.key)
            # A search's trials, whose intervals hold at any look, share the chance of error with
            # all others here.
            anytime = model.losses.anytime or model.losses.alpha is not None
            shared = replace(model.losses, alpha=None, anytime=anytime)
            measured[key] = model._replace(losses=shared)
    judged = dict(zip(measured, judge(list(measured.values()), tolerance), strict=True))
    cells = {}
    for key, entry in entries.items():
        record = entry.model.record
        verdict = None
        values: dict[str, Value] = {}
        change = "" if key == baseline else "other passages"
        accuracy_change = change
        if key in judged:
            model_verdict = judged[key].verdict
            accuracy = model_verdict.accuracy
            change = _change(model_verdict.perplexity)
            accuracy_change = _unjudged(judged[key].comparison.difference)
            if accuracy is not None:
                accuracy_change = _change(accuracy)
            verdict = model_verdict.verdict
            values = verdict_values(model_verdict)
            values["passages_verdict"] = values.pop("verdict")
        word_perplexity = record.word_perplexity
        share_right = record.last_word.accuracy
        cells[key] = {
            "perplexity": _Cell(
                f"{perplexity(word_perplexity)}\n{change}",
                word_perplexity,
                {"word_perplexity": word_perplexity},
                verdict,
            ),
            "accuracy": _Cell(
                f"{percent(share_right)}\n{accuracy_change}",
                -share_right,
                {"accuracy_percent": 100 * share_right, **values},
            ),
        }
    return cells


_Comparisons = Mapping[str, Mapping[str, TaskComparison]]
"""By entry and task."""


def _task_heads(comparisons: _Comparisons, baseline: str) -> dict[str, str]:
    """The heads of the tasks' columns, the baseline's tasks first."""
    heads: dict[str, str] = {}
    for by_task in (comparisons[baseline], *comparisons.values()):
        for task, comparison in by_task.items():
            if comparison.rolling:
                heads[f"{_TASK}{task}"] = f"{task}, bits a byte"
            else:
                heads.setdefault(f"{_TASK}{task}", task)
    return heads


def _add_task_cells(
    cells: Mapping[str, dict[str, _Cell]],
    comparisons: _Comparisons,
    baseline: str,
    tolerance: Tolerance,
) -> None:
    """Add a cell for every task to the cells of every entry."""
    losses = {}
    for key, by_task in comparisons.items():
        for task, comparison in by_task.items():
            if comparison.losses is not None and key != baseline:
                losses[key, task] = comparison.losses
    judged = dict(
        zip(losses, judge_losses(list(losses.values()), tolerance), strict=True)
    )
    tasks = dict.fromkeys(chain.from_iterable(comparisons.values()))
    for key, by_task in comparisons.items():
        for task in tasks:
            column = f"{_TASK}{task}"
            if task not in by_task:
                cells[key][column] = _Cell("–", inf, {})
                continue
            loss = judged.get((key, task))
            change = ""
            if key != baseline:
                change = _task_change(
                    by_task[task], comparisons[baseline].get(task), loss
                )
            cells[key][column] = _task_cell(task, by_task[task], loss, change)


def _task_cell(
    task: str, comparison: TaskComparison, loss: Loss | None, change: str
) -> _Cell:
    """A model's score in a task, with its change from the baseline under it."""
    score = comparison.score
    values: dict[str, Value] = {f"{task}_questions": comparison.n}
    verdict = None
    if loss is not None:
        verdict = loss.verdict
        values |= _loss_values(task, loss)
    if comparison.rolling:
        values = {f"{task}_bits_a_byte": score, **values}
        return _Cell(f"{score:.3f}\n{change}", score, values, verdict)
    values = {f"{task}_percent": 100 * score, **values}
    return _Cell(f"{percent(score)}\n{change}", -score, values, verdict)


def _task_change(
    comparison: TaskComparison, baseline: TaskComparison | None, loss: Loss | None
) -> str:
    """The change of a score from the baseline's, or why there is none."""
    losses = comparison.losses
    if losses is None or baseline is None:
        return "other questions" if comparison.why else "no baseline"
    change = _unjudged(-losses.moments.mean) if loss is None else _change(loss)
    n_most = max(comparison.n, baseline.n)
    if losses.moments.n < n_most:
        change = f"{change}\non {losses.moments.n:,} of {n_most:,}"
    return change


def _change(loss: Loss) -> str:
    """ "✕ −9.0" over "−12.1 to −5.9": sign, change and interval, points without their unit."""
    value = loss_value(loss).removesuffix(" points")
    return f"{VERDICT_SIGNS[loss.verdict][0]} {value}\n{loss_interval(loss) or 'no interval'}"


def _unjudged(change: float) -> str:
    return f"{signed_points(change)}\nnot judged"


def _loss_values(task: str, loss: Loss) -> dict[str, Value]:
    """A loss as numbers for a file."""
    name = (
        f"{task}_ratio"
        if loss.measure == "word perplexity"
        else f"{task}_change_points"
    )
    value, low, high = loss_values(loss)
    return {
        name: value,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{task}_level_percent": 100 * loss.level,
        f"{task}_verdict": loss.verdict,
    }


def _task_notes(
    comparisons: _Comparisons, baseline: str, tolerance: Tolerance
) -> dict[str, None]:
    """Notes on answers that are not paired, tasks that are not judged, and limits of their own."""
    notes: dict[str, None] = {}
    for key, by_task in comparisons.items():
        for task, comparison in by_task.items():
            if key != baseline:
                notes[_task_note(task, comparison, tolerance)] = None
    return notes


def _task_note(task: str, comparison: TaskComparison, tolerance: Tolerance) -> str:
    losses = comparison.losses
    if comparison.why or losses is None:
        return comparison.why
    if losses.not_judged == "chance":
        return f"{task} is not judged: the baseline is not shown to do better than guessing."
    if losses.not_judged:
        return f"{task} is not judged: the baseline has fewer than {MIN_RIGHT} right answers."
    limit = own_limit(losses, tolerance)
    return f"{limit_on([task], limit)}." if limit else ""


def _cost_cells(
    backend: Backend, entry: Entry, timing: Timing | None
) -> dict[str, _Cell]:
    """Weights, bytes and milliseconds."""
    record = entry.model.record
    pruned = record.pruned
    shape = backend.model_shape(record)
    lines = []
    n_weights = None
    n_active = None
    if shape is not None and (pruned is None or pruned.dense_widths == shape.widths):
        kept = pruned.kept if pruned else shape.whole
        n_weights = model_sizes.parameter_count(shape, kept)
        lines.append(weights(n_weights))
        if shape.structure.mixtures:
            n_active = model_sizes.active_count(shape, kept)
            lines.append(f"{weights(n_active)} active")
    removed = pruned.reached.weights if pruned else 0.0
    if removed:
        lines.append(f"{MINUS}{percent(removed)} of blocks")
    n_bytes = _file_bytes(entry)
    if n_bytes is None and n_weights is not None:
        n_bytes = 2 * n_weights
    kind = "16 bits"
    if pruned and pruned.quantised:
        kind = pruned.spec.weights.upper()
    ms = None
    shown_ms = ""
    if timing is not None:
        ms = 1000 * _token_s(timing, dense=pruned is None)
        shown_ms = f"{ms:.3g}" if ms < 100 else f"{ms:,.0f}"
    return {
        "weights": _Cell(
            "\n".join(lines),
            inf if n_weights is None else n_weights,
            {
                "weights": n_weights,
                "weights_gone_percent": 100 * removed,
                "active_weights": n_active,
            },
        ),
        "bytes": _Cell(
            f"{size(n_bytes)}\n{kind}" if n_bytes else "",
            n_bytes or inf,
            {"bytes": n_bytes},
        ),
        "ms": _Cell(shown_ms, ms or inf, {"ms_a_token": ms}),
    }


def _file_bytes(entry: Entry) -> int | None:
    """Bytes of a model's GGUF file; None without one.

    A dense model has a file to compare with where one of its run was quantised.
    """
    if entry.model.record.pruned:
        sizes = entry.run.file_bytes(entry.model)
        return sizes[0] if sizes else None
    for model in entry.run.sparse_models:
        if sizes := entry.run.file_bytes(model):
            return sizes[1]
    return None


def _timing(backend: Backend, entry: Entry) -> Timing | None:
    """The timing of a model's writing: of a dense model any of its run's."""
    for model in (
        [entry.model] if entry.model.record.pruned else entry.run.sparse_models
    ):
        settings = TimingSettings(dense=entry.run.dense.key, sparse=model.record.key)
        timing = backend.result(Timing, settings.key())
        if timing is not None and timing.timed("decode") is not None:
            return timing
    return None


def _token_s(timing: Timing, dense: bool) -> float:
    """Median seconds to write one token."""
    phase = timing.timed("decode")
    assert phase is not None, "only timings of writing are shown"
    return median(phase.dense_s if dense else phase.sparse_s) / timing.n_decode
