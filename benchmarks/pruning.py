"""The race: what every method costs the model, how long it takes and how much memory, all in one
run on equal tokens.

    python -m benchmarks.pruning --calibration file:lambada.jsonl[3600:] --evaluation file:lambada.jsonl --passages 1000

Prints, per calibration text, method and sparsity, the log-likelihood (nats) of the right word that
is lost against the dense model on the same passages, with its 95 % interval, and that as a share of
what the published method loses at the same sparsity. Every method calibrates and prunes in a
process and a data folder of its own, so that its seconds and its peak memory are its own;
evaluation is in neither. The bare forward pass over the same tokens is timed beside them.
`--calibration` may be given more than once. With `--keep FOLDER` a run that was stopped goes on
where it was: what is in the folder is printed as it was measured then.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import get_args

import torch

from benchmarks.arguments import run_parser, run_settings
from benchmarks.child import answer_of, folder_of
from benchmarks.machine import calibrate
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.engine.models.decoder_blocks import batches_by_length
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run.model_making import prune_model
from sparsedash.engine.run.pipeline import dense_record, prepare_model, sparse_record
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.run.task_answering import TaskAnswers
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import SELF, RunSettings, TokenWeights, parse_percents
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.storage.local_machine import peak_memory_bytes
from sparsedash.storage.store import Store

PUBLISHED = "retrain-free (published)"
DENSE = "dense"

_OPTIONS = (
    "model",
    "dtype",
    "evaluation",
    "passages",
    "sparsity",
    "samples",
    "length",
    "token_weights",
    "packing",
)
"""Options on which a child's figures depend, as well as on the text."""


def main():
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_child(arguments)))
        return
    with TemporaryDirectory() as folder:
        folder = Path(arguments.keep or folder)
        folder.mkdir(parents=True, exist_ok=True)
        arguments.model = folder_of(arguments.model, folder)
        for text in arguments.calibration or [SELF]:
            _print_race(arguments, text, folder)


def _print_race(arguments, title, folder):
    text = (
        _written(_measured(arguments, SELF, SELF, folder), folder)
        if title == SELF
        else title
    )
    methods = [
        method.name for method in METHODS if method.settings.pattern == "channelx1"
    ]
    if arguments.methods:
        methods = arguments.methods.split(",")
    dense = _measured(arguments, DENSE, text, folder)
    dense_answers = dense["answers"][DENSE]
    times = dense["calibration_seconds"] / dense["seconds"]
    print(f"\ncalibrated on {dense['n_tokens']:,} tokens of {title}")
    print(
        f"bare forward pass {dense['seconds']:.0f} s, calibration alone {times:.2f} times that"
    )
    print(
        f"dense loses {-fmean(dense_answers):.3f} nats a word, {len(dense_answers):,} passages\n"
    )
    percents = [
        f"{permille / 10:g} %" for permille in parse_percents(arguments.sparsity)
    ]
    _print_row("method", percents, "s", "next s", "peak GB")
    published = {}
    for method in dict.fromkeys([PUBLISHED, *methods]):
        figures = _measured(arguments, method, text, folder)
        cells = []
        for permille, answers in figures["answers"].items():
            losses = [
                before - after
                for before, after in zip(dense_answers, answers, strict=True)
            ]
            share = fmean(losses) / published.setdefault(permille, fmean(losses))
            half = 1.96 * stdev(losses) / math.sqrt(len(losses))
            cells.append(f"{fmean(losses):.3f} ±{half:.3f} ({share:.2f})")
        peak = f"{figures['peak_bytes'] / 1e9:.2f}"
        _print_row(
            method,
            cells,
            f"{figures['seconds']:.0f}",
            f"{figures['next_seconds']:.0f}",
            peak,
        )


def _print_row(name, losses, seconds, next_seconds, peak):
    cells = "".join(f"{loss:>22}" for loss in losses)
    print(f"{name:26}{cells}{seconds:>7}{next_seconds:>8}{peak:>9}", flush=True)


def _written(texts, folder):
    """Reference of the calibration text that the model wrote once for all methods."""
    file = folder / f"{SELF}-{digest(texts)[:12]}.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"file:{file}"


def _measured(arguments, name, text, folder):
    """The figures of a child process, from the folder where it has run before."""
    options = {option: getattr(arguments, option) for option in _OPTIONS}
    file = folder / f"{digest([name, text, options])[:12]}.json"
    if not file.exists():
        words = [
            *sys.argv[1:],
            "--model",
            arguments.model,
            "--child",
            name,
            "--text",
            text,
        ]
        file.write_text(
            json.dumps(
                answer_of(
                    "benchmarks.pruning", *words, "--folder", str(file.with_suffix(""))
                )
            )
        )
    return json.loads(file.read_text())


def _child(arguments):
    """Calibrate and prune in this process, timed; then evaluate. For `self`: the texts that the
    model writes.
    """
    methods = (
        RunSettings().methods
        if arguments.child in (SELF, DENSE)
        else [method_named(arguments.child)]
    )
    settings = run_settings(arguments, methods, calibration=arguments.text)
    calibration = replace(settings.calibration, token_weights=arguments.token_weights)
    settings = replace(settings, calibration=calibration)
    run = RunContext(
        settings, Store(Path(arguments.folder)), ignore_steps, ModelCache()
    )
    # Read now, in no method's time.
    sequences = run.calibration_texts.sequences()
    if arguments.child == SELF:
        return [run.loaded.tokenizer.decode(ids) for ids in sequences]
    if arguments.child == DENSE:
        return {
            "seconds": _seconds(_bare_forward, run.loaded, sequences),
            "calibration_seconds": _seconds(
                calibrate, run.loaded, sequences, arguments.token_weights
            ),
            "n_tokens": sum(map(len, sequences)),
            "answers": {DENSE: _log_likelihoods(dense_record(run, TaskAnswers(run)))},
        }
    permilles = settings.sparsities_permille
    points = [SparseSpec(*methods, permille) for permille in permilles]
    seconds = _seconds(prune_model, run, points[0])
    peak_bytes = peak_memory_bytes()
    others = [_seconds(prune_model, run, point) for point in points[1:]]
    answers = {}
    for number, point in enumerate(points):
        model = prepare_model(run, point, number)
        answers[point.permille] = _log_likelihoods(
            sparse_record(run, TaskAnswers(run), model)
        )
    return {
        "seconds": seconds,
        "next_seconds": fmean(others) if others else 0.0,
        "peak_bytes": peak_bytes,
        "answers": answers,
    }


@torch.inference_mode()
def _bare_forward(loaded, sequences):
    for _, batch in batches_by_length(sequences, 4096, 0, loaded.model.device):
        loaded.model.base_model(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        )


def _seconds(function, *arguments):
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def _log_likelihoods(record):
    return [outcome.log_likelihood for outcome in record.outcomes]


def _arguments():
    parser = run_parser(
        __doc__,
        methods=(str, "names with commas between; all where not given"),
        keep=(str, "folder that keeps what was measured"),
        child=(str, argparse.SUPPRESS),
        text=(str, argparse.SUPPRESS),
        folder=(str, argparse.SUPPRESS),
        passages=1000,
    )
    parser.add_argument(
        "--calibration", action="append", help="text reference, may be repeated"
    )
    parser.add_argument(
        "--token-weights", default="equal", choices=get_args(TokenWeights)
    )
    parser.set_defaults(packing="packed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
