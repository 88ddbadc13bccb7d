"""The race: what every method costs the model, how long it takes and how much memory, all in one run on equal tokens.

    python -m benchmarks.pruning --calibration file:lambada.jsonl[3600:] --evaluation file:lambada.jsonl --passages 1000

Prints, per calibration text, method and sparsity, the log-likelihood (nats) of the right word that is lost against the
dense model on the same passages, with its 95 % interval, and that as a share of what the published method loses at the
same sparsity. Every method calibrates and prunes in a process and a data folder of its own, so that its seconds and its
peak memory are its own; evaluation is in neither. The bare forward pass over the same tokens is timed beside them.
`--calibration` may be given more than once. With `--keep FOLDER` a run that was stopped goes on where it was: what is
in the folder is printed as it was measured then.
"""

import argparse
import json
import math
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import get_args

from benchmarks.child import answer_of, folder_of
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    SELF,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    RunSettings,
    TokenWeights,
    parse_percents,
)

PUBLISHED = "retrain-free (published)"
DENSE = "dense"

_TOLD = ("model", "dtype", "evaluation", "passages", "sparsity", "samples", "length", "token_weights", "packing")
"""Options that every child is given as they are, and on which what it finds depends."""


def main():
    arguments = _parser().parse_args()
    if arguments.child:
        print(json.dumps(_child(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(arguments.keep or folder)
        base.mkdir(parents=True, exist_ok=True)
        arguments.model = folder_of(arguments.model, base)
        for text in arguments.calibration or [SELF]:
            arguments.calibration = _written(arguments, base) if text == SELF else text
            _race(arguments, text, base / digest(text)[:12])


def _race(arguments, text, folder):
    names = arguments.methods.split(",") if arguments.methods else _channel_methods()
    names = [PUBLISHED, *(name for name in names if name != PUBLISHED)]
    dense = _measured(arguments, DENSE, folder)
    times = dense["calibration_seconds"] / dense["seconds"]
    print(f"\ncalibrated on {dense['n_tokens']:,} tokens of {text}")
    print(f"bare forward pass {dense['seconds']:.0f} s, calibration alone {times:.2f} times that")
    print(f"dense loses {-fmean(dense['answers'][DENSE]):.3f} nats a word, {arguments.passages:,} passages\n")
    percents = [f"{p / 10:g} %" for p in _permilles(arguments)]
    _print_row("method", *percents, "s", "next s", "peak GB")
    reference = None
    for name in names:
        found = _measured(arguments, name, folder)
        reference = reference or found
        _print_method(name, found, dense, reference)


def _print_method(name, found, dense, reference):
    cells = []
    for permille, answers in found["answers"].items():
        lost = _lost(dense["answers"][DENSE], answers)
        share = fmean(lost) / fmean(_lost(dense["answers"][DENSE], reference["answers"][permille]))
        half = 1.96 * stdev(lost) / math.sqrt(len(lost))
        cells.append(f"{fmean(lost):.3f} ±{half:.3f} ({share:.2f})")
    seconds = f"{found['seconds']:.0f}", f"{found['next_seconds']:.0f}"
    _print_row(name, *cells, *seconds, f"{found['peak_bytes'] / 1e9:.2f}")


def _print_row(name, *cells):
    *losses, seconds, further, peak = cells
    row = f"{name:26}" + "".join(f"{cell:>22}" for cell in losses)
    print(f"{row}{seconds:>7}{further:>8}{peak:>9}", flush=True)


def _lost(dense, sparse):
    return [d - s for d, s in zip(dense, sparse, strict=True)]


def _channel_methods():
    """Those that can be compared at one sparsity of the MLPs' channels."""
    return [method.name for method in METHODS if method.settings.pattern == "channelx1"]


def _permilles(arguments):
    return parse_percents(arguments.sparsity)


def _written(arguments, base):
    """Reference of calibration text that the model writes once for all methods."""
    wanted = [arguments.model, arguments.dtype, arguments.samples, arguments.length]
    path = base / f"{SELF}-{digest(wanted)[:12]}.jsonl"
    if not path.exists():
        texts = _in_child(arguments, SELF, path.with_suffix(""))
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"file:{path}"


def _measured(arguments, name, folder):
    """What the child found, read again where it was kept."""
    wanted = {option: getattr(arguments, option) for option in _TOLD}
    path = folder / f"{digest([name, wanted])[:12]}.json"
    if not path.exists():
        found = _in_child(arguments, name, path.with_suffix(""))
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def _in_child(arguments, name, folder):
    options = ["--child", name, "--folder", str(folder)]
    if name != SELF:
        options += ["--calibration", arguments.calibration]
    for option in _TOLD:
        options += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    return answer_of("benchmarks.pruning", *options)


def _child(arguments):
    """Calibrate and prune in this process, timed; then evaluate. For `self`: the texts that the model writes."""
    from sparsedash.engine.models.loading import ModelShelf
    from sparsedash.engine.run.model_making import prune_model
    from sparsedash.engine.run.pipeline import sparse_record
    from sparsedash.engine.run.run_context import RunContext
    from sparsedash.storage.store import Store

    settings = _settings(arguments)
    if arguments.child not in (SELF, DENSE):
        # What is read of the text follows from the methods.
        settings = replace(settings, methods=(method_named(arguments.child),))
    run = RunContext(settings, Store(Path(arguments.folder)), ignore_steps, ModelShelf())
    if arguments.child == SELF:
        return [run.loaded.tokenizer.decode(ids) for ids in run.sequences()]
    if arguments.child == DENSE:
        return _dense(run, arguments.token_weights)
    run.sequences()  # Read now, in no method's time.
    method, (first, *more) = method_named(arguments.child), settings.sparsities_permille
    seconds = _seconds(prune_model, run, method, first)
    peak = _peak_bytes()
    further = [_seconds(prune_model, run, method, permille) for permille in more]
    return {
        "answers": {
            permille: _log_likelihoods(sparse_record(run, method, permille))
            for permille in settings.sparsities_permille
        },
        "seconds": seconds,
        "next_seconds": fmean(further) if further else 0.0,
        "peak_bytes": peak,
    }


def _settings(arguments):
    return RunSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        sparsities_permille=_permilles(arguments),
        calibration=CalibrationSettings(
            corpus=(arguments.calibration or [SELF])[0],
            n_samples=arguments.samples,
            length=arguments.length,
            token_weights=arguments.token_weights,
            packed=arguments.packing == "packed",
        ),
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages),
    )


def _dense(run, token_weights):
    """The dense model's answers; and what reading the calibration text takes it, with and without statistics."""
    from sparsedash.engine.run.pipeline import dense_record

    text = run.loaded, run.sequences()
    bare = _seconds(_bare_forward, *text)
    calibration = _seconds(_calibration, *text, token_weights)
    return {
        "answers": {DENSE: _log_likelihoods(dense_record(run))},
        "seconds": bare,
        "calibration_seconds": calibration,
        "n_tokens": sum(map(len, run.sequences())),
    }


def _calibration(loaded, sequences, token_weights):
    from sparsedash.engine.calibration.statistics import statistics_walk

    watched = [[mlp.out] for mlp in loaded.mlps]
    walk = statistics_walk(
        loaded, lambda: sequences, watched, lambda *_: None, ignore_steps, token_weights=token_weights
    )
    walk.reach(len(loaded.blocks) - 1)


def _seconds(function, *arguments):
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def _bare_forward(loaded, sequences):
    import torch

    from sparsedash.engine.models.decoder_blocks import batches_by_length

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
    parser.add_argument("--dtype", default="float32", choices=get_args(Dtype))
    parser.add_argument("--calibration", action="append", help="text reference, may be repeated")
    parser.add_argument("--evaluation", required=True, help="text reference; not the calibration's")
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--token-weights", default="equal", choices=get_args(TokenWeights))
    parser.add_argument("--packing", default="packed", choices=("packed", "documents"))
    parser.add_argument("--sparsity", default="10,20,30")
    parser.add_argument("--methods", help="names with commas between; all where not given")
    parser.add_argument("--keep", help="folder that keeps what was measured")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
