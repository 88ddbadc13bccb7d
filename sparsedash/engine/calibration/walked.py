"""How far a walk over the calibration text has come: kept now and then, so that a killed one goes on there."""

from collections.abc import Callable, Sequence

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sparsedash.storage.halfway import Halfway

_BLOCK = "block"


class Walked:
    """The hidden states before one block, of every batch.

    halfway, key: where they are kept. has: whether the store has what the walk leaves of a block.
    """

    def __init__(self, halfway: Halfway, key: str, has: Callable[[int], bool]) -> None:
        self._halfway, self._key, self._has = halfway, key, has

    def begun(self) -> tuple[int, list[Tensor]]:
        """The block that is next, and the hidden states (b, t, d) of every batch before it; 0 and none: the first."""
        data = self._halfway.get(self._key)
        if data is None:
            return 0, []
        tensors = safetensors.torch.load(data)
        index = int(tensors.pop(_BLOCK))
        if not all(map(self._has, range(index))):
            return 0, []
        return index, [tensors[str(number)] for number in range(len(tensors))]

    def reached(self, index: int, hidden: Sequence[Tensor]) -> None:
        """Keep what is before the block with this index, from time to time."""

        def packed() -> bytes:
            named = {str(number): own.contiguous().cpu() for number, own in enumerate(hidden)}
            return bytes(safetensors.torch.save(named | {_BLOCK: torch.tensor(index)}))

        # Not asked for later: until then all hidden states would be in memory twice.
        if self._halfway.is_due:
            self._halfway.keep(self._key, packed)
