"""Times two GGUF files in llama.cpp: a program of its own, with nothing of SparseDash.

    python -I llama_timer.py DENSE SPARSE THREADS LONGEST MOST

LONGEST: tokens of a sequence at the most. MOST: sequences at once. Each line of standard input asks
for one sample, "FILE PHASE BATCH PROMPT TOKENS" with FILE 0 or 1 and PHASE prefill or decode; the
seconds that it took are printed.
"""

import sys
import time
from itertools import product
from typing import Any

_PHYSICAL = 512
"""Tokens that llama.cpp computes together, as its own programs do."""


class TimedFile:
    """A file loaded by llama.cpp. Random tokens: the time does not depend on them."""

    def __init__(self, file: str, n_threads: int, longest: int, most: int) -> None:
        from llama_cpp_py_sync import Llama

        n = longest * most
        self._llama = Llama(
            file,
            n,
            n,
            n_threads,
            n_ubatch=_PHYSICAL,
            n_threads_batch=n_threads,
            n_seq_max=most,
        )
        self._read: tuple[int, int] = (0, 0)

    def prefill(self, batch: int, n_prompt: int, _: int = 0) -> float:
        """Seconds of reading a batch of prompts, with logits of the last token of each."""
        lib = self._llama._lib
        context = self._llama._ctx
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        self._read = batch, n_prompt
        return self._seconds(
            [
                [
                    (place, sequence)
                    for sequence, place in product(range(batch), range(n_prompt))
                ]
            ],
            n_prompt,
        )

    def decode(self, batch: int, n_prompt: int, n_tokens: int) -> float:
        """Seconds of writing so many tokens after the prompts, one of each sequence at a time."""
        if self._read != (batch, n_prompt):
            self.prefill(batch, n_prompt)
        lib = self._llama._lib
        memory = self._llama._lib.llama_get_memory(self._llama._ctx)
        for sequence in range(batch):
            # What an earlier sample has written.
            lib.llama_memory_seq_rm(memory, sequence, n_prompt, -1)
        steps = [list(product([n_prompt + n], range(batch))) for n in range(n_tokens)]
        return self._seconds(steps, 1)

    def _seconds(self, steps: list[list[tuple[int, int]]], every: int) -> float:
        """Seconds of computing these places of sequences step by step. every: tokens per logits."""
        lib = self._llama._lib
        context = self._llama._ctx
        batches = [self._batch(places, every) for places in steps]
        try:
            started = time.perf_counter()
            for batch in batches:
                if lib.llama_decode(context, batch) != 0:
                    raise SystemExit("llama.cpp could not run the model")
            lib.llama_synchronize(context)
            return time.perf_counter() - started
        finally:
            for batch in batches:
                lib.llama_batch_free(batch)

    def _batch(self, places: list[tuple[int, int]], every: int) -> Any:
        batch = self._llama._lib.llama_batch_init(len(places), 0, 1)
        batch.n_tokens = len(places)
        for i, (place, sequence) in enumerate(places):
            batch.token[i] = (7919 * i + place) % self._llama.n_vocab
            batch.pos[i] = place
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = (i + 1) % every == 0
        return batch


if __name__ == "__main__":
    both = [TimedFile(file, *map(int, sys.argv[3:])) for file in sys.argv[1:3]]
    for line in sys.stdin:
        which, phase, *sizes = line.split()
        sys.stdout.write(f"{getattr(both[int(which)], phase)(*map(int, sizes))}\n")
        sys.stdout.flush()
