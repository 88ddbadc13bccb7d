"""How far a walk over the calibration text has come: kept now and then, so that a killed one goes on there."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sparsedash.engine.models.block_walk import BlockWalk
from sparsedash.schema.errors import CalibrationError
from sparsedash.storage.halfway import Halfway

_BLOCK = "block"


class Walked:
    """The hidden states before one block, of every batch of one walk, or of several side by side.

    halfway, key: where they are kept. has: whether the store has what the walk leaves of a block.
    """

    def __init__(self, halfway: Halfway, key: str, has: Callable[[int], bool]) -> None:
        self._halfway, self._key, self._has = halfway, key, has

    def resume(self, *walks: BlockWalk) -> int:
        """The block that is next: the first, or the one to which broken off walks had come; `walks` are taken there."""
        entered = [own for walk in walks for own in walk.hidden]
        index, hidden = self._halfway.get(self._key, partial(_unpacked, [own.shape for own in entered])) or (0, [])
        if not index or not all(map(self._has, range(index))):
            return 0
        found = iter(own.to(first.device) for own, first in zip(hidden, entered, strict=True))
        for walk in walks:
            walk.go_back(list(islice(found, len(walk.hidden))))
        return index

    def reached(self, index: int, hidden: Sequence[Tensor]) -> None:
        """Keep what is before the block with this index, of all walks one after another, from time to time."""

        def packed() -> bytes:
            named = {str(number): own.contiguous().cpu() for number, own in enumerate(hidden)}
            return bytes(safetensors.torch.save(named | {_BLOCK: torch.tensor(index)}))

        # Not asked for later: until then all hidden states would be in memory twice.
        if self._halfway.is_due:
            self._halfway.keep(self._key, packed)


def _unpacked(shapes: Sequence[torch.Size], data: bytes) -> tuple[int, list[Tensor]]:
    """The block and the hidden states. shapes: of what they take the place of."""
    try:
        tensors = safetensors.torch.load(data)
        index = int(tensors.pop(_BLOCK))
        hidden = [tensors[str(number)] for number in range(len(tensors))]
    except (safetensors.SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise CalibrationError(f"Stored hidden states cannot be read: {error}.", "Start the run again.") from error
    if index < 0 or [own.shape for own in hidden] != list(shapes):
        raise CalibrationError("Stored hidden states are of other batches.", "Start the run again.")
    return index, hidden
