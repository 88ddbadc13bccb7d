"""Several runs laid over each other in one chart: which can be, what their lines are called, and what is left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import get_args

from sparsedash.reporting import model_names, wording
from sparsedash.reporting.charts.labels import LONGEST
from sparsedash.reporting.charts.marks import SYMBOLS
from sparsedash.reporting.charts.points import Measure, Point, TradeoffData
from sparsedash.reporting.html import Html, Table, element, escape, join, table
from sparsedash.reporting.record_pair import told_apart
from sparsedash.reporting.results_table import change_cells, times_dense_cells
from sparsedash.reporting.run_results import Judged, RunResults, best

MOST_LINES = len(SYMBOLS)
"""More could not be told apart."""

MOST_RUNS = MOST_LINES
_LONGEST_LABEL = 2 * LONGEST
"""Two short lines beside the chart, which leave a phone's most of its width."""

_EACH = "Intervals hold for the comparisons of each run together, not for those of all these runs."


@dataclass(frozen=True, kw_only=True)
class Strand:
    """One line of the chart: models of one method of one run. label: unlike all others."""

    run: RunResults
    label: str
    models: Sequence[Judged]


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Runs over the same passages in one chart. notes: what is not drawn, and why; plain text."""

    strands: Sequence[Strand]
    notes: Sequence[str]

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What can be drawn: the share of right words, which is no difference, only from one dense model on."""
        every: tuple[Measure, ...] = get_args(Measure)
        one_dense = len({strand.run.dense.key for strand in self.strands}) == 1
        return every if one_dense else tuple(measure for measure in every if measure != "share right")

    @property
    def key(self) -> Mapping[str, str]:
        """What the lines of the chart are called there, by their labels: letters, where these leave it no room."""
        labels = [strand.label for strand in self.strands]
        if max(map(len, labels)) <= _LONGEST_LABEL:
            return dict(zip(labels, labels, strict=True))
        return dict(zip(labels, ascii_uppercase, strict=False))

    def tradeoff(self, brief: bool = True) -> TradeoffData:
        """The data of the chart. brief: with its lines called as in `key`, rather than by their labels."""
        first, names = self.strands[0].run, self.key
        methods = [model.method for strand in self.strands for model in strand.models]
        allowed = first.tolerance
        return TradeoffData(
            dense=self._dense(),
            lines={
                names[each.label] if brief else each.label: [each.run.point_of(model.record) for model in each.models]
                for each in self.strands
            },
            n_passages=first.dense.last_word.total,
            taken=model_names.taken_by(methods),
            allowed={"word perplexity": allowed.most("word perplexity"), "accuracy": allowed.points},
        )

    def comparisons(self) -> Mapping[str, dict[str, str]]:
        """What the address of the compare page says of each model beside its dense one, by the record's key."""
        return {
            each.record.key: {"run": strand.run.run.key, "right": strand.run.name_of(each.record)}
            for strand in self.strands
            for each in strand.models
        }

    def legend(self) -> Html:
        """What the letters of the chart stand for; nothing where its lines have their own names."""
        key = self.key
        signs = dict(zip(key, SYMBOLS.values(), strict=False))
        several = len(key) > 1
        rows = [
            element("li", element("b", escape(f"{signs[label]} {name}" if several else name)), escape(label))
            for label, name in key.items()
            if name != label
        ]
        return element("ul", *rows, css="sd-chart-key") if rows else join()

    def numbers(self) -> Table:
        """The models that are drawn, as a table."""
        head = ["Model", "Change, points", "Interval", "p", "Broke", "Mended", "Times dense", "Interval", "Verdict"]
        rows = [
            [f"{strand.label}, {wording.permille(each.permille)}", *change_cells(each), *times_dense_cells(each)]
            for strand in self.strands
            for each in strand.models
        ]
        caption = f"Each model beside its own dense model, on the last words of the same passages. {_EACH}"
        return table("The numbers of these runs", caption, head, rows)

    def _dense(self) -> Point:
        runs = {strand.run.dense.key: strand.run for strand in self.strands}
        first = next(iter(runs.values()))
        point = first.point_of(first.dense)
        if len(runs) == 1:
            return point
        right = [f"{wording.title(run.dense.model)}: {run.point_of(run.dense).facts[0]}" for run in runs.values()]
        return replace(point, facts=list(dict.fromkeys(right)))


def overlay(found: Sequence[RunResults]) -> Overlay | None:
    """The chart of those runs that answer the same passages as most of them do; None where nothing can be drawn."""
    judged = [run for run in found if run.judged]
    notes = [f"“{run.title}” has no sparse model yet." for run in found if not run.judged]
    if not judged:
        return None
    most = Counter(_passages(run) for run in judged).most_common(1)[0][0]
    drawn = [run for run in judged if _passages(run) == most]
    notes += [_left_out(run, drawn[0]) for run in judged if _passages(run) != most]
    if len(drawn) > MOST_RUNS:
        notes.append(f"Only the first {MOST_RUNS} runs are drawn: more lines could not be told apart.")
        drawn = drawn[:MOST_RUNS]
    return Overlay(strands=_strands(drawn, notes), notes=[*notes, _EACH] if len(drawn) > 1 else notes)


def _strands(runs: Sequence[RunResults], notes: list[str]) -> list[Strand]:
    """A line for every method of every run; of each run only the best one where these would be too many."""
    parts = [(run, _by_method(run)) for run in runs]
    if sum(len(methods) for _, methods in parts) > MOST_LINES:
        parts = [(run, [best(run)]) for run in runs]
        notes.append(
            f"Of each run only the best method is drawn: more than {MOST_LINES} lines could not be told apart."
        )
    labels = [[_label(run, runs, models, len(methods) > 1) for models in methods] for run, methods in parts]
    n_times = Counter(label for of_run in labels for label in of_run)
    found: dict[str, str] = {}
    for i, (run, _) in enumerate(parts):
        # What differs in nothing else differs in how much goes.
        steps = wording.permilles(tuple(sorted(run.run.settings.made_permille)))
        found |= {f"{i} {j}": f"{x}, {steps}" if n_times[x] > 1 else x for j, x in enumerate(labels[i])}
    names = told_apart(found)
    return [
        Strand(run=run, label=names[f"{i} {j}"], models=models)
        for i, (run, methods) in enumerate(parts)
        for j, models in enumerate(methods)
    ]


def _by_method(run: RunResults) -> list[list[Judged]]:
    found: dict[str, list[Judged]] = {}
    for each in run.judged:
        found.setdefault(wording.method(each.method), []).append(each)
    return list(found.values())


def _label(run: RunResults, runs: Sequence[RunResults], models: Sequence[Judged], several: bool) -> str:
    """The run's name, or what tells it from the others; and the method, unless the name says enough."""
    method = wording.method(models[0].method)
    if run.name:
        return f"{run.name}, {method}" if several else run.name
    own, every = _facets(run), [_facets(each) for each in runs]
    return ", ".join([*(part for i, part in enumerate(own) if len({one[i] for one in every}) > 1), method])


def _facets(run: RunResults) -> tuple[str, ...]:
    """What two runs over the same passages may differ in, beside their methods."""
    settings = run.run.settings
    calibration = settings.calibration
    return (
        wording.title(settings.model).partition(" (")[0].rpartition("/")[2],
        settings.dtype,
        wording.title(calibration.corpus).partition(",")[0] if settings.reads_text else "no text",
        f"{calibration.n_samples:,} × {calibration.length:,}" if settings.reads_text else "",
    )


def _passages(run: RunResults) -> tuple[str, tuple[int, ...]]:
    """The same for runs that were asked the same."""
    return run.run.corpora.get("evaluation", ""), tuple(outcome.index for outcome in run.dense.outcomes)


def _left_out(run: RunResults, drawn: RunResults) -> str:
    own, other = _asked(run), _asked(drawn)
    own = own if own != other else f"others of {own}"
    return (
        f"“{run.title}” is not drawn: it answers other passages ({own}) than the runs in the chart ({other}), and what "
        "is lost on different passages cannot be compared."
    )


def _asked(run: RunResults) -> str:
    n = run.dense.last_word.total
    return f"{n:,} of {wording.title(run.run.settings.evaluation.corpus)}"
