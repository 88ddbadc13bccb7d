"""Starts what must not be left behind: the kernel ends it as soon as the process that started it is
gone, even killed.

A fixture's end does that only where the fixture comes to its end: not when pytest is killed or runs
out of its time.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def start(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Python with these arguments, as `subprocess.Popen` starts it. To be called from the main
    thread: the kernel looks at the thread that started it. Elsewhere than on Linux it is a process
    like any other.
    """
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(os.getpid()), *arguments], **options
    )


def end(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Ask the process to end, and kill it if it has not by then."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):
            sys.exit("who started this is gone already")
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
