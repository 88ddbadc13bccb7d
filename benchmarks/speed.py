"""How fast the engine is, in one table: every line a ratio to what bounds it, or to a peer,
measured in the same run.

    python -m benchmarks.speed --evaluation file:PASSAGES.jsonl --passages 200
    make bench MODEL=builtin:smollm2-135m

For each type of number: the rate of a large matrix product; a bare forward of the blocks over the
passages' batches; the evaluator; lm-evaluation-harness on the same passages, with the verdicts
compared one by one; text that the model writes itself, with --neighbour also while another process
takes a core; and calibration on that text against a bare forward over it. The matrix rate is
measured again every few seconds, since a shared machine
drifts: shares and ratios are of what it could have done meanwhile. As work counts what the weights
of the blocks do, in own text those of the head too; attention's own products do not. Where the
engine multiplies bfloat16 numbers in single precision, because that is faster here, so does the
product that gives the rate; the harness multiplies as torch does.
"""

import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from benchmarks.arguments import answers_parser, chosen_passages
from benchmarks.machine import SIDE, Pace, calibrate
from sparsedash.engine.calibration.statistics import BATCH_TOKENS
from sparsedash.engine.evaluation import evaluate
from sparsedash.engine.evaluation.questions import questions_of
from sparsedash.engine.models.decoder_blocks import batches_by_length
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.models.matmul import (
    bf16_matmul_in_fp32,
    keep_fp32_copies,
    uses_fp32_matmul,
)
from sparsedash.engine.texts.corpora import story_openings
from sparsedash.engine.texts.generation import generate_texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import CalibrationSettings
from sparsedash.storage.store import Store

PIECE_S = 2.0


def main() -> None:
    arguments = _arguments()
    source = locate_model(arguments.model, Store(arguments.data_dir))
    passages = chosen_passages(arguments)
    print(
        f"{arguments.model}, {len(passages.indices)} passages, own text of {arguments.samples} x {arguments.length} "
        f"tokens; {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    for dtype in arguments.dtypes.split(","):
        _Table(load_model(source, dtype), arguments).print(passages)


class _Table:
    """The lines of one type of number."""

    def __init__(self, loaded, arguments) -> None:
        self._loaded = loaded
        self._arguments = arguments

    def print(self, passages) -> None:
        """Measure and print, line by line."""
        loaded = self._loaded
        per_token = 2 * loaded.shape.n_block_weights
        pairs = list(zip(passages.contexts, passages.targets, strict=True))
        with self._products():
            # A warm-up.
            evaluate.evaluate_alone(
                loaded, chosen_passages(self._arguments, 8), ignore_steps
            )
            read = [question["ids"][:-1] for question in questions_of(loaded, pairs)]
            forward = self._forward(read, evaluate.BATCH_TOKENS)
        print(f"{loaded.dtype:9} {'matrix rate':22} {forward.rate / 1e9:9.1f} GFLOP/s")
        self._print_share("bare forward", forward, sum(map(len, read)), per_token)

        with self._products():
            evaluation = self._pace()
            result = evaluate.evaluate_alone(
                loaded, passages, lambda _: evaluation.piece(PIECE_S)
            )
            evaluation.piece()
        self._print_share("evaluation", evaluation, result.n_tokens, per_token)

        harness, answers = self._harness_answers(pairs)
        times = f"{harness.times(evaluation):6.2f} times the evaluation's time"
        self._print(
            "lm-evaluation-harness",
            harness,
            result.n_tokens,
            f"{times}; {_agreement(result.outcomes, answers)}",
        )

        n_written = self._arguments.samples * self._arguments.length
        writing, texts = self._own_texts(nullcontext())
        self._print_share("own text", writing, n_written, 2 * loaded.shape.n_matmul)
        if self._arguments.neighbour:
            slowed, _ = self._own_texts(_a_core_taken())
            ratio = f"{writing.seconds / slowed.seconds:6.1%} of the speed before"
            self._print("own text, core taken", slowed, n_written, ratio)

        sequences = [
            loaded.tokenizer(text).input_ids[: self._arguments.length] for text in texts
        ]
        with self._products():
            forward = self._forward(sequences, BATCH_TOKENS)
            calibration = self._pace()
            calibrate(loaded, sequences, on_step=lambda _: calibration.piece(PIECE_S))
            calibration.piece()
        times = f"{calibration.times(forward):6.2f} times a bare forward's time"
        self._print("calibration", calibration, sum(map(len, sequences)), times)

    def _print(self, name, pace, n_tokens, ratio):
        print(
            f"{self._loaded.dtype:9} {name:22} {n_tokens / pace.seconds:9.1f} tokens/s  {ratio}",
            flush=True,
        )

    def _print_share(self, name, pace, n_tokens, flops_per_token):
        self._print(
            name,
            pace,
            n_tokens,
            f"{pace.share(n_tokens * flops_per_token):6.1%} of the matrix rate",
        )

    def _pace(self):
        dtype = (
            torch.float32
            if uses_fp32_matmul(self._loaded.dtype)
            else self._loaded.model.dtype
        )
        return Pace(dtype, self._arguments.side)

    @contextmanager
    def _products(self):
        """Inside, products are computed as in a run of this model."""
        with bf16_matmul_in_fp32(self._loaded.dtype):
            keep_fp32_copies(self._loaded.model)
            yield

    @torch.inference_mode()
    def _forward(self, sequences, n_tokens):
        """The pace of the model's body over these sequences, in batches of so many tokens: no head,
        no answers.
        """
        model = self._loaded.model
        pace = self._pace()
        for _, batch in batches_by_length(sequences, n_tokens, 0, model.device):
            model.base_model(input_ids=batch.ids, use_cache=False)
            pace.piece(PIECE_S)
        pace.piece()
        return pace

    def _harness_answers(self, pairs):
        """The pace of lm-evaluation-harness, and its log-likelihood and greediness of each last
        word.
        """
        harness = HFLM(
            pretrained=self._loaded.model,
            tokenizer=self._loaded.tokenizer,
            batch_size=16,
        )
        requests = [
            Instance("loglikelihood", {}, pair, number)
            for number, pair in enumerate(pairs)
        ]
        pace = self._pace()
        answers = harness.loglikelihood(requests, disable_tqdm=True)
        pace.piece()
        return pace, answers

    def _own_texts(self, neighbour):
        """The pace of generation, measured as a whole, and the texts."""
        settings = CalibrationSettings(
            n_samples=self._arguments.samples, length=self._arguments.length
        )
        with neighbour, self._products():
            pace = self._pace()
            texts = generate_texts(
                self._loaded, story_openings(), settings, ignore_steps
            )
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


def _agreement(outcomes, answers):
    n_equal = 0
    apart = 0.0
    for outcome, (log_likelihood, is_greedy) in zip(outcomes, answers, strict=True):
        n_equal += outcome.last_word_right == is_greedy
        apart = max(apart, abs(outcome.log_likelihood - log_likelihood))
    return f"{n_equal} of {len(outcomes)} verdicts equal, log-likelihoods within {apart:.2g}"


def _arguments():
    parser = answers_parser(
        __doc__,
        dtypes="float32,bfloat16",
        samples=(64, "of the model's own text"),
        length=(256, "tokens of each"),
        neighbour=(False, "own text once more, while a process takes a core"),
        side=(SIDE, "of the square matrices whose product gives the rate"),
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
