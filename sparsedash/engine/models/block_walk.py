"""Runs a model block by block over many batches, with only the hidden states kept between the blocks.

A model's own forward decides what every block is given (masks, position embeddings, which differ from layer to layer in
some families); the walker asks it once per batch with the blocks stubbed out, then runs the real blocks itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache

Applied = Callable[[], AbstractContextManager[None]]
"""Gives the `with` inside which the loaded model is another one, such as a sparse one."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded token ids (b, t) and their mask (b, t), 1 where a token is real.

    given: what the model is given beside them.
    """

    ids: Tensor
    mask: Tensor
    given: Mapping[str, Tensor] = field(default_factory=dict)


_TUPLES: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()
"""Of each model that was walked through, whether its blocks return (hidden,) instead of hidden."""


@dataclass(eq=False)
class _Walked:
    """One batch on its way: its hidden states (b, t, d) and what each block is called with beside them."""

    hidden: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]


class BlockWalk:
    """Takes batches through the decoder blocks, one block at a time over all of them."""

    def __init__(
        self, body: nn.Module, blocks: Sequence[nn.Module], batches: Sequence[Batch], caches: Sequence[Cache] = ()
    ) -> None:
        """body: the model without its output head. Runs the embeddings, none of the blocks.

        caches: one for each batch, filled block by block; none where nothing is written on.
        """
        self._blocks, self._batches = blocks, batches
        if body not in _TUPLES:
            _TUPLES[body] = _returns_tuples(body, blocks, batches[0])
        self._tuples = _TUPLES[body]
        cached = caches or [None] * len(batches)
        self._walked = [
            _enter(body, blocks, batch, self._tuples, cache) for batch, cache in zip(batches, cached, strict=True)
        ]

    @property
    def hidden(self) -> list[Tensor]:
        """The hidden states (b, t, d) of every batch after the last step; the next step starts from them."""
        return [walked.hidden for walked in self._walked]

    def go_back(self, hidden: Sequence[Tensor]) -> None:
        """Let the next step start from these hidden states, which an earlier step left."""
        for walked, before in zip(self._walked, hidden, strict=True):
            walked.hidden = before

    def step(self, index: int) -> Iterator[int]:
        """Run block `index` over every batch, yielding each batch's number once it is through."""
        for number in range(len(self._walked)):
            self._through(index, number)
            yield number

    def run(self, inside: Sequence[Applied], on_block: Callable[[int], None] = lambda _: None) -> None:
        """Take every batch through all blocks, one block at a time.

        inside: of each batch, what the model is while it reads that. on_block: called with the index of the block that
        is next for all of them, with the number of blocks at the end, while the model is the dense one; may raise.
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
        """What the model with its head makes of the hidden states of a batch, which are through the last block."""
        hidden = self._walked[number].hidden
        given = (hidden,) if self._tuples else hidden
        with forward_replaced(self._blocks, [lambda *args, **kwargs: given] * len(self._blocks)):
            return model(input_ids=self._batches[number].ids, use_cache=False)

    def _through(self, index: int, number: int) -> None:
        walked = self._walked[number]
        args, kwargs = walked.calls[index]
        output = self._blocks[index](walked.hidden, *args, **kwargs)
        walked.hidden = output[0] if isinstance(output, tuple) else output


@contextmanager
def capture_inputs(modules: Sequence[nn.Module], sinks: Sequence[Callable[[Tensor], None]]) -> Iterator[None]:
    """Inside, every module hands its input to its sink before it runs."""
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, s=sink: s(inputs[0]))
        for module, sink in zip(modules, sinks, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def head_sees_only(model: Any, rows: Tensor | slice, columns: Tensor | int) -> Iterator[None]:
    """Inside, the output head is given the hidden states at these places only, and the logits are (n, vocabulary).

    A vocabulary's worth of logits at every position would cost a fifth of the time and most of the memory. Two
    dimensions: of a slice of three, torch may copy the whole head for every row.
    """
    head: nn.Module = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns],))
    try:
        yield
    finally:
        handle.remove()


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
            if own is None:
                # The stub lies on the instance; without it the class's own forward shows again.
                del block.forward
            else:
                block.forward = own


def _returns_tuples(body: nn.Module, blocks: Sequence[nn.Module], batch: Batch) -> bool:
    """Whether the blocks of this family return (hidden,) or hidden, seen on one token of the first."""
    seen: list[bool] = []
    handle = blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(isinstance(output, tuple)))

    def stub(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if seen[0] else hidden

    try:
        with forward_replaced(blocks[1:], [stub] * (len(blocks) - 1)):
            body(input_ids=batch.ids[:1, :1], use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def _enter(body: nn.Module, blocks: Sequence[nn.Module], batch: Batch, tuples: bool, cache: Cache | None) -> _Walked:
    first: list[Tensor] = []
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def stub(*args: Any, **kwargs: Any) -> Any:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        first.append(hidden)
        calls.append((args[1:], kwargs))
        return (hidden,) if tuples else hidden

    kept = {} if cache is None else {"cache": cache}
    with forward_replaced(blocks, [stub] * len(blocks)):
        # Without the mask: padding is on the right, where a causal model's real tokens never look, and attention
        # without one is faster.
        body(input_ids=batch.ids, use_cache=cache is not None, **batch.given, **kept)
    return _Walked(first[0], calls)


def batches_by_length(
    sequences: Sequence[Sequence[int]], budget: int, pad: int, device: torch.device
) -> list[tuple[list[int], Batch]]:
    """Sequences of token ids as right-padded batches, longest first, each of at most `budget` padded tokens.

    Returns pairs of the sequences' positions and their batch. A sequence longer than the budget is a batch of its own.
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
