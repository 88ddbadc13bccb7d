"""How fast the engine is, in one table: every line a ratio to what bounds it, or to a peer, measured in the same run.

    python -m benchmarks.speed --evaluation file:PASSAGES.jsonl --passages 200
    make bench MODEL=builtin:smollm2-135m

For each type of number: the rate of a large matrix product; a bare forward of the blocks over the passages' batches;
the evaluator; lm-evaluation-harness on the same passages, where lm_eval is installed, with the verdicts compared one by
one; text that the model writes itself, with --neighbour also while another process takes a core; and calibration on
that text against a bare forward over it. The matrix rate is measured again every few seconds, since a shared machine
drifts: shares and ratios are of what it could have done meanwhile. As work counts what the weights of the blocks do, in
own text those of the head too; attention's own products do not. Where the engine multiplies bfloat16 numbers in single
precision, because that is faster here, so does the product that gives the rate; the harness multiplies as torch does.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import torch

from benchmarks.arguments import answers_parser
from benchmarks.machine import SIDE, Pace
from sparsedash.engine.calibration import statistics
from sparsedash.engine.evaluation import evaluate as evaluation
from sparsedash.engine.evaluation import questions
from sparsedash.engine.models.decoder_blocks import batches_by_length
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.engine.models.matmul import are_widened, fastest_products, widen_once
from sparsedash.engine.texts.corpora import read_texts, story_openings
from sparsedash.engine.texts.generation import generate_texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings
from sparsedash.storage.store import Store

PIECE_S = 2.0


def main() -> None:
    arguments = _arguments()
    source = locate_model(arguments.model, Store(arguments.data_dir))
    settings = EvaluationSettings(n_passages=arguments.passages)
    chosen = questions.choose_passages(read_texts(arguments.evaluation), settings)
    print(
        f"{arguments.model}, {len(chosen.indices)} passages, own text of {arguments.samples} x {arguments.length} "
        f"tokens; {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    for dtype in arguments.dtypes.split(","):
        _lines(load_model(source, dtype), chosen, arguments)


def _lines(loaded, chosen, arguments) -> None:
    """Print the lines of one type of number."""
    n_weights, of_blocks = loaded.shape.n_matmul, 2 * loaded.shape.n_block_weights

    def started():
        return Pace(torch.float32 if are_widened(loaded.dtype) else loaded.model.dtype, arguments.side)

    def line(name, pace, n_tokens, ratio):
        print(f"{loaded.dtype:9} {name:22} {n_tokens / pace.seconds:9.1f} tokens/s  {ratio}", flush=True)

    def share(name, pace, n_tokens, flops_a_token):
        line(name, pace, n_tokens, f"{pace.share(n_tokens * flops_a_token):6.1%} of the matrix rate")

    with _multiplying(loaded):
        evaluation.evaluate_alone(loaded, _first(chosen, 8), ignore_steps)
        forward, n_read = _forward(loaded, _reads(loaded, chosen), evaluation.BATCH_TOKENS, started())
    print(f"{loaded.dtype:9} {'matrix rate':22} {forward.rate / 1e9:9.1f} GFLOP/s")
    share("bare forward", forward, n_read, of_blocks)

    ours = started()
    with _multiplying(loaded):
        evaluated = evaluation.evaluate_alone(loaded, chosen, lambda _: ours.piece(PIECE_S))
    ours.piece()
    share("evaluation", ours, evaluated.n_tokens, of_blocks)
    harness, answers = _harness_answers(loaded, chosen, started)
    if answers is None:
        print(f"{loaded.dtype:9} lm-evaluation-harness  not installed (pip install lm_eval)")
    else:
        beside = f"{harness.times(ours):6.2f} times the evaluation's time; {_agreement(evaluated.outcomes, answers)}"
        line("lm-evaluation-harness", harness, evaluated.n_tokens, beside)

    with _multiplying(loaded):
        writing, texts = _own_texts(loaded, arguments, started())
    n_written = arguments.samples * arguments.length
    share("own text", writing, n_written, 2 * n_weights)
    if arguments.neighbour:
        with _a_core_taken(), _multiplying(loaded):
            beside, _ = _own_texts(loaded, arguments, started())
        line("own text, core taken", beside, n_written, f"{writing.seconds / beside.seconds:6.1%} of the speed before")

    sequences = [loaded.tokenizer(text).input_ids[: arguments.length] for text in texts]
    with _multiplying(loaded):
        bare, n_read = _forward(loaded, sequences, statistics.BATCH_TOKENS, started())
        pace = started()
        watched = [[mlp.out] for mlp in loaded.mlps]
        walk = statistics.statistics_walk(
            loaded, lambda: sequences, watched, lambda *_: None, lambda _: pace.piece(PIECE_S), token_weights="equal"
        )
        walk.reach(len(loaded.blocks) - 1)
    pace.piece()
    line("calibration", pace, n_read, f"{pace.times(bare):6.2f} times a bare forward's time")


@contextmanager
def _multiplying(loaded):
    """Inside, products are made as in a run of this model."""
    with fastest_products(loaded.dtype):
        widen_once(loaded.model)
        yield


def _own_texts(loaded, arguments, pace):
    """The pace of writing, and what was written. In one piece: the threads that write go on while they are heard of."""
    asked = CalibrationSettings(n_samples=arguments.samples, length=arguments.length)
    texts = generate_texts(loaded, story_openings(), asked, ignore_steps)
    pace.piece()
    return pace, texts


@contextmanager
def _a_core_taken():
    """Inside, another process never rests."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()


def _forward(loaded, sequences, n_tokens, pace):
    """The model's body alone, over these sequences in batches of so many tokens: no head, no answers, no verdicts.

    Its pace, and how many tokens it read.
    """
    with torch.inference_mode():
        for _, batch in batches_by_length(sequences, n_tokens, 0, loaded.model.device):
            loaded.model.base_model(input_ids=batch.ids, use_cache=False)
            pace.piece(PIECE_S)
    pace.piece()
    return pace, sum(map(len, sequences))


def _harness_answers(loaded, chosen, started):
    """The pace of lm-evaluation-harness, and its log-likelihood and greediness of each last word; None where it is not
    installed.
    """
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None, None
    harness = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=16)
    pairs = zip(chosen.contexts, chosen.targets, strict=True)
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    pace = started()
    answers = harness.loglikelihood(requests, disable_tqdm=True)
    pace.piece()
    return pace, answers


def _agreement(outcomes, answers) -> str:
    same = sum(o.last_word_right == greedy for o, (_, greedy) in zip(outcomes, answers, strict=True))
    furthest = max(abs(o.log_likelihood - likelihood) for o, (likelihood, _) in zip(outcomes, answers, strict=True))
    return f"{same} of {len(outcomes)} verdicts equal, log-likelihoods within {furthest:.2g}"


def _reads(loaded, chosen):
    """What the evaluator lets the model read of each passage."""
    asked = questions.questions_of(loaded, list(zip(chosen.contexts, chosen.targets, strict=True)))
    return [question["ids"][:-1] for question in asked]


def _first(chosen, n):
    return replace(chosen, indices=chosen.indices[:n], contexts=chosen.contexts[:n], targets=chosen.targets[:n])


def _arguments():
    parser = answers_parser(__doc__)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--samples", type=int, default=64, help="of the model's own text")
    parser.add_argument("--length", type=int, default=256, help="tokens of each")
    parser.add_argument(
        "--neighbour", action="store_true", help="own text once more, beside a process that never rests"
    )
    parser.add_argument("--side", type=int, default=SIDE, help="of the square matrices whose product gives the rate")
    return parser.parse_args()


if __name__ == "__main__":
    main()
