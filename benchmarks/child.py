"""Measuring in processes of their own: how one is asked, and the model that all of them are given."""

import json
import subprocess
import sys
from pathlib import Path


def answer_of(module, *options, environment=None):
    """What `python -m module` prints last, read as JSON."""
    return json.loads(printed_by(module, *options, environment=environment).splitlines()[-1])


def printed_by(module, *options, environment=None):
    """What `python -m module` prints on its standard output."""
    asked = [sys.executable, "-m", module, *options]
    return subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout


def folder_of(reference, folder):
    """The model's folder: a .gguf is dequantised in `folder` once, in no child's time."""
    from sparsedash.engine.models.loading import locate_model
    from sparsedash.storage.store import Store

    store = Store(Path(folder) / "model")
    try:
        return str(locate_model(reference, store).folder)
    finally:
        store.close()
