"""Programs that read a stranger's file in a process of their own, with limits on its memory and
time.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time


def trial_problem(module: str, *arguments: str, seconds: int, too_much: str) -> str:
    """What the program of ours prints: what is wrong with the file; empty where nothing is.

    seconds: its limit of processor time. too_much: what is said where it is killed at a limit.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    # This very package, whatever folder the process was started in.
    path = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    # One that is killed leaves its temporary files.
    with TemporaryDirectory() as scratch:
        try:
            done = subprocess.run(  # noqa: S603 - our own
                command,
                env=os.environ | {"PYTHONPATH": path, "TMPDIR": scratch},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=6 * seconds,
            )
        except subprocess.TimeoutExpired:
            return too_much
    if done.returncode > 0:
        return f"could not be tried: {(done.stderr.splitlines() or [''])[-1][:300]}"
    return too_much if done.returncode < 0 else done.stdout.strip()


def run_trial(problem: Callable[[], str], n_bytes: int, seconds: int) -> None:
    """Print the problem that is found in this process with limits; one that takes too much memory
    ends by a signal.

    n_bytes, seconds: beside what the process has taken by now. What else is printed goes to
    standard error.
    """
    # Not on Windows; macOS takes no limit of the address space, and none may be raised over a lower
    # one that is set.
    with suppress(ImportError):
        import resource

        n_bytes += _address_bytes()
        seconds += ceil(process_time())
        for limit, most in (
            ("AS", n_bytes),
            ("CPU", seconds),
            ("FSIZE", n_bytes),
            ("CORE", 0),
        ):
            with suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    try:
        with redirect_stdout(sys.stderr):
            answer = problem()
    except MemoryError:
        os.abort()
    except BaseException as error:  # noqa: BLE001 - a panic of tokenizers is no Exception
        answer = f"could not be read: {' '.join(str(error).split())[:300]}"
    sys.stdout.write(answer)


def _address_bytes() -> int:
    """The address space that this process has, 0 where the system does not say."""
    with suppress(OSError):
        n_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return n_pages * os.sysconf("SC_PAGE_SIZE")
    return 0
