"""Workers on this machine: starting, stopping, and exit reasons.

The runner remembers nothing that matters: its state is in the job table and in the locks, so a new
runner after a restart, or two of them side by side, work as well.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from sparsedash.jobs.job import CLUSTER, Job, memory_advice, resume_advice
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.lock_files import (
    is_lock_held,
    job_lock,
    open_log,
    open_own,
    slot_lock,
)
from sparsedash.schema.errors import SettingsError, StoreError

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-P", "-u", "-m", "sparsedash.worker")
NVIDIA = Path("/proc/driver/nvidia/gpus")
MAX_FRUITLESS_STARTS = 3
MAX_LINGER_S = 1_000_000
_REAP_S = 1.0

_SHOWN = 400
"""Characters of a log's last line: enough for a message with a path of usual length."""
_TAIL_BYTES = 65_536


def crash_reason(job: Job, exit_code: int | None) -> tuple[str, str]:
    """The most likely reason why a running job's worker is gone, and advice. exit_code: None when
    nobody saw it.
    """
    if job.worker == CLUSTER:
        return "It ran on a cluster that this server cannot use.", resume_advice(
            job.kind
        )
    if exit_code is None:
        text = "Its worker process died: memory ran out, it was killed, or the machine was restarted."
        return text, memory_advice(job.kind)
    if exit_code == -signal.SIGKILL:
        text = "Its worker process was killed (signal 9), most often because memory ran out."
        return text, memory_advice(job.kind)
    how = f"ended early with exit code {exit_code}"
    if exit_code < 0:
        how = f"was ended by signal {-exit_code}, {(signal.strsignal(-exit_code) or 'unknown').lower()}"
    last = last_log_line(Path(job.log_path))
    log_end = f'Its log ends with "{last}".' if last else "Its log is empty."
    return f"Its worker process {how}.", f"{log_end} {resume_advice(job.kind)}"


def log_tail(path: Path, n: int) -> str:
    """The last n lines of a log; of a progress bar only its last state. Raises StoreError."""
    try:
        with open_own(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    lines = [
        line.rstrip("\r").rpartition("\r")[2].rstrip()
        for line in text.rstrip().split("\n")
    ]
    return "\n".join(lines[-n:])


def last_log_line(path: Path) -> str:
    """The last line of a log, or why it cannot be read; empty for an empty log."""
    try:
        return log_tail(path, 1)[:_SHOWN]
    except (StoreError, OSError) as error:
        return str(error)[:_SHOWN]


class LocalRunner:
    """Starts and stops the workers of one data folder, at most one for each slot.

    folder: the data folder. command: starts a worker; `--data-dir` and `--slot` are added.
    term_after_s, kill_after_s: how long after a request to stop a worker is sent SIGTERM, and
    SIGKILL.
    start_within_s: how long a worker may take until it holds its slot, or to end once it has left
    it. bound: one worker alone, which ends with this process, even if that is killed. elsewhere:
    whether a cluster has this job.
    """

    def __init__(
        self,
        folder: Path,
        table: JobTable,
        *,
        command: Sequence[str] = WORKER,
        term_after_s: float = 5.0,
        kill_after_s: float = 10.0,
        start_within_s: float = 60.0,
        bound: bool = False,
        elsewhere: Callable[[Job], bool] = lambda job: False,
    ) -> None:
        self._folder = folder
        self._table = table
        self._command = tuple(command)
        self._elsewhere = elsewhere
        self._term_after_s = term_after_s
        self._kill_after_s = kill_after_s
        self._start_within_s = start_within_s
        self._n_slots = 1 if bound else n_slots()
        self._bound_by: tuple[int, ...] = os.pipe() if bound else ()
        # Bad values are refused here, and not by each worker in its log.
        linger_s()
        environment_seconds(LOCK_TIMEOUT_VARIABLE, 0.0)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._seen_at_work: dict[int, float] = {}
        self._stopping: dict[tuple[int, int], float] = {}
        self._fruitless_starts = 0
        self._not_started = ""
        self._tending = threading.Lock()

    def reconcile(self) -> bool:
        """Reconcile the job table: mark crashed jobs, stop cancelled ones, start workers. Cheap;
        about once a second.

        Returns whether it did: a call that meets another one in this process does nothing.
        """
        if not self._tending.acquire(blocking=False):
            return False
        try:
            running = [job for job in self._table.running() if not self._elsewhere(job)]
            self._reap({job.pid for job in running})
            for job in running:
                try:
                    is_held = is_lock_held(job_lock(self._folder, job.id))
                except StoreError as error:  # One file that cannot be opened, such as root's, must not stop the others.
                    if isinstance(error.__cause__, PermissionError | IsADirectoryError):
                        self._table.end(job, "crashed", error.message, error.advice)
                    continue
                if not is_held:
                    self._note_end(job)
                elif job.stopping:
                    self._escalate(job)
            if queue := tuple(
                job for job in self._table.queue() if not self._elsewhere(job)
            ):
                self._start_workers(queue)
            return True
        finally:
            self._tending.release()

    def prepare(self) -> None:
        """Start one worker, if none lives, so that it has loaded the engine by the time there is
        work.
        """
        if self._n_slots and self._tending.acquire(blocking=False):
            try:
                if not any(map(self._is_taken_or_starting, range(self._n_slots))):
                    self._start(0)
            finally:
                self._tending.release()

    def has_worker(self) -> bool:
        """Whether a worker lives; it has loaded the engine, or is about to."""
        return any(map(self._is_taken, range(self._n_slots)))

    def close(self) -> None:
        """Leave the workers, which go on without this runner, unless they are bound to it."""
        for child in self._children.values():
            # Else Popen warns of a child that outlives it, as it is meant to.
            child.returncode = child.poll() or 0
        self._children.clear()
        for end in self._bound_by:
            os.close(end)
        self._bound_by = ()

    def _reap(self, busy_pids: set[int | None]) -> None:
        """Wait for the children that ended. busy_pids: of workers with a job at hand."""
        for slot, child in self._children.items():
            if child.pid in busy_pids:
                self._fruitless_starts = 0
            if child.returncode is not None:
                continue
            if (code := child.poll()) is None:
                if self._is_taken(slot):
                    self._seen_at_work[slot] = time.monotonic()
                elif (
                    time.monotonic() - self._seen_at_work[slot] >= self._start_within_s
                ):
                    # It hangs before it holds its slot or after it has left it, so it has no job.
                    log.warning("The worker of slot %d hangs and is ended.", slot)
                    child.kill()
            elif code != 0 and child.pid not in busy_pids:
                self._fruitless_starts += 1
                log.warning(
                    "The worker of slot %d ended with %d before it took a job.",
                    slot,
                    code,
                )

    def _note_end(self, job: Job) -> None:
        """Record the end of a running job whose worker is gone; no effect if the worker did so in
        time.
        """
        exit_code = self._exit_code(job.pid)
        if job.stopping:
            self._table.end(
                job,
                "cancelled",
                "Stopped on request, by ending its worker process.",
                resume_advice(job.kind),
            )
        elif self._table.end(job, "crashed", *crash_reason(job, exit_code)):
            log.warning("Job %d crashed, exit code %s.", job.id, exit_code)

    def _exit_code(self, pid: int | None) -> int | None:
        child = next(
            (child for child in self._children.values() if child.pid == pid), None
        )
        # The kernel frees the lock a moment before the exit code can be had.
        with suppress(subprocess.TimeoutExpired):
            return None if child is None else child.wait(timeout=_REAP_S)
        return None

    def _escalate(self, job: Job) -> None:
        """Signal a worker that was asked to stop, SIGTERM first, then SIGKILL."""
        # Not by the clock of the request, which can be set meanwhile.
        since = self._stopping.setdefault((job.id, job.attempt), time.monotonic())
        waited_s = time.monotonic() - since
        if waited_s < self._term_after_s:
            return
        number = signal.SIGTERM if waited_s < self._kill_after_s else signal.SIGKILL
        self._table.while_running(job, lambda: self._signal(job, number))

    def _signal(self, job: Job, number: signal.Signals) -> None:
        """Signal the worker's whole group, if the worker still lives: else the pid may be another
        process's by now.
        """
        if not job.pid or not is_lock_held(job_lock(self._folder, job.id)):
            return
        try:
            if os.getpgid(job.pid) == job.pid:
                os.killpg(job.pid, number)
            else:
                os.kill(job.pid, number)
        except ProcessLookupError:
            pass  # It ended by itself just now.
        except PermissionError:
            log.warning(
                "Job %d runs as another user and cannot be ended from here.", job.id
            )

    def _start_workers(self, queue: tuple[Job, ...]) -> None:
        if self._fruitless_starts >= MAX_FRUITLESS_STARTS:
            self._blame(queue[0])
            return
        busy = {job.worker for job in self._table.running()}
        free = []
        n_idle = 0
        for slot in range(self._n_slots):
            if not self._is_taken_or_starting(slot):
                free.append(slot)
            elif worker_name(slot) not in busy:
                n_idle += 1
        for slot in free[: max(0, len(queue) - n_idle)]:
            self._start(slot)

    def _is_taken(self, slot: int) -> bool:
        try:
            return is_lock_held(slot_lock(self._folder, slot))
        except (
            StoreError
        ):  # The worker that is started for this slot says why, and is given up.
            return False

    def _is_taken_or_starting(self, slot: int) -> bool:
        return (
            slot in self._children and self._children[slot].returncode is None
        ) or self._is_taken(slot)

    def _start(self, slot: int) -> None:
        path = self._worker_log(slot)
        self._seen_at_work[slot] = time.monotonic()
        self._not_started = ""
        try:
            with open_log(path) as output:
                # The reader of the pipe notices that this process is gone, even if it was killed.
                bound = ["--bound"] if self._bound_by else []
                self._children[slot] = subprocess.Popen(  # noqa: S603 - our own command, no shell
                    [
                        *self._command,
                        "--data-dir",
                        str(self._folder),
                        "--slot",
                        str(slot),
                        *bound,
                    ],
                    stdin=self._bound_by[0] if self._bound_by else subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=worker_environment(slot),
                )
        except (OSError, StoreError) as error:
            self._fruitless_starts += 1
            self._not_started = str(error)
            log.warning("The worker of slot %d could not be started: %s", slot, error)

    def _blame(self, job: Job) -> None:
        """Give up on a job that no worker lives long enough to take."""
        self._fruitless_starts = 0
        logs = [last_log_line(self._worker_log(slot)) for slot in range(self._n_slots)]
        last = next(filter(None, [self._not_started, *logs]), "")
        output = f' Its last output: "{last}".' if last else ""
        text = f"No worker could be started, {MAX_FRUITLESS_STARTS} times in a row.{output}"
        advice = f"See {self._worker_log(0)}; when that is fixed, press “Resume”."
        self._table.end(job, "crashed", text, advice)

    def _worker_log(self, slot: int) -> Path:
        return self._folder / "logs" / f"{worker_name(slot)}.log"


def worker_name(slot: int) -> str:
    """The worker of a slot, as the job table names it."""
    return f"slot-{slot}"


def n_slots() -> int:
    """Number of workers at once: SPARSEDASH_WORKERS (0: none are started here), or one a GPU, or
    one.
    """
    number = os.environ.get("SPARSEDASH_WORKERS", "")
    if not number:
        return max(1, len(visible_gpus()))
    if not number.isdecimal() or len(number) > 2 or int(number) > 64:
        raise SettingsError("SPARSEDASH_WORKERS", number, "a whole number from 0 to 64")
    return int(number)


LOCK_TIMEOUT_VARIABLE = "SPARSEDASH_PATIENCE_S"
"""Names how long a worker waits while another process keeps the job table or the results locked."""


def linger_s() -> float:
    """Idle timeout of a worker, which then ends and frees its memory: SPARSEDASH_LINGER_S, or a
    minute.
    """
    return environment_seconds("SPARSEDASH_LINGER_S", 60.0)


def environment_seconds(name: str, default: float) -> float:
    """Seconds from an environment variable. Raises SettingsError for anything else."""
    value = os.environ.get(name) or default
    with suppress(ValueError):
        if 0 <= float(value) <= MAX_LINGER_S:
            return float(value)
    raise SettingsError(name, value, f"a number of seconds from 0 to {MAX_LINGER_S:,}")


def child_environment() -> dict[str, str]:
    """Environment of a new process: ours, with this package on the path, wherever we were
    started.
    """
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def worker_environment(slot: int) -> dict[str, str]:
    """Environment of a new worker: only the slot's GPU is visible."""
    gpus = visible_gpus()
    return child_environment() | (
        {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
    )


def visible_gpus() -> list[str]:
    """The GPUs that may be used, in the form of CUDA_VISIBLE_DEVICES. As in CUDA, the list ends
    before the first empty or negative entry.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        return list(takewhile(lambda name: name and not name.startswith("-"), names))
    return [str(number) for number in range(len(list(NVIDIA.glob("*"))))]
