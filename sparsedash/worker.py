"""Worker process: takes jobs one after another, runs them, and records their end.

    python -m sparsedash.worker --data-dir DIR --slot N

It outlives the server that started it. Importing this module is cheap; the engine is loaded for the
first job, or while there is none yet.
"""

import argparse
import errno
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from sparsedash.jobs.job import Job, JobKind, memory_advice, resume_advice
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import (
    LOCK_TIMEOUT_VARIABLE,
    environment_seconds,
    linger_s,
    worker_name,
)
from sparsedash.jobs.lock_files import (
    cluster_lock,
    hold_lock,
    is_lock_held,
    job_lock,
    open_log,
    slot_lock,
)
from sparsedash.jobs.reporter import Reporter, StopFlag
from sparsedash.schema.errors import (
    Cancelled,
    JobError,
    SettingsError,
    SparseDashError,
    StoreError,
    first_line,
    install_command,
    redact_output,
    redacted,
)
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.pair_records import (
    ContinuationSettings,
    DivergenceSettings,
    TimingSettings,
)
from sparsedash.schema.progress import STARTING, OnStep, OnText
from sparsedash.schema.records import VerifySettings
from sparsedash.schema.settings import PartSettings, RunSettings, S, settings_from_plain
from sparsedash.storage.file_hashes import file_hashes_of
from sparsedash.storage.local_machine import free_in_words, is_full
from sparsedash.storage.serving import may_use_token
from sparsedash.storage.store import WORK_LOCK_TIMEOUT_S, Store, claim_data_folder
from sparsedash.storage.verification import verify

log = logging.getLogger("sparsedash.worker")

_LOOK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class JobTask:
    """One job for the engine.

    key: of the result. settings: plain, of the kind's own class. on_step, on_text: called with
    progress. with_token: whether the hub may be used with this account's token.
    """

    key: str
    settings: Mapping[str, Any]
    store: Store
    on_step: OnStep
    on_text: OnText
    with_token: bool = True


JobHandler = Callable[[JobTask], object]
"""Runs a task and leaves its result in the store; raises SparseDashError and others."""
LoadHandlers = Callable[[], Mapping[str, JobHandler]]


def load_job_handlers() -> Mapping[str, JobHandler]:
    """The handler of every kind of job. Imports torch.

    The last models stay loaded from job to job.
    """
    from sparsedash.engine.comparison.llama_timing import time_files
    from sparsedash.engine.comparison.model_pair import ModelPairCache
    from sparsedash.engine.comparison.text_comparison import (
        continue_prompt,
        measure_divergence,
    )
    from sparsedash.engine.comparison.torch_timing import time_models
    from sparsedash.engine.export.export import export_model
    from sparsedash.engine.models.hub import token_used
    from sparsedash.engine.models.loading import ModelCache
    from sparsedash.engine.run import pipeline
    from sparsedash.engine.run.search import find_sparsity
    from sparsedash.reporting.model_card import stored_card

    model_cache = ModelCache()
    pairs = ModelPairCache(model_cache)

    def handler(
        kind: type[S], do: Callable[[S, JobTask], object], *, pair: bool = False
    ) -> JobHandler:
        """pair: keep the two models of a pair in memory, which prompts and timings need."""

        def handle(task: JobTask) -> object:
            if not pair:
                pairs.clear()
            with token_used(task.with_token):
                return do(settings_from_plain(kind, task.settings), task)

        return handle

    def timed(settings: TimingSettings, task: JobTask) -> object:
        if settings.runtime == "torch":
            return time_models(settings, task.store, pairs, task.on_step)
        pairs.clear()
        return time_files(settings, task.store, model_cache, task.on_step)

    def run(settings: RunSettings, task: JobTask) -> object:
        require_unchanged(settings, task.key, task.store)
        return pipeline.run(settings, task.store, task.on_step, model_cache, task.key)

    def find(settings: FindSettings, task: JobTask) -> object:
        require_unchanged(settings, task.key, task.store)
        return find_sparsity(settings, task.store, task.on_step, model_cache, task.key)

    def part(settings: PartSettings, task: JobTask) -> object:
        require_unchanged(settings.run, settings.run_key, task.store)
        return pipeline.run_part(settings, task.store, task.on_step, model_cache)

    def export(settings: ExportSettings, task: JobTask) -> object:
        card = partial(stored_card, task.store)
        return export_model(settings, task.store, model_cache, task.on_step, card)

    return {
        "run": handler(RunSettings, run),
        "part": handler(PartSettings, part),
        "find": handler(FindSettings, find),
        "export": handler(ExportSettings, export),
        "continuation": handler(
            ContinuationSettings,
            lambda s, t: continue_prompt(s, t.store, pairs, t.on_step, t.on_text),
            pair=True,
        ),
        "divergence": handler(
            DivergenceSettings,
            lambda s, t: measure_divergence(s, t.store, pairs, t.on_step),
            pair=True,
        ),
        "verify": handler(
            VerifySettings,
            lambda s, t: t.store.put(t.key, verify(t.store, t.on_step)),
            pair=True,
        ),
        "timing": handler(TimingSettings, timed, pair=True),
    }


def require_unchanged(
    settings: RunSettings | FindSettings, key: str, store: Store
) -> None:
    """Raise JobError where a file of a run or search has changed since it was submitted.

    Its results would be found by the contents of then. key: of the request.
    """
    if settings.key(file_hashes_of(settings, store)) != key:
        changed = "A file that this job reads was changed or removed after it was submitted, or is not on this machine."
        raise JobError(changed, "Start it again.")


def main(
    argv: Sequence[str] | None = None, load: LoadHandlers = load_job_handlers
) -> int:
    """Serve one slot until no job comes for a while; 0 also where another worker has it."""
    parser = argparse.ArgumentParser(
        prog="python -m sparsedash.worker", description=__doc__
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--slot", type=int, default=0)
    parser.add_argument(
        "--bound", action="store_true", help="end when the other end of stdin is closed"
    )
    arguments = parser.parse_args(argv)
    redact_output()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        wait_s = linger_s()
        lock_timeout_s = environment_seconds(LOCK_TIMEOUT_VARIABLE, WORK_LOCK_TIMEOUT_S)
    except SettingsError as error:
        parser.error(str(error))
    faulthandler.enable()
    stop = StopFlag()
    signal.signal(signal.SIGTERM, stop.on_signal)
    with suppress(OSError):
        # When memory runs out, the kernel is to kill this worker before the server or the desktop.
        Path("/proc/self/oom_score_adj").write_text("800")
    if arguments.bound:
        threading.Thread(target=_die_with_parent, name="bound", daemon=True).start()
    try:
        claim_data_folder(arguments.data_dir)
        slot = hold_lock(slot_lock(arguments.data_dir, arguments.slot))
        if slot is None:
            log.info("Slot %d has a worker already.", arguments.slot)
            return 0
        with slot:
            Worker(
                arguments.data_dir,
                worker_name(arguments.slot),
                load,
                stop,
                lock_timeout_s,
            ).serve(wait_s)
    except StoreError as error:
        log.error("%s", error)
        return 1
    return 0


def _program_written_at() -> int:
    """Modification time of the program's newest file, ns: it changes with an upgrade."""
    return max(file.stat().st_mtime_ns for file in Path(__file__).parent.rglob("*.py"))


class Worker:
    """Serves the jobs of one data folder. name: as in the job table.

    lock_timeout_s: with a locked table or store.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        load: LoadHandlers,
        stop: StopFlag,
        lock_timeout_s: float,
    ) -> None:
        self._folder = folder
        self._name = name
        self._load = load
        self._stop = stop
        self._lock_timeout_s = lock_timeout_s
        self._table = JobTable(folder / "jobs.sqlite", self._lock_timeout_s)
        self._handlers: Mapping[str, JobHandler] | None = None
        self._store: Store | None = None
        self._sound = True
        self._written_at = _program_written_at()

    def serve(self, linger_s: float) -> None:
        """Run queued jobs until `linger_s` without one, a request to stop, or an unexpected error."""
        idle_since = time.monotonic()
        while self._sound and not self._stop.requested:
            if claim := self._take():
                job, lock = claim
                # Closed last: while the row says running, the lock must be held.
                with lock:
                    self._run_logged(job)
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= linger_s:
                return
            elif self._handlers is None:
                self._handlers = self._load()
            else:
                time.sleep(_LOOK_S)

    def _take(self) -> tuple[Job, IO[bytes]] | None:
        """Claim the first free job; none after an upgrade, which needs a new worker."""
        queue = self._table.queue()
        if queue and _program_written_at() != self._written_at:
            self._sound = False
            return None
        for queued in queue:
            if queued.may_spread and is_lock_held(cluster_lock(self._folder)):
                continue
            try:
                lock = hold_lock(job_lock(self._folder, queued.id))
            except StoreError as error:
                if not isinstance(error.__cause__, PermissionError | IsADirectoryError):
                    raise
                self._table.end(queued, "crashed", error.message, error.advice)
                continue
            if lock is None:
                continue
            if job := self._table.claim(queued.id, self._name, os.getpid()):
                return job, lock
            lock.close()
        return None

    def _run_logged(self, job: Job) -> None:
        try:
            log_file = open_log(Path(job.log_path))
        except StoreError as error:
            self._table.end(job, "failed", error.message, error.advice)
            return
        with log_file, _output_to(log_file):
            try:
                self._run(job)
            except StoreError as error:
                # Into the job's own log: its end could not be recorded anywhere else.
                log.error("How job %d ended could not be noted: %s", job.id, error)
                raise

    def _run(self, job: Job) -> None:
        """Run one job and record its end. An error ends the job, not the worker."""
        log.info("Job %d, attempt %d, process %d.", job.id, job.attempt, os.getpid())
        report = Reporter(self._table, job, self._stop)
        try:
            with self._stop.raising():
                report(STARTING)
                self._store = self._store or Store(
                    self._folder, lock_timeout_s=self._lock_timeout_s
                )
                self._handlers = self._handlers or self._load()
                task = JobTask(
                    key=job.key,
                    settings=job.settings,
                    store=self._store,
                    on_step=report,
                    on_text=report.wrote,
                    with_token=may_use_token(job.owner),
                )
                self._handlers[job.kind](task)
        except Cancelled as error:
            log.info("Job %d was stopped.", job.id)
            reason = error.message
            if self._table.get(job.id).cancel_requested_at is None:
                reason = (
                    "Its worker process was told to end (SIGTERM), as at a shutdown."
                )
            self._table.end(job, "cancelled", reason, resume_advice(job.kind))
        except Exception as error:
            log.exception("Job %d failed.", job.id)
            # Memory may be short or the GPU's context broken: the next job gets a fresh process.
            self._sound = isinstance(error, SparseDashError)
            self._table.end(job, "failed", *describe_error(error, job, self._folder))
        else:
            log.info("Job %d is done.", job.id)
            self._table.end(job, "done")


def describe_error(
    error: Exception, job: Job | None = None, folder: Path | None = None
) -> tuple[str, str]:
    """Message and advice for a person; the traceback is in the log. folder: the data folder."""
    # torch's own class cannot be named here: this half does not import it.
    kind: JobKind = job.kind if job else "run"
    no_memory = (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    )
    match error:
        case _ if is_full(error):
            message = (
                error.message
                if isinstance(error, SparseDashError)
                else "The disk is full."
            )
            return (
                f"{message} {free_in_words(error, folder)}".strip(),
                f"Free some space. {resume_advice(kind)}",
            )
        case SparseDashError():
            return error.message, error.advice
        case _ if (
            no_memory
            or getattr(error, "errno", None) == errno.ENOMEM
            or "can't allocate memory" in str(error)
        ):
            return "Memory ran out.", memory_advice(kind)
        case ModuleNotFoundError():
            return (
                f"The package {error.name} is not installed.",
                f"Run: {install_command('-r requirements.txt')}",
            )
    return (
        f"{type(error).__name__}: {redacted(first_line(error))}",
        f"That should not happen. The log has the details. {resume_advice(kind)}",
    )


def _die_with_parent() -> None:
    """Kill this process and its children once its parent has ended."""
    while os.read(0, 1):
        pass
    # The runner starts it as the leader of a group.
    os.killpg(0, signal.SIGKILL)


@contextmanager
def _output_to(file: IO[bytes]) -> Iterator[None]:
    """Append the output of this process, that of C libraries too, to a file."""

    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(1), os.dup(2)]
    for stream, number in zip(streams, (1, 2), strict=True):
        stream.flush()
        os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream, number, before in zip(streams, (1, 2), kept, strict=True):
            stream.flush()
            os.dup2(before, number)
            os.close(before)


if __name__ == "__main__":
    sys.exit(main())
