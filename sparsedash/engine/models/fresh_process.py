"""Runs a program of stock code in a process of its own, whose crash ends no worker."""

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
    """A function that sends a line to a Python file, run alone, and returns its answer.

    The process ends with the `with`. Raises ExportError, beginning with `failed`, with the last
    line of its errors, if it ends before it answers.
    """
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(  # noqa: S603
            _command(program, arguments),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):

        def ask(line: str) -> str:
            assert process.stdin and process.stdout, "both are pipes"
            with suppress(BrokenPipeError):
                print(
                    line,
                    file=process.stdin,
                    flush=True,
                )
            if answer := process.stdout.readline():
                return answer.strip()
            raise ExportError(
                f"{failed}: {_reason(process.wait(), log)}.",
                "Please report this with the model.",
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
    """Run a Python file alone (`python -I`) until it ends.

    on_look: called twice a second; may raise, and then the process is killed. Raises ExportError,
    beginning with `failed`, with the last line of its output, if it fails.
    """
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(  # noqa: S603 - our own program
            _command(program, arguments),
            env=_environment() | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
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


def _command(program: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", program, *arguments]


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


def _reason(code: int, log: IO[bytes]) -> str:
    """The exit code of a program and the last line of its output."""
    log.seek(0)
    lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
    last = lines[-1][:300] if lines else "no output"
    return f"exit code {code}: {last}"
