"""What a worker says of errors, and what importing it costs. What it does is in tests/faults."""

import errno
import subprocess
import sys

import pytest

from sparsedash.schema.errors import ModelError
from sparsedash.worker import in_words


def test_the_worker_is_light_until_it_has_a_job():
    program = (
        "import sys, sparsedash.worker; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "text", "advice"),
    [
        (ModelError("No such model.", "Check it."), "No such model.", "Check it."),
        (MemoryError(), "Memory ran out.", "smaller model"),
        (OutOfMemoryError("CUDA out of memory"), "Memory ran out.", "smaller model"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory ran out.", "bfloat16"),
        (ModuleNotFoundError("x", name="torch"), "The package torch is not installed.", "pip"),
        (OSError(errno.ENOSPC, "No space left"), "The disk is full.", "retry"),
        (ValueError("sent Bearer 0123456789abcdef"), "ValueError: sent Bearer [hidden]", "The log has the details"),
        (KeyError("weight"), "KeyError: 'weight'", "The log has the details"),
        (ValueError(), "ValueError: ValueError", "The log has the details"),
    ],
)
def test_every_error_has_words_and_advice(error, text, advice):
    said = in_words(error)
    assert said[0] == text
    assert advice in said[1]


def test_a_second_worker_is_told_apart_from_bad_arguments():
    done = subprocess.run([sys.executable, "-m", "sparsedash.worker"], capture_output=True)
    assert done.returncode == 2
    assert b"--data-dir" in done.stderr
