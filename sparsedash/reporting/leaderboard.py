"""Models of several runs by tasks: each one beside a pinned baseline, with its cost; as a sentence,
a table, a page.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import NamedTuple

from sparsedash.catalog import model_sizes
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, Table, Value, element, heading, paragraph
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.run_reports import html_page
from sparsedash.reporting.run_results import ModelResult, RunResults, judge, measure_beside
from sparsedash.reporting.task_words import limit_on
from sparsedash.reporting.verdicts import (
    LEVELS,
    VERDICT_SIGNS,
    early_stopping_words,
    finite_ratio,
    loss_interval,
    loss_value,
    verdict_values,
)
from sparsedash.reporting.wording import MINUS, NBSP, percent, quantity, tolerance_words
from sparsedash.schema.pair_records import Timing, TimingSettings
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.service.answer_cache import TaskComparison
from sparsedash.service.backend import Backend
from sparsedash.stats.task_verdicts import judge_losses, own_limit
from sparsedash.stats.tolerance import FEWEST_RIGHT, Loss, Verdict

MOST_MODELS = 32
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
    """The models of these runs by what names each in an address, base by base; and how many are
    left out.
    """
    entries: dict[str, Entry] = {}
    for run, model in ((results, model) for results in runs for model in results.models):
        record = model.record
        settings = run.run.settings
        entry = Entry(
            run=run,
            model=model,
            base=wording.reference_title(record.model).partition(" (")[0].rpartition("/")[2],
            name=wording.record_names(run.run, named=True)[record.key].replace(
                " %",
                f"{NBSP}%",
            ),
            answers=run.run.answers.get(record.key, ()),
            tasks=frozenset(settings.evaluation.tasks),
        )
        key = record.key
        if key in entries and (joined := _joined(entries[key], entry)) is not None:
            entries[key] = joined
        else:
            # Asked the same task in another way: a row of its own.
            entries[key if key not in entries else f"{key}-{len(entries)}"] = entry
    by_base = list(dict.fromkeys(model.base for model in entries.values()))
    ordered = sorted(
        entries.items(),
        key=lambda pair: by_base.index(pair[1].base),
    )
    return _told_apart(dict(ordered[:MOST_MODELS])), max(0, len(ordered) - MOST_MODELS)


def _joined(one: Entry, second: Entry) -> Entry | None:
    """The model of two runs with the answers of both; None where they asked the same task in two
    ways.
    """
    answers = tuple(dict.fromkeys((*one.answers, *second.answers)))
    if one.tasks & second.tasks and len(answers) > max(len(one.answers), len(second.answers)):
        return None
    return replace(
        one,
        answers=answers,
        tasks=one.tasks | second.tasks,
    )


def _told_apart(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same with names that differ: after one that several have, the run's name, or how it was
    made.
    """
    titles = [candidate.title for candidate in entries.values()]

    def name(entry: Entry) -> str:
        settings = entry.run.run.settings
        text = wording.reference_title(settings.calibration.corpus).partition(" (")[0]
        shares = [wording.share_of(entry.model.method)] if entry.model.record.pruned else []
        origin = ", ".join(
            [
                settings.dtype,
                text if settings.reads_text else "no text",
                *shares,
            ]
        )
        return (
            entry.name
            if titles.count(entry.title) == 1
            else f"{entry.name}, {entry.run.name or origin}"
        )

    named = {key: replace(candidate, name=name(candidate)) for key, candidate in entries.items()}
    unique = unique_names({key: candidate.title for key, candidate in named.items()})
    return {
        key: replace(
            candidate,
            name=unique[key].removeprefix(f"{candidate.base}, "),
        )
        for key, candidate in named.items()
    }


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

    entries: Mapping[str, Entry]
    baseline: str
    tolerance: Tolerance
    columns: Mapping[str, str]
    cells: Mapping[str, Mapping[str, _Cell]]
    notes: Sequence[str]

    def verdict(self, key: str) -> Verdict | None:
        """Beyond where it is on anything, within where it is on passages and tasks; None where
        nothing was judged.

        Undecided where the passages are others than the baseline's, so that its tasks alone are
        within.
        """
        cells = self.cells[key]
        verdicts = {cell.verdict for cell in cells.values() if cell.verdict}
        if not verdicts:
            return None
        is_within = verdicts == {"within"} and cells["perplexity"].verdict
        return "beyond" if "beyond" in verdicts else "within" if is_within else "undecided"

    @property
    def sentence(self) -> str:
        """How many models are beyond, within, undecided."""
        judged = [self.verdict(key) for key in self.entries if key != self.baseline]
        beside = self.entries[self.baseline].title
        n = sum(verdict is not None for verdict in judged)
        counts = {
            words: count for verdict, words in _VERDICTS.items() if (count := judged.count(verdict))
        }
        if not counts:
            return f"No model can be compared with {beside}."
        listed = ", ".join(f"{count} {words}" for words, count in counts.items())
        return f"Of {quantity(n, 'model')} against {beside}: {listed}."

    def rows(self, only_beyond: bool, order: str) -> list[str]:
        """The keys of the entries to show, the baseline first. order: a column, best first; else
        base by base.
        """
        others = [key for key in self.entries if key != self.baseline]
        shown = [key for key in others if not only_beyond or self.verdict(key) == "beyond"]
        if order in self.columns:
            shown.sort(key=lambda key: self.cells[key][order].rank)
        return [self.baseline, *shown]

    def table(self, rows: Sequence[str], links: Sequence[Html] = ()) -> Table:
        """These rows as a table. links: in place of their names."""
        shown = [(self.entries[key], self.cells[key], key == self.baseline) for key in rows]
        text = [
            [
                f"{entry.base}\n{entry.name}{', baseline' * pinned}",
                *(cells[name].text for name in self.columns),
            ]
            for entry, cells, pinned in shown
        ]
        data: list[dict[str, Value]] = []
        for entry, cells, pinned in shown:
            data.append(
                {
                    "base": entry.base,
                    "model": entry.name.replace(NBSP, " "),
                    "baseline": pinned,
                }
            )
            for cell in cells.values():
                data[-1] |= cell.values
        return Table(
            "Models by tasks",
            "",
            ["Model", *self.columns.values()],
            text,
            links,
            data,
            stacked=True,
        )

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
        ]
        body.append(
            element(
                "div",
                self.table(rows).html,
                css="numbers",
            )
        )
        paragraphs = (paragraph(text, css="sd-muted") for text in (*self.notes, *READING))
        return html_page("Models by tasks", [*body, *paragraphs])


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
    comparisons = {
        key: backend.answers.compared(
            entries[baseline].answers,
            entry.answers,
        )
        for key, entry in entries.items()
    }
    tasks = dict.fromkeys(
        task for by_task in (comparisons[baseline], *comparisons.values()) for task in by_task
    )
    rolling = {
        task
        for by_task in comparisons.values()
        for task, comparison in by_task.items()
        if comparison.rolling
    }
    beside = [
        (task, comparison)
        for key, by_task in comparisons.items()
        if key != baseline
        for task, comparison in by_task.items()
    ]
    notes = _task_notes(beside, tolerance)
    cells = _passage_cells(
        backend,
        entries,
        baseline,
        tolerance,
    )
    for key, by_task in _task_cells(
        comparisons,
        list(tasks),
        baseline,
        tolerance,
    ).items():
        cells[key] |= by_task
    timed = {key: _decode_s(backend, entry) for key, entry in entries.items()}
    for key, entry in entries.items():
        cells[key] |= _cost_cells(backend, entry, timed[key])
    heads = _HEADS | {
        f"{_TASK}{task}": f"{task}{', bits a byte' * (task in rolling)}" for task in tasks
    }
    heads |= {
        name: head for name, head in _COSTS.items() if any(row[name].text for row in cells.values())
    }
    notes += dict.fromkeys(
        _timed_words(comparisons[1]) for comparisons in timed.values() if comparisons
    )
    notes.append(
        early_stopping_words({entry.title: entry.model.record for entry in entries.values()})
    )
    return Leaderboard(
        entries=entries,
        baseline=baseline,
        tolerance=tolerance,
        columns=heads,
        cells=cells,
        notes=list(filter(None, notes)),
    )


def _passage_cells(
    backend: Backend, entries: Mapping[str, Entry], baseline: str, tolerance: Tolerance
) -> dict[str, dict[str, _Cell]]:
    dense = entries[baseline].model.record.key
    measured = {}
    for key, entry in entries.items():
        if key != baseline:
            with suppress(LookupError):
                record, comparison, losses = measure_beside(
                    backend,
                    dense,
                    entry.model.record.key,
                )
                # A search's trials, whose intervals hold at any look, share the chance of error
                # with all others here.
                shared = replace(
                    losses, alpha=None, anytime=losses.anytime or losses.alpha is not None
                )
                measured[key] = record, comparison, shared
    judged = dict(
        zip(
            measured,
            judge(list(measured.values()), tolerance),
            strict=True,
        )
    )
    drawn = {}
    for key, entry in entries.items():
        record = entry.model.record
        changes = [""] * 2 if key == baseline else ["other passages"] * 2
        perplexity = record.word_perplexity
        accuracy = record.last_word.accuracy
        verdict = None
        numbers = {}
        if key in judged:
            judged_verdict = judged[key].verdict
            points = wording.signed_points(judged[key].comparison.difference)
            changes = [
                _change(judged_verdict.perplexity),
                _change(judged_verdict.accuracy) if judged_verdict.accuracy else _unjudged(points),
            ]
            verdict = judged_verdict.verdict
            numbers = verdict_values(judged_verdict)
            numbers["passages_verdict"] = numbers.pop("verdict")
        shown = [
            f"{wording.perplexity(perplexity)}\n{changes[0]}",
            f"{percent(accuracy)}\n{changes[1]}",
        ]
        drawn[key] = {
            "perplexity": _Cell(
                shown[0],
                perplexity,
                {"word_perplexity": perplexity},
                verdict,
            ),
            "accuracy": _Cell(
                shown[1],
                -accuracy,
                {"accuracy_percent": 100 * accuracy, **numbers},
            ),
        }
    return drawn


def _task_cells(
    comparisons: Mapping[str, Mapping[str, TaskComparison]],
    tasks: Sequence[str],
    baseline: str,
    tolerance: Tolerance,
) -> dict[str, dict[str, _Cell]]:
    measured = {
        (key, task): paired.losses
        for key, by_task in comparisons.items()
        for task, paired in by_task.items()
        if paired.losses is not None and key != baseline
    }
    judged = dict(
        zip(
            measured,
            judge_losses(list(measured.values()), tolerance),
            strict=True,
        )
    )

    def cell(key: str, task: str) -> _Cell:
        comparison = comparisons[key].get(task)
        if comparison is None:
            return _Cell("–", inf, {})
        share = 1 if comparison.rolling else 100
        score = f"{comparison.score:.3f}" if comparison.rolling else percent(comparison.score)
        unit = "bits_a_byte" if comparison.rolling else "percent"
        values: dict[str, Value] = {
            f"{task}_{unit}": share * comparison.score,
            f"{task}_questions": comparison.n,
        }
        loss = judged.get((key, task))
        lost = comparison.losses
        change = ""
        if key != baseline:
            change = "other questions" if comparison.why else "no baseline"
        if loss is not None:
            change = _change(loss)
            values |= _loss_values(task, loss)
        elif lost is not None and key != baseline:
            change = _unjudged(wording.signed_points(-lost.moments.mean))
        most = (
            max(comparison.n, comparisons[baseline][task].n) if lost is not None else comparison.n
        )
        if lost is not None and lost.moments.n < most:
            change += f"\non {lost.moments.n:,} of {most:,}"
        rank = comparison.score if comparison.rolling else -comparison.score
        return _Cell(
            f"{score}\n{change}",
            rank,
            values,
            loss.verdict if loss else None,
        )

    return {key: {f"{_TASK}{task}": cell(key, task) for task in tasks} for key in comparisons}


def _change(loss: Loss) -> str:
    """ "✕ −9.0" over "−12.1 to −5.9": sign, change and interval, points without their unit."""
    value = loss_value(loss).removesuffix(" points")
    return f"{VERDICT_SIGNS[loss.verdict][0]} {value}\n{loss_interval(loss) or 'no interval'}"


def _unjudged(points: str) -> str:
    return f"{points}\nnot judged"


def _loss_values(task: str, loss: Loss) -> dict[str, Value]:
    """A loss as numbers for a file."""
    ends = (loss.value, loss.low, loss.high)
    name = "ratio"
    values: list[Value] = [finite_ratio(nats) for nats in ends]
    if loss.measure == "accuracy":
        name = "change_points"
        values = [0.0 - 100 * share for share in (loss.value, loss.high, loss.low)]
    names = [f"{task}_{name}{end}" for end in ("", "_low", "_high")]
    level = {
        f"{task}_level_percent": 100 * loss.level,
        f"{task}_verdict": loss.verdict,
    }
    return dict(zip(names, values, strict=True)) | level


def _task_notes(answers: Iterable[tuple[str, TaskComparison]], tolerance: Tolerance) -> list[str]:
    """Why answers are not paired, why tasks are not judged, and limits of their own."""
    notes = list[str]()
    for task, comparison in answers:
        if comparison.why:
            notes.append(comparison.why)
        elif comparison.losses is not None and comparison.losses.not_judged:
            why = f"has fewer than {FEWEST_RIGHT} right answers"
            if comparison.losses.not_judged == "chance":
                why = "is not shown to do better than guessing"
            notes.append(f"{task} is not judged: the baseline {why}.")
        elif comparison.losses is not None and (limit := own_limit(comparison.losses, tolerance)):
            notes.append(f"{limit_on([task], limit)}.")
    return list(dict.fromkeys(notes))


def _cost_cells(
    backend: Backend, entry: Entry, timed: tuple[float, Timing] | None
) -> dict[str, _Cell]:
    """Weights, bytes and milliseconds. timed: see `_decode_s`."""
    run = entry.run
    model = entry.model
    pruned = entry.model.record.pruned
    shape = backend.model_shape(model.record)
    lines = list[str]()
    n = None
    if shape is not None and (pruned is None or pruned.dense_widths == shape.widths):
        n = model_sizes.parameter_count(
            shape,
            pruned.widths if pruned else shape.widths,
        )
        lines.append(wording.weights(n))
    gone = pruned.reached.weights if pruned else 0.0
    lines += [f"{MINUS}{percent(gone)} of blocks"] * bool(gone)
    # A dense model has a file to compare with where one of its run was quantised.
    files = [
        sizes
        for candidate in ([model] if pruned else run.judged)
        if (sizes := run.file_bytes(candidate))
    ]
    n_bytes = files[0][0 if pruned else 1] if files else None if n is None else 2 * n
    kind = pruned.spec.weights.upper() if pruned and pruned.quantised else "16 bits"
    ms = 1000 * timed[0] if timed else None
    return {
        "weights": _Cell(
            "\n".join(lines),
            inf if n is None else n,
            {"weights": n, "weights_gone_percent": 100 * gone},
        ),
        "bytes": _Cell(
            f"{wording.size(n_bytes)}\n{kind}" if n_bytes else "",
            n_bytes or inf,
            {"bytes": n_bytes},
        ),
        "ms": _Cell(
            (f"{ms:.3g}" if ms < 100 else f"{ms:,.0f}") if ms else "",
            ms or inf,
            {"ms_a_token": ms},
        ),
    }


def _decode_s(backend: Backend, entry: Entry) -> tuple[float, Timing] | None:
    """Seconds to write one token, and the timing that says so: of a dense model any of its
    run's.
    """
    pruned = entry.model.record.pruned
    for model in [entry.model] if pruned else entry.run.judged:
        timing = backend.result(
            Timing,
            TimingSettings(
                dense=entry.run.dense.key,
                sparse=model.record.key,
            ).key(),
        )
        if timing is not None and (phase := timing.timed("decode")) is not None:
            return median(phase.sparse_s if pruned else phase.dense_s) / timing.n_decode, timing
    return None


def _timed_words(timing: Timing) -> str:
    return f"Timed on {timing.machine}, {quantity(timing.n_threads, 'thread')}, {timing.dtype}."
