"""How `best` and the default are chosen: which method loses least where it does worst, and on average.

    python -m benchmarks.protocol --model builtin:smollm2-135m --model gemma.gguf --calibration file:wikitext.txt \\
        --calibration file:lambada.jsonl[3600:] --evaluation file:lambada.jsonl[1500:1800] --keep FOLDER

Every method on equal tokens, for every model and calibration text. A method's *excess* is what it loses, in nats a
word, beyond the method that loses least with this model, text and sparsity. Its score is half its largest excess plus
half its mean excess; the least score wins. Prints every loss with its 95 % interval and as a share of the published
method's, and the scores; beside each, where the winner does worst against that method, with the paired interval. With
`--divergence file:wikitext.txt`, which may be repeated, also the KL divergence of the next token from dense on the
beginning of that text, and with `--heal-steps 40,120` every method healed for so many steps as well. With `--keep` a
run that was stopped goes on where it was.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean
from typing import get_args

from sparsedash.catalog.presets import METHODS, method_name, method_named
from sparsedash.schema.method_settings import Budget, with_budget
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    SELF,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.stats.mean_intervals import mean_interval, moments
from sparsedash.storage.store import Store

PUBLISHED = "retrain-free (published)"
ALPHA = 0.05

_PIECE, _LOGITS = 256, 2**26
"""Tokens that a text's parts have, and logits of parts that are read together."""


def main():
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = Store(Path(arguments.keep or folder))
        losses = {}
        for text in arguments.calibration or [SELF]:
            for model in arguments.model or [BUILTIN_MODEL]:
                settings = _settings(arguments, model, text)
                # First: the run finds the blocks that were made for it, and drops them behind itself.
                divergences = _divergences(settings, store, arguments.divergence or [], arguments.tokens)
                found = _losses(settings, store)
                for case, by_method in found.items():
                    _print_case(case, by_method, "passages, nats a word")
                losses |= found
                for judged, cases in divergences.items():
                    for case, by_method in cases.items():
                        _print_case(case, by_method, f"tokens of {Path(judged).name}, KL in nats a token")
        store.close()
    _print_scores(losses)


def _losses(settings, store):
    """By case (model, text, sparsity in per mille), by method: nats lost on every passage."""
    from sparsedash.engine.run import pipeline

    run = pipeline.run(settings, store, ignore_steps)
    dense = _log_likelihoods(store.get(Record, run.dense))
    model, text = Path(settings.model).name, Path(settings.calibration.corpus).name
    cases = {}
    for (method, permille), key in zip(settings.points, run.sparse, strict=True):
        found = cases.setdefault((model, text, permille), {})
        record = store.get(Record, key)
        found[method_name(method)] = [d - s for d, s in zip(dense, _log_likelihoods(record), strict=True)]
        print(f"{model}, {text}, {permille / 10:g} %, {method_name(method)}: {record.last_word.right} right")
    return cases


def _divergences(settings, store, references, n_tokens):
    """By text, by case, by method: the divergence from dense at every token of the beginnings of these texts."""
    from sparsedash.engine.models.loading import ModelShelf
    from sparsedash.engine.models.matmul import fastest_products
    from sparsedash.engine.run.model_making import prune_model
    from sparsedash.engine.run.run_context import RunContext

    context = RunContext(settings, store, ignore_steps, ModelShelf())
    model, text = Path(settings.model).name, Path(settings.calibration.corpus).name
    found = {}
    with fastest_products(settings.dtype):
        made = [(*point, prune_model(context, *point)) for point in settings.points]
        for *_, sparse in made:
            # All blocks are made, while the model is the dense one.
            list(sparse.blocks)
        for reference in references:
            cases = found[reference] = {}
            for ids in _tokens(context, reference, n_tokens):
                dense = _scores(context.loaded.model, ids)
                for method, permille, sparse in made:
                    with sparse.applied():
                        other = _scores(context.loaded.model, ids)
                    nats = (dense.exp() * (dense - other)).sum(dim=-1).clamp_(min=0).flatten().tolist()
                    cases.setdefault((model, text, permille), {}).setdefault(method_name(method), []).extend(nats)
    return found


def _scores(model, ids):
    """Log-probabilities of the token after every token of a piece."""
    import torch

    with torch.inference_mode():
        return model(input_ids=ids).logits.float().log_softmax(dim=-1)


def _tokens(context, reference, n_tokens):
    """Tokens of the beginning of a text, in pieces of _PIECE after what begins every text, with few enough logits."""
    import torch

    ids = []
    for text in context.texts(reference).texts:
        ids += context.loaded.front_and_own(text)[1]
        if len(ids) >= n_tokens:
            break
    n = min(n_tokens, len(ids)) // _PIECE
    if not n:
        raise SystemExit(f"{reference} and --tokens must give at least {_PIECE} tokens.")
    together = max(1, _LOGITS // _PIECE // context.shape.vocabulary)
    front, _ = context.loaded.front_and_own("")
    pieces = context.loaded.windows(ids[: n * _PIECE], len(front) + _PIECE)
    return torch.tensor(pieces, device=context.loaded.model.device).split(together)


def _settings(arguments, model, text):
    names = arguments.methods.split(",") if arguments.methods else _channel_methods()
    methods = [method_named(name).healed(n) for name in names for n in (0, *map(int, arguments.heal_steps or ()))]
    return RunSettings(
        model=model,
        dtype=arguments.dtype,
        methods=with_budget(methods, arguments.budget),
        sparsities_permille=parse_percents(arguments.sparsity),
        calibration=CalibrationSettings(
            corpus=text, n_samples=arguments.samples, length=arguments.length, packed=arguments.packing == "packed"
        ),
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages),
    )


def _channel_methods():
    return [method.name for method in METHODS if method.settings.takes_channels]


def _log_likelihoods(record):
    return [outcome.log_likelihood for outcome in record.outcomes]


def _print_case(case, found, unit):
    model, text, permille = case
    print(f"\n{model}, calibrated on {text}, {permille / 10:g} %, {len(next(iter(found.values()))):,} {unit}")
    published = fmean(found[PUBLISHED]) if PUBLISHED in found else None
    for method, lost in sorted(found.items(), key=lambda one: fmean(one[1])):
        low, high = mean_interval(moments(lost), ALPHA)
        share = "" if published is None else f"{fmean(lost) / published:8.2f} of the published"
        print(f"  {method:28}{fmean(lost):8.3f} ({low:.3f} to {high:.3f}){share}")


def _print_scores(losses):
    excess = {method: [_excess(method, found) for found in losses.values()] for method in next(iter(losses.values()))}
    scores = {method: (max(own) + fmean(own)) / 2 for method, own in excess.items()}
    winner = min(scores, key=scores.__getitem__)
    print(f"\n{'method':28}{'score':>8}{'worst':>8}{'mean':>8}   where the winner does worst against it")
    for method in sorted(scores, key=scores.__getitem__):
        row = f"{method:28}{scores[method]:8.3f}{max(excess[method]):8.3f}{fmean(excess[method]):8.3f}"
        print(row if method == winner else f"{row}   {_worst_of(winner, method, losses)}")


def _worst_of(winner, method, losses):
    """How much more the winner loses than this method where that is most, with its paired interval."""
    more = {case: [a - b for a, b in zip(own[winner], own[method], strict=True)] for case, own in losses.items()}
    case = max(more, key=lambda each: fmean(more[each]))
    model, text, permille = case
    low, high = mean_interval(moments(more[case]), ALPHA)
    return f"{fmean(more[case]):+.3f} ({low:+.3f} to {high:+.3f}) {model}, {text}, {permille / 10:g} %"


def _excess(method, found):
    return fmean(found[method]) - min(map(fmean, found.values()))


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="may be repeated")
    parser.add_argument("--dtype", default="float32", choices=get_args(Dtype))
    parser.add_argument("--calibration", action="append", help="text reference, may be repeated")
    parser.add_argument("--evaluation", required=True, help="text reference; passages that no other table reports")
    parser.add_argument("--passages", type=int, help="the first so many only")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--packing", default="packed", choices=("packed", "documents"))
    parser.add_argument("--sparsity", default="10,20,30")
    parser.add_argument("--budget", default="channels", choices=get_args(Budget), help="what --sparsity is a share of")
    parser.add_argument("--methods", help="names with commas between; all that remove channels where not given")
    parser.add_argument("--heal-steps", type=lambda text: text.split(","), help="numbers with commas between")
    parser.add_argument("--divergence", action="append", help="text reference, may be repeated")
    parser.add_argument("--tokens", type=int, default=2048, help="of each text of --divergence")
    parser.add_argument("--keep", help="data folder that keeps what was computed")
    return parser


if __name__ == "__main__":
    main()
