"""Answers of a GGUF file by llama.cpp: a program of its own.

    python -I reloaded_gguf.py FILE QUESTIONS ANSWERS

Nothing of SparseDash. The KV cache is float32 and attention is not fused: differences are those of the file.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp_py_sync import __llama_cpp_tag__
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib
from safetensors.numpy import save_file

N_ROWS = 4
_MOST_THREADS = 8


class LlamaCppModel:
    """A file loaded by llama.cpp. Raises SystemExit where it cannot be loaded."""

    def __init__(self, file: str, longest: int, n_threads: int) -> None:
        self._ffi, self._lib = get_ffi(), get_lib()
        self._lib.llama_backend_init()
        self._model = self._lib.llama_model_load_from_file(file.encode(), self._cpu_only())
        if self._model == self._ffi.NULL:
            raise SystemExit(f"llama.cpp refuses to load {Path(file).name}")
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)
        self._n_words = self._lib.llama_vocab_n_tokens(self._vocabulary)
        self._context = self._lib.llama_init_from_model(self._model, self._exact(longest, n_threads))
        if self._context == self._ffi.NULL:
            raise SystemExit(f"llama.cpp makes no context for {Path(file).name}")

    def tokens(self, text: str, special: bool) -> list[int]:
        """The text as this file's own tokenizer reads it."""
        data = text.encode()
        room = len(data) + 8
        found = self._ffi.new("llama_token[]", room)
        n = self._lib.llama_tokenize(self._vocabulary, data, len(data), found, room, special, True)
        return [int(found[i]) for i in range(n)]

    def logits(self, ids: list[int]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """(len(ids), vocabulary): what follows each token."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        batch = self._lib.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
                batch.seq_id[i][0], batch.logits[i] = 0, 1
            if self._lib.llama_decode(self._context, batch) != 0:
                raise SystemExit("llama.cpp could not run the model")
            rows = [self._lib.llama_get_logits_ith(self._context, i) for i in range(len(ids))]
            n_bytes = 4 * self._n_words
            data = [np.frombuffer(self._ffi.buffer(row, n_bytes), dtype=np.float32).copy() for row in rows]
        finally:
            self._lib.llama_batch_free(batch)
        return np.stack(data)

    def _cpu_only(self) -> Any:
        parameters = self._lib.llama_model_default_params()
        parameters.n_gpu_layers = 0
        return parameters

    def _exact(self, longest: int, n_threads: int) -> Any:
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = max(64, longest)
        parameters.n_threads = parameters.n_threads_batch = max(1, min(n_threads, _MOST_THREADS))
        parameters.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.type_k = parameters.type_v = self._lib.GGML_TYPE_F32
        return parameters


def main(file: str, questions_file: str, answers_file: str) -> None:
    """Load, answer, and write the answers."""
    asked = json.loads(Path(questions_file).read_text(encoding="utf-8"))
    questions = asked["questions"]
    model = LlamaCppModel(file, max(len(q["ids"]) for q in questions), asked["n_threads"])
    right, kept, same = [], {}, True
    for number, question in enumerate(questions):
        ids, n_target, tokens = question["ids"], question["n_target"], question["tokens"]
        same = same and model.tokens(question["text"], question["special"])[-len(tokens) :] == tokens
        rows = model.logits(ids[:-1])
        right.append(bool((rows[-n_target:].argmax(axis=-1) == np.array(ids[-n_target:])).all()))
        if number < asked["n_logits"]:
            kept[str(number)] = rows[-N_ROWS:].copy()
    save_file(kept, f"{answers_file}.safetensors")
    answers = {"right": right, "same_tokens": same, "holes": [], "version": __llama_cpp_tag__}
    answers["ours"] = sorted(name for name in sys.modules if name.partition(".")[0] == "sparsedash")
    Path(answers_file).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
