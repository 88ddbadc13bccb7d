"""A program of stock code in a process of its own: nothing of this process helps it, and its crash ends no worker."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from sparsedash.schema.errors import ExportError

_LOOK_S = 0.5
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


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

    on_look: called twice a second; may raise, and then the process is killed. Raises ExportError, beginning with
    `failed`, with the last line of what it printed, where it fails.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    command, inherited = [sys.executable, "-I", program, *arguments], kept | dict(environment or {})
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
            log.seek(0)
            lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
            reason = f"exit code {process.returncode}: {lines[-1][:300] if lines else 'no output'}"
            raise ExportError(f"{failed}: {reason}.", advice)
