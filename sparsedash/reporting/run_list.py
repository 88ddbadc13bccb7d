"""All runs: the rows of their table, its order and filter, deletion in words, and several runs in
one chart.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from math import inf
from string import ascii_uppercase

from sparsedash.catalog.budgets import BUDGET_TITLES
from sparsedash.jobs.job import Job
from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.charts.chart_style import LONGEST
from sparsedash.reporting.charts.tradeoff_chart import SYMBOLS
from sparsedash.reporting.charts.tradeoff_data import OF_PASSAGES, Measure, TradeoffData
from sparsedash.reporting.html import Cell, Html, Table, Value, element, escape, join, visible
from sparsedash.reporting.job_status import STATES, job_request
from sparsedash.reporting.model_results import ModelResult, ModelVerdict, headline_model
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.tradeoff_points import loss_limits, model_point, run_tradeoff
from sparsedash.reporting.wording import quantity, reference_title, sparsity_percent
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.method_settings import Budget
from sparsedash.schema.records import Run
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.schema.user_records import RunMark
from sparsedash.service.backend import Backend

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
_EACH = "Intervals hold within each run, not across runs."


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run of the table.

    settings, search: what was asked for. at: when it was started, or asked for. run: as far as it
    is stored. job: the live one, or the newest of an unfinished run. model: the one that its answer
    names; None where nothing was judged.
    known: whether its answers have been judged, or it has none. earlier_s: that earlier attempts
    worked.
    """

    key: str
    settings: RunSettings
    search: FindSettings | None
    mark: RunMark
    at: float
    run: Run | None = None
    job: Job | None = None
    model: ModelVerdict | None = None
    known: bool = True
    earlier_s: float = 0.0

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
        """How long all its attempts took; None while it is not finished."""
        if self.run is None or not self.run.finished or self.run.finished_at is None:
            return None
        return self.earlier_s + max(0.0, self.run.finished_at - self.run.started_at)

    @property
    def texts(self) -> str:
        """Its model where the title is a name, its texts, its number format."""
        evaluation = self.settings.evaluation
        calibration = self.settings.calibration
        n = "" if evaluation.n_passages is None else f" ({evaluation.n_passages:,})"
        parts = [reference_title(self.settings.model)] if self.mark.name else []
        parts += (
            [f"calibrated on {_short_title(calibration.corpus)}"]
            if self.settings.reads_text
            else []
        )
        return " · ".join(
            [
                *parts,
                f"tested on {_short_title(evaluation.corpus)}{n}",
                self.settings.dtype,
            ]
        )

    def values(self, zone: tzinfo | None) -> dict[str, Value]:
        """The row of the downloaded table."""
        shares = self.settings.made_permille
        model = self.model
        return {
            "run": self.title,
            "key": self.key,
            "model": self.settings.model,
            "methods": wording.method_titles(self.settings),
            "texts": self.texts,
            "least_sparsity_percent": min(shares) / 10,
            "most_sparsity_percent": max(shares) / 10,
            "sparse_models": len(self.run.sparse) if self.run else 0,
            "state": self.job.state
            if self.job
            else "done"
            if self.run and self.run.finished
            else "not finished",
            "started": wording.iso_moment(self.at, zone),
            "took_s": self.seconds,
            "judged_method": wording.spec_title(model.spec) if model else None,
            "judged_sparsity_percent": model.permille / 10 if model else None,
            "budget": self.settings.budget,
            **(verdicts.verdict_values(model.verdict) if model else {}),
        }

    def cells(self, zone: tzinfo | None) -> list[tuple[str, ...]]:
        """The lines of the cells: method, removed, verdict, cost, started; empty where there is
        nothing to say.
        """
        model = self.model
        n = len(self.run.sparse) if self.run else 0
        shares = sorted(self.settings.made_permille)
        budget = (
            ""
            if self.settings.budget == "channels"
            else f"of the {BUDGET_TITLES[self.settings.budget]}"
        )
        removed = wording.sparsity_percents(shares), budget
        if self.search is not None:
            removed = "a search", f"{quantity(n, 'trial')} {budget}".strip()
        elif len(shares) > FEW:
            removed = (
                f"{shares[0] / 10:g} to {sparsity_percent(shares[-1])}",
                f"{len(shares)} steps {budget}".strip(),
            )
        verdict = ("", "") if self.known else ("…", "being read")
        loss = ("", "", "")
        if model is not None:
            method = (
                f" with {wording.spec_title(model.spec)}" if len(self.settings.methods) > 1 else ""
            )
            deciding_tasks = [
                loss.task for loss in model.verdict.deciding if model.verdict.verdict != "within"
            ]
            place = f"at {sparsity_percent(model.permille)}{method}"
            sign = verdicts.VERDICT_SIGNS[model.verdict.verdict]
            verdict = (
                f"{sign} by {wording.and_join(deciding_tasks)}"
                if all(deciding_tasks) and deciding_tasks
                else sign,
                place,
            )
            lost = model.verdict.perplexity
            accuracy = model.verdict.accuracy
            points = verdicts.loss_value(accuracy) if accuracy else "accuracy not judged"
            loss = verdicts.loss_value(lost), verdicts.loss_interval(lost), points
        state = self.job.state if self.job else "done"
        n_made = ""
        words = "⊘ not finished" if state == "done" else " ".join(STATES[state]).lower()
        if state != "queued":
            unfinished = self.live or (self.run is not None and not self.run.finished)
            n_made = (
                f"{n} of {quantity(self.settings.n_sparse, 'model')}"
                if unfinished and self.search is None
                else ""
            )
            words = words if unfinished else ""
        took = "" if self.seconds is None else wording.duration_words(self.seconds)
        started = wording.moment(self.at, zone), took
        return [
            (wording.method_titles(self.settings),),
            removed,
            (*verdict, words, n_made),
            loss,
            started,
        ]


def all_rows(backend: Backend, tolerance: Tolerance) -> list[RunRow]:
    """A row for every run, and for every live job whose run has no result yet, newest first.
    tolerance: the limits.
    """
    runs = backend.runs()
    marks = backend.user_data.marks()
    jobs = newest_jobs(backend.jobs(JOBS_LOOKED_AT))
    judged = backend.verdict_cache.verdicts(runs, tolerance)
    rows = {}
    for run in runs:
        verdicts = judged.get(run.key)
        job = jobs.get(run.key)
        weighed = [
            ModelVerdict(spec=spec, verdict=verdicts[key])
            for key, spec in zip(
                run.sparse,
                run.settings.points,
                strict=False,
            )
            if verdicts and key in verdicts
        ]
        rows[run.key] = RunRow(
            key=run.key,
            run=run,
            job=job if job is not None and (job.live or not run.finished) else None,
            settings=run.settings,
            search=run.find,
            mark=marks.get(run.key, RunMark()),
            model=headline_model(weighed, search=run.find is not None),
            known=verdicts is not None,
            at=run.started_at,
            earlier_s=job.earlier_s if job is not None else 0.0,
        )
    for key, job in jobs.items():
        if not job.live or key in rows or (request := job_request(job)) is None:
            continue
        rows[key] = RunRow(
            key=key,
            job=job,
            settings=planned_run(request),
            search=request if isinstance(request, FindSettings) else None,
            mark=marks.get(key, RunMark()),
            at=job.started_at or job.queued_at,
        )
    return sorted(
        rows.values(),
        key=lambda row: row.at,
        reverse=True,
    )


def newest_jobs(jobs: Sequence[Job]) -> dict[str, Job]:
    """Of each run the live job, or else the newest one. jobs: newest first."""
    newest: dict[str, Job] = {}
    for job in jobs:
        if job.makes_run and (job.key not in newest or (job.live and not newest[job.key].live)):
            newest[job.key] = job
    return newest


def _short_title(reference: str) -> str:
    """A title without what stands in brackets."""
    return reference_title(reference).partition(" (")[0]


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
    return (
        (_RANK.index(model.verdict.verdict), -model.permille, model.verdict.perplexity.value)
        if model
        else (3.0,)
    )


def _most_removed(row: RunRow) -> int:
    """The largest sparsity of a run; the answer of a search, whose trials go beyond it."""
    if row.search:
        return row.model.permille if row.model else 0
    return max(row.settings.made_permille)


_ORDERS: dict[str, tuple[str, Callable[[RunRow], tuple[float, ...] | tuple[str, ...]]]] = {
    "newest": ("Newest first", lambda row: (-row.at,)),
    "oldest": ("Oldest first", lambda row: (row.at,)),
    "verdict": ("Most within first", _verdict_key),
    "cost": (
        "Least lost first",
        lambda row: (row.model.verdict.perplexity.value if row.model else inf,),
    ),
    "removed": ("Most removed first", lambda row: (-_most_removed(row),)),
    "model": ("By model", lambda row: (reference_title(row.settings.model).casefold(),)),
    "method": ("By method", lambda row: (wording.method_titles(row.settings).casefold(),)),
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
            wording.method_titles(settings),
            settings.dtype,
            *texts,
            row.key,
        ]
        words = "\n".join(named).casefold()
        if model in ("", settings.model) and all(word in words for word in sought):
            matching.append(row)
    return matching


def runs_sentence(rows: Sequence[RunRow], tolerance: Tolerance) -> str:
    """What can be said of all runs, in one sentence."""
    judged = [row.model.verdict for row in rows if row.model is not None]
    if not judged:
        n_live = sum(row.live for row in rows)
        live = f"{quantity(n_live, 'run')} under way, no result yet."
        return live if n_live else "No run has a verdict."
    count = Counter[str](judgement.verdict for judgement in judged)
    n = count["within"]
    n_runs = len(judged)
    n_open = sum(bool(verdicts.accuracy_open(judgement)) for judgement in judged)
    more = ""
    if n_open:
        number = "" if n_open == n else f"{n_open} "
        more = f", {number}without a verdict on accuracy"
    for verdict in ("undecided", "beyond"):
        if count[verdict]:
            more += f"; {count[verdict]} {verdict}"
    verb = "have" if n > 1 else "has"
    runs = f"{n or 'None'} of {n_runs} runs with a result {verb} a model"
    if n_runs == 1:
        number = "a" if n else "no"
        runs = f"Your one run with a result has {number} model"
    return f"{runs} within your limits ({wording.tolerance_words(tolerance)}){more}."


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Runs over the same passages in one chart.

    measures: what can be drawn. models: what the address of the compare page says of each model
    beside its dense one, by the record's key. legend: what the letters of the chart stand for;
    nothing where its lines have their own names.
    notes: what is not drawn, and why; plain text.
    """

    tradeoff: TradeoffData
    measures: Sequence[Measure]
    models: Mapping[str, dict[str, str]]
    legend: Html
    numbers: Table
    notes: Sequence[str]


def overlay(runs: Sequence[RunResults], axis: Budget = "channels") -> Overlay:
    """The chart of those runs that answer the same passages as most of them do. runs: some with
    sparse models.

    axis: the budget whose shares it shows.
    """
    notes = [f"“{run.title}” has no sparse model yet." for run in runs if not run.judged]
    # Runs over the same passages have the same of these.
    judged = [
        (
            run,
            (
                run.run.corpora.get("evaluation"),
                tuple(outcome.index for outcome in run.dense.outcomes),
            ),
        )
        for run in runs
        if run.judged
    ]
    most = Counter(passages for _, passages in judged).most_common(1)[0][0]
    why = (
        "its passages differ from those of the runs in the chart, so the losses cannot be compared"
    )
    notes += [f"“{run.title}” is not drawn: {why}." for run, passages in judged if passages != most]
    same = [run for run, passages in judged if passages == most]
    if len(same) > MOST_RUNS:
        notes.append(f"Only the first {MOST_RUNS} runs are drawn, the most that can be told apart.")
    drawn = same[:MOST_RUNS]
    lines = _lines(drawn, notes)
    # Letters, where labels leave the chart no room.
    fits = max(map(len, lines)) <= _LONGEST_LABEL
    names = list(lines) if fits else list(ascii_uppercase[: len(lines)])
    models = [(label, run, model) for label, (run, judged) in lines.items() for model in judged]
    dense = {run.dense.key: run for run in drawn}
    first = run_tradeoff(drawn[0], axis)
    right = [
        f"{reference_title(run.dense.model)}: {model_point(run, run.models[0], axis).facts[0]}"
        for run in dense.values()
    ]
    signs = [
        f"{sign} {name}" if len(lines) > 1 else name
        for sign, name in zip(SYMBOLS.values(), names, strict=False)
    ]
    letters = (
        element(
            "li",
            element("b", escape(sign), css=f"sd-line-{i}"),
            escape(label),
        )
        for i, (sign, label) in enumerate(zip(signs, lines, strict=True))
    )
    rows = []
    for label, run, model in models:
        named: dict[str, Value] = {
            "model": label,
            "sparsity_percent": model.permille / 10,
            "budget": model.method.budget,
        }
        shown = f"{label}, {wording.sparsity_words(model.permille, model.method)}"
        reached = verdicts.reached_percents(run, model)
        rows.append(
            [
                Cell("Model", shown, {**named, **reached}),
                *verdicts.loss_cells(model),
            ]
        )
    caption = f"Each model against its own dense model, on the same passages. {_EACH}"
    return Overlay(
        tradeoff=replace(
            first,
            dense=replace(first.dense, facts=list(dict.fromkeys(right)))
            if len(dense) > 1
            else first.dense,
            lines={
                name: [model_point(run, model, axis) for model in judged]
                for name, (run, judged) in zip(names, lines.values(), strict=True)
            },
            taken=wording.sparsity_axis_title(
                (model.method for *_, model in models),
                axis,
            ),
            asked=(),
            leader="",
            published=(),
            allowed={measure: most for run in drawn for measure, most in loss_limits(run).items()},
        ),
        # The share of right words, which is no difference, can only be drawn from one dense model
        # on.
        measures=[
            measure for measure in OF_PASSAGES if measure != "share right" or len(dense) == 1
        ],
        models={model.record.key: run.comparisons[model.record.key] for _, run, model in models},
        legend=join() if fits else element("ul", *letters, css="sd-chart-key"),
        numbers=Table.of_cells(
            "The numbers of these runs",
            caption,
            rows,
        ),
        notes=[*notes, _EACH] if len(drawn) > 1 else notes,
    )


def _lines(
    runs: Sequence[RunResults], notes: list[str]
) -> dict[str, tuple[RunResults, Sequence[ModelResult]]]:
    """A line for every method of every run; of each run only the best one where these would be too
    many.
    """
    parts: list[tuple[RunResults, Sequence[ModelResult], bool]] = []
    for run in runs:
        methods: dict[str, list[ModelResult]] = {}
        for result in run.judged:
            methods.setdefault(run.line_of(result.spec), []).append(result)
        parts += [(run, models, len(methods) > 1) for models in methods.values()]
    if len(parts) > MOST_LINES:
        parts = [(run, run.best, False) for run in runs if run.best] or parts[:MOST_LINES]
        notes.append(
            f"Only the best method of each run is drawn: more than {MOST_LINES} lines cannot be told apart."
        )
    facets = []
    for run, models, _ in parts:
        settings = run.run.settings
        calibration = run.run.settings.calibration
        read = (
            reference_title(calibration.corpus).partition(",")[0],
            f"{calibration.n_samples:,} × {calibration.length:,}",
        )
        steps = wording.sparsity_steps(settings)
        method = wording.with_type(
            wording.spec_title(models[-1].spec),
            models[-1].spec,
        )
        model = _short_title(settings.model).rpartition("/")[2]
        facets.append(
            (
                model,
                settings.dtype,
                *(read if settings.reads_text else ("no text", "")),
                steps,
                method,
            )
        )
    differ = [len(set(values)) > 1 for values in zip(*facets, strict=True)]
    # Its name, or what tells it from the others; and the method, unless the name says enough.
    labels = [
        (f"{run.name}, {facet[-1]}" if several else run.name)
        if run.name
        else ", ".join(
            [
                *(
                    part
                    for part, is_distinct in zip(facet[:-1], differ, strict=False)
                    if is_distinct and part
                ),
                facet[-1],
            ]
        )
        for (run, _, several), facet in zip(parts, facets, strict=True)
    ]
    names = unique_names({str(i): visible(label) for i, label in enumerate(labels)}).values()
    return {name: (run, models) for name, (run, models, _) in zip(names, parts, strict=True)}
