"""Mismatch alarm: warns when pruned layers lose far more on the evaluation's passages than on calibration text.

Measured on a few passages before the evaluation. Dimensions: m inner width, t tokens.
"""

import torch
from torch import Tensor

from sparsedash.catalog.resources import MISMATCH_PASSAGES, MISMATCH_TOKENS
from sparsedash.engine.calibration.statistics import TOKEN_WEIGHTS, LazyWalk, pack_tensors, unpack_tensors
from sparsedash.engine.models.decoder_blocks import capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.layer import Sample
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Passages, Pruned, about_artefact
from sparsedash.schema.settings import TokenWeights
from sparsedash.schema.store_keys import activations_key
from sparsedash.stats.mean_intervals import MISMATCH_ALARM, layer_mismatch
from sparsedash.storage.store import Store


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
        self._walk = LazyWalk(loaded, lambda: self._sequences, self._collect)
        self._has_room = True

    def of(self, index: int) -> list[Sample] | None:
        """The inputs of each watched projection of a block; None where the store has no room for them.

        Asked for one block after another, it reads no further than to that block.
        """
        self._loaded.residency.drop()
        found = self._kept(index)
        if found is None and self._has_room:
            self._walk.reach(index)
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

    def _collect(self, index: int) -> None:
        names, block = self._watched[index], self._loaded.projections("decoder")[index]
        self._on_step(Step("prune", 2 * index + 2, 2 * len(self._watched)))
        seen: list[list[Tensor]] = [[] for _ in names]
        with capture_inputs([block[name] for name in names], [own.append for own in seen]):
            reached = [(batch, hidden) for _, batch, hidden in self._walk.step(index)]
        # bfloat16: half the room, and its rounding is far below what the alarm looks for.
        real = [batch.mask.bool() for batch, _ in reached]
        inputs = [torch.cat([x.reshape(*r.shape, -1)[r] for x, r in zip(own, real, strict=True)]) for own in seen]
        weights = [
            torch.cat([weigh(hidden)[r] for (_, hidden), r in zip(reached, real, strict=True)])
            for weigh in TOKEN_WEIGHTS.values()
        ]
        about = about_artefact("activations", self._loaded.identity)
        packed = pack_tensors([*weights, *(own.bfloat16() for own in inputs)])
        self._store.put_artefact(f"{self.key}/{index}", packed, about)


def mismatch_warning(made: Pruned) -> str | None:
    """A warning where the layers lose far more on the passages than on calibration text."""
    times = layer_mismatch(made)
    if times is None or times < MISMATCH_ALARM:
        return None
    return (
        f"The calibration text is unlike the passages: layers lose {times:.1f} times as much on them "
        "as on calibration text that they were not fitted to. Calibrate on text more like them."
    )
