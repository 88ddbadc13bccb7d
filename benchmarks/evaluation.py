"""Evaluation: tokens per second, and their share of what the machine's matrix multiplication allows.

    python -m benchmarks.evaluation --evaluation file:PASSAGES.jsonl --passages 200

Prints, from one run: the matmul rate, a plain forward over the same batches, the evaluator, and, where lm_eval is
installed, lm-evaluation-harness on the same passages with the verdicts compared one by one. The matmul rate is measured
between the batches, since a shared machine drifts. Only the weights of the blocks count as work: neither attention's
own products nor the output head are in the share.
"""

import argparse
import time

import torch

from benchmarks.arguments import answers_parser
from benchmarks.machine import SIDE, Pace
from sparsedash.engine.evaluation.evaluate import BATCH_TOKENS, choose_passages, evaluate
from sparsedash.engine.models.block_walk import batches_by_length
from sparsedash.engine.models.loading import load, locate
from sparsedash.engine.models.weight_counts import n_matmul_weights
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.storage.store import Store


def main() -> None:
    arguments = _arguments()
    store = Store(arguments.data_dir)
    loaded = load(locate(arguments.model, store), arguments.dtype)
    dtype = loaded.model.dtype
    texts = read_texts(arguments.evaluation)
    chosen = choose_passages(texts, EvaluationSettings(corpus="x", n_passages=arguments.passages))
    evaluate(loaded, _first(chosen, 8), ignore_steps)

    head = loaded.model.get_output_embeddings().weight.numel()
    flops_per_token = 2 * (n_matmul_weights(loaded.model) - head)
    forward, n_read = _plain_forward(loaded, chosen, Pace(dtype, arguments.side))
    pace = Pace(dtype, arguments.side)
    evaluated = evaluate(loaded, chosen, lambda step: pace.piece() if step.done else None)
    n_tokens = evaluated.n_tokens
    print(f"{arguments.model}, {arguments.dtype}, {len(chosen.indices)} passages, {n_tokens:,} tokens")
    print(f"matmul rate            {pace.rate / 1e9:8.1f} GFLOP/s")
    for name, one, n in (("forward of the blocks", forward, n_read), ("evaluator", pace, n_tokens)):
        share = one.share(n * flops_per_token)
        print(f"{name:22} {n / one.seconds:8.1f} tokens/s  {share:6.1%} of the matmul rate")
    right = sum(outcome.last_word_right for outcome in evaluated.outcomes)
    print(f"last word              {right} of {len(evaluated.outcomes)}")
    _beside_the_harness(loaded, chosen, evaluated, pace.seconds)


def _plain_forward(loaded, chosen, pace) -> tuple[Pace, int]:
    """The model's body alone over the same batches: no head, no answers, no verdicts. Its pace and its tokens."""
    whole = [c + t for c, t in zip(chosen.contexts, chosen.targets, strict=True)]
    reads = [loaded.tokenizer(text).input_ids[:-1] for text in whole]
    pace.begin()
    with torch.inference_mode():
        for _, batch in batches_by_length(reads, BATCH_TOKENS, 0, loaded.model.device):
            loaded.model.base_model(input_ids=batch.ids, use_cache=False)
            pace.piece()
    return pace, sum(map(len, reads))


def _beside_the_harness(loaded, chosen, evaluated, our_seconds) -> None:
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        print("lm-evaluation-harness  not installed (pip install lm_eval)")
        return
    harness = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=16)
    requests = [
        Instance("loglikelihood", {}, (context, target), i)
        for i, (context, target) in enumerate(zip(chosen.contexts, chosen.targets, strict=True))
    ]
    started = time.perf_counter()
    answers = harness.loglikelihood(requests, disable_tqdm=True)
    seconds = time.perf_counter() - started
    ours = evaluated.outcomes
    same = sum(o.last_word_right == greedy for o, (_, greedy) in zip(ours, answers, strict=True))
    furthest = max(abs(o.log_likelihood - ll) for o, (ll, _) in zip(ours, answers, strict=True))
    print(
        f"lm-evaluation-harness  {evaluated.n_tokens / seconds:8.1f} tokens/s  {seconds / our_seconds:.2f} times "
        f"our wall time"
    )
    print(f"verdicts               {same} of {len(ours)} equal, log-likelihoods within {furthest:.2g}")


def _first(chosen, n):
    from dataclasses import replace

    return replace(chosen, indices=chosen.indices[:n], contexts=chosen.contexts[:n], targets=chosen.targets[:n])


def _arguments() -> argparse.Namespace:
    parser = answers_parser(__doc__)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--side", type=int, default=SIDE, help="of the square matrices whose product gives the rate")
    return parser.parse_args()


if __name__ == "__main__":
    main()
