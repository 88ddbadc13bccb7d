"""What it is worth that freed memory is kept: answering, reading and writing as the engine does them, without, and with
pages of 2 MB instead.

    python -m benchmarks.freed_memory

Each measurement is a process of its own, since memory is arranged once; they take turns, and the ratio is that of the
processor time, which other work on the machine disturbs least. Linux with glibc only.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.child import answer_of, folder_of
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_MODEL

LENGTH = 256
N_TEXTS = 32
N_PASSAGES = 100
BATCHES = 4

SAID = {"MALLOC_ARENA_TEST": "8"}
"""glibc's own default, said aloud: the engine then arranges nothing."""
WAYS = {"kept": {}, "given back": SAID, "given back, pages of 2 MB": SAID | {"THP_MEM_ALLOC_ENABLE": "1"}}


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_child(arguments)))
        return
    found = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        model = folder_of(arguments.model, folder)
        for number in range(arguments.rounds):
            for way in sorted(found, reverse=bool(number % 2)):
                found[way].append(_in_child(model, arguments.share, way))
    for what in ("answer", "read", "write"):
        kept, *others = (median(one[what] for one in found[way]) for way in WAYS)
        beside = ", ".join(
            f"{seconds:.1f} s {way} ({seconds / kept:.2f} times)"
            for seconds, way in zip(others, [*WAYS][1:], strict=True)
        )
        print(f"{what}: {kept:.1f} s of processor time with freed memory kept, {beside}")


def _in_child(model, share, way):
    options = ["--child", "--model", model, "--share", str(share)]
    return answer_of("benchmarks.freed_memory", *options, environment=os.environ | WAYS[way])


def _child(arguments):
    """Processor seconds of N_PASSAGES answers, of a forward pass over a few batches, and of N_TEXTS texts of LENGTH."""
    import torch

    from sparsedash.engine.evaluation.evaluate import evaluate_alone
    from sparsedash.engine.evaluation.questions import choose_passages
    from sparsedash.engine.models.loading import load_model, locate_model
    from sparsedash.engine.texts.corpora import read_texts, story_openings
    from sparsedash.engine.texts.generation import generate_texts
    from sparsedash.schema.progress import ignore_steps
    from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings
    from sparsedash.storage.store import Store

    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(locate_model(arguments.model, Store(Path(folder))), "float32")
    n_ids = min(1000, loaded.model.config.vocab_size)
    ids = torch.randint(10, n_ids, (16, 256), generator=torch.Generator().manual_seed(0))

    passages = choose_passages(read_texts(BUILTIN_CLOZE), EvaluationSettings(n_passages=N_PASSAGES // arguments.share))

    def answer():
        evaluate_alone(loaded, passages, ignore_steps)

    def read():
        with torch.inference_mode():
            for _ in range(BATCHES):
                loaded.model.base_model(ids, use_cache=False)

    def write():
        asked = CalibrationSettings(n_samples=N_TEXTS // arguments.share, length=LENGTH)
        generate_texts(loaded, story_openings(), asked, ignore_steps)

    loaded.model.base_model(ids, use_cache=False)
    return {what.__name__: _processor_seconds(what) for what in (answer, read, write)}


def _processor_seconds(function):
    started = time.process_time()
    function()
    return time.process_time() - started


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUILTIN_MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=int, default=1, help="answer and write this many times less")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
