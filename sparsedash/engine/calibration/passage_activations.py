"""Activations of the dense model on a few passages, and the alarm of unlike calibration text."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sparsedash.catalog.resources import MISMATCH_PASSAGES, MISMATCH_TOKENS
from sparsedash.engine.calibration.statistics import (
    TOKEN_WEIGHTS,
    LazyWalk,
    pack_tensors,
    unpack_tensors,
)
from sparsedash.engine.models.decoder_blocks import capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.layer import Sample
from sparsedash.schema import store_keys
from sparsedash.schema.plain_values import digest
from sparsedash.schema.records import Passages, Pruned, about_artefact
from sparsedash.schema.settings import TokenWeights
from sparsedash.stats.mean_intervals import MISMATCH_ALARM, layer_mismatch
from sparsedash.storage.store import Store


class PassageActivations:
    """Inputs of the dense model's projections on the first few passages; collected once, stored."""

    def __init__(
        self,
        store: Store,
        loaded: LoadedModel,
        passages: Passages,
        watched: list[list[str]],
        on_block: Callable[[], None],
        *,
        token_weights: TokenWeights,
    ) -> None:
        """watched: names of the projections of each block. on_block: called before each block."""
        self._store = store
        self._loaded = loaded
        self._on_block = on_block
        self._watched = watched
        self._token_weights = token_weights
        length = min(MISMATCH_TOKENS, loaded.max_length)
        pairs = list(zip(passages.contexts, passages.targets, strict=True))[
            :MISMATCH_PASSAGES
        ]
        self._sequences = [
            loaded.tokens(context + target)[:length] for context, target in pairs
        ]
        self.key = store_keys.activations_key(
            loaded.identity, loaded.dtype, digest(self._sequences), digest(watched)
        )
        self._walk = LazyWalk(loaded, lambda: self._sequences, self._collect)
        self._has_room = True

    def of(self, index: int) -> list[Sample] | None:
        """Inputs of a block's watched projections; None if the store has no room."""
        self._loaded.residency.drop()
        samples = self._stored(index)
        if samples is None and self._has_room:
            self._walk.reach(index)
            samples = self._stored(index)
            self._has_room = samples is not None
        return samples

    def _stored(self, index: int) -> list[Sample] | None:
        data = self._store.get_artefact(f"{self.key}/{index}")
        if data is None:
            return None
        tensors = unpack_tensors(data, "activations")
        weights = tensors[list(TOKEN_WEIGHTS).index(self._token_weights)]
        inputs = tensors[len(TOKEN_WEIGHTS) :]
        return [Sample(inputs=tensor.float(), weights=weights) for tensor in inputs]

    def _collect(self, index: int) -> None:
        block = self._loaded.projections("decoder")[index]
        modules = [block[name] for name in self._watched[index]]
        inputs: list[list[Tensor]] = [[] for _ in modules]
        weights: list[list[Tensor]] = [[] for _ in TOKEN_WEIGHTS]
        seen: dict[int, Tensor] = {}
        self._on_block()
        sinks = [partial(seen.__setitem__, number) for number in range(len(modules))]
        with capture_inputs(modules, sinks):
            for _, batch, hidden in self._walk.step(index):
                real = batch.mask.bool()
                for number, parts in enumerate(inputs):
                    # bfloat16: half the room, and its rounding is far below what matters here.
                    parts.append(seen[number].reshape(*real.shape, -1)[real].bfloat16())
                for weigh, parts in zip(TOKEN_WEIGHTS.values(), weights, strict=True):
                    parts.append(weigh(hidden)[real])
        packed = pack_tensors([torch.cat(parts) for parts in (*weights, *inputs)])
        about = about_artefact("activations", self._loaded.identity)
        self._store.put_artefact(f"{self.key}/{index}", packed, about)


def mismatch_warning(pruned: Pruned) -> str | None:
    """A warning if the layers lose far more on the passages than on calibration text."""
    times = layer_mismatch(pruned)
    if times is None or times < MISMATCH_ALARM:
        return None
    more = f"layers lose {times:.1f} times as much on the passages as on"
    if not pruned.held_out_errors:
        return (
            f"The calibration text is too short, or unlike the passages: {more} it. "
            "Calibrate on more text, and more like the passages."
        )
    return (
        f"The calibration text is unlike the passages: {more} held-out calibration text. "
        "Calibrate on text more like the passages."
    )
