"""Measuring in child processes: their output, and the model that they share."""

import json
import subprocess
import sys

from sparsedash.engine.models.locating import locate_model
from sparsedash.storage.store import Store


def answer_of(module, *options):
    """The last line of the output of `python -m module`, read as JSON."""
    return json.loads(printed_by(module, *options).splitlines()[-1])


def printed_by(module, *options):
    """The standard output of `python -m module`."""
    command = [sys.executable, "-m", module, *options]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def folder_of(reference, folder):
    """The model's folder: a .gguf is dequantised in `folder` once, in no child's time."""
    store = Store(folder / "model")
    try:
        return str(locate_model(reference, store).folder)
    finally:
        store.close()
