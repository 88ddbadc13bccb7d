"""KL divergence from dense by kind of text, on held-out text of every source of the mix.

KL(dense || sparse) of the next token in nats, as means over pieces of KIND_BLOCK_TOKENS tokens; and
the field's figures over the text of all kinds.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from sparsedash.catalog import mixed_text
from sparsedash.catalog.resources import KIND_BLOCK_TOKENS, kind_tokens
from sparsedash.engine.evaluation.side_by_side import model_groups, reading
from sparsedash.engine.models.decoder_blocks import Applied, BlockWalk, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.mixed_sequences import held_out_sequences
from sparsedash.schema.divergence_records import DivergenceFigures
from sparsedash.schema.progress import ignore
from sparsedash.schema.records import KindLoss
from sparsedash.stats.divergence_figures import (
    MIN_LOG,
    TokenDivergences,
    divergence_figures,
)

_BATCH_TOKENS = 1024
_VALUES = 2**23
"""Tokens that go through the blocks together, and logits that are in memory at the same time."""


class KindMeasurement(NamedTuple):
    """A model's loss by kind of text, and the field's usual figures over all of it."""

    losses: tuple[KindLoss, ...]
    divergence: DivergenceFigures


class KindText:
    """Held-out text of every kind, read by the dense model when this is made."""

    @torch.inference_mode()
    def __init__(self, loaded: LoadedModel, n_run_tokens: int) -> None:
        """n_run_tokens: see kind_tokens."""
        self._loaded = loaded
        n_tokens = kind_tokens(n_run_tokens, len(mixed_text.SOURCES))
        self._kinds: list[str] = []
        sequences: list[list[int]] = []
        for source in mixed_text.SOURCES:
            for sequence in held_out_sequences(loaded, source, n_tokens):
                self._kinds.append(source.name)
                sequences.append(sequence)
        batches = loaded.batches(sequences, _BATCH_TOKENS)
        self._rows = [rows for rows, _ in batches]
        self._batches = [batch for _, batch in batches]
        self._dense = loaded.walk(self._batches)
        self._dense.run([nullcontext] * len(self._batches))

    @torch.inference_mode()
    def measure(
        self, models: Sequence[Applied], on_block: Callable[[], None] = ignore
    ) -> list[KindMeasurement]:
        """The loss of each of these models; streamed weights are read once for all of them.

        Called while the loaded model is the dense one. on_block: called between blocks; may raise.
        """
        n_batches = len(self._batches)
        measured = []
        for numbers in model_groups(self._loaded, models):
            with reading(self._loaded, models, numbers) as inside:
                walk = self._loaded.walk(self._batches * len(inside))
                of_batches = chain.from_iterable(
                    [applied] * n_batches for applied in inside
                )
                walk.run(list(of_batches), lambda _: on_block())
            for place, number in enumerate(numbers):
                measured.append(self._measured(models[number], walk, place * n_batches))
        return measured

    def _measured(
        self, applied: Applied, walk: BlockWalk, first: int
    ) -> KindMeasurement:
        """walk: which this model's batches went through, from number first on."""
        blocks: dict[str, list[float]] = {kind: [] for kind in self._kinds}
        text_blocks = list[TokenDivergences]()
        n_together = max(1, _VALUES // self._loaded.shape.vocabulary)
        for number, batch in enumerate(self._batches):
            parts = []
            for places in torch.split(batch.mask.nonzero(), n_together):
                parts.append(self._divergences(applied, walk, first, number, places))
            lengths = batch.mask.sum(dim=1).tolist()
            by_row = torch.split(torch.cat(parts), lengths)
            for row, tokens in zip(self._rows[number], by_row, strict=True):
                # Nothing follows the last one.
                for piece in torch.split(tokens, KIND_BLOCK_TOKENS):
                    blocks[self._kinds[row]].append(float(piece[:, 0].mean()))
                for piece in torch.split(tokens[:-1], KIND_BLOCK_TOKENS):
                    if len(piece):
                        text_blocks.append(_token_divergences(piece))
        losses = [
            KindLoss(kind=kind, blocks=tuple(means)) for kind, means in blocks.items()
        ]
        return KindMeasurement(tuple(losses), divergence_figures(text_blocks))

    def _divergences(
        self, applied: Applied, walk: BlockWalk, first: int, batch: int, places: Tensor
    ) -> Tensor:
        """Of the token after each of these: (n, 5), KL, KL over the tokens that llama.cpp counts,
        negative log-likelihood by the dense and by the sparse model, and whether both have the same
        first choice. The likelihoods after the last token of a row mean nothing.

        places: (n, 2), rows and columns.
        """
        dense = self._log_probabilities(self._dense, batch, places)
        with applied():
            sparse = self._log_probabilities(walk, first + batch, places)
        terms = dense.exp() * (dense - sparse)
        rows, columns = places.T
        ids = self._batches[batch].ids
        targets = ids[rows, (columns + 1).clamp(max=ids.shape[1] - 1)].to(dense.device)[
            :, None
        ]
        figures = [
            terms.sum(dim=-1).clamp(min=0),
            terms.masked_fill_(dense <= MIN_LOG, 0).sum(dim=-1),
            -dense.gather(1, targets)[:, 0],
            -sparse.gather(1, targets)[:, 0],
            (dense.argmax(dim=-1) == sparse.argmax(dim=-1)).float(),
        ]
        return torch.stack(figures, dim=1)

    def _log_probabilities(
        self, walk: BlockWalk, number: int, places: Tensor
    ) -> Tensor:
        """Of the token after each of these: (n, v)."""
        with head_sees_only(self._loaded.model, places[:, 0], places[:, 1]):
            logits: Tensor = walk.output(self._loaded.model, number).logits
        return logits.float().log_softmax(dim=-1)


def _token_divergences(tokens: Tensor) -> TokenDivergences:
    """tokens: (n, 5), see `_divergences`."""
    _, kl, base_nll, nll, same_top = tokens.double().cpu().numpy().T
    return TokenDivergences(kl=kl, base_nll=base_nll, nll=nll, same_top=same_top > 0)
