"""Logits of the next token: from a key-value cache, or by reading every text whole again.

Models that remember more than keys and values (linear attention, Mamba, convolutions, an indexer)
are read whole: slower, but each with its own state alone.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from sparsedash.catalog.resources import BATCH_TOKENS, TOGETHER_TOKENS
from sparsedash.engine.models.decoder_blocks import (
    Applied,
    Batch,
    head_sees_only,
    n_fitting,
    preallocated_cache,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.progress import ignore

CHUNK_TOKENS = 512
"""Tokens of a text that are read between two reports, where the job may be stopped."""

OnRead = Callable[[int], None]
"""Called with the number of a text's tokens read so far; may raise."""


def empty_caches(loaded: LoadedModel, n: int) -> list[Cache | None]:
    """n empty key-value caches, or None in the place of each if the model needs more than that.

    Made without the config: one that forgets what is outside a sliding window cannot hold
    right-padded rows.
    """
    return [DynamicCache() if loaded.has_plain_cache else None for _ in range(n)]


def last_logits(
    loaded: LoadedModel,
    texts: Sequence[Sequence[int]],
    inside: Sequence[Applied],
    on_block: Callable[[int], None] = ignore,
) -> Tensor:
    """Logits (n, vocabulary) after the last token of each text, read whole and without a cache.

    inside: the model that reads each text. on_block: as in BlockWalk.run.
    """
    waiting: list[tuple[list[int], Batch]] = []
    for applied in dict.fromkeys(inside):
        rows = [row for row, model in enumerate(inside) if model == applied]
        for numbers, batch in loaded.batches(
            [texts[row] for row in rows], BATCH_TOKENS
        ):
            waiting.append(([rows[number] for number in numbers], batch))
    # In memory one at a time; streamed weights are read once for several.
    n_tokens = TOGETHER_TOKENS if loaded.residency.streamed else 0
    logits: dict[int, Tensor] = {}
    while waiting:
        n_together = n_fitting((batch.ids.numel() for _, batch in waiting), n_tokens)
        together = waiting[:n_together]
        waiting = waiting[n_together:]
        walk = loaded.walk([batch for _, batch in together])
        walk.run([inside[rows[0]] for rows, _ in together], on_block)
        for number, (rows, batch) in enumerate(together):
            columns = batch.mask.sum(dim=1) - 1
            places = torch.arange(len(rows), device=columns.device)
            with head_sees_only(loaded.model, places, columns):
                batch_logits = walk.output(loaded.model, number).logits
            logits |= zip(rows, batch_logits, strict=True)
    return torch.stack([logits.pop(row) for row in range(len(texts))])


class CachedTexts:
    """Texts that grow by one token each, left-padded, with a key-value cache."""

    def __init__(
        self, loaded: LoadedModel, texts: Sequence[Sequence[int]], n_new: int
    ) -> None:
        longest = max(map(len, texts))
        padded = []
        mask = []
        for text in texts:
            n_padding = longest - len(text)
            padded.append([0] * n_padding + list(text))
            mask.append([0] * n_padding + [1] * len(text))
        self._loaded = loaded
        self._unread = torch.tensor(padded, device=loaded.model.device)
        self._mask = torch.tensor(mask, device=loaded.model.device)
        self._cache = preallocated_cache(longest + n_new)

    def logits(self, on_read: OnRead = ignore) -> Tensor:
        """Logits (n, vocabulary) of the next token of each text."""
        n_read = self._mask.shape[1] - self._unread.shape[1]
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        for tokens in torch.split(self._unread, CHUNK_TOKENS, dim=1):
            on_read(n_read)
            part = slice(n_read, n_read + tokens.shape[1])
            with head_sees_only(self._loaded.model, slice(None), -1):
                output = self._loaded.model(
                    input_ids=tokens,
                    attention_mask=self._mask[:, : part.stop],
                    position_ids=positions[:, part],
                    cache=self._cache,
                    use_cache=True,
                )
            n_read = part.stop
        logits: Tensor = output.logits
        return logits

    def append_(self, tokens: Tensor) -> None:
        """Add a token (n, 1) to each text; to be read by the next `logits`."""
        self._unread = tokens
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)


class WholeTexts:
    """Texts that grow by one token each, read from their beginning for every token."""

    def __init__(self, loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> None:
        self._loaded = loaded
        self._texts = [list(text) for text in texts]

    def logits(self, on_read: OnRead = ignore) -> Tensor:
        """Logits (n, vocabulary) of the next token of each text."""
        longest = max(map(len, self._texts))
        n_blocks = len(self._loaded.blocks)
        return last_logits(
            self._loaded,
            self._texts,
            [nullcontext] * len(self._texts),
            lambda index: on_read(index * longest // n_blocks),
        )

    def append_(self, tokens: Tensor) -> None:
        """Add a token (n, 1) to each text."""
        for text, token in zip(self._texts, tokens[:, 0].tolist(), strict=True):
            text.append(token)


GrowingTexts = CachedTexts | WholeTexts


def growing_texts(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], n_new: int
) -> GrowingTexts:
    """Texts to which up to n_new tokens are added, read as this model can be."""
    if loaded.has_plain_cache:
        return CachedTexts(loaded, texts, n_new)
    return WholeTexts(loaded, texts)
