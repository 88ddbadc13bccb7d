"""BF16 against FP32: both accuracies, agreement passage by passage, and the ratio of their times.

    python -m benchmarks.precision --evaluation file:PASSAGES.jsonl --passages 500

Both models are in memory and answer the same passages in turn, piece by piece, so that a drifting machine slows both;
which goes first changes from piece to piece.
"""

import argparse
from dataclasses import replace

from benchmarks.arguments import answers_parser
from sparsedash.engine.evaluation.evaluate import evaluate_alone
from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.stats.significance import compare_verdicts, wilson_interval
from sparsedash.storage.store import Store

DTYPES = ("float32", "bfloat16")


def main() -> None:
    arguments = _arguments()
    source = locate_model(arguments.model, Store(arguments.data_dir))
    models = {dtype: load_model(source, dtype) for dtype in DTYPES}
    settings = EvaluationSettings(n_passages=arguments.passages)
    chosen = choose_passages(read_texts(arguments.evaluation), settings)
    for model in models.values():
        evaluate_alone(model, _piece(chosen, 0, 8), ignore_steps)

    outcomes = {dtype: [] for dtype in DTYPES}
    seconds, ratios = dict.fromkeys(DTYPES, 0.0), []
    for number, start in enumerate(range(0, len(chosen.indices), arguments.piece)):
        took = {}
        for dtype in DTYPES if number % 2 else reversed(DTYPES):
            piece = _piece(chosen, start, start + arguments.piece)
            answered = evaluate_alone(models[dtype], piece, ignore_steps)
            outcomes[dtype] += answered.outcomes
            seconds[dtype] += answered.seconds
            took[dtype] = answered.seconds
        ratios.append(took["bfloat16"] / took["float32"])
    _report(arguments.model, outcomes, seconds, sorted(ratios))


def _report(model, outcomes, seconds, ratios) -> None:
    print(f"{model}, {len(outcomes['float32'])} passages")
    for dtype in DTYPES:
        word = [outcome.last_word_right for outcome in outcomes[dtype]]
        token = [outcome.last_token_right for outcome in outcomes[dtype]]
        low, high = wilson_interval(sum(word), len(word))
        print(
            f"{dtype:9} last word {sum(word)} of {len(word)}, {100 * sum(word) / len(word):.1f} % "
            f"({low:.1%} to {high:.1%}); last token {sum(token)}; {seconds[dtype]:.1f} s"
        )
    for name in ("last_word_right", "last_token_right"):
        single, half = ([getattr(o, name) for o in outcomes[dtype]] for dtype in DTYPES)
        pairs = compare_verdicts(single, half)
        agree = pairs.both_right + pairs.both_wrong
        print(
            f"{name[:-6].replace('_', ' '):10} {agree} of {len(single)} verdicts equal; only FP32 right: "
            f"{pairs.broke}, only BF16 right: {pairs.fixed}, p {pairs.p_value:.2g}"
        )
    same = sum(a.answer == b.answer for a, b in zip(*outcomes.values(), strict=True))
    furthest = max(abs(a.log_likelihood - b.log_likelihood) for a, b in zip(*outcomes.values(), strict=True))
    print(f"answers    {same} equal; log-likelihoods within {furthest:.2f}")
    whole = seconds["bfloat16"] / seconds["float32"]
    print(f"time       BF16 takes {whole:.2f} times as long as FP32 (pieces: {ratios[0]:.2f} to {ratios[-1]:.2f})")


def _piece(chosen, start, stop):
    part = slice(start, stop)
    return replace(chosen, indices=chosen.indices[part], contexts=chosen.contexts[part], targets=chosen.targets[part])


def _arguments() -> argparse.Namespace:
    parser = answers_parser(__doc__)
    parser.add_argument("--piece", type=int, default=50, help="passages that one model answers before the other's turn")
    return parser.parse_args()


if __name__ == "__main__":
    main()
