"""What pages of 2 MB are worth: reading and writing text with the setting that the engine makes and without it.

    python -m benchmarks.huge_pages

Each measurement is a process of its own, since torch reads the setting once; the two take turns, and the ratio is that
of the processor time, which other work on the machine disturbs least. Linux only.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.child import answer_of, folder_of
from sparsedash.schema.settings import BUILTIN_MODEL

LENGTH = 256
N_TEXTS = 32
BATCHES = 4


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_child(arguments.model)))
        return
    found = {setting: [] for setting in ("0", "1")}
    with tempfile.TemporaryDirectory() as folder:
        model = folder_of(arguments.model, folder)
        for number in range(arguments.rounds):
            for setting in sorted(found, reverse=bool(number % 2)):
                found[setting].append(_in_child(model, setting))
    for what in ("reading", "writing"):
        without, with_them = (median(one[what] for one in found[s]) for s in ("0", "1"))
        print(
            f"{what}: {without:.1f} s of processor time with pages of 4 kB, {with_them:.1f} s with pages of 2 MB, "
            f"{without / with_them:.2f} times as fast"
        )


def _in_child(model, setting):
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": setting}
    options = ("--child", "--model", model)
    return answer_of("benchmarks.huge_pages", *options, environment=environment)


def _child(model):
    """Processor seconds of a forward pass over a few batches, and of sampling N_TEXTS texts of LENGTH tokens."""
    import torch

    from sparsedash.engine.models.loading import load, locate
    from sparsedash.engine.texts.corpora import openings
    from sparsedash.engine.texts.generation import sample_texts
    from sparsedash.schema.progress import ignore_steps
    from sparsedash.schema.settings import CalibrationSettings
    from sparsedash.storage.store import Store

    with tempfile.TemporaryDirectory() as folder:
        loaded = load(locate(model, Store(Path(folder))), "float32")
    n_ids = min(1000, loaded.model.config.vocab_size)
    ids = torch.randint(10, n_ids, (16, 256), generator=torch.Generator().manual_seed(0))

    def read():
        with torch.inference_mode():
            for _ in range(BATCHES):
                loaded.model.base_model(ids, use_cache=False)

    def write():
        asked = CalibrationSettings(n_samples=N_TEXTS, length=LENGTH)
        sample_texts(loaded, openings(), asked, ignore_steps)

    loaded.model.base_model(ids, use_cache=False)
    return {"reading": _processor_seconds(read), "writing": _processor_seconds(write)}


def _processor_seconds(function):
    started = time.process_time()
    function()
    return time.process_time() - started


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUILTIN_MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
