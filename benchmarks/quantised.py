"""Quantised files of a model: answers by our evaluator, with the weights read back, beside
llama.cpp's own logits.

    python -m benchmarks.quantised --passages 60 --types q8_0,q4_k_m

The weights are the same numbers; llama.cpp rounds what it multiplies them with to 8 bits, and ours are in FP32. Of each
type: verdicts that are equal, and KL(ours || llama.cpp) at the tokens of the last words; beside it what quantising
costs, KL(dense || ours).
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import torch

from benchmarks.arguments import answers_parser, chosen_passages
from sparsedash.catalog.export_forms import llama_cpp_problem
from sparsedash.engine.evaluation.divergence import mean_divergence
from sparsedash.engine.evaluation.questions import questions_of
from sparsedash.engine.export.reloaded import LlamaCppModel
from sparsedash.engine.models.gguf_quantising import read_back, write_quantised
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import gguf_file, locate_model
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.schema.sparse_spec import Quantisation
from sparsedash.storage.store import Store


def main() -> None:
    arguments = _arguments()
    if problem := llama_cpp_problem(arguments.model):
        raise SystemExit(problem)
    loaded = load_model(
        locate_model(arguments.model, Store(arguments.data_dir)), "float32"
    )
    passages = chosen_passages(arguments)
    questions = questions_of(
        loaded, list(zip(passages.contexts, passages.targets, strict=True))
    )
    longest = max(len(question["ids"]) for question in questions)
    dense = PrunedChannels.dense(loaded)
    dense_file = gguf_file(arguments.model)

    def our_logits(ids):
        return loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]

    dense_scores = _scores(questions, our_logits)
    for kind in arguments.types.split(","):
        with TemporaryDirectory() as folder:
            file = Path(folder) / "quantised.gguf"
            written = write_quantised(
                file,
                dense_file,
                dense,
                kind,
                is_base=True,
                require_room=lambda n_bytes: None,
            )
            weights = read_back(file, dense_file, dense, kind)
            with dense.with_weights(weights.blocks, weights.others).applied():
                ours = _scores(questions, our_logits)
            llama = LlamaCppModel(str(file), longest, torch.get_num_threads())
            theirs = _scores(questions, _logits_by(llama))
        n_equal = 0
        for our, their, question in zip(ours, theirs, questions, strict=True):
            n_equal += _is_right(our, question) == _is_right(their, question)
        print(
            f"{kind:7} {n_equal} of {len(questions)} verdicts equal, {100 * n_equal / len(questions):.1f} %; "
            f"KL(ours || llama.cpp) {mean_divergence(ours, theirs):.5f}, "
            f"KL(dense || ours) {mean_divergence(dense_scores, ours):.5f}, "
            f"n = {sum(map(len, ours))} tokens; {written.size / 1e6:.1f} MB; {weights.tensors}"
        )


@torch.inference_mode()
def _scores(questions, logits_of):
    """Log-probabilities at the tokens of each last word. logits_of: the logits after each of these
    tokens.
    """
    scores = []
    for question in questions:
        logits = logits_of(question["ids"][:-1])
        scores.append(logits[-question["n_target"] :].float().log_softmax(dim=-1))
    return scores


def _logits_by(llama):
    return lambda ids: torch.from_numpy(llama.logits(ids, len(ids) + 1))


def _is_right(scores, question):
    return scores.argmax(dim=-1).tolist() == question["ids"][-question["n_target"] :]


def _arguments():
    return answers_parser(__doc__, types=",".join(get_args(Quantisation))).parse_args()


if __name__ == "__main__":
    main()
