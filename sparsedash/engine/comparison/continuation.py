"""Continuations of one prompt by several models, token by token in turn, shown while they are written."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsedash.engine.comparison.model_pair import ModelPairCache, RecordModel
from sparsedash.schema.errors import Cancelled
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.progress import OnStep, OnText, Step, ignore_steps, ignore_text
from sparsedash.storage.store import Store

CHUNK_TOKENS = 512
"""Tokens of a prompt that are read between two steps, where the job may be stopped."""


def continue_prompt(
    settings: ContinuationSettings,
    store: Store,
    pair_cache: ModelPairCache,
    on_step: OnStep = ignore_steps,
    on_text: OnText = ignore_text,
) -> Continuation:
    """Continuations of a prompt by the models of records, stored under the settings' key.

    A stopped job keeps its texts, marked as stopped; they are written anew on the next request. Raises JobError when a
    record is gone or its model has changed, and errors of rebuilding the model.
    """
    known = store.get(Continuation, settings.key())
    if known is not None and not known.stopped:
        return known
    keys = (settings.left, settings.right, *settings.others)
    texts = [""] * len(keys)

    def keep(stopped: bool) -> Continuation:
        left, right, *others = texts
        key, prompt = settings.key(), settings.prompt
        found = Continuation(key=key, prompt=prompt, left=left, right=right, stopped=stopped, others=tuple(others))
        store.put(key, found)
        return found

    # The two and those in memory write in turn, then one other model after another: so the first words do not wait for
    # the last model, and a sparse model that is done makes room for the next.
    others = range(2, len(keys))
    ready = [i for i in others if pair_cache.holds(keys[i])]
    try:
        for group in [[0, 1, *ready], *([i] for i in others if i not in ready)]:
            with pair_cache.models([keys[i] for i in group], store, on_step) as models:
                writers = {i: ContinuationWriter(model, settings) for i, model in zip(group, models, strict=True)}
                _write(writers, texts, settings.n_tokens, on_step, on_text)
    except Cancelled:
        if any(texts):
            keep(stopped=True)
        raise
    return keep(stopped=False)


class ContinuationWriter:
    """One model that reads a prompt and writes on, token by token. finished: it has ended its text."""

    def __init__(self, record_model: RecordModel, settings: ContinuationSettings) -> None:
        self._record_model, self._settings = record_model, settings
        self._cache: object | None = None
        self._logits: Tensor | None = None
        self._written: list[int] = []
        # The same draws for all models: equal distributions give equal tokens.
        self._luck = torch.Generator().manual_seed(settings.seed)
        self.finished = False

    @property
    def text(self) -> str:
        """The text so far, without half a character at its end."""
        tokenizer = self._record_model.loaded.tokenizer
        return str(tokenizer.decode(self._written, skip_special_tokens=True)).rstrip("\ufffd")

    @torch.inference_mode()
    def read(self, on_step: OnStep) -> None:
        """Read the prompt, or its end where it is longer than the model's context."""
        loaded = self._record_model.loaded
        front, own = loaded.front_and_own(self._settings.prompt)
        ids = front + own[-max(1, loaded.max_length - self._settings.n_tokens - len(front)) :]
        for start in range(0, len(ids), CHUNK_TOKENS):
            on_step(Step("read", start, len(ids), unit="tokens"))
            self._step(ids[start : start + CHUNK_TOKENS])

    @torch.inference_mode()
    def write(self) -> None:
        """Write one token more; nothing after the end."""
        if self.finished:
            return
        if self._written:
            self._step(self._written[-1:])
        token = self._next_token()
        self.finished = token in self._record_model.loaded.ends
        if not self.finished:
            self._written.append(token)

    def _step(self, ids: Sequence[int]) -> None:
        with self._record_model.active() as loaded:
            given = torch.tensor([ids], device=loaded.model.device)
            output = loaded.model(input_ids=given, cache=self._cache, use_cache=True, logits_to_keep=1)
        self._cache, self._logits = output.cache, output.logits[0, -1]

    def _next_token(self) -> int:
        assert self._logits is not None, "the prompt was read"
        logits = self._logits.float().cpu()
        if self._settings.temperature_percent == 0:
            return int(logits.argmax())
        # The largest of logits with Gumbel noise is a draw from their distribution.
        noise = -torch.rand(logits.shape, generator=self._luck).clamp_(1e-20, 1 - 1e-7).log().neg().log()
        return int((logits / (self._settings.temperature_percent / 100) + noise).argmax())


def _write(
    writers: Mapping[int, ContinuationWriter], texts: list[str], n_tokens: int, on_step: OnStep, on_text: OnText
) -> None:
    """Write token by token in turn; each text is put into `texts` at its place."""
    first, last, n = min(writers) + 1, max(writers) + 1, len(writers)
    message = f"model {first} of {len(texts)}" if first == last else f"{n} of {len(texts)} models"
    for writer in writers.values():
        writer.read(on_step)
    for number in range(n_tokens):
        for place, writer in writers.items():
            writer.write()
            texts[place] = writer.text
        on_text(*texts)
        step = Step("continue", number + 1, n_tokens, unit="tokens", message="" if n == len(texts) else message)
        on_step(step)
        if all(writer.finished for writer in writers.values()):
            return
