"""A run as one row of a table: what it is, how it stands, what it cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.run_ending import run_ending
from sparsedash.reporting.runs.leading import spoken_of
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Run
from sparsedash.schema.searches import FindSettings, asked_settings, planned_run
from sparsedash.schema.settings import RunSettings
from sparsedash.service.backend import Backend
from sparsedash.service.run_costs import Verdicts
from sparsedash.stats.tolerance import Tolerance, ToleranceVerdict

FEW = 3
"""Sparsities that are named one by one."""

JOBS_LOOKED_AT = 200
"""Newest first; of an older run that ended early it is only said that it did not finish."""

ADDRESS_LENGTH = 16
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
        return self.key[:ADDRESS_LENGTH]

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


def removed(row: RunRow) -> tuple[str, str]:
    """How much goes: the sparsities, and of many how many they are; of a search its trials."""
    if row.search is not None:
        n = len(row.run.sparse) if row.run is not None else 0
        return "a search", f"{n} {wording.plural(n, 'trial')}"
    asked = tuple(sorted(row.settings.made_permille))
    if len(asked) <= FEW:
        return wording.permilles(asked), ""
    return f"{asked[0] / 10:g} to {wording.permille(asked[-1])}", f"{len(asked)} steps"


def state(row: RunRow) -> tuple[str, str]:
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
        asked = asked_settings(job.kind, job.settings)
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
