"""Why a worker ended without a word, guessed from its exit code, its lock and its log."""

import signal
from pathlib import Path

from sparsedash.jobs.job import Job
from sparsedash.jobs.own_files import open_own
from sparsedash.schema.errors import StoreError

FINISHED_PARTS = "“Try again” goes on from the last finished part."
_SMALLER = "Free some memory, or choose a smaller model, bfloat16 or less calibration text."
CLUSTER = "cluster"
"""The worker of a job that machines of a cluster do, as the job table names it."""

_SHOWN = 400
"""Characters of a log's last line: enough for a message that names a path of usual length."""
_TAIL_BYTES = 65_536


def why_gone(job: Job, exit_code: int | None, restarted: bool | None = None) -> tuple[str, str]:
    """What most likely ended the worker of a running job, and what to do.

    exit_code: None where nobody saw it. restarted: whether the machine was, since the job began; None: nobody knows.
    """
    if job.worker == CLUSTER:
        return "This job was on machines of a cluster, and this server is told of none.", FINISHED_PARTS
    if restarted:
        return "The machine was restarted while this job ran.", FINISHED_PARTS
    match exit_code:
        case None:
            return (
                "The worker is gone without a word: it was killed, most often because memory ran out.",
                f"{_SMALLER} {FINISHED_PARTS}",
            )
        case -9:
            return (
                "The worker was killed (signal 9), most often because memory ran out.",
                f"{_SMALLER} {FINISHED_PARTS}",
            )
        case code if code < 0:
            return f"The worker was ended by {signal_name(-code)}.", _see_log(job)
        case code:
            return f"The worker ended early with exit code {code}.", _see_log(job)


def signal_name(number: int) -> str:
    """A signal as a person may look it up: "signal 11, segmentation fault"."""
    words = signal.strsignal(number)
    return f"signal {number}, {words.lower()}" if words else f"signal {number}"


def last_lines(path: Path, n: int) -> list[str]:
    """The last n lines of a log, oldest first; of a progress bar only what it showed last.

    Raises StoreError where something lies there that is no file.
    """
    try:
        with open_own(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.rstrip().split("\n")]
    return lines[-n:] if text.strip() else []


def last_words(path: Path) -> str:
    """The last line of a log, or why it cannot be read; empty where it says nothing."""
    try:
        return "".join(last_lines(path, 1))[:_SHOWN]
    except (StoreError, OSError) as error:
        return str(error)[:_SHOWN]


def _see_log(job: Job) -> str:
    last = last_words(Path(job.log_path))
    said = f'Its log ends with "{last}".' if last else "Its log is empty."
    return f"{said} {FINISHED_PARTS}"
