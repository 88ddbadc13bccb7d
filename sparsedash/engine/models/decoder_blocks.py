"""Running the decoder blocks of a model one by one over many batches.

A model's own forward decides what every block is given (masks, position embeddings, which differ
from layer to layer in some families); the walker asks it once per batch with the blocks stubbed
out, then runs the real blocks itself.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from sparsedash.catalog.families import fewer_layers

Applied = Callable[[], AbstractContextManager[None]]
"""Gives the `with` inside which the loaded model is another one, such as a sparse one."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded token ids (b, t) and their mask (b, t), 1 where a token is real. given: further
    model inputs.
    """

    ids: Tensor
    mask: Tensor
    given: Mapping[str, Tensor] = field(default_factory=dict)


_TUPLES: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()
"""Of each model that was walked through, whether its blocks return (hidden,) instead of hidden."""


_Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a block is called with beside the hidden states."""


class BlockWalk:
    """Takes batches through the decoder blocks, one block at a time over all of them."""

    def __init__(
        self,
        body: nn.Module,
        blocks: Sequence[nn.Module],
        batches: Sequence[Batch],
        caches: Sequence[Cache] = (),
    ) -> None:
        """body: the model without its output head. Runs the embeddings, none of the blocks.

        caches: one for each batch, filled block by block; none where nothing is written on.
        """
        self._blocks, self._batches = blocks, batches
        self._tuples = _returns_tuples(body, blocks)
        entered = [
            self._enter(body, *own)
            for own in zip(batches, caches or [None] * len(batches), strict=True)
        ]
        self._calls = [calls for _, calls in entered]
        self._hidden = [hidden for hidden, _ in entered]

    @property
    def hidden(self) -> list[Tensor]:
        """The hidden states (b, t, d) of every batch after the last step; the next step starts from
        them.
        """
        return list(self._hidden)

    def restart_from(self, hidden: Sequence[Tensor]) -> None:
        """Let the next step start from these hidden states, which an earlier step left."""
        self._hidden = list(hidden)

    def step(self, index: int) -> Iterator[int]:
        """Run block `index` over every batch, yielding each batch's number once it is through."""
        for number in range(len(self._hidden)):
            self._through(index, number)
            yield number

    def run(
        self, inside: Sequence[Applied], on_block: Callable[[int], None] = lambda _: None
    ) -> None:
        """Take every batch through all blocks, one block at a time.

        inside: of each batch, what the model is while it reads that. on_block: called with the
        index of the block that is next for all of them, with the number of blocks at the end, while
        the model is the dense one; may raise.
        """
        numbers = sorted(range(len(inside)), key=lambda number: inside.index(inside[number]))
        for index in range(len(self._blocks)):
            on_block(index)
            for applied, own in groupby(numbers, key=inside.__getitem__):
                with applied():
                    for number in own:
                        self._through(index, number)
        on_block(len(self._blocks))

    def output(self, model: nn.Module, number: int) -> Any:
        """The output of the model with its head for the hidden states of a batch after the last
        block.
        """
        hidden = self._hidden[number]
        given = (hidden,) if self._tuples else hidden
        with forward_replaced(self._blocks, [lambda *args, **kwargs: given] * len(self._blocks)):
            return model(input_ids=self._batches[number].ids, use_cache=False)

    def _through(self, index: int, number: int) -> None:
        args, kwargs = self._calls[number][index]
        output = self._blocks[index](self._hidden[number], *args, **kwargs)
        self._hidden[number] = output[0] if isinstance(output, tuple) else output

    def _enter(
        self, body: nn.Module, batch: Batch, cache: Cache | None
    ) -> tuple[Tensor, list[_Call]]:
        first: list[Tensor] = []
        calls: list[_Call] = []

        def stub(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs.pop("hidden_states")
            first.append(hidden)
            calls.append((args[1:], kwargs))
            return (hidden,) if self._tuples else hidden

        kept = {} if cache is None else {"cache": cache}
        with forward_replaced(self._blocks, [stub] * len(self._blocks)):
            # Without the mask: padding is on the right, where a causal model's real tokens never
            # look, and attention without one is faster.
            body(input_ids=batch.ids, use_cache=cache is not None, **batch.given, **kept)
        return first[0], calls


@contextmanager
def capture_inputs(
    modules: Sequence[nn.Module], sinks: Sequence[Callable[[Tensor], None]]
) -> Iterator[None]:
    """Inside, every module hands its input to its sink before it runs."""
    with ExitStack() as hooks:
        for module, sink in zip(modules, sinks, strict=True):
            hooks.callback(
                module.register_forward_pre_hook(lambda _, inputs, s=sink: s(inputs[0])).remove
            )
        yield


@contextmanager
def head_sees_only(model: Any, rows: Tensor | slice, columns: Tensor | int) -> Iterator[None]:
    """Inside, the output head is given the hidden states at these places only, and the logits are
    (n, vocabulary).

    A vocabulary's worth of logits at every position would cost a fifth of the time and most of the
    memory. Two
    dimensions: of a slice of three, torch may copy the whole head for every row.
    """
    head: nn.Module = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns],))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def skipping(body: nn.Module, blocks: Sequence[nn.Module], gone: Collection[int]) -> Iterator[None]:
    """Inside, the model has no such blocks: each hands on the hidden states that it is given.

    body: the model without its output head. In a key-value cache such a block counts the tokens.
    """
    if not gone:
        yield
        return
    is_tuple = _returns_tuples(body, blocks)

    def skip(index: int, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        for cache in (*args, *kwargs.values()):
            if isinstance(cache, Cache):
                # A cache counts no tokens by keys without a number.
                nothing = hidden.new_zeros(len(hidden), 1, hidden.shape[1], 1)
                cache.update(nothing, nothing, index)
        return (hidden,) if is_tuple else hidden

    chosen = sorted(gone)
    with forward_replaced(
        [blocks[index] for index in chosen], [partial(skip, index) for index in chosen]
    ):
        yield


def remove_blocks_(model: nn.Module, path: str, gone: Sequence[int]) -> None:
    """Remove these blocks from the model and from its config, in place. path: to the list of its
    blocks.
    """
    owner, _, name = path.rpartition(".")
    blocks = list(model.get_submodule(path).children())
    kept = [index for index in range(len(blocks)) if index not in gone]
    for place, index in enumerate(kept):
        for module in blocks[index].modules():
            # Its place in a key-value cache.
            vars(module).update(
                {key: place for key in ("layer_idx", "layer_id") if key in vars(module)}
            )
    setattr(model.get_submodule(owner), name, nn.ModuleList(blocks[index] for index in kept))
    config: Any = model.config
    for key, value in fewer_layers(config.to_dict(), kept).items():
        setattr(config, key, value)


@contextmanager
def forward_replaced(blocks: Sequence[nn.Module], stubs: Sequence[Any]) -> Iterator[None]:
    """Inside, every block's forward is replaced by its stub."""
    before = [vars(block).get("forward") for block in blocks]
    for block, stub in zip(blocks, stubs, strict=True):
        block.forward = stub
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            # The stub lies on the instance; without it the class's own forward shows again.
            del block.forward
            if own is not None:
                block.forward = own


def _returns_tuples(body: nn.Module, blocks: Sequence[nn.Module]) -> bool:
    """Whether the blocks of this model return (hidden,) or hidden, seen once on one token of the
    first.
    """
    if body in _TUPLES:
        return _TUPLES[body]
    seen: list[Any] = []
    one = torch.zeros(1, 1, dtype=torch.long, device=next(body.parameters()).device)
    handle = blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with forward_replaced(blocks[1:], [lambda *args, **kwargs: seen[0]] * (len(blocks) - 1)):
            body(input_ids=one, use_cache=False)
    finally:
        handle.remove()
    return _TUPLES.setdefault(body, isinstance(seen[0], tuple))


def batches_by_length(
    sequences: Sequence[Sequence[int]], budget: int, pad: int, device: torch.device
) -> list[tuple[list[int], Batch]]:
    """Positions of sequences and their right-padded batch, longest first: `budget` tokens at most,
    or one sequence.
    """
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i))
    batches = []
    start = 0
    while start < len(order):
        longest = len(sequences[order[start]])
        chosen = order[start : start + max(1, budget // longest)]
        start += len(chosen)
        ids = torch.full((len(chosen), longest), pad)
        mask = torch.zeros((len(chosen), longest), dtype=torch.long)
        for row, i in enumerate(chosen):
            ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
            mask[row, : len(sequences[i])] = 1
        batches.append((chosen, Batch(ids.to(device), mask.to(device))))
    return batches


def preallocated_cache(n_tokens: int) -> DynamicCache:
    """An empty key-value cache with room for this many tokens a row, so that none is copied for the
    next one.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = partial(PreallocatedLayer, n_tokens)
    return cache


Hold = Callable[[Sequence[Tensor]], list[Tensor]]
"""Gives the same numbers where there is room for them; see `Resident.offload_all`."""


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of a key-value cache with room for a number of tokens from the beginning."""

    def __init__(self, n_tokens: int, hold: Hold = list) -> None:
        super().__init__()
        self._n_tokens, self._hold = n_tokens, hold
        self._room: list[Tensor] = []

    @classmethod
    def right_aligned(
        cls, parts: Sequence[tuple[Tensor, Tensor]], n_more: int, hold: Hold = list
    ) -> "PreallocatedLayer":
        """A layer with the rows of all parts, zeros before the shorter ones, and room for more
        tokens.

        parts: keys and values, (r, heads, t, e); r and t differ from part to part. hold: where the
        room is.
        """
        longest = max(keys.shape[2] for keys, _ in parts)
        layer = cls(longest + n_more, hold)
        n_rows = sum(len(keys) for keys, _ in parts)
        layer.lazy_initialization(
            *(held.new_empty(n_rows, held.shape[1], 0, held.shape[3]) for held in parts[0])
        )
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

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
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
