"""A program of stock code in a process of its own: nothing of this process helps it, and its crash
ends no worker.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from sparsedash.schema.errors import ExportError

_LOOK_S = 0.5
_KEPT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


@contextmanager
def talking_to(
    program: str, arguments: Sequence[str], *, failed: str
) -> Iterator[Callable[[str], str]]:
    """A function that gives the answer of a file of Python, run alone, to a line; the process ends
    with the `with`.

    Raises ExportError, beginning with `failed`, with the last line of its errors, where it ends
    before it answers.
    """
    command, pipe = _alone(program, arguments), subprocess.PIPE
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(  # noqa: S603
            command, env=_environment(), stdin=pipe, stdout=pipe, stderr=log, text=True
        ) as process,
    ):

        def ask(line: str) -> str:
            assert process.stdin and process.stdout, "both are pipes"
            with suppress(BrokenPipeError):
                print(line, file=process.stdin, flush=True)
            if answer := process.stdout.readline():
                return answer.strip()
            raise ExportError(
                f"{failed}: {_reason(process.wait(), log)}.", "Please report this with the model."
            )

        try:
            yield ask
        finally:
            process.kill()
            assert process.stdin, "a pipe"
            # A line that could not be written is still in its buffer.
            with suppress(BrokenPipeError):
                process.stdin.close()


def run_program(
    program: str,
    arguments: Sequence[str],
    *,
    on_look: Callable[[], object],
    failed: str,
    advice: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a file of Python alone (`python -I`) until it ends.

    on_look: called twice a second; may raise, and then the process is killed. Raises ExportError,
    beginning with `failed`, with the last line of what it printed, where it fails.
    """
    command, inherited = _alone(program, arguments), _environment() | dict(environment or {})
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(  # noqa: S603 - our own program
            command, env=inherited, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process:
            try:
                while process.poll() is None:
                    on_look()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=_LOOK_S)
            finally:
                process.kill()
        if process.returncode != 0:
            raise ExportError(f"{failed}: {_reason(process.returncode, log)}.", advice)


def _alone(program: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", program, *arguments]


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


def _reason(code: int, log: IO[bytes]) -> str:
    """The exit code of a program and the last line that it printed."""
    log.seek(0)
    lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1][:300] if lines else 'no output'}"
