"""All runs: the rows of their table, its order and filter, deletion in words, and several runs in one chart."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from math import inf, isinf
from string import ascii_uppercase
from typing import get_args

from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.charts.chart_style import LONGEST
from sparsedash.reporting.charts.tradeoff_chart import SYMBOLS
from sparsedash.reporting.charts.tradeoff_data import Measure, Point, TradeoffData, nats_as_factor
from sparsedash.reporting.html import Html, Table, element, escape, join, table
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.run_answer import run_ending
from sparsedash.reporting.run_results import Judged, RunResults, best, factor_interval, perplexity_reading, spoken_of
from sparsedash.reporting.verdicts import VERDICT_SIGNS, accuracy_open, change_cells, times_dense_cells, tolerance_words
from sparsedash.reporting.wording import plural
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Run
from sparsedash.schema.settings import FindSettings, RunSettings, planned_run, run_or_find_settings
from sparsedash.service.backend import Backend
from sparsedash.service.deletion import Removal
from sparsedash.service.stored_results import Verdicts
from sparsedash.stats.tolerance import Tolerance, ToleranceVerdict, Verdict

FEW = 3
"""Sparsities that are named one by one."""

JOBS_LOOKED_AT = 200
"""Newest first; of an older run that ended early it is only said that it did not finish."""

RUN_ADDRESS_LENGTH = 16
"""Characters of a run's key that name it in an address; enough to be the only one."""


@dataclass(frozen=True, kw_only=True)
class WeighedModel:
    """A sparse model of a run, as `leading` looks at it."""

    method: MethodSettings
    permille: int
    verdict: ToleranceVerdict


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run of the table.

    run: as far as it is stored; None while nothing of it is. job: the live one, or the newest of a run that is not
    whole. settings, search: what was asked for. model: the one that its answer speaks of; None where nothing was
    judged. known: whether its answers have been judged, or it has none. at: when it was started, or asked for.
    """

    key: str
    run: Run | None
    job: Job | None
    settings: RunSettings
    search: FindSettings | None
    mark: RunMark
    model: WeighedModel | None
    known: bool
    at: float

    @property
    def address(self) -> str:
        """What names it in an address."""
        return self.key[:RUN_ADDRESS_LENGTH]

    @property
    def about(self) -> str:
        """What it is about, without its name."""
        return wording.run_title(self.settings) if self.search is None else wording.find_title(self.search)

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
        """How long it took; None while it is not whole."""
        if self.run is None or not self.run.finished or self.run.finished_at is None:
            return None
        return max(0.0, self.run.finished_at - self.run.started_at)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the runs beside themselves: their marks, verdicts and jobs, by their keys."""

    marks: Mapping[str, RunMark] = field(default_factory=dict)
    verdicts: Mapping[str, Verdicts] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)


def all_rows(backend: Backend, tolerance: Tolerance) -> list[RunRow]:
    """A row for every run there is and for those that are under way, newest first. tolerance: what may be lost."""
    runs = backend.runs()
    known = Known(
        marks=backend.user_data.marks(),
        verdicts=backend.costs.verdicts(runs, tolerance),
        jobs=newest_jobs(backend.jobs(JOBS_LOOKED_AT)),
    )
    return rows_of(runs, known)


def rows_of(runs: Iterable[Run], known: Known) -> list[RunRow]:
    """A row for every run, and for every live job whose run has no result yet, newest first."""
    rows = [_of_run(run, known) for run in runs]
    there = {row.key for row in rows}
    rows += [row for key, job in known.jobs.items() if job.live and key not in there and (row := _of_job(job, known))]
    return sorted(rows, key=lambda row: row.at, reverse=True)


def newest_jobs(jobs: Sequence[Job]) -> dict[str, Job]:
    """Of each run the live job, or else the newest one. jobs: newest first."""
    found: dict[str, Job] = {}
    for job in jobs:
        if job.makes_run and (job.key not in found or (job.live and not found[job.key].live)):
            found[job.key] = job
    return found


def row_sparsity(row: RunRow) -> tuple[str, str]:
    """How much goes: the sparsities, and of many how many they are; of a search its trials."""
    if row.search is not None:
        n = len(row.run.sparse) if row.run is not None else 0
        return "a search", f"{n} {wording.plural(n, 'trial')}"
    asked = tuple(sorted(row.settings.made_permille))
    if len(asked) <= FEW:
        return wording.sparsity_percents(asked), ""
    return f"{asked[0] / 10:g} to {wording.sparsity_percent(asked[-1])}", f"{len(asked)} steps"


def row_state(row: RunRow) -> tuple[str, str]:
    """How a run stands that is not whole, with its sign, and more about it; nothing of one that is."""
    n, asked = len(row.run.sparse) if row.run is not None else 0, row.settings.n_sparse
    far = "" if row.search is not None else f"{n} of {asked} {wording.plural(asked, 'model')}"
    if row.job is not None and row.job.live:
        return ("▶ running", far) if row.job.state == "running" else ("◷ waiting", "")
    if row.run is None or not run_ending(row.run, row.job):
        return "", ""
    how = {"cancelled": "⊘ stopped", "failed": "✕ failed", "crashed": "✕ broke off"}
    return how.get(row.job.state if row.job is not None else "", "⊘ not finished"), far


def _of_run(run: Run, known: Known) -> RunRow:
    verdicts, job = known.verdicts.get(run.key), known.jobs.get(run.key)
    return RunRow(
        key=run.key,
        run=run,
        job=job if job is not None and (job.live or not run.finished) else None,
        settings=run.settings,
        search=run.find,
        mark=known.marks.get(run.key, RunMark()),
        model=spoken_of(_weighed(run, verdicts)) if verdicts else None,
        known=verdicts is not None,
        at=run.started_at,
    )


def _of_job(job: Job, known: Known) -> RunRow | None:
    """None where another version asked for it in a form unknown here."""
    try:
        asked = run_or_find_settings(job.kind, job.settings)
    except SettingsError:
        return None
    return RunRow(
        key=job.key,
        run=None,
        job=job,
        settings=planned_run(asked),
        search=asked if isinstance(asked, FindSettings) else None,
        mark=known.marks.get(job.key, RunMark()),
        model=None,
        known=True,
        at=job.started_at or job.queued_at,
    )


def _weighed(run: Run, verdicts: Verdicts) -> list[WeighedModel]:
    points = zip(run.sparse, run.settings.points, strict=False)
    return [
        WeighedModel(method=method, permille=permille, verdict=verdicts[key])
        for key, (method, permille) in points
        if key in verdicts
    ]


ORDERS: dict[str, str] = {
    "newest": "Newest first",
    "oldest": "Oldest first",
    "verdict": "Most within first",
    "cost": "Least lost first",
    "removed": "Most removed first",
    "model": "By model",
    "method": "By method",
    "longest": "Longest first",
}
"""The orders of the table by their names in the address, with their words; the usual one first."""

_COLUMNS = (
    "Run",
    "What it is",
    "Method",
    "Removed",
    "Verdict",
    "On the model",
    "Word perplexity, times dense",
    "Interval",
    "Accuracy",
    "State",
    "Started",
    "Took",
)

_RANK: dict[Verdict, int] = {"within": 0, "undecided": 1, "beyond": 2}

_KEYS: dict[str, Callable[[RunRow], tuple[float, ...] | tuple[str, ...]]] = {
    "newest": lambda row: (-row.at,),
    "oldest": lambda row: (row.at,),
    "verdict": lambda row: _by_verdict(row),
    "cost": lambda row: (row.model.verdict.perplexity.value if row.model else inf,),
    "removed": lambda row: (-max(row.settings.made_permille),),
    "model": lambda row: (wording.reference_title(row.settings.model).casefold(),),
    "method": lambda row: (wording.method_titles(row.settings).casefold(),),
    "longest": lambda row: (-(row.seconds or 0.0),),
}


def sort_rows(rows: Sequence[RunRow], order: str) -> list[RunRow]:
    """The rows in one of ORDERS, pinned ones before all others. rows: newest first, which stays where others tie."""
    key = _KEYS.get(order, _KEYS["newest"])
    return sorted(rows, key=lambda row: (not row.mark.pinned, key(row)))


def rows_matching(rows: Sequence[RunRow], text: str, model: str) -> list[RunRow]:
    """The rows of a model whose words hold every word of a text, whatever its case. model: a reference; "" for all."""
    sought = text.casefold().split()
    return [
        row
        for row in rows
        if (not model or row.settings.model == model) and all(word in _searched(row) for word in sought)
    ]


def model_titles(rows: Sequence[RunRow]) -> dict[str, str]:
    """The models that there are runs of, by their references, with their titles; in the order of the titles."""
    found = {row.settings.model: wording.reference_title(row.settings.model) for row in rows}
    return dict(sorted(found.items(), key=lambda pair: pair[1].casefold()))


def runs_sentence(rows: Sequence[RunRow], tolerance: Tolerance) -> str:
    """What can be said of all runs, in one sentence."""
    n_live = sum(row.live for row in rows)
    judged = [row.model.verdict for row in rows if row.model is not None]
    found = [each.verdict for each in judged]
    within, n_open = found.count("within"), found.count("undecided")
    if not found and n_live:
        return f"{n_live} {wording.plural(n_live, 'run')} under way, no result yet."
    if not found:
        return "No run has a sparse model that was judged."
    if len(found) == 1:
        rest = "; it is undecided" if n_open else accuracy_open(judged[0])
        has = "has a" if within else "has no"
        return f"The one run with a result {has} model within what is allowed, {tolerance_words(tolerance)}{rest}."
    n_half = sum(bool(accuracy_open(each)) for each in judged)
    rest = f", {n_half} of them by word perplexity alone" if n_half else ""
    rest += f"; {n_open} {'is' if n_open == 1 else 'are'} undecided" if n_open else ""
    many = f"{within} of {len(found)}" if within else f"None of {len(found)}"
    has = "has" if within <= 1 else "have"
    return f"{many} runs {has} a model within what is allowed, {tolerance_words(tolerance)}{rest}."


def what_it_is(row: RunRow) -> str:
    """What stands under a row's title: its model where that is a name, its texts, its numbers."""
    evaluation = row.settings.evaluation
    n = "all" if evaluation.n_passages is None else f"{evaluation.n_passages:,} of"
    parts = [wording.reference_title(row.settings.model)] if row.mark.name else []
    parts += [f"calibrated on {_short(row.settings.calibration.corpus)}"] if row.settings.reads_text else []
    return " · ".join([*parts, f"asked {n} {_short(evaluation.corpus)}", row.settings.dtype])


def _short(reference: str) -> str:
    """A title without what stands in brackets."""
    return wording.reference_title(reference).partition(" (")[0]


def row_verdict(row: RunRow) -> tuple[str, str]:
    """The verdict on the model that the run's answer speaks of, and which model that is."""
    if row.model is None:
        return ("", "") if row.known else ("…", "being read")
    which = f"at {wording.sparsity_percent(row.model.permille)}"
    several = len(row.settings.methods) > 1
    return VERDICT_SIGNS[
        row.model.verdict.verdict
    ], f"{which} with {wording.method_title(row.model.method)}" if several else which


def row_loss(row: RunRow) -> tuple[str, str, str]:
    """What that model lost: word perplexity as a multiple of dense's, its interval, and the points of accuracy."""
    if row.model is None:
        return "", "", ""
    one, two = row.model.verdict.perplexity, row.model.verdict.accuracy
    interval = "" if isinf(one.low) else factor_interval(perplexity_reading(one)).removesuffix(" ×")
    return (
        nats_as_factor(one.value),
        interval,
        f"{wording.signed_points(-two.value)} points" if two else "accuracy not judged",
    )


def row_start_and_duration(row: RunRow, zone: tzinfo | None) -> tuple[str, str]:
    """When it was started, and how long it took."""
    seconds = row.seconds
    return wording.moment(row.at, zone), "" if seconds is None else wording.duration_words(seconds)


def listing_file(rows: Sequence[RunRow], zone: tzinfo | None) -> Table:
    """These rows as a table to take along."""
    return table("All runs", "", list(_COLUMNS), [_cells(row, zone) for row in rows])


def _cells(row: RunRow, zone: tzinfo | None) -> list[str]:
    which, model = row_verdict(row)
    words = [row.title, what_it_is(row), wording.method_titles(row.settings), " ".join(row_sparsity(row)).strip()]
    return [
        *words,
        which,
        model,
        *row_loss(row),
        ", ".join(filter(None, row_state(row))),
        *row_start_and_duration(row, zone),
    ]


def hidden_selection_note(chosen: Collection[str], shown: Sequence[RunRow]) -> str:
    """How many of the chosen runs the table does not show now; empty where it shows all. chosen: keys."""
    n = len(set(chosen) - {row.key for row in shown})
    return f"{n} of them {'is' if n == 1 else 'are'} not in this list" if n else ""


def by_address(rows: Sequence[RunRow]) -> Mapping[str, RunRow]:
    """The rows by what names them in an address."""
    return {row.address: row for row in rows}


def _by_verdict(row: RunRow) -> tuple[float, ...]:
    if row.model is None:
        return (3.0, 0.0, 0.0)
    found = row.model.verdict
    return (_RANK[found.verdict], -row.model.permille, found.perplexity.value)


def _searched(row: RunRow) -> str:
    settings = row.settings
    texts = [wording.reference_title(settings.calibration.corpus), wording.reference_title(settings.evaluation.corpus)]
    named = [row.mark.name, row.about, settings.model, wording.method_titles(settings), settings.dtype, *texts]
    return "\n".join([*named, row.key]).casefold()


def run_deletion_question(plan: Removal, titles: Mapping[str, str]) -> list[str]:
    """What will go and what stays, in sentences. titles: of the runs, by their keys."""
    said = []
    if plan.runs:
        n, models = len(plan.runs), len(plan.records)
        what = f"“{titles[plan.runs[0].key]}”" if n == 1 else f"{n} runs"
        said.append(f"Delete {what}, with the answers of {models} {plural(models, 'model')}? It cannot be undone.")
    if plan.n_shared:
        said.append(f"The answers of {plan.n_shared} {plural(plan.n_shared, 'model')} stay: other runs use them.")
    return said + _refused(plan, titles)


def run_deletion_report(done: Removal, titles: Mapping[str, str]) -> str:
    """What was deleted, in one line."""
    n, models = len(done.runs), len(done.records)
    what = titles[done.runs[0].key] if n == 1 else f"{n} runs" if n else "Nothing"
    verb = "were" if n > 1 else "was"
    with_it = f", with the answers of {models} {plural(models, 'model')}" if models else ""
    return " ".join([f"{what} {verb} deleted{with_it}.", *_refused(done, titles)])


def _refused(plan: Removal, titles: Mapping[str, str]) -> list[str]:
    return [f"“{titles.get(key, key)}” stays: {why}." for key, why in plan.refused.items()]


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
            taken=wording.sparsity_axis_title(methods),
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
            [
                f"{strand.label}, {wording.sparsity_percent(each.permille)}",
                *change_cells(each),
                *times_dense_cells(each),
            ]
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
        right = [
            f"{wording.reference_title(run.dense.model)}: {run.point_of(run.dense).facts[0]}" for run in runs.values()
        ]
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
        steps = wording.sparsity_percents(tuple(sorted(run.run.settings.made_permille)))
        found |= {f"{i} {j}": f"{x}, {steps}" if n_times[x] > 1 else x for j, x in enumerate(labels[i])}
    names = unique_names(found)
    return [
        Strand(run=run, label=names[f"{i} {j}"], models=models)
        for i, (run, methods) in enumerate(parts)
        for j, models in enumerate(methods)
    ]


def _by_method(run: RunResults) -> list[list[Judged]]:
    found: dict[str, list[Judged]] = {}
    for each in run.judged:
        found.setdefault(wording.method_title(each.method), []).append(each)
    return list(found.values())


def _label(run: RunResults, runs: Sequence[RunResults], models: Sequence[Judged], several: bool) -> str:
    """The run's name, or what tells it from the others; and the method, unless the name says enough."""
    method = wording.method_title(models[0].method)
    if run.name:
        return f"{run.name}, {method}" if several else run.name
    own, every = _facets(run), [_facets(each) for each in runs]
    return ", ".join([*(part for i, part in enumerate(own) if len({one[i] for one in every}) > 1), method])


def _facets(run: RunResults) -> tuple[str, ...]:
    """What two runs over the same passages may differ in, beside their methods."""
    settings = run.run.settings
    calibration = settings.calibration
    return (
        wording.reference_title(settings.model).partition(" (")[0].rpartition("/")[2],
        settings.dtype,
        wording.reference_title(calibration.corpus).partition(",")[0] if settings.reads_text else "no text",
        f"{calibration.n_samples:,} × {calibration.length:,}" if settings.reads_text else "",
    )


def _passages(run: RunResults) -> tuple[str, tuple[int, ...]]:
    """The same for runs that were asked the same."""
    return run.run.corpora.get("evaluation", ""), tuple(outcome.index for outcome in run.dense.outcomes)


def _left_out(run: RunResults, drawn: RunResults) -> str:
    own, other = _passages_asked(run), _passages_asked(drawn)
    own = own if own != other else f"others of {own}"
    return (
        f"“{run.title}” is not drawn: it answers other passages ({own}) than the runs in the chart ({other}), and what "
        "is lost on different passages cannot be compared."
    )


def _passages_asked(run: RunResults) -> str:
    n = run.dense.last_word.total
    return f"{n:,} of {wording.reference_title(run.run.settings.evaluation.corpus)}"
