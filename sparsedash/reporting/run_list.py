"""All runs: the rows of their table, its order and filter, deletion in words, and several runs in
one chart.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from itertools import compress
from math import inf
from string import ascii_uppercase
from typing import Literal

from sparsedash.jobs.job import Job
from sparsedash.reporting import verdicts
from sparsedash.reporting.charts.chart_style import LABEL_LENGTH
from sparsedash.reporting.charts.tradeoff_chart import SYMBOLS
from sparsedash.reporting.charts.tradeoff_data import OF_PASSAGES, Measure, TradeoffData
from sparsedash.reporting.html import (
    Cell,
    Html,
    Table,
    Value,
    element,
    escape,
    join,
    visible,
)
from sparsedash.reporting.job_status import STATES, job_request
from sparsedash.reporting.model_results import ModelResult, ModelVerdict, headline_model
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.tradeoff_points import loss_limits, model_point, run_tradeoff
from sparsedash.reporting.wording import (
    FEW_SHARES,
    and_join,
    duration_words,
    iso_moment,
    method_titles,
    moment,
    of_budget,
    quantity,
    reference_title,
    run_title,
    share_ends,
    short_title,
    sparsity_axis_title,
    sparsity_percent,
    sparsity_steps,
    sparsity_words,
    spec_title,
    with_type,
)
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.method_settings import Budget
from sparsedash.schema.records import Run
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.schema.user_records import RunMark
from sparsedash.service.backend import Backend
from sparsedash.stats.tolerance import ToleranceVerdict

JOBS_LOOKED_AT = 200
"""Newest first; of an older run that ended early it is only said that it did not finish."""
RUN_ADDRESS_LENGTH = 16
"""Characters of a run's key that name it in an address; enough to be the only one."""
MAX_LINES = len(SYMBOLS)
"""Of one chart; more could not be told apart."""
_LONGEST_LABEL = 2 * LABEL_LENGTH
"""Two short lines beside the chart, which leave a phone's most of its width."""
_COLUMNS: dict[Measure, tuple[str, ...]] = {
    "word perplexity": ("Times dense", "Verdict"),
    "accuracy": ("Change, points", "p", "Verdict"),
    "flips": ("Broke", "Fixed", "p"),
    "share right": ("Accuracy",),
}
"""Heads of the columns of numbers under the chart of a measure."""
_EACH = "Intervals hold within each run, not across runs."


Column = Literal["Verdict", "Cost", "Started", "Method", "Removed"]
USUAL_COLUMNS: tuple[Column, ...] = ("Verdict", "Cost", "Started")
"""Method and what is removed are in a run's name as well."""


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run of the table.

    settings, search: what was asked for. started_at: or when it was asked for. run: as far as it is
    stored. job: the live one, or the newest of an unfinished run. model: the one that its answer
    names; None where nothing was judged.
    known: whether its answers have been judged, or it has none. earlier_s: that earlier attempts
    worked.
    """

    key: str
    settings: RunSettings
    search: FindSettings | None
    mark: RunMark
    started_at: float
    run: Run | None = None
    job: Job | None = None
    model: ModelVerdict | None = None
    known: bool = True
    earlier_s: float = 0.0

    @property
    def address(self) -> str:
        """Its name in an address."""
        return self.key[:RUN_ADDRESS_LENGTH]

    @property
    def about(self) -> str:
        """Its subject, without its name."""
        return run_title(self.search or self.settings)

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
        """Seconds of all its attempts; None while it is not finished."""
        if self.run is None or not self.run.finished or self.run.finished_at is None:
            return None
        return self.earlier_s + max(0.0, self.run.finished_at - self.run.started_at)

    @property
    def texts(self) -> str:
        """Its subject where the title is a name; its texts and number format."""
        settings = self.settings
        evaluation = settings.evaluation
        parts = [self.about] if self.mark.name else []
        if settings.reads_text:
            parts.append(f"calibrated on {short_title(settings.calibration.corpus)}")
        if evaluation.n_passages is not None:
            parts.append(quantity(evaluation.n_passages, "passage"))
        return " · ".join([*parts, settings.dtype])

    @property
    def n_models(self) -> int:
        """Sparse models that have a record."""
        return len(self.run.sparse) if self.run else 0

    @property
    def state(self) -> str:
        """The state of its job; without one, whether it is finished."""
        if self.job:
            return self.job.state
        return "done" if self.run and self.run.finished else "not finished"

    def values(self, zone: tzinfo | None) -> dict[str, Value]:
        """The row of the downloaded table."""
        shares = self.settings.point_permilles
        model = self.model
        return {
            "run": self.title,
            "key": self.key,
            "model": self.settings.model,
            "methods": method_titles(self.settings),
            "texts": self.texts,
            "least_sparsity_percent": min(shares) / 10,
            "most_sparsity_percent": max(shares) / 10,
            "sparse_models": self.n_models,
            "state": self.state,
            "started": iso_moment(self.started_at, zone),
            "took_s": self.seconds,
            "judged_method": spec_title(model.spec) if model else None,
            "judged_sparsity_percent": model.permille / 10 if model else None,
            "budget": self.settings.budget,
            **(verdicts.verdict_values(model.verdict) if model else {}),
        }

    def cells(self, zone: tzinfo | None) -> dict[Column, tuple[str, ...]]:
        """The lines of each column's cell; empty where there is nothing to say."""
        verdict = ("", "") if self.known else ("…", "being read")
        loss = ("", "", "")
        if self.model is not None:
            verdict = self._verdict_lines(self.model)
            loss = _loss_lines(self.model.verdict)
        took = "" if self.seconds is None else duration_words(self.seconds)
        return {
            "Verdict": (*verdict, *self._state_lines()),
            "Cost": loss,
            "Started": (moment(self.started_at, zone), took),
            "Method": (method_titles(self.settings),),
            "Removed": self._removed_lines(),
        }

    def _removed_lines(self) -> tuple[str, str]:
        """The shares, and what they are shares of; of a search its trials."""
        budget = of_budget(self.settings.budget)
        if self.search is not None:
            return "a search", f"{quantity(self.n_models, 'trial')}{budget}"
        n_shares = len(self.settings.point_permilles)
        if n_shares > FEW_SHARES:
            budget = f"{n_shares} steps{budget}"
        return share_ends(self.settings), budget.strip()

    def _verdict_lines(self, model: ModelVerdict) -> tuple[str, str]:
        """The verdict on the model, with the tasks where these alone decide; and its share."""
        verdict = model.verdict
        sign = verdicts.VERDICT_SIGNS[verdict.verdict]
        tasks = [loss.task for loss in verdict.deciding]
        if verdict.verdict != "within" and tasks and all(tasks):
            sign = f"{sign} by {and_join(tasks)}"
        place = f"at {sparsity_percent(model.permille)}"
        if len(self.settings.methods) > 1:
            place = f"{place} with {spec_title(model.spec)}"
        return sign, place

    def _state_lines(self) -> tuple[str, str]:
        """The state of a run that is not finished, and how many of its models are."""
        state = self.job.state if self.job else "done"
        words = "⊘ not finished" if state == "done" else " ".join(STATES[state]).lower()
        if state == "queued":
            return words, ""
        if not self.live and (self.run is None or self.run.finished):
            return "", ""
        n_models = ""
        if self.search is None:
            n_models = f"{self.n_models} of {quantity(self.settings.n_sparse, 'model')}"
        return words, n_models


def _loss_lines(verdict: ToleranceVerdict) -> tuple[str, str, str]:
    """The loss of word perplexity, its interval, and the change of accuracy."""
    accuracy = verdict.accuracy
    points = verdicts.loss_value(accuracy) if accuracy else "accuracy not judged"
    loss = verdict.perplexity
    return verdicts.loss_value(loss), verdicts.loss_interval(loss), points


def all_rows(backend: Backend, tolerance: Tolerance) -> list[RunRow]:
    """A row for every run, and for every running job whose run has no result yet, newest first.
    Waiting ones stand in the list of jobs. tolerance: the limits.
    """
    runs = backend.runs()
    marks = backend.user_data.marks()
    jobs = newest_jobs(backend.jobs(JOBS_LOOKED_AT))
    judged = backend.verdict_cache.verdicts(runs, tolerance)
    rows = {}
    for run in runs:
        run_verdicts = judged.get(run.key)
        models = []
        for key, spec in zip(run.sparse, run.settings.points, strict=False):
            if run_verdicts and key in run_verdicts:
                models.append(ModelVerdict(spec=spec, verdict=run_verdicts[key]))
        job = jobs.get(run.key)
        rows[run.key] = RunRow(
            key=run.key,
            run=run,
            job=job if job is not None and (job.live or not run.finished) else None,
            settings=run.settings,
            search=run.find,
            mark=marks.get(run.key, RunMark()),
            model=headline_model(models, search=run.find is not None),
            known=run_verdicts is not None,
            started_at=run.started_at,
            earlier_s=job.earlier_s if job is not None else 0.0,
        )
    for key, job in jobs.items():
        if (
            job.state != "running"
            or key in rows
            or (request := job_request(job)) is None
        ):
            continue
        rows[key] = RunRow(
            key=key,
            job=job,
            settings=planned_run(request),
            search=request if isinstance(request, FindSettings) else None,
            mark=marks.get(key, RunMark()),
            started_at=job.started_at or job.queued_at,
        )
    return sorted(
        rows.values(),
        key=lambda row: row.started_at,
        reverse=True,
    )


def newest_jobs(jobs: Sequence[Job]) -> dict[str, Job]:
    """Of each run the live job, or else the newest one. jobs: newest first."""
    newest: dict[str, Job] = {}
    for job in jobs:
        if job.makes_run and (
            job.key not in newest or (job.live and not newest[job.key].live)
        ):
            newest[job.key] = job
    return newest


def runs_table(rows: Sequence[RunRow], zone: tzinfo | None) -> Table:
    """These rows as a table to download."""
    return Table(
        "All runs",
        "",
        [],
        [],
        data=[row.values(zone) for row in rows],
    )


_RANK = ("within", "undecided", "beyond")


def _verdict_key(row: RunRow) -> tuple[float, ...]:
    model = row.model
    if model is None:
        return (len(_RANK),)
    verdict = model.verdict
    return _RANK.index(verdict.verdict), -model.permille, verdict.perplexity.value


def _most_removed(row: RunRow) -> int:
    """The largest sparsity of a run; the answer of a search, whose trials go beyond it."""
    if row.search:
        return row.model.permille if row.model else 0
    return max(row.settings.point_permilles)


_ORDERS: dict[
    str, tuple[str, Callable[[RunRow], tuple[float, ...] | tuple[str, ...]]]
] = {
    "newest": ("Newest first", lambda row: (-row.started_at,)),
    "oldest": ("Oldest first", lambda row: (row.started_at,)),
    "verdict": ("Most within first", _verdict_key),
    "cost": (
        "Least lost first",
        lambda row: (row.model.verdict.perplexity.value if row.model else inf,),
    ),
    "removed": ("Most removed first", lambda row: (-_most_removed(row),)),
    "model": (
        "By model",
        lambda row: (reference_title(row.settings.model).casefold(),),
    ),
    "method": ("By method", lambda row: (method_titles(row.settings).casefold(),)),
    "longest": ("Longest first", lambda row: (-(row.seconds or 0.0),)),
}
ORDERS = {name: words for name, (words, _) in _ORDERS.items()}
"""The orders of the table by their names in the address, with their words; the usual one first."""


def sort_rows(rows: Sequence[RunRow], order: str) -> list[RunRow]:
    """The rows in one of ORDERS, pinned ones before all others. rows: newest first, which stays
    where others tie.
    """
    _, key = _ORDERS.get(order, _ORDERS["newest"])
    return sorted(rows, key=lambda row: (not row.mark.pinned, key(row)))


def rows_matching(rows: Sequence[RunRow], text: str, model: str) -> list[RunRow]:
    """The rows of a model whose words hold every word of a text, whatever its case. model: a
    reference; "" for all.
    """
    sought = text.casefold().split()
    matching = []
    for row in rows:
        settings = row.settings
        texts = [
            reference_title(settings.calibration.corpus),
            reference_title(settings.evaluation.corpus),
        ]
        named = [
            row.mark.name,
            row.about,
            settings.model,
            method_titles(settings),
            settings.dtype,
            *texts,
            row.key,
        ]
        words = "\n".join(named).casefold()
        if model in ("", settings.model) and all(word in words for word in sought):
            matching.append(row)
    return matching


def runs_sentence(rows: Sequence[RunRow]) -> str:
    """Headline on all runs by the page's limits, in fourteen words at most."""
    judged = [row.model.verdict for row in rows if row.model is not None]
    if not judged:
        n_live = sum(row.live for row in rows)
        live = f"{quantity(n_live, 'run')} under way, no result yet."
        return live if n_live else "No run has a verdict."
    count = Counter[str](judgement.verdict for judgement in judged)
    n_within = count["within"]
    parts = []
    for verdict in ("undecided", "beyond"):
        if count[verdict]:
            parts.append(f"{count[verdict]} {verdict}")
    verb = "have" if n_within > 1 else "has"
    who = f"{n_within or 'None'} of {quantity(len(judged), 'run')} {verb} a"
    if len(judged) == 1:
        who = "1 run has a" if n_within else "1 run has no"
    sentence = f"{who} model within your limits"
    return f"{'; '.join([sentence, *parts])}."


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Models of one method of a run. several: whether more methods of the run are drawn."""

    run: RunResults
    models: Sequence[ModelResult]
    several: bool
    label: str = ""

    @property
    def method_title(self) -> str:
        """The method of its models, with their type."""
        spec = self.models[-1].spec
        return with_type(spec_title(spec), spec)

    @property
    def facets(self) -> tuple[str, ...]:
        """Facts that tell its run from others: model, number format, text, its size, sparsities."""
        settings = self.run.run.settings
        calibration = settings.calibration
        text = "no text"
        size = ""
        if settings.reads_text:
            text = reference_title(calibration.corpus).partition(",")[0]
            size = f"{calibration.n_samples:,} × {calibration.length:,}"
        model = short_title(settings.model).rpartition("/")[2]
        return model, settings.dtype, text, size, sparsity_steps(settings)


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Runs over the same passages in one chart.

    measures: what can be drawn. models: what the address of the compare page says of each model
    beside its dense one, by the record's key. signs: the mark and letter of each line, with
    what they stand for; empty where lines have their own names. lines: what the numbers are of.
    notes: what is not drawn, and why; plain text.
    """

    tradeoff: TradeoffData
    measures: Sequence[Measure]
    models: Mapping[str, dict[str, str]]
    signs: Mapping[str, str]
    lines: Sequence[_Line]
    notes: Sequence[str]

    @property
    def legend(self) -> Html:
        """Key to the letters of the chart; nothing if there are none."""
        items = []
        for i, (sign, label) in enumerate(self.signs.items()):
            mark = element("b", escape(sign), css=f"sd-line-{i}")
            items.append(element("li", mark, escape(label)))
        return element("ul", *items, css="sd-chart-key") if items else join()

    def numbers(self, measure: Measure) -> Table:
        """Every model with what a measure says of it; its file holds all measures."""
        rows = []
        for line in self.lines:
            for model in line.models:
                values: dict[str, Value] = {
                    "model": line.label,
                    "sparsity_percent": model.permille / 10,
                    "budget": model.method.budget,
                    **verdicts.reached_percents(line.run, model),
                }
                share = sparsity_words(model.permille, model.method)
                shown = []
                for cell in (
                    verdicts.accuracy_cell(model.record),
                    *verdicts.loss_cells(model),
                ):
                    values |= cell.values
                    if cell.head in _COLUMNS[measure]:
                        shown.append(Cell(cell.head, cell.text))
                rows.append([Cell("Model", f"{line.label}, {share}", values), *shown])
        caption = (
            f"Each model against its own dense model, on the same passages. {_EACH}"
        )
        return Table.of_cells("The numbers of these runs", caption, rows)


def overlay(runs: Sequence[RunResults], axis: Budget = "channels") -> Overlay:
    """The chart of those runs that answer the same passages as most of them do. runs: some with
    sparse models.

    axis: the budget whose shares it shows.
    """
    notes = [
        f"“{run.title}” has no sparse model yet."
        for run in runs
        if not run.sparse_models
    ]
    drawn = _comparable(runs, notes)
    lines = _lines(drawn, notes)
    labels = [line.label for line in lines]
    names = labels
    signs: dict[str, str] = {}
    if max(map(len, labels)) > _LONGEST_LABEL:
        # The labels leave the chart no room.
        names = list(ascii_uppercase[: len(lines)])
        for symbol, name, label in zip(SYMBOLS.values(), names, labels, strict=False):
            sign = f"{symbol} {name}" if len(names) > 1 else name
            signs[sign] = label
    points = {}
    methods = []
    comparisons = {}
    limits: dict[Measure, float] = {}
    for name, line in zip(names, lines, strict=True):
        points[name] = [model_point(line.run, model, axis) for model in line.models]
        methods += [model.method for model in line.models]
        for model in line.models:
            comparisons[model.record.key] = line.run.comparisons[model.record.key]
        limits |= loss_limits(line.run)
    first = run_tradeoff(drawn[0], axis)
    dense = first.dense
    dense_runs = {run.dense.key: run for run in drawn}
    measures = list(OF_PASSAGES)
    if len(dense_runs) > 1:
        # Shares of right words, which are no differences, need one dense model to be drawn from.
        measures.remove("share right")
        facts: dict[str, None] = {}
        for run in dense_runs.values():
            fact = model_point(run, run.models[0], axis).facts[0]
            facts[f"{reference_title(run.dense.model)}: {fact}"] = None
        dense = replace(dense, facts=list(facts))
    if len(drawn) > 1:
        notes.append(_EACH)
    return Overlay(
        tradeoff=replace(
            first,
            dense=dense,
            lines=points,
            sparsity_title=sparsity_axis_title(methods, axis),
            planned=(),
            leader="",
            published=(),
            limits=limits,
        ),
        measures=measures,
        models=comparisons,
        signs=signs,
        lines=lines,
        notes=notes,
    )


def _comparable(runs: Sequence[RunResults], notes: list[str]) -> list[RunResults]:
    """Those with sparse models that answer the same passages as most do; adds why others do not.

    At most MAX_LINES of them.
    """
    by_passages: dict[tuple[object, ...], list[RunResults]] = {}
    for run in runs:
        if run.sparse_models:
            indices = (outcome.index for outcome in run.dense.outcomes)
            passages = (run.run.corpora.get("evaluation"), *indices)
            by_passages.setdefault(passages, []).append(run)
    same = max(by_passages.values(), key=len)
    why = "its passages differ from those of the runs in the chart, so the losses cannot be compared"
    for group in by_passages.values():
        if group is not same:
            notes += [f"“{run.title}” is not drawn: {why}." for run in group]
    if len(same) > MAX_LINES:
        notes.append(
            f"Only the first {MAX_LINES} runs are drawn, the most that can be told apart."
        )
    return same[:MAX_LINES]


def _lines(runs: Sequence[RunResults], notes: list[str]) -> list[_Line]:
    """A line for every method of every run; of each run only the best one where these would be too
    many.

    Each is labelled by its run's name, or by what tells the run from the others.
    """
    lines: list[_Line] = []
    for run in runs:
        methods: dict[str, list[ModelResult]] = {}
        for result in run.sparse_models:
            methods.setdefault(run.line_of(result.spec), []).append(result)
        for models in methods.values():
            lines.append(_Line(run=run, models=models, several=len(methods) > 1))
    if len(lines) > MAX_LINES:
        best = [
            _Line(run=run, models=run.best, several=False) for run in runs if run.best
        ]
        lines = best or lines[:MAX_LINES]
        notes.append(
            f"Only the best method of each run is drawn: more than {MAX_LINES} lines cannot be told apart."
        )
    facets = [line.facets for line in lines]
    differ = [len(set(values)) > 1 for values in zip(*facets, strict=True)]
    labels = {}
    for i, line in enumerate(lines):
        parts = [line.run.name]
        if not line.run.name:
            parts = list(filter(None, compress(line.facets, differ)))
        if line.several or not line.run.name:
            parts.append(line.method_title)
        labels[str(i)] = visible(", ".join(parts))
    names = unique_names(labels).values()
    return [replace(line, label=name) for line, name in zip(lines, names, strict=True)]
