"""The race: what every method costs the model, how long it takes and how much memory, all in one run on equal tokens.

    python -m benchmarks.pruning --calibration file:lambada.jsonl[3600:] --evaluation file:lambada.jsonl --passages 1000

Prints, per method and sparsity, the log-likelihood (nats) of the right word that is lost against the dense model on the
same passages, with its 95 % interval, and that as a share of what the published method loses. Every method calibrates
and prunes in a process and a data folder of its own, so that its seconds and its peak memory are its own; evaluation is
in neither. The bare forward pass over the same tokens is timed beside them.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, stdev

from sparsedash.catalog import BUILTIN_MODEL, METHODS, method_named
from sparsedash.progress import ignore_steps
from sparsedash.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)

PUBLISHED = "retrain-free (published)"
DENSE = "dense"


def main():
    arguments = _parser().parse_args()
    if arguments.child:
        print(json.dumps(_child(arguments)))
        return
    names = arguments.methods.split(",") if arguments.methods else [m.name for m in METHODS]
    names = [PUBLISHED, *(name for name in names if name != PUBLISHED)]
    with tempfile.TemporaryDirectory() as folder:
        arguments.model = _folder_of(arguments.model, folder)
        dense = _in_child(arguments, DENSE, folder)
        tokens = f"{dense['n_tokens']:,} tokens of {arguments.calibration}"
        print(f"calibrated on {tokens}; bare forward pass {dense['seconds']:.0f} s")
        print(f"dense loses {-fmean(dense['answers'][DENSE]):.3f} nats a word\n")
        _print_row("method", *(f"{p / 10:g} %" for p in _permilles(arguments)), "s", "peak GB")
        reference = None
        for name in names:
            found = _in_child(arguments, name, folder)
            reference = reference or found
            _print_method(name, found, dense, reference)


def _print_method(name, found, dense, reference):
    cells = []
    for permille, answers in found["answers"].items():
        lost = _lost(dense["answers"][DENSE], answers)
        share = fmean(lost) / fmean(_lost(dense["answers"][DENSE], reference["answers"][permille]))
        half = 1.96 * stdev(lost) / math.sqrt(len(lost))
        cells.append(f"{fmean(lost):.3f} ±{half:.3f} ({share:.2f})")
    _print_row(name, *cells, f"{found['seconds']:.0f}", f"{found['peak_bytes'] / 1e9:.2f}")


def _print_row(name, *cells):
    print(f"{name:28}" + "".join(f"{cell:>23}" for cell in cells), flush=True)


def _lost(dense, sparse):
    return [d - s for d, s in zip(dense, sparse, strict=True)]


def _permilles(arguments):
    return parse_percents(arguments.sparsity)


def _folder_of(reference, folder):
    """The model's folder: a .gguf is dequantised here once, in no method's time."""
    from sparsedash.engine.models import locate
    from sparsedash.store import Store

    store = Store(Path(folder) / "model")
    try:
        return str(locate(reference, store).folder)
    finally:
        store.close()


def _in_child(arguments, name, folder):
    command = [
        sys.executable,
        "-m",
        "benchmarks.pruning",
        "--child",
        name,
        "--folder",
        str(Path(folder) / name),
    ]
    for option in ("model", "calibration", "evaluation", "sparsity"):
        command += [f"--{option}", getattr(arguments, option)]
    for option in ("passages", "samples", "length"):
        command += [f"--{option}", str(getattr(arguments, option))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _child(arguments):
    """Calibrate and prune in this process, timed; then evaluate."""
    from sparsedash.engine.models import ModelShelf
    from sparsedash.engine.stages import Stages
    from sparsedash.store import Store

    settings = RunSettings(
        model=arguments.model,
        sparsities_permille=_permilles(arguments),
        calibration=CalibrationSettings(
            corpus=arguments.calibration, n_samples=arguments.samples, length=arguments.length
        ),
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages),
    )
    stages = Stages(settings, Store(Path(arguments.folder)), ignore_steps, ModelShelf())
    n_tokens = sum(map(len, stages.sequences))
    loaded, answers = stages.loaded, {}
    started = time.perf_counter()
    if arguments.child == DENSE:
        _bare_forward(loaded, stages.sequences)
        seconds, peak = time.perf_counter() - started, _peak_bytes()
        answers[DENSE] = _log_likelihoods(stages.dense_record())
    else:
        method = method_named(arguments.child)
        stages.prune(method, settings.sparsities_permille[0])
        seconds, peak = time.perf_counter() - started, _peak_bytes()
        for permille in settings.sparsities_permille:
            answers[permille] = _log_likelihoods(stages.sparse_record(method, permille))
    return {"answers": answers, "seconds": seconds, "peak_bytes": peak, "n_tokens": n_tokens}


def _bare_forward(loaded, sequences):
    import torch

    from sparsedash.engine.blocks import batches_by_length

    with torch.inference_mode():
        for _, batch in batches_by_length(sequences, 4096, 0, loaded.model.device):
            loaded.model.base_model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)


def _log_likelihoods(record):
    return [outcome.log_likelihood for outcome in record.outcomes]


def _peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUILTIN_MODEL)
    parser.add_argument("--calibration", default="self", help="text reference")
    parser.add_argument("--evaluation", required=True, help="text reference; not the calibration's")
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--sparsity", default="10,20,30")
    parser.add_argument("--methods", help="names with commas between; all where not given")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
