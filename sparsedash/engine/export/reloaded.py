"""Answers of exported files by stock code: a program of its own, and functions.

    python -I reloaded.py FOLDER_OR_FILE QUESTIONS ANSWERS

A folder is loaded by transformers, a GGUF file by llama.cpp. No network, no remote code, nothing of
SparseDash. Writes ANSWERS, a JSON file, and the logits to ANSWERS.safetensors; on the way a byte
for each answer to ANSWERS.count.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

N_LOGITS = 16
N_ROWS = 4
"""Passages whose logits are compared, and of each those of its last tokens."""

_MAX_THREADS = 8

OnAnswer = Callable[[int], object]
"""Called after each question with the number of those that are answered; may raise."""


@torch.inference_mode()
def answer_questions(
    model: Any,
    questions: Sequence[dict[str, Any]],
    on_answer: OnAnswer = lambda n: None,
) -> tuple[list[bool], list[Tensor]]:
    """Whether each target was the model's first choice, and logits of the first N_LOGITS.

    Logits: (rows, vocabulary) of each question.

    Computed in float32, whatever type the weights have. questions: `ids`, of context and target;
    `n_target`, number of the target's.
    """

    def logits_of(ids: list[int], n_rows: int) -> Tensor:
        inputs = torch.tensor([ids], device=model.device)
        rows: Tensor = model(
            input_ids=inputs, use_cache=False, logits_to_keep=n_rows
        ).logits[0]
        return rows.cpu()

    with _in_float32(model):
        return _answers(logits_of, questions, on_answer)


def _answers(
    logits_of: Callable[[list[int], int], Tensor],
    questions: Sequence[dict[str, Any]],
    on_answer: OnAnswer,
) -> tuple[list[bool], list[Tensor]]:
    """logits_of: of the last so many tokens; of all, a long text may have gigabytes."""
    right = list[bool]()
    logits = list[Tensor]()
    for question in questions:
        ids = question["ids"][:-1]
        target = question["ids"][-question["n_target"] :]
        rows = logits_of(ids, max(N_ROWS, len(target)))
        right.append(rows[-len(target) :].argmax(dim=-1).tolist() == target)
        if len(logits) < N_LOGITS:
            logits.append(rows[-N_ROWS:].contiguous())
        on_answer(len(right))
    return right, logits


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Weights of a narrower type are widened while their module runs, one module at a time.

    A widened copy of the whole model might not fit into memory, and offloaded weights stay in their
    files.
    """
    before: dict[nn.Module, tuple[dict[str, Any], dict[str, Any]]] = {}

    def widen(module: Any, _: Any) -> None:
        before[module] = module._parameters, module._buffers
        module._parameters, module._buffers = map(_widened, before[module])
        if hasattr(module, "scalar_embed_scale"):
            # Gemma's factor is not in the files: its code computes it, and rounds it to the type it
            # is loaded in.
            module._buffers["embed_scale"] = torch.tensor(
                module.scalar_embed_scale, device=module.weight.device
            )

    def restore(module: nn.Module, *_: Any) -> None:
        module._parameters, module._buffers = before.pop(module)

    with ExitStack() as hooks:
        for module in model.modules():
            if any(map(_is_narrow, module.parameters(recurse=False))) or hasattr(
                module, "scalar_embed_scale"
            ):
                hooks.callback(module.register_forward_pre_hook(widen).remove)
                hooks.callback(
                    module.register_forward_hook(restore, always_call=True).remove
                )
        yield


def _widened(tensors: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tensor.float() if _is_narrow(tensor) else tensor
        for name, tensor in tensors.items()
    }


def _is_narrow(tensor: Tensor | None) -> bool:
    return (
        tensor is not None
        and tensor.is_floating_point()
        and tensor.dtype != torch.float32
    )


class LlamaCppModel:
    """A file loaded by llama.cpp, with a float32 KV cache and attention that is not fused."""

    def __init__(self, file: str, longest: int, n_threads: int) -> None:
        from llama_cpp_py_sync import Llama

        n = max(64, longest)
        n_threads = max(1, min(n_threads, _MAX_THREADS))
        self.llama = Llama(
            file, n, n, n_threads, flash_attn_type=0, type_k="f32", type_v="f32"
        )

    def logits(
        self, ids: list[int], n_rows: int
    ) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """(n_rows, vocabulary): logits at the last tokens, at all where they are fewer."""
        ffi = self.llama._ffi
        lib = self.llama._lib
        context = self.llama._ctx
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch = lib.llama_batch_init(len(ids), 0, 1)
        first = max(0, len(ids) - n_rows)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i] = token
                batch.pos[i] = i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = i >= first
            if lib.llama_decode(context, batch) != 0:
                raise SystemExit("llama.cpp could not run the model")
            rows = [
                lib.llama_get_logits_ith(context, i) for i in range(first, len(ids))
            ]
            return np.stack(
                [
                    np.frombuffer(
                        ffi.buffer(row, 4 * self.llama.n_vocab), dtype=np.float32
                    )
                    for row in rows
                ]
            )
        finally:
            lib.llama_batch_free(batch)


def _by_llama_cpp(
    file: str, request: dict[str, Any], on_answer: OnAnswer
) -> tuple[dict[str, Any], list[Tensor]]:
    from llama_cpp_py_sync import __llama_cpp_tag__

    questions = request["questions"]
    model = LlamaCppModel(
        file, max(len(q["ids"]) for q in questions), request["n_threads"]
    )
    same = all(
        model.llama.tokenize(q["text"], q["special"], True) == q["tokens"]
        for q in questions
    )
    right, logits = _answers(
        lambda *request: torch.from_numpy(model.logits(*request)), questions, on_answer
    )
    return {
        "holes": [],
        "same_tokens": same,
        "right": right,
        "version": __llama_cpp_tag__,
    }, logits


def _by_transformers(
    folder: str, request: dict[str, Any], on_answer: OnAnswer
) -> tuple[dict[str, Any], list[Tensor]]:
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config = type(AutoConfig.from_pretrained(folder, **local))
    kind: Any = AutoModelForCausalLM
    # The class for text alone would leave out the tower of a model of text and images.
    of_images = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(config, None)
    if of_images not in (None, MODEL_FOR_CAUSAL_LM_MAPPING.get(config, None)):
        kind = AutoModelForImageTextToText
    model, loading = kind.from_pretrained(
        folder, dtype="auto", use_safetensors=True, output_loading_info=True, **local
    )
    if experts := request.get("experts"):
        model.set_experts_implementation(experts)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    mismatched = (name for name, *_ in loading["mismatched_keys"])
    holes = sorted({*loading["missing_keys"], *loading["unexpected_keys"], *mismatched})
    tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    same = all(
        tokenizer(q["text"], add_special_tokens=q["special"]).input_ids == q["tokens"]
        for q in request["questions"]
    )
    right, logits = answer_questions(model, request["questions"], on_answer)
    return {
        "holes": holes,
        "same_tokens": same,
        "right": right,
        "version": version("transformers"),
    }, logits


def load_and_answer(
    what: str, request: dict[str, Any], on_answer: OnAnswer = lambda n: None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Answers of a folder's or a file's model, and its logits.

    request: `questions_of`'s, `n_threads`, and how experts are computed, "" for as usual.
    """
    answers, logits = (_by_llama_cpp if Path(what).is_file() else _by_transformers)(
        what, request, on_answer
    )
    ours = sorted(
        name for name in sys.modules if name.partition(".")[0] == "sparsedash"
    )
    return answers | {"ours": ours}, {str(i): rows for i, rows in enumerate(logits)}


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError(f"{event} is refused: a proof needs no network")


if __name__ == "__main__":
    sys.addaudithook(_refuse_network)
    count = Path(f"{sys.argv[3]}.count")
    answers_found, logits_found = load_and_answer(
        sys.argv[1],
        json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")),
        lambda n: count.write_bytes(bytes(n)),
    )
    save_file(logits_found, f"{sys.argv[3]}.safetensors")
    Path(sys.argv[3]).write_text(json.dumps(answers_found), encoding="utf-8")
