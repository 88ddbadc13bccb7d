"""Mismatch alarm: warns when pruned layers lose far more on the evaluation's passages than on calibration text.

Measured on a few passages before the evaluation. Dimensions: m inner width, t tokens.
"""

import torch
from torch import Tensor

from sparsedash.catalog.resources import MISMATCH_PASSAGES, MISMATCH_TOKENS
from sparsedash.engine.calibration.statistics import TOKEN_WEIGHTS, pack_tensors, unpack_tensors
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, batches_by_length, capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.layer import Sample
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Passages, Pruned, about_artefact
from sparsedash.schema.settings import TokenWeights
from sparsedash.schema.store_keys import activations_key
from sparsedash.stats.mean_intervals import MISMATCH_ALARM, layer_mismatch
from sparsedash.storage.store import Store

BATCH_TOKENS = 2048


class PassageActivations:
    """Inputs of the dense model's projections on the first few passages; kept in the store, collected once."""

    def __init__(
        self,
        store: Store,
        loaded: LoadedModel,
        passages: Passages,
        watched: list[list[str]],
        on_step: OnStep,
        *,
        token_weights: TokenWeights,
    ) -> None:
        """watched: of each block, the names of the projections. token_weights: those of the calibration."""
        self._store, self._loaded, self._on_step = store, loaded, on_step
        self._watched, self._token_weights = watched, token_weights
        pairs = list(zip(passages.contexts, passages.targets, strict=True))[:MISMATCH_PASSAGES]
        self._sequences = [loaded.tokens(context + target)[:MISMATCH_TOKENS] for context, target in pairs]
        self.key = activations_key(loaded.identity, loaded.dtype, digest(self._sequences), digest(watched))
        self._walk: BlockWalk | None = None
        self._batches: list[Batch] = []
        self._n_reached = 0
        self._has_room = True

    def of(self, index: int) -> list[Sample] | None:
        """The inputs of each watched projection of a block; None where the store has no room for them.

        Asked for one block after another, it reads no further than to that block.
        """
        self._loaded.residency.drop()
        found = self._kept(index) if self._walk is None else None
        if found is None and self._has_room:
            self._reach(index)
            found = self._kept(index)
            self._has_room = found is not None
        return found

    def _kept(self, index: int) -> list[Sample] | None:
        data = self._store.get_artefact(f"{self.key}/{index}")
        if data is None:
            return None
        tensors = unpack_tensors(data, "activations")
        weights = dict(zip(TOKEN_WEIGHTS, tensors, strict=False))[self._token_weights]
        return [Sample(inputs=own.float(), weights=weights) for own in tensors[len(TOKEN_WEIGHTS) :]]

    @torch.no_grad()
    def _reach(self, index: int) -> None:
        loaded = self._loaded
        try:
            if self._walk is None:
                pad, device = loaded.tokenizer.pad_token_id or 0, loaded.model.device
                self._batches = [own for _, own in batches_by_length(self._sequences, BATCH_TOKENS, pad, device)]
                self._walk, self._n_reached = BlockWalk(loaded.model.base_model, loaded.blocks, self._batches), 0
            while self._n_reached <= index:
                self._collect(self._walk, self._n_reached)
                self._n_reached += 1
        except BaseException:
            self._walk = None
            raise
        if self._n_reached == len(self._watched):
            self._walk = None

    def _collect(self, walk: BlockWalk, index: int) -> None:
        names, block = self._watched[index], self._loaded.projections("decoder")[index]
        self._on_step(Step("prune", 2 * index + 2, 2 * len(self._watched)))
        seen: list[list[Tensor]] = [[] for _ in names]
        with capture_inputs([block[name] for name in names], [own.append for own in seen]):
            for _ in walk.step(index):
                pass
        # bfloat16: half the room, and its rounding is far below what the alarm looks for.
        inputs = [torch.cat(list(map(_real, own, self._batches))).bfloat16() for own in seen]
        weights = [
            torch.cat(list(map(_real, map(weigh, walk.hidden), self._batches)))[:, 0]
            for weigh in TOKEN_WEIGHTS.values()
        ]
        about = about_artefact("activations", self._loaded.identity)
        self._store.put_artefact(f"{self.key}/{index}", pack_tensors([*weights, *inputs]), about)


def mismatch_warning(made: Pruned) -> str | None:
    """A warning where the layers lose far more on the passages than on calibration text."""
    times = layer_mismatch(made)
    if times is None or times < MISMATCH_ALARM:
        return None
    return (
        f"The calibration text is unlike the passages: layers lose {times:.1f} times as much on them "
        "as on calibration text that they were not fitted to. Calibrate on text more like them."
    )


def _real(activations: Tensor, batch: Batch) -> Tensor:
    """(t, m), those of tokens that are no padding."""
    return activations.reshape(*batch.mask.shape, -1)[batch.mask.bool()]
