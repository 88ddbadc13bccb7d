"""Models of several runs by tasks: each one beside a pinned baseline, with its cost; as a sentence,
a table, a page.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import NamedTuple

from sparsedash.catalog import model_shape
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
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.backend import Backend
from sparsedash.service.stored_results import TaskComparison
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
    f"on a task is wrong is at most 5{NBSP}%. More models make wider intervals. Passages are judged together likewise, "
    f"at {LEVELS}",
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


def leaderboard_entries(found: Sequence[RunResults]) -> tuple[dict[str, Entry], int]:
    """The models of these runs by what names each in an address, base by base; and how many are
    left out.
    """
    entries: dict[str, Entry] = {}
    for run, each in ((own, each) for own in found for each in own.models):
        record, settings = each.record, run.run.settings
        made = Entry(
            run=run,
            model=each,
            base=wording.reference_title(record.model).partition(" (")[0].rpartition("/")[2],
            name=wording.record_names(run.run, named=True)[record.key].replace(" %", f"{NBSP}%"),
            answers=run.run.answers.get(record.key, ()),
            tasks=frozenset(settings.evaluation.tasks),
        )
        key = record.key
        if key in entries and (joined := _joined(entries[key], made)) is not None:
            entries[key] = joined
        else:
            # Asked the same task in another way: a row of its own.
            entries[key if key not in entries else f"{key}-{len(entries)}"] = made
    by_base = list(dict.fromkeys(each.base for each in entries.values()))
    ordered = sorted(entries.items(), key=lambda pair: by_base.index(pair[1].base))
    return _told_apart(dict(ordered[:MOST_MODELS])), max(0, len(ordered) - MOST_MODELS)


def _joined(one: Entry, other: Entry) -> Entry | None:
    """The model of two runs with the answers of both; None where they asked the same task in two
    ways.
    """
    answers = tuple(dict.fromkeys((*one.answers, *other.answers)))
    if one.tasks & other.tasks and len(answers) > max(len(one.answers), len(other.answers)):
        return None
    return replace(one, answers=answers, tasks=one.tasks | other.tasks)


def _told_apart(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same with names that differ: after one that several have, the run's name, or how it was
    made.
    """
    titles = [each.title for each in entries.values()]

    def name(entry: Entry) -> str:
        settings = entry.run.run.settings
        text = wording.reference_title(settings.calibration.corpus).partition(" (")[0]
        shares = [wording.share_of(entry.model.method)] if entry.model.record.pruned else []
        made = ", ".join([settings.dtype, text if settings.reads_text else "no text", *shares])
        return (
            entry.name
            if titles.count(entry.title) == 1
            else f"{entry.name}, {entry.run.name or made}"
        )

    named = {key: replace(each, name=name(each)) for key, each in entries.items()}
    unique = unique_names({key: each.title for key, each in named.items()})
    return {
        key: replace(each, name=unique[key].removeprefix(f"{each.base}, "))
        for key, each in named.items()
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
        found = {cell.verdict for cell in cells.values() if cell.verdict}
        if not found:
            return None
        is_within = found == {"within"} and cells["perplexity"].verdict
        return "beyond" if "beyond" in found else "within" if is_within else "undecided"

    @property
    def sentence(self) -> str:
        """How many models are beyond, within, undecided."""
        judged = [self.verdict(key) for key in self.entries if key != self.baseline]
        beside, n = self.entries[self.baseline].title, sum(each is not None for each in judged)
        counts = {
            words: count for verdict, words in _VERDICTS.items() if (count := judged.count(verdict))
        }
        if not counts:
            return f"No model can be compared with {beside}."
        said = ", ".join(f"{count} {words}" for words, count in counts.items())
        return f"Of {quantity(n, 'model')} against {beside}: {said}."

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
                f"{each.base}\n{each.name}{', baseline' * pinned}",
                *(cells[name].text for name in self.columns),
            ]
            for each, cells, pinned in shown
        ]
        data: list[dict[str, Value]] = []
        for each, cells, pinned in shown:
            data.append(
                {"base": each.base, "model": each.name.replace(NBSP, " "), "baseline": pinned}
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
        body = [heading(self.sentence), paragraph(self.caption, css="sd-muted")]
        body.append(element("div", self.table(rows).html, css="numbers"))
        said = (paragraph(text, css="sd-muted") for text in (*self.notes, *READING))
        return html_page("Models by tasks", [*body, *said])


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
    found = {
        key: backend.answers.compared(entries[baseline].answers, each.answers)
        for key, each in entries.items()
    }
    tasks = dict.fromkeys(task for each in (found[baseline], *found.values()) for task in each)
    rolling = {task for each in found.values() for task, own in each.items() if own.rolling}
    beside = [
        (task, own) for key, each in found.items() if key != baseline for task, own in each.items()
    ]
    notes = _task_notes(beside, tolerance)
    cells = _passage_cells(backend, entries, baseline, tolerance)
    for key, each in _task_cells(found, list(tasks), baseline, tolerance).items():
        cells[key] |= each
    timed = {key: _decode_s(backend, each) for key, each in entries.items()}
    for key, entry in entries.items():
        cells[key] |= _cost_cells(backend, entry, timed[key])
    heads = _HEADS | {
        f"{_TASK}{task}": f"{task}{', bits a byte' * (task in rolling)}" for task in tasks
    }
    heads |= {
        name: head for name, head in _COSTS.items() if any(row[name].text for row in cells.values())
    }
    notes += dict.fromkeys(_timed_words(found[1]) for found in timed.values() if found)
    notes.append(early_stopping_words({each.title: each.model.record for each in entries.values()}))
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
    dense, measured = entries[baseline].model.record.key, {}
    for key, each in entries.items():
        if key != baseline:
            with suppress(LookupError):
                record, comparison, losses = measure_beside(backend, dense, each.model.record.key)
                # A search's trials, whose intervals hold at any look, share the chance of error
                # with all others here.
                shared = replace(
                    losses, alpha=None, anytime=losses.anytime or losses.alpha is not None
                )
                measured[key] = record, comparison, shared
    judged = dict(zip(measured, judge(list(measured.values()), tolerance), strict=True))
    drawn = {}
    for key, each in entries.items():
        record, changes = each.model.record, [""] * 2 if key == baseline else ["other passages"] * 2
        perplexity, accuracy, verdict, numbers = (
            record.word_perplexity,
            record.last_word.accuracy,
            None,
            {},
        )
        if key in judged:
            found, points = (
                judged[key].verdict,
                wording.signed_points(judged[key].comparison.difference),
            )
            changes = [
                _change(found.perplexity),
                _change(found.accuracy) if found.accuracy else _unjudged(points),
            ]
            verdict, numbers = found.verdict, verdict_values(found)
            numbers["passages_verdict"] = numbers.pop("verdict")
        shown = [
            f"{wording.perplexity(perplexity)}\n{changes[0]}",
            f"{percent(accuracy)}\n{changes[1]}",
        ]
        drawn[key] = {
            "perplexity": _Cell(shown[0], perplexity, {"word_perplexity": perplexity}, verdict),
            "accuracy": _Cell(shown[1], -accuracy, {"accuracy_percent": 100 * accuracy, **numbers}),
        }
    return drawn


def _task_cells(
    found: Mapping[str, Mapping[str, TaskComparison]],
    tasks: Sequence[str],
    baseline: str,
    tolerance: Tolerance,
) -> dict[str, dict[str, _Cell]]:
    measured = {
        (key, task): own.losses
        for key, each in found.items()
        for task, own in each.items()
        if own.losses is not None and key != baseline
    }
    judged = dict(zip(measured, judge_losses(list(measured.values()), tolerance), strict=True))

    def cell(key: str, task: str) -> _Cell:
        own = found[key].get(task)
        if own is None:
            return _Cell("–", inf, {})
        share = 1 if own.rolling else 100
        score = f"{own.score:.3f}" if own.rolling else percent(own.score)
        values: dict[str, Value] = {
            f"{task}_{'bits_a_byte' if own.rolling else 'percent'}": share * own.score,
            f"{task}_questions": own.n,
        }
        loss, lost, change = judged.get((key, task)), own.losses, ""
        if key != baseline:
            change = "other questions" if own.why else "no baseline"
        if loss is not None:
            change = _change(loss)
            values |= _loss_values(task, loss)
        elif lost is not None and key != baseline:
            change = _unjudged(wording.signed_points(-lost.moments.mean))
        most = max(own.n, found[baseline][task].n) if lost is not None else own.n
        if lost is not None and lost.moments.n < most:
            change += f"\non {lost.moments.n:,} of {most:,}"
        rank = own.score if own.rolling else -own.score
        return _Cell(f"{score}\n{change}", rank, values, loss.verdict if loss else None)

    return {key: {f"{_TASK}{task}": cell(key, task) for task in tasks} for key in found}


def _change(loss: Loss) -> str:
    """ "✕ −9.0" over "−12.1 to −5.9": sign, change and interval, points without their unit."""
    value = loss_value(loss).removesuffix(" points")
    return f"{VERDICT_SIGNS[loss.verdict][0]} {value}\n{loss_interval(loss) or 'no interval'}"


def _unjudged(points: str) -> str:
    return f"{points}\nnot judged"


def _loss_values(task: str, loss: Loss) -> dict[str, Value]:
    """A loss as numbers for a file."""
    ends, name = (loss.value, loss.low, loss.high), "ratio"
    values: list[Value] = [finite_ratio(nats) for nats in ends]
    if loss.measure == "accuracy":
        name, values = (
            "change_points",
            [0.0 - 100 * share for share in (loss.value, loss.high, loss.low)],
        )
    names = [f"{task}_{name}{end}" for end in ("", "_low", "_high")]
    of = {f"{task}_level_percent": 100 * loss.level, f"{task}_verdict": loss.verdict}
    return dict(zip(names, values, strict=True)) | of


def _task_notes(answers: Iterable[tuple[str, TaskComparison]], tolerance: Tolerance) -> list[str]:
    """Why answers are not paired, why tasks are not judged, and limits of their own."""
    said = list[str]()
    for task, own in answers:
        if own.why:
            said.append(own.why)
        elif own.losses is not None and own.losses.not_judged:
            chance = own.losses.not_judged == "chance"
            few = f"has fewer than {FEWEST_RIGHT} right answers"
            said.append(
                f"{task} is not judged: the baseline {'is not shown to do better than guessing' if chance else few}."
            )
        elif own.losses is not None and (limit := own_limit(own.losses, tolerance)):
            said.append(f"{limit_on([task], limit)}.")
    return list(dict.fromkeys(said))


def _cost_cells(
    backend: Backend, entry: Entry, timed: tuple[float, Timing] | None
) -> dict[str, _Cell]:
    """Weights, bytes and milliseconds. timed: see `_decode_s`."""
    run, model, made = entry.run, entry.model, entry.model.record.pruned
    shape, lines, n = backend.model_shape(model.record), list[str](), None
    if shape is not None and (made is None or made.dense_widths == shape.widths):
        n = model_shape.parameter_count(shape, made.widths if made else shape.widths)
        lines.append(wording.weights(n))
    gone = made.reached.weights if made else 0.0
    lines += [f"{MINUS}{percent(gone)} of blocks"] * bool(gone)
    # A dense model has a file to compare with where one of its run was quantised.
    files = [sizes for each in ([model] if made else run.judged) if (sizes := run.file_bytes(each))]
    n_bytes = files[0][0 if made else 1] if files else None if n is None else 2 * n
    kind = made.spec.quantise.upper() if made and made.quantised else "16 bits"
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
            (f"{ms:.3g}" if ms < 100 else f"{ms:,.0f}") if ms else "", ms or inf, {"ms_a_token": ms}
        ),
    }


def _decode_s(backend: Backend, entry: Entry) -> tuple[float, Timing] | None:
    """Seconds to write one token, and the timing that says so: of a dense model any of its
    run's.
    """
    made = entry.model.record.pruned
    for each in [entry.model] if made else entry.run.judged:
        timing = backend.result(
            Timing, TimingSettings(dense=entry.run.dense.key, sparse=each.record.key).key()
        )
        if timing is not None and (phase := timing.timed("decode")) is not None:
            return median(phase.sparse_s if made else phase.dense_s) / timing.n_decode, timing
    return None


def _timed_words(timing: Timing) -> str:
    return f"Timed on {timing.machine}, {quantity(timing.n_threads, 'thread')}, {timing.dtype}."
