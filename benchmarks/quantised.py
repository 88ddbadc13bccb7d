"""Quantised files of a model: answers by our evaluator, with the weights read back, beside llama.cpp's own logits.

    python -m benchmarks.quantised --passages 60 --types q8_0,q4_k_m

The weights are the same numbers; llama.cpp rounds what it multiplies them with to 8 bits, and ours are in FP32. Of each
type: verdicts that are equal, and KL(ours || llama.cpp) at the tokens of the last words; beside it what quantising
costs, KL(dense || ours).
"""

import argparse
import tempfile
from pathlib import Path
from typing import get_args

import torch

from benchmarks.arguments import answers_parser
from sparsedash.catalog.families import quantise_problem
from sparsedash.engine.evaluation.questions import choose_passages, questions_of
from sparsedash.engine.export.reloaded import LlamaCppModel
from sparsedash.engine.models.gguf_quantising import read_back, write_quantised
from sparsedash.engine.models.loading import gguf_file, load_model, locate_model
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.schema.method_settings import Quantisation
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.storage.store import Store


def main() -> None:
    arguments = _arguments()
    if problem := quantise_problem(arguments.model):
        raise SystemExit(problem)
    loaded = load_model(locate_model(arguments.model, Store(arguments.data_dir)), "float32")
    chosen = choose_passages(read_texts(arguments.evaluation), EvaluationSettings(n_passages=arguments.passages))
    questions = questions_of(loaded, list(zip(chosen.contexts, chosen.targets, strict=True)))
    made, dense_file = PrunedChannels.whole(loaded), gguf_file(arguments.model)
    dense = _ours(loaded, questions)
    longest = max(len(question["ids"]) for question in questions)
    for kind in arguments.types.split(","):
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "quantised.gguf"
            written = write_quantised(file, dense_file, made, kind, is_base=True, require_room=lambda n_bytes: None)
            found = read_back(file, dense_file, made, kind)
            with made.holding(found.blocks, found.others).applied():
                ours = _ours(loaded, questions)
            llama = LlamaCppModel(str(file), longest, torch.get_num_threads())
            theirs = [_at_targets(torch.from_numpy(llama.logits(q["ids"][:-1], len(q["ids"]))), q) for q in questions]
        pairs = list(zip(ours, theirs, questions, strict=True))
        equal = sum(_is_right(own, q) == _is_right(other, q) for own, other, q in pairs)
        print(
            f"{kind:7} {equal} of {len(questions)} verdicts equal, {100 * equal / len(questions):.1f} %; "
            f"KL(ours || llama.cpp) {_divergence(ours, theirs):.5f}, KL(dense || ours) {_divergence(dense, ours):.5f}, "
            f"n = {sum(map(len, ours))} tokens; {written.size / 1e6:.1f} MB; {found.tensors}"
        )


@torch.inference_mode()
def _ours(loaded, questions) -> list[torch.Tensor]:
    return [
        _at_targets(loaded.model(input_ids=torch.tensor([q["ids"][:-1]]), use_cache=False).logits[0], q)
        for q in questions
    ]


def _at_targets(logits, question) -> torch.Tensor:
    return logits[-question["n_target"] :].float().log_softmax(dim=-1)


def _is_right(scores, question) -> bool:
    return scores.argmax(dim=-1).tolist() == question["ids"][-question["n_target"] :]


def _divergence(left, right) -> float:
    found = [(one.exp() * (one - other)).sum(dim=-1) for one, other in zip(left, right, strict=True)]
    return float(torch.cat(found).mean())


def _arguments() -> argparse.Namespace:
    parser = answers_parser(__doc__)
    parser.add_argument("--types", default=",".join(get_args(Quantisation)))
    return parser.parse_args()


if __name__ == "__main__":
    main()
