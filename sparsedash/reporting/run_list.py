"""All runs: the rows of their table, its order and filter, deletion in words, and several runs in one chart."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from math import inf, isinf
from string import ascii_uppercase
from typing import get_args

from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.charts.chart_style import LONGEST
from sparsedash.reporting.charts.tradeoff_chart import SYMBOLS
from sparsedash.reporting.charts.tradeoff_data import Measure, Point, TradeoffData
from sparsedash.reporting.html import Html, Table, element, escape, join, table
from sparsedash.reporting.job_status import job_request
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.run_answer import run_ending
from sparsedash.reporting.run_results import Judged, RunResults, Weighed, headline_model
from sparsedash.reporting.verdicts import VERDICT_SIGNS, accuracy_open, change_cells, times_dense_cells, tolerance_words
from sparsedash.reporting.wording import quantity, reference_title, sparsity_percent
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Run
from sparsedash.schema.settings import FindSettings, RunSettings, planned_run
from sparsedash.service.backend import Backend
from sparsedash.service.deletion import Cleanup
from sparsedash.stats.tolerance import Tolerance, Verdict

FEW = 3
"""Sparsities that are named one by one."""
JOBS_LOOKED_AT = 200
"""Newest first; of an older run that ended early it is only said that it did not finish."""
RUN_ADDRESS_LENGTH = 16
"""Characters of a run's key that name it in an address; enough to be the only one."""
MOST_LINES = MOST_RUNS = len(SYMBOLS)
"""Of one chart; more could not be told apart."""
_LONGEST_LABEL = 2 * LONGEST
"""Two short lines beside the chart, which leave a phone's most of its width."""
_EACH = "Intervals hold for the comparisons of each run together, not for those of all these runs."


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run of the table.

    run: as far as it is stored; None while nothing of it is. job: the live one, or the newest of an unfinished run.
    settings, search: what was asked for. model: the one that its answer names; None where nothing was judged. known:
    whether its answers have been judged, or it has none. at: when it was started, or asked for.
    """

    key: str
    run: Run | None
    job: Job | None
    settings: RunSettings
    search: FindSettings | None
    mark: RunMark
    model: Weighed | None
    known: bool
    at: float

    @property
    def address(self) -> str:
        """What names it in an address."""
        return self.key[:RUN_ADDRESS_LENGTH]

    @property
    def about(self) -> str:
        """What it is about, without its name."""
        return wording.run_title(self.search or self.settings)

    @property
    def title(self) -> str:
        """Its name; where it has none, what it is about."""
        return self.mark.name or self.about

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.job is not None and self.job.live

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it is not finished."""
        if self.run is None or not self.run.finished or self.run.finished_at is None:
            return None
        return max(0.0, self.run.finished_at - self.run.started_at)


def all_rows(backend: Backend, tolerance: Tolerance) -> list[RunRow]:
    """A row for every run, and for every live job whose run has no result yet, newest first. tolerance: the limits."""
    runs, marks, jobs = backend.runs(), backend.user_data.marks(), newest_jobs(backend.jobs(JOBS_LOOKED_AT))
    judged = backend.costs.verdicts(runs, tolerance)
    rows = {}
    for run in runs:
        verdicts, job = judged.get(run.key), jobs.get(run.key)
        points = zip(run.sparse, run.settings.points, strict=False)
        weighed = [
            Weighed(method=method, permille=permille, verdict=verdicts[key])
            for key, (method, permille) in points
            if verdicts and key in verdicts
        ]
        rows[run.key] = RunRow(
            key=run.key,
            run=run,
            job=job if job is not None and (job.live or not run.finished) else None,
            settings=run.settings,
            search=run.find,
            mark=marks.get(run.key, RunMark()),
            model=headline_model(weighed),
            known=verdicts is not None,
            at=run.started_at,
        )
    for key, job in jobs.items():
        if not job.live or key in rows:
            continue
        asked = job_request(job)
        if asked is None:
            continue
        rows[key] = RunRow(
            key=key,
            run=None,
            job=job,
            settings=planned_run(asked),
            search=asked if isinstance(asked, FindSettings) else None,
            mark=marks.get(key, RunMark()),
            model=None,
            known=True,
            at=job.started_at or job.queued_at,
        )
    return sorted(rows.values(), key=lambda row: row.at, reverse=True)


def newest_jobs(jobs: Sequence[Job]) -> dict[str, Job]:
    """Of each run the live job, or else the newest one. jobs: newest first."""
    found: dict[str, Job] = {}
    for job in jobs:
        if job.makes_run and (job.key not in found or (job.live and not found[job.key].live)):
            found[job.key] = job
    return found


def row_sparsity(row: RunRow) -> tuple[str, str]:
    """The sparsities, and of many how many they are; of a search its trials."""
    if row.search is not None:
        return "a search", quantity(len(row.run.sparse) if row.run is not None else 0, "trial")
    asked = sorted(row.settings.made_permille)
    if len(asked) <= FEW:
        return wording.sparsity_percents(asked), ""
    return f"{asked[0] / 10:g} to {sparsity_percent(asked[-1])}", f"{len(asked)} steps"


def row_state(row: RunRow) -> tuple[str, str]:
    """The state of an unfinished run, with its sign, and more about it; nothing of a finished one."""
    n, asked = len(row.run.sparse) if row.run is not None else 0, row.settings.n_sparse
    far = "" if row.search is not None else f"{n} of {quantity(asked, 'model')}"
    if row.job is not None and row.job.live:
        return ("▶ running", far) if row.job.state == "running" else ("◷ waiting", "")
    if row.run is None or not run_ending(row.run, row.job):
        return "", ""
    how = {"cancelled": "⊘ stopped", "failed": "✕ failed", "crashed": "✕ interrupted"}
    return how.get(row.job.state if row.job is not None else "", "⊘ not finished"), far


def row_verdict(row: RunRow) -> tuple[str, str]:
    """The verdict on the model that the run's answer names, and which model that is."""
    if row.model is None:
        return ("", "") if row.known else ("…", "being read")
    method = f" with {wording.method_title(row.model.method)}" if len(row.settings.methods) > 1 else ""
    return VERDICT_SIGNS[row.model.verdict.verdict], f"at {sparsity_percent(row.model.permille)}{method}"


def row_loss(row: RunRow) -> tuple[str, str, str]:
    """What that model lost: word perplexity as a multiple of dense's, its interval, and the points of accuracy."""
    if row.model is None:
        return "", "", ""
    lost, accuracy = row.model.verdict.perplexity, row.model.verdict.accuracy
    interval = "" if isinf(lost.low) else wording.factor_range(lost.low, lost.high)
    points = f"{wording.signed_points(-accuracy.value)} points" if accuracy else "accuracy not judged"
    return wording.nats_as_factor(lost.value), interval, points


def row_start_and_duration(row: RunRow, zone: tzinfo | None) -> tuple[str, str]:
    """When it was started, and how long it took."""
    return wording.moment(row.at, zone), "" if row.seconds is None else wording.duration_words(row.seconds)


def row_texts(row: RunRow) -> str:
    """What stands under a row's title: its model where that is a name, its texts, its numbers."""
    evaluation = row.settings.evaluation
    n = "all" if evaluation.n_passages is None else f"{evaluation.n_passages:,}"
    parts = [reference_title(row.settings.model)] if row.mark.name else []
    parts += [f"calibrated on {_short_title(row.settings.calibration.corpus)}"] if row.settings.reads_text else []
    return " · ".join([*parts, f"tested on {n} of {_short_title(evaluation.corpus)}", row.settings.dtype])


def _short_title(reference: str) -> str:
    """A title without what stands in brackets."""
    return reference_title(reference).partition(" (")[0]


def runs_table(rows: Sequence[RunRow], zone: tzinfo | None) -> Table:
    """These rows as a table to download."""
    head = ["Run", "Texts", "Method", "Removed", "Verdict", "On the model", "Word perplexity, times dense", "Interval"]
    head += ["Accuracy", "State", "Started", "Took"]
    cells = []
    for row in rows:
        about = [row.title, row_texts(row), wording.method_titles(row.settings), " ".join(row_sparsity(row)).strip()]
        state = ", ".join(filter(None, row_state(row)))
        cells.append([*about, *row_verdict(row), *row_loss(row), state, *row_start_and_duration(row, zone)])
    return table("All runs", "", head, cells)


_RANK: dict[Verdict, int] = {"within": 0, "undecided": 1, "beyond": 2}


def _verdict_key(row: RunRow) -> tuple[float, ...]:
    if row.model is None:
        return (3.0, 0.0, 0.0)
    found = row.model.verdict
    return (_RANK[found.verdict], -row.model.permille, found.perplexity.value)


_ORDERS: dict[str, tuple[str, Callable[[RunRow], tuple[float, ...] | tuple[str, ...]]]] = {
    "newest": ("Newest first", lambda row: (-row.at,)),
    "oldest": ("Oldest first", lambda row: (row.at,)),
    "verdict": ("Most within first", _verdict_key),
    "cost": ("Least lost first", lambda row: (row.model.verdict.perplexity.value if row.model else inf,)),
    "removed": ("Most removed first", lambda row: (-max(row.settings.made_permille),)),
    "model": ("By model", lambda row: (reference_title(row.settings.model).casefold(),)),
    "method": ("By method", lambda row: (wording.method_titles(row.settings).casefold(),)),
    "longest": ("Longest first", lambda row: (-(row.seconds or 0.0),)),
}
ORDERS = {name: words for name, (words, _) in _ORDERS.items()}
"""The orders of the table by their names in the address, with their words; the usual one first."""


def sort_rows(rows: Sequence[RunRow], order: str) -> list[RunRow]:
    """The rows in one of ORDERS, pinned ones before all others. rows: newest first, which stays where others tie."""
    _, key = _ORDERS.get(order, _ORDERS["newest"])
    return sorted(rows, key=lambda row: (not row.mark.pinned, key(row)))


def rows_matching(rows: Sequence[RunRow], text: str, model: str) -> list[RunRow]:
    """The rows of a model whose words hold every word of a text, whatever its case. model: a reference; "" for all."""
    sought = text.casefold().split()
    found = []
    for row in rows:
        asked = row.settings
        texts = [reference_title(asked.calibration.corpus), reference_title(asked.evaluation.corpus)]
        named = [row.mark.name, row.about, asked.model, wording.method_titles(asked), asked.dtype, *texts, row.key]
        words = "\n".join(named).casefold()
        if (not model or asked.model == model) and all(word in words for word in sought):
            found.append(row)
    return found


def model_titles(rows: Sequence[RunRow]) -> dict[str, str]:
    """The models of these runs, by their references, with their titles; in the order of the titles."""
    found = {row.settings.model: reference_title(row.settings.model) for row in rows}
    return dict(sorted(found.items(), key=lambda pair: pair[1].casefold()))


def runs_sentence(rows: Sequence[RunRow], tolerance: Tolerance) -> str:
    """What can be said of all runs, in one sentence."""
    n_live = sum(row.live for row in rows)
    judged = [row.model.verdict for row in rows if row.model is not None]
    if not judged:
        live = f"{quantity(n_live, 'run')} under way, no result yet."
        return live if n_live else "No run has a sparse model that was judged."
    within, n_open = ([each.verdict for each in judged].count(verdict) for verdict in ("within", "undecided"))
    limits = f"within the limits, {tolerance_words(tolerance)}"
    if len(judged) == 1:
        rest = "; it is undecided" if n_open else accuracy_open(judged[0])
        return f"The one run with a result has {'a' if within else 'no'} model {limits}{rest}."
    n_half = sum(bool(accuracy_open(each)) for each in judged)
    rest = f", {n_half} of them by word perplexity alone" if n_half else ""
    rest += f"; {n_open} {'is' if n_open == 1 else 'are'} undecided" if n_open else ""
    many = f"{within} of {len(judged)}" if within else f"None of {len(judged)}"
    return f"{many} runs {'has' if within <= 1 else 'have'} a model {limits}{rest}."


def hidden_selection_note(chosen: Collection[str], shown: Sequence[RunRow]) -> str:
    """How many of the chosen runs the table does not show now; empty where it shows all. chosen: keys."""
    n = len(set(chosen) - {row.key for row in shown})
    return f"{n} of them {'is' if n == 1 else 'are'} not in this list" if n else ""


def run_deletion_question(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
    """What will be deleted and what stays, in sentences. titles: of the runs, by their keys."""
    said = []
    if plan.runs:
        what = f"“{titles[plan.runs[0].key]}”" if len(plan.runs) == 1 else f"{len(plan.runs)} runs"
        answers = f"the answers of {quantity(plan.n_records, 'model')}"
        said.append(f"Delete {what}, with {answers}? It cannot be undone.")
    if plan.n_shared:
        said.append(f"The answers of {quantity(plan.n_shared, 'model')} stay: other runs use them.")
    return said + _refused(plan, titles)


def run_deletion_report(done: Cleanup, titles: Mapping[str, str]) -> str:
    """What was deleted, in one line."""
    n, models = len(done.runs), done.n_records
    what = titles[done.runs[0].key] if n == 1 else f"{n} runs" if n else "Nothing"
    with_it = f", with the answers of {quantity(models, 'model')}" if models else ""
    return " ".join([f"{what} {'were' if n > 1 else 'was'} deleted{with_it}.", *_refused(done, titles)])


def _refused(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
    return [f"“{titles.get(key, key)}” stays: {why}." for key, why in plan.refused.items()]


@dataclass(frozen=True, kw_only=True)
class OverlayLine:
    """One line of the chart of several runs: models of one method of one run. label: unlike all others."""

    run: RunResults
    label: str
    models: Sequence[Judged]


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Runs over the same passages in one chart. notes: what is not drawn, and why; plain text."""

    lines: Sequence[OverlayLine]
    notes: Sequence[str]

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What can be drawn: the share of right words, which is no difference, only from one dense model on."""
        every: tuple[Measure, ...] = get_args(Measure)
        one_dense = len({line.run.dense.key for line in self.lines}) == 1
        return every if one_dense else tuple(measure for measure in every if measure != "share right")

    @property
    def key(self) -> Mapping[str, str]:
        """What the lines of the chart are called there, by their labels: letters, where these leave it no room."""
        labels = [line.label for line in self.lines]
        return dict(zip(labels, labels if max(map(len, labels)) <= _LONGEST_LABEL else ascii_uppercase, strict=False))

    def tradeoff(self, brief: bool = True) -> TradeoffData:
        """The data of the chart. brief: with its lines called as in `key`, rather than by their labels."""
        first, names = self.lines[0].run, self.key
        limits = first.tolerance
        return TradeoffData(
            dense=self._dense(),
            lines={
                names[line.label] if brief else line.label: [line.run.point_of(model.record) for model in line.models]
                for line in self.lines
            },
            n_passages=first.dense.last_word.total,
            taken=wording.sparsity_axis_title(model.method for line in self.lines for model in line.models),
            allowed={"word perplexity": limits.most("word perplexity"), "accuracy": limits.points},
        )

    def comparisons(self) -> Mapping[str, dict[str, str]]:
        """What the address of the compare page says of each model beside its dense one, by the record's key."""
        return {
            each.record.key: {"run": line.run.run.key, "right": line.run.name_of(each.record)}
            for line in self.lines
            for each in line.models
        }

    def legend(self) -> Html:
        """What the letters of the chart stand for; nothing where its lines have their own names."""
        several = len(self.lines) > 1
        rows = [
            element("li", element("b", escape(f"{sign} {name}" if several else name)), escape(label))
            for (label, name), sign in zip(self.key.items(), SYMBOLS.values(), strict=False)
            if name != label
        ]
        return element("ul", *rows, css="sd-chart-key") if rows else join()

    def numbers(self) -> Table:
        """The models that are drawn, as a table."""
        head = ["Model", "Change, points", "Interval", "p", "Broke", "Fixed", "Times dense", "Interval", "Verdict"]
        rows = [
            [f"{line.label}, {sparsity_percent(each.permille)}", *change_cells(each), *times_dense_cells(each)]
            for line in self.lines
            for each in line.models
        ]
        caption = f"Each model against its own dense model, on the last words of the same passages. {_EACH}"
        return table("The numbers of these runs", caption, head, rows)

    def _dense(self) -> Point:
        runs = {line.run.dense.key: line.run for line in self.lines}
        first = next(iter(runs.values()))
        point = first.point_of(first.dense)
        if len(runs) == 1:
            return point
        right = [f"{reference_title(run.dense.model)}: {run.point_of(run.dense).facts[0]}" for run in runs.values()]
        return replace(point, facts=list(dict.fromkeys(right)))


def overlay(found: Sequence[RunResults]) -> Overlay | None:
    """The chart of those runs that answer the same passages as most of them do; None where nothing can be drawn."""
    judged = [run for run in found if run.judged]
    notes = [f"“{run.title}” has no sparse model yet." for run in found if not run.judged]
    if not judged:
        return None
    most = Counter(_passages(run) for run in judged).most_common(1)[0][0]
    drawn = [run for run in judged if _passages(run) == most]
    notes += [_why_left_out(run, drawn[0]) for run in judged if _passages(run) != most]
    if len(drawn) > MOST_RUNS:
        notes.append(f"Only the first {MOST_RUNS} runs are drawn: more lines could not be told apart.")
        drawn = drawn[:MOST_RUNS]
    return Overlay(lines=_lines(drawn, notes), notes=[*notes, _EACH] if len(drawn) > 1 else notes)


def _lines(runs: Sequence[RunResults], notes: list[str]) -> list[OverlayLine]:
    """A line for every method of every run; of each run only the best one where these would be too many."""
    parts: list[tuple[RunResults, list[Judged], bool]] = []
    for run in runs:
        methods: dict[str, list[Judged]] = {}
        for each in run.judged:
            methods.setdefault(wording.method_title(each.method), []).append(each)
        parts += [(run, models, len(methods) > 1) for models in methods.values()]
    if len(parts) > MOST_LINES:
        parts = [(run, run.best, False) for run in runs]
        notes.append(
            f"Of each run only the best method is drawn: more than {MOST_LINES} lines could not be told apart."
        )
    labels = [_line_label(run, runs, models, several) for run, models, several in parts]
    # Lines that differ in nothing else differ in their sparsities.
    steps = [wording.sparsity_percents(sorted(run.run.settings.made_permille)) for run, *_ in parts]
    full = [f"{x}, {step}" if labels.count(x) > 1 else x for x, step in zip(labels, steps, strict=True)]
    names = unique_names({str(i): label for i, label in enumerate(full)})
    return [OverlayLine(run=run, label=names[str(i)], models=models) for i, (run, models, _) in enumerate(parts)]


def _line_label(run: RunResults, runs: Sequence[RunResults], models: Sequence[Judged], several: bool) -> str:
    """The run's name, or what tells it from the others; and the method, unless the name says enough."""
    method = wording.method_title(models[0].method)
    if run.name:
        return f"{run.name}, {method}" if several else run.name
    own, every = _facets(run), [_facets(each) for each in runs]
    return ", ".join([*(part for i, part in enumerate(own) if len({one[i] for one in every}) > 1), method])


def _facets(run: RunResults) -> tuple[str, ...]:
    """What two runs over the same passages may differ in, beside their methods."""
    settings, calibration = run.run.settings, run.run.settings.calibration
    return (
        _short_title(settings.model).rpartition("/")[2],
        settings.dtype,
        reference_title(calibration.corpus).partition(",")[0] if settings.reads_text else "no text",
        f"{calibration.n_samples:,} × {calibration.length:,}" if settings.reads_text else "",
    )


def _passages(run: RunResults) -> tuple[str, tuple[int, ...]]:
    """The same for runs over the same passages."""
    return run.run.corpora.get("evaluation", ""), tuple(outcome.index for outcome in run.dense.outcomes)


def _why_left_out(run: RunResults, drawn: RunResults) -> str:
    own, other = (
        f"{each.dense.last_word.total:,} of {reference_title(each.run.settings.evaluation.corpus)}"
        for each in (run, drawn)
    )
    own = own if own != other else f"others of {own}"
    return (
        f"“{run.title}” is not drawn: it answers other passages ({own}) than the runs in the chart ({other}), and "
        "losses on different passages cannot be compared."
    )
