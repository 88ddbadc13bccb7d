"""Keys and values with room for the tokens to come, so that none is copied for the next one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def roomy_cache(n_tokens: int) -> DynamicCache:
    """An empty cache whose layers have room for so many tokens a row."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = partial(RoomyLayer, n_tokens)
    return cache


Hold = Callable[[Sequence[Tensor]], list[Tensor]]
"""Gives the same numbers where there is room for them; see `Resident.hold_all`."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of a cache with room for so many tokens from the beginning."""

    def __init__(self, n_tokens: int, hold: Hold = list) -> None:
        super().__init__()
        self._n_tokens, self._hold = n_tokens, hold
        self._room: list[Tensor] = []

    @classmethod
    def ending_together(cls, parts: Sequence[tuple[Tensor, Tensor]], n_more: int, hold: Hold = list) -> "RoomyLayer":
        """One with the rows of all parts, zeros before the shorter ones, and room for so many tokens more.

        parts: keys and values, (r, heads, t, e); r and t differ from part to part. hold: where the room is.
        """
        longest = max(keys.shape[2] for keys, _ in parts)
        layer = cls(longest + n_more, hold)
        n_rows = sum(len(keys) for keys, _ in parts)
        layer.lazy_initialization(*(held.new_empty(n_rows, held.shape[1], 0, held.shape[3]) for held in parts[0]))
        for room, own in zip(layer._room, zip(*parts, strict=True), strict=True):
            for rows, held in zip(torch.split(room, [len(held) for held in own]), own, strict=True):
                # What is masked must be a number all the same: nothing times no number is none.
                rows[:, :, : longest - held.shape[2]] = 0
                rows[:, :, longest - held.shape[2] : longest] = held
        layer._room = hold(layer._room)
        layer._show(longest)
        return layer

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for rows like these."""
        super().lazy_initialization(key_states, value_states)
        self._room = [
            states.new_empty(*states.shape[:2], self._n_tokens, states.shape[3])
            for states in (key_states, value_states)
        ]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add these tokens to every row; all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:stop] = states
        self._show(stop)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        n_tokens = self.get_seq_length()
        self._room = self._hold([room[indices] for room in self._room])
        self._show(n_tokens)

    def _show(self, n_tokens: int) -> None:
        self.keys, self.values = (room[:, :, :n_tokens] for room in self._room)
