"""Mismatch alarm: warns when pruned layers lose far more on the evaluation's passages than on calibration text.

Asked on a few passages before the evaluation. Dimensions: m inner width, t tokens.
"""

from functools import cached_property

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sparsedash.catalog.engine_limits import MISMATCH_PASSAGES, MISMATCH_TOKENS
from sparsedash.engine.calibration.statistics import TOKEN_WEIGHTS
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, batches_by_length, capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.layer import Sample
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Passages, Pruned, about_artefact
from sparsedash.schema.settings import TokenWeights
from sparsedash.schema.store_keys import activations_key
from sparsedash.stats.mean_intervals import MISMATCH_ALARM
from sparsedash.stats.mean_intervals import layer_mismatch as mismatch_of
from sparsedash.storage.store import Store

BATCH_TOKENS = 2048


class PassageActivations:
    """What projections of the dense model are given on the first few passages; kept in the store, made once."""

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
        read = [loaded.tokens(context + target) for context, target in pairs]
        self._sequences = [ids[:MISMATCH_TOKENS] for ids in read]
        tokens = digest(self._sequences)
        self.key = activations_key(loaded.identity, loaded.dtype, tokens, digest(watched))
        self._walk: BlockWalk | None = None
        self._next = 0
        self._has_room = True

    def of(self, index: int) -> list[Sample] | None:
        """The inputs of each watched projection of a block; None where the store has no room for them.

        Asked for one block after another, it reads no further than to that block.
        """
        self._loaded.residency.drop()
        found = self._kept(index) if self._walk is None else None
        if found is None and self._has_room:
            self._walk_through(index)
            found = self._kept(index)
            self._has_room = found is not None
        return found

    def _kept(self, index: int) -> list[Sample] | None:
        data = self._store.get_artefact(f"{self.key}/{index}")
        return None if data is None else _unpack(data, self._token_weights)

    def _walk_through(self, index: int) -> None:
        try:
            if self._walk is None:
                self._walk, self._next = self._begun(), 0
            while self._next <= index:
                self._collect(self._walk, self._next)
                self._next += 1
        except BaseException:
            self._walk = None
            raise
        if self._next == len(self._watched):
            self._walk = None

    @cached_property
    def _batches(self) -> list[Batch]:
        pad, device = self._loaded.tokenizer.pad_token_id or 0, self._loaded.model.device
        return [batch for _, batch in batches_by_length(self._sequences, BATCH_TOKENS, pad, device)]

    @torch.no_grad()
    def _begun(self) -> BlockWalk:
        return BlockWalk(self._loaded.model.base_model, self._loaded.blocks, self._batches)

    @torch.no_grad()
    def _collect(self, walk: BlockWalk, index: int) -> None:
        names, block = self._watched[index], self._loaded.projections("decoder")[index]
        self._on_step(Step("prune", 2 * index + 2, 2 * len(self._watched)))
        seen: list[list[Tensor]] = [[] for _ in names]
        with capture_inputs([block[name] for name in names], [own.append for own in seen]):
            for _ in walk.step(index):
                pass
        real = [torch.cat(list(map(_real, own, self._batches))) for own in seen]
        weights = {
            name: torch.cat(list(map(_real, map(weigh, walk.hidden), self._batches)))[:, 0]
            for name, weigh in TOKEN_WEIGHTS.items()
        }
        about = about_artefact("activations", self._loaded.identity)
        self._store.put_artefact(f"{self.key}/{index}", _pack(real, weights), about)


def mismatch_warning(made: Pruned) -> str | None:
    """A warning where the layers lose far more on the passages than on calibration text."""
    times = mismatch_of(made)
    if times is None or times < MISMATCH_ALARM:
        return None
    return (
        f"The calibration text is unlike the passages: layers lose {times:.1f} times as much on them "
        "as on calibration text that they were not fitted to. Calibrate on text more like them."
    )


def _real(activations: Tensor, batch: Batch) -> Tensor:
    """(t, m), those of tokens that are no padding."""
    return activations.reshape(*batch.mask.shape, -1)[batch.mask.bool()]


def _pack(activations: list[Tensor], weights: dict[str, Tensor]) -> bytes:
    # bfloat16: half the room, and its rounding is far below what the alarm looks for.
    tensors = {str(i): found.bfloat16().cpu() for i, found in enumerate(activations)}
    return bytes(safetensors.torch.save(tensors | {n: own.cpu() for n, own in weights.items()}))


def _unpack(data: bytes, token_weights: str) -> list[Sample] | None:
    """None where they were packed before there were these weights."""
    try:
        found = safetensors.torch.load(data)
        if token_weights not in found:
            return None
        n_projections = sum(name.isdecimal() for name in found)
        inputs = [found[str(i)].float() for i in range(n_projections)]
        return [Sample(inputs=own, weights=found[token_weights]) for own in inputs]
    except (safetensors.SafetensorError, KeyError) as error:
        raise CalibrationError(f"Stored activations cannot be read: {error}.", "Start the run again.") from error
