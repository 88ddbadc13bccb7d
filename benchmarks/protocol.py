"""How `best` and the default are chosen: which method loses least where it does worst, and on
average.

    python -m benchmarks.protocol --model builtin:smollm2-135m --model gemma.gguf --calibration file:wikitext.txt \\
        --calibration file:lambada.jsonl[3600:] --evaluation file:lambada.jsonl[1500:1800] --keep FOLDER

Every method on equal tokens, for every model and calibration text. A method's *excess* is what it
loses, in nats a word, beyond the method that loses least with this model, text and sparsity. Its
score is half its largest excess plus half its mean excess; the least score wins. Prints every loss
with its 95 % interval and as a share of the published method's, and the scores; beside each, where
the winner does worst against that method, with the paired interval. With `--divergence
file:wikitext.txt`, which may be repeated, also the KL divergence of the next token from dense on
the beginning of that text, and with `--heal-steps 40,120` every method healed for so many steps as
well. With `--keep` a run that was stopped goes on where it was.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import get_args

import torch

from benchmarks.arguments import run_settings, texts_parser
from sparsedash.catalog.presets import METHODS, method_named, spec_name
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.matmul import bf16_matmul_in_fp32
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.model_making import prune_model
from sparsedash.engine.run.run_context import RunContext
from sparsedash.schema.method_settings import Budget, with_budget
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import BUILTIN_MODEL, SELF
from sparsedash.stats.mean_intervals import mean_interval, moments
from sparsedash.stats.significance import shared_outcomes
from sparsedash.storage.store import Store

PUBLISHED = "retrain-free (published)"
ALPHA = 0.05

_PIECE = 256
"""Tokens of a part of a text."""
_LOGITS = 2**26
"""Logits of parts that are read together."""


def main():
    arguments = _arguments()
    methods = _methods(arguments)
    heal_steps = (0,)
    if arguments.heal_steps:
        heal_steps += tuple(map(int, arguments.heal_steps.split(",")))
    losses = {}
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = Store(Path(arguments.keep or folder))
        for text in arguments.calibration or [SELF]:
            for model in arguments.model or [BUILTIN_MODEL]:
                settings = run_settings(
                    arguments, methods, model=model, calibration=text
                )
                settings = replace(settings, heal_steps=heal_steps)
                # Before the run, which deletes the blocks that were made for it.
                divergences = next_token_divergences(settings, store, arguments)
                names = f"{Path(model).name}, calibrated on {Path(text).name}"
                for permille, losses_by_method in _losses(settings, store).items():
                    case = f"{names}, {permille / 10:g} %"
                    losses[case] = losses_by_method
                    _print_case(case, losses_by_method, "passages, nats a word")
                for (reference, permille), nats_by_method in divergences.items():
                    unit = f"tokens of {Path(reference).name}, KL in nats a token"
                    _print_case(f"{names}, {permille / 10:g} %", nats_by_method, unit)
        store.close()
    _print_scores(losses)


def _losses(settings, store):
    """By sparsity in per mille, by method: nats lost on every passage."""
    run = pipeline.run(settings, store, ignore_steps)
    dense = store.get(Record, run.dense)
    losses = defaultdict(dict)
    for spec, key in zip(settings.points, run.sparse, strict=True):
        sparse = store.get(Record, key)
        name = spec_name(spec)
        losses[spec.permille][name] = nats_lost(dense, sparse)
        names = f"{Path(settings.model).name}, {Path(settings.calibration.corpus).name}"
        print(
            f"{names}, {spec.permille / 10:g} %, {name}: {sparse.last_word.right} right"
        )
    return losses


def nats_lost(dense, sparse):
    """Nats of log-likelihood lost on every passage."""
    return [
        before.log_likelihood - after.log_likelihood
        for before, after in shared_outcomes(dense, sparse)
    ]


def next_token_divergences(settings, store, arguments):
    """By text and sparsity in per mille, by method: KL from dense at every token of the beginnings
    of the texts.
    """
    context = RunContext(settings, store, ignore_steps, ModelCache())
    divergences = {}
    with bf16_matmul_in_fp32(settings.dtype):
        models = [prune_model(context, spec) for spec in settings.points]
        for sparse in models:
            # All blocks are made while the model is the dense one.
            list(sparse.blocks)
        for reference in arguments.divergence:
            for ids in _tokens(context, reference, arguments.tokens):
                dense_scores = _scores(context.loaded.model, ids)
                for spec, sparse in zip(settings.points, models, strict=True):
                    with sparse.applied():
                        sparse_scores = _scores(context.loaded.model, ids)
                    nats = (
                        (dense_scores.exp() * (dense_scores - sparse_scores))
                        .sum(dim=-1)
                        .clamp_(min=0)
                    )
                    by_method = divergences.setdefault(
                        (reference, spec.permille), defaultdict(list)
                    )
                    by_method[spec_name(spec)] += nats.flatten().tolist()
    return divergences


@torch.inference_mode()
def _scores(model, ids):
    """Log-probabilities of the token after every token of a piece."""
    return model(input_ids=ids).logits.float().log_softmax(dim=-1)


def _tokens(context, reference, n_tokens):
    """Tokens of the beginning of a text, in pieces of _PIECE after what begins every text, with few
    enough logits.
    """
    ids = []
    for text in context.texts(reference).texts:
        ids += context.loaded.prefix_and_ids(text)[1]
        if len(ids) >= n_tokens:
            break
    n_pieces = min(n_tokens, len(ids)) // _PIECE
    if not n_pieces:
        raise SystemExit(
            f"{reference} and --tokens must give at least {_PIECE} tokens."
        )
    together = max(1, _LOGITS // _PIECE // context.shape.vocabulary)
    front, _ = context.loaded.prefix_and_ids("")
    pieces = context.loaded.windows(ids[: n_pieces * _PIECE], len(front) + _PIECE)
    return torch.tensor(pieces, device=context.loaded.model.device).split(together)


def mean_words(values, sign=""):
    """The mean and its 95 % interval."""
    low, high = mean_interval(moments(values), ALPHA)
    return f"{fmean(values):{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _print_case(case, losses_by_method, unit):
    n_values = len(next(iter(losses_by_method.values())))
    print(f"\n{case}, {n_values:,} {unit}")
    published = losses_by_method.get(PUBLISHED)
    for method, losses in sorted(
        losses_by_method.items(), key=lambda item: fmean(item[1])
    ):
        share = (
            f"{fmean(losses) / fmean(published):8.2f} of the published"
            if published
            else ""
        )
        print(f"  {method:28}   {mean_words(losses)}{share}")


def _print_scores(losses):
    excess = defaultdict(list)
    for losses_by_method in losses.values():
        least = min(map(fmean, losses_by_method.values()))
        for method, nats in losses_by_method.items():
            excess[method].append(fmean(nats) - least)
    scores = {
        method: (max(values) + fmean(values)) / 2 for method, values in excess.items()
    }
    winner, *others = sorted(scores, key=scores.__getitem__)
    print(
        f"\n{'method':28}{'score':>8}{'worst':>8}{'mean':>8}   where the winner does worst against it"
    )
    for method in (winner, *others):
        row = f"{method:28}{scores[method]:8.3f}{max(excess[method]):8.3f}{fmean(excess[method]):8.3f}"
        print(
            row
            if method == winner
            else f"{row}   {_worst_words(winner, method, losses)}"
        )


def _worst_words(winner, method, losses):
    """How much more the winner loses than this method where that is most, with its paired
    interval.
    """
    differences = {}
    for case, losses_by_method in losses.items():
        pairs = zip(losses_by_method[winner], losses_by_method[method], strict=True)
        differences[case] = [ours - theirs for ours, theirs in pairs]
    worst = max(differences, key=lambda case: fmean(differences[case]))
    return f"{mean_words(differences[worst], sign='+')} {worst}"


def _methods(arguments):
    names = [method.name for method in METHODS if method.settings.is_structured]
    if arguments.methods:
        names = arguments.methods.split(",")
    return with_budget(list(map(method_named, names)), arguments.budget)


def _arguments():
    parser = texts_parser(
        __doc__,
        methods=(
            str,
            "names with commas between; all that remove channels where not given",
        ),
        heal_steps=(str, "numbers with commas between"),
    )
    parser.add_argument("--model", action="append", help="may be repeated")
    parser.add_argument(
        "--budget",
        default="channels",
        choices=get_args(Budget),
        help="what --sparsity is a share of",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
