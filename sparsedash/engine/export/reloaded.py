"""Answers of an exported folder by stock transformers: a program of its own, and a function.

    python -I reloaded.py FOLDER QUESTIONS ANSWERS

No network, no remote code, nothing of SparseDash: only the downloaded folder. Writes ANSWERS, a JSON file, and the
logits to ANSWERS.safetensors.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

N_ROWS = 4
"""Logits of a passage that are compared: those of its last tokens."""


@torch.inference_mode()
def answer_questions(model: Any, questions: Sequence[dict[str, Any]], n_logits: int) -> tuple[list[bool], list[Tensor]]:
    """Whether each target was the model's first choice, token by token, and logits (rows, vocabulary) of the first
    n_logits questions.

    Computed in float32, whatever type the weights have. questions: `ids`, of context and target; `n_target`, number of
    the target's.
    """
    right, logits = [], []
    with _in_float32(model):
        for number, question in enumerate(questions):
            ids = torch.tensor([question["ids"]], device=model.device)
            rows = model(input_ids=ids[:, :-1], use_cache=False).logits[0]
            target = ids[0, -question["n_target"] :]
            right.append(bool((rows[-len(target) :].argmax(dim=-1) == target).all()))
            if number < n_logits:
                logits.append(rows[-N_ROWS:].cpu().contiguous())
    return right, logits


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Weights of a narrower type are widened while their module runs, one module at a time.

    A widened copy of the whole model might not fit into memory, and offloaded weights stay in their files.
    """
    before: dict[nn.Module, tuple[dict[str, Any], dict[str, Any]]] = {}

    def widen(module: Any, _: Any) -> None:
        before[module] = module._parameters, module._buffers
        module._parameters = {name: _widened(own) for name, own in module._parameters.items()}
        module._buffers = {name: _widened(own) for name, own in module._buffers.items()}
        if hasattr(module, "scalar_embed_scale"):
            # Gemma's factor is not in the files: its code computes it, and rounds it to the type it is loaded in.
            module._buffers["embed_scale"] = torch.tensor(module.scalar_embed_scale, device=module.weight.device)

    def restore(module: nn.Module, *_: Any) -> None:
        module._parameters, module._buffers = before.pop(module)

    hooks: list[Any] = []
    for module in model.modules():
        if any(map(_is_narrow, module.parameters(recurse=False))) or hasattr(module, "scalar_embed_scale"):
            hooks.append(module.register_forward_pre_hook(widen))
            hooks.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_narrow(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float32


def _widened(tensor: Tensor | None) -> Tensor | None:
    return tensor.float() if tensor is not None and _is_narrow(tensor) else tensor


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError(f"{event} is refused: a proof needs no network")


def load_and_answer(folder: str, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Answers of the folder's model as plain values, and its logits. asked: see `_run_program` of the proof."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", use_safetensors=True, output_loading_info=True, **local
    )
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    mismatched = (name for name, *_ in found["mismatched_keys"])
    answers = {"holes": sorted({*found["missing_keys"], *found["unexpected_keys"], *mismatched}), "same_tokens": True}
    if asked["tokenizer"]:
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        answers["same_tokens"] = all(
            tokenizer(q["text"], add_special_tokens=q["special"]).input_ids == q["tokens"] for q in asked["questions"]
        )
    answers["right"], logits = answer_questions(model, asked["questions"], asked["n_logits"])
    answers["version"] = version("transformers")
    answers["ours"] = sorted(name for name in sys.modules if name.partition(".")[0] == "sparsedash")
    return answers, {str(i): rows for i, rows in enumerate(logits)}


def main(folder: str, questions_file: str, answers_file: str) -> None:
    """Load, answer, and write the answers."""
    sys.addaudithook(_refuse_network)
    answers, logits = load_and_answer(folder, json.loads(Path(questions_file).read_text(encoding="utf-8")))
    save_file(logits, f"{answers_file}.safetensors")
    Path(answers_file).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
