"""Models compared on text: continuations of a prompt, and divergence over a text in nats."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from sparsedash.engine.comparison.model_pair import ModelPairCache, RecordModel
from sparsedash.engine.models.decoder_blocks import Batch, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.next_logits import GrowingTexts, OnRead, growing_texts
from sparsedash.schema.errors import Cancelled, JobError
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    DivergenceSettings,
    TokenDivergence,
)
from sparsedash.schema.progress import OnStep, OnText, Step, ignore, ignore_steps
from sparsedash.storage.store import Store


def continue_prompt(
    settings: ContinuationSettings,
    store: Store,
    pair_cache: ModelPairCache,
    on_step: OnStep = ignore_steps,
    on_text: OnText = ignore,
) -> Continuation:
    """Continuations of a prompt by the models of records, stored under the settings' key.

    A stopped job keeps its texts, marked as stopped; they are written anew on the next request.
    Raises JobError when a record is gone or its model has changed, and errors of rebuilding the
    model.
    """
    if (known := store.get(Continuation, settings.key())) and not known.stopped:
        return known
    keys = (settings.left, settings.right, *settings.others)
    texts = [""] * len(keys)
    n_unread = 0

    def keep(stopped: bool) -> Continuation:
        left_text, right_text, *other_texts = texts
        continuation = Continuation(
            key=settings.key(),
            prompt=settings.prompt,
            left=left_text,
            right=right_text,
            others=tuple(other_texts),
            stopped=stopped,
            n_unread=n_unread,
        )
        store.put(continuation.key, continuation)
        return continuation

    # The two and those in memory write in turn, then one other model after another: so the first
    # words do not wait for the last model, and a sparse model that is done makes room for the next.
    ready = [i for i, key in enumerate(keys) if i < 2 or pair_cache.holds(key)]
    try:
        for group in [ready, *([i] for i in range(len(keys)) if i not in ready)]:
            with pair_cache.models([keys[i] for i in group], store, on_step) as models:
                writers = {
                    i: ContinuationWriter(model, settings)
                    for i, model in zip(group, models, strict=True)
                }
                _write(writers, texts, settings.n_tokens, on_step, on_text)
                n_unread = max(
                    n_unread, *(writer.n_unread for writer in writers.values())
                )
    except Cancelled:
        if any(texts):
            keep(stopped=True)
        raise
    return keep(stopped=False)


class ContinuationWriter:
    """One model that reads a prompt and writes on, token by token.

    finished: it has ended its text, or its context is full. n_unread: tokens of the prompt's
    beginning that its context has no room for.
    """

    def __init__(
        self, record_model: RecordModel, settings: ContinuationSettings
    ) -> None:
        self._record_model = record_model
        self._texts: GrowingTexts
        self._settings = settings
        self._logits: Tensor | None = None
        self._written: list[int] = []
        # The same draws for all models: equal distributions give equal tokens.
        self._luck = torch.Generator().manual_seed(settings.seed)
        self.finished = False
        self.n_unread = 0
        self._n_left = 0

    @property
    def text(self) -> str:
        """The text so far, without half a character at its end."""
        tokenizer = self._record_model.loaded.tokenizer
        return str(tokenizer.decode(self._written, skip_special_tokens=True)).rstrip(
            "\ufffd"
        )

    @torch.inference_mode()
    def read(self, on_step: OnStep) -> None:
        """Read the prompt, or its end where it leaves no room: at least half of the context."""
        loaded = self._record_model.loaded
        front, prompt_ids = loaded.prefix_and_ids(self._settings.prompt)
        room = max(
            1,
            max(loaded.max_length // 2, loaded.max_length - self._settings.n_tokens)
            - len(front),
        )
        ids = front + prompt_ids[-room:]
        self.n_unread = max(0, len(prompt_ids) - room)
        self._n_left = loaded.max_length - len(ids)
        n_new = min(self._settings.n_tokens, self._n_left)
        self._texts = growing_texts(loaded, [ids], n_new)
        self._read(
            lambda n_read: on_step(Step("read", n_read, len(ids), unit="tokens"))
        )

    @torch.inference_mode()
    def write(self) -> None:
        """Write one token more; nothing after the end."""
        if self.finished:
            return
        if self._written:
            device = self._record_model.loaded.model.device
            self._texts.append_(torch.tensor([self._written[-1:]], device=device))
            self._read()
        token = self._next_token()
        self.finished = token in self._record_model.loaded.eos_ids
        if not self.finished:
            self._written.append(token)
            # The last one need not be read.
            self.finished = len(self._written) > self._n_left

    def _read(self, on_read: OnRead = ignore) -> None:
        with self._record_model.active():
            (self._logits,) = self._texts.logits(on_read)

    def _next_token(self) -> int:
        assert self._logits is not None, "prompt read"
        logits = self._logits.float().cpu()
        if self._settings.temperature_percent == 0:
            return int(logits.argmax())
        # The largest of logits with Gumbel noise is a draw from their distribution.
        noise = (
            -torch.rand(logits.shape, generator=self._luck)
            .clamp_(1e-20, 1 - 1e-7)
            .log()
            .neg()
            .log()
        )
        return int(
            (logits / (self._settings.temperature_percent / 100) + noise).argmax()
        )


def _write(
    writers: Mapping[int, ContinuationWriter],
    texts: list[str],
    n_tokens: int,
    on_step: OnStep,
    on_text: OnText,
) -> None:
    """Write token by token in turn; each text is put into `texts` at its place."""
    n = len(writers)
    message = ""
    if n < len(texts):
        message = (
            f"{n} of {len(texts)} models"
            if n > 1
            else f"model {min(writers) + 1} of {len(texts)}"
        )
    for writer in writers.values():
        writer.read(on_step)
    for number in range(n_tokens):
        for place, writer in writers.items():
            writer.write()
            texts[place] = writer.text
        on_text(*texts)
        on_step(Step("continue", number + 1, n_tokens, unit="tokens", message=message))
        if all(writer.finished for writer in writers.values()):
            return


CHUNK_LOGITS = 2**24
"""Logits of one model that are in memory at once: 64 MiB."""


def measure_divergence(
    settings: DivergenceSettings,
    store: Store,
    pair_cache: ModelPairCache,
    on_step: OnStep = ignore_steps,
) -> Divergence:
    """Divergence of two records' models over a text, or its end; stored under the key.

    Raises JobError when a record is gone, its model has changed, or the models do not share their
    tokens.
    """
    if known := store.get(Divergence, settings.key()):
        return known
    with pair_cache.models((settings.left, settings.right), store, on_step) as models:
        divergence = _measured(models, settings, on_step)
    store.put(divergence.key, divergence)
    return divergence


@torch.inference_mode()
def _measured(
    models: Sequence[RecordModel], settings: DivergenceSettings, on_step: OnStep
) -> Divergence:
    tokenizer_model, second_model = (model.loaded for model in models)
    ids = tokenizer_model.tokens(settings.text)
    if ids != second_model.tokens(settings.text):
        raise JobError(
            "The two models tokenise this text differently, so they cannot be compared token by token.",
            "Compare two models with the same tokenizer.",
        )
    # A long text loses its beginning, but for what begins every text.
    n_front = len(tokenizer_model.prefix_and_ids(settings.text)[0])
    most = min(tokenizer_model.max_length, second_model.max_length)
    cut = slice(n_front, n_front + max(0, len(ids) - most))
    places = list[TokenDivergence]()
    parts = _parts(tokenizer_model, settings.text, ids)
    opening = "".join(parts[: max(1, n_front) + cut.stop - cut.start])
    del ids[cut], parts[cut]
    for of_left, of_right in zip(
        *(_distributions(model, ids) for model in models), strict=True
    ):
        on_step(Step("diverge", len(places), len(ids) - 1, unit="tokens"))
        if of_left.shape != of_right.shape:
            raise JobError(
                "The two models have vocabularies of different sizes.",
                "Compare models with one tokenizer.",
            )
        nats = (of_left.exp() * (of_left - of_right)).sum(dim=-1).clamp_(min=0).tolist()
        choices = (logs.argmax(dim=-1).tolist() for logs in (of_left, of_right))
        for value, *chosen in zip(nats, *choices, strict=True):
            first, second = (
                str(tokenizer_model.tokenizer.decode([token])) for token in chosen
            )
            places.append(
                TokenDivergence(
                    text=parts[len(places) + 1], nats=value, left=first, right=second
                )
            )
    return Divergence(key=settings.key(), opening=opening, places=tuple(places))


def _distributions(record_model: RecordModel, ids: Sequence[int]) -> Iterator[Tensor]:
    """Log-probabilities (t, vocabulary) of the tokens after the first, in chunks."""
    loaded = record_model.loaded
    step = max(1, CHUNK_LOGITS // loaded.model.get_output_embeddings().weight.shape[0])
    read = torch.tensor([ids[:-1]], device=loaded.model.device)
    chunks = _cached_logits if loaded.has_plain_cache else _whole_logits
    for logits in chunks(record_model, read, step):
        yield logits.float().log_softmax(dim=-1).cpu()


def _cached_logits(
    record_model: RecordModel, ids: Tensor, step: int
) -> Iterator[Tensor]:
    """Logits (t, vocabulary) of a text (1, n), read in chunks of `step` tokens."""
    cache = None
    for tokens in torch.split(ids, step, dim=1):
        with record_model.active() as loaded:
            output = loaded.model(input_ids=tokens, cache=cache, use_cache=True)
        cache = output.cache
        yield output.logits[0]


def _whole_logits(
    record_model: RecordModel, ids: Tensor, step: int
) -> Iterator[Tensor]:
    """The same of a text that is read at once; only the logits are in chunks."""
    with record_model.active() as loaded:
        walk = loaded.walk([Batch(ids, torch.ones_like(ids))])
        walk.run([nullcontext])
    for columns in torch.split(torch.arange(ids.shape[1], device=ids.device), step):
        with (
            record_model.active() as loaded,
            head_sees_only(loaded.model, torch.zeros_like(columns), columns),
        ):
            logits: Tensor = walk.output(loaded.model, 0).logits
        yield logits


def _parts(loaded: LoadedModel, text: str, ids: Sequence[int]) -> list[str]:
    """The text split by token; "" for a token within a character."""
    if not loaded.tokenizer.is_fast:
        return [str(loaded.tokenizer.decode([token])) for token in ids]
    special = loaded.adds_special_tokens(text)
    offsets = loaded.tokenizer(
        text, add_special_tokens=special, return_offsets_mapping=True
    ).offset_mapping
    ends = list(accumulate((end for _, end in offsets[: len(ids)]), max, initial=0))
    return [text[start:end] for start, end in pairwise(ends)]
