"""Runs the decoder blocks of a model one by one over many batches.

A model's own forward decides what every block is called with (masks, position embeddings, which
differ from layer to layer in some families); the walk asks it once a batch with stubs for blocks,
then runs the real blocks itself.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from sparsedash.catalog.config_checks import fewer_layers
from sparsedash.engine.models.structure import language_config
from sparsedash.schema.progress import ignore

Applied = Callable[[], AbstractContextManager[None]]
"""Makes the context inside which the loaded model is another one, such as a sparse one."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded token ids (b, t) and their mask (b, t), 1 where a token is real.

    model_inputs: further arguments of the model.
    """

    ids: Tensor
    mask: Tensor
    model_inputs: Mapping[str, Tensor] = field(default_factory=dict)


_Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a block beside the hidden states."""


class BlockWalk:
    """Takes batches through the decoder blocks, one block at a time over all of them."""

    def __init__(
        self,
        body: nn.Module,
        blocks: Sequence[nn.Module],
        batches: Sequence[Batch],
        caches: Sequence[Cache | None] = (),
    ) -> None:
        """Runs the embeddings, none of the blocks. body: the model without its output head.

        caches: one a batch, filled block by block; none, or None each, where nothing is kept.
        """
        self._blocks = blocks
        self._batches = batches
        self._n_returned = _n_returned(body, blocks)
        self._hidden: list[Tensor] = []
        self._calls: list[dict[int, _Call]] = []
        for batch, cache in zip(batches, caches or [None] * len(batches), strict=True):
            self._embed(body, batch, cache)

    def _embed(
        self,
        body: nn.Module,
        batch: Batch,
        cache: Cache | None,
    ) -> None:
        calls: dict[int, _Call] = {}
        embeddings: list[Tensor] = []

        def stub(index: int, *args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs.pop("hidden_states")
            embeddings.append(hidden)
            calls[index] = (args[1:], kwargs)
            return _block_output(hidden, self._n_returned)

        stubs = [partial(stub, index) for index in range(len(self._blocks))]
        cached = {} if cache is None else {"cache": cache}
        with forward_replaced(self._blocks, stubs):
            # Without the mask: padding is on the right, where a causal model's real tokens never
            # look, and attention without one is faster.
            body(
                input_ids=batch.ids,
                use_cache=cache is not None,
                **batch.model_inputs,
                **cached,
            )
        self._hidden.append(embeddings[0])
        self._calls.append(calls)

    @property
    def hidden(self) -> list[Tensor]:
        """Hidden states (b, t, d) of every batch, from which the next step starts."""
        return list(self._hidden)

    def restart_from(self, hidden: Sequence[Tensor]) -> None:
        """Let the next step start from these hidden states of an earlier step."""
        self._hidden = list(hidden)

    def step(self, index: int) -> Iterator[int]:
        """Run block `index` over every batch, yielding each batch's number once it is through."""
        for number in range(len(self._hidden)):
            self._run(index, number)
            yield number

    def run(
        self, inside: Sequence[Applied], on_block: Callable[[int], None] = ignore
    ) -> None:
        """Take every batch through all blocks, one block at a time.

        inside: the model that reads each batch. on_block: called while the model is the dense one,
        with the index of the next block, with the number of blocks at the end; may raise.
        """
        numbers = sorted(
            range(len(inside)), key=lambda number: inside.index(inside[number])
        )
        for index in range(len(self._blocks)):
            on_block(index)
            for applied, group in groupby(numbers, key=inside.__getitem__):
                with applied():
                    for number in group:
                        self._run(index, number)
        on_block(len(self._blocks))

    def output(self, model: nn.Module, number: int) -> Any:
        """Output of the model and its head for a batch's hidden states after the last block."""
        hidden = self._hidden[number]
        result = _block_output(hidden, self._n_returned)
        with forward_replaced(
            self._blocks, [lambda *args, **kwargs: result] * len(self._blocks)
        ):
            return model(input_ids=self._batches[number].ids, use_cache=False)

    def _run(self, index: int, number: int) -> None:
        if index not in self._calls[number]:
            # The model passes over it: cross-attention where there is no image, for example.
            return
        args, kwargs = self._calls[number][index]
        output = self._blocks[index](self._hidden[number], *args, **kwargs)
        self._hidden[number] = (
            output[0] if isinstance(output, (tuple, list)) else output
        )


@contextmanager
def capture_inputs(
    modules: Sequence[nn.Module], sinks: Sequence[Callable[[Tensor], None]]
) -> Iterator[None]:
    """Inside, every module passes its input to its sink before it runs."""

    def pass_on(
        sink: Callable[[Tensor], None],
        _: nn.Module,
        inputs: tuple[Tensor],
    ) -> None:
        sink(inputs[0])

    with ExitStack() as hooks:
        for module, sink in zip(modules, sinks, strict=True):
            hooks.callback(
                module.register_forward_pre_hook(partial(pass_on, sink)).remove
            )
        yield


@contextmanager
def head_sees_only(
    model: Any,
    rows: Tensor | slice,
    columns: Tensor | int,
) -> Iterator[None]:
    """Inside, the output head gets the hidden states at these places; logits are (n, vocabulary).

    Logits at every position would cost a fifth of the time and most of the memory. Two dimensions:
    of a slice of three, torch may copy the whole head for every row.
    """
    head: nn.Module = model.get_output_embeddings()
    with head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns],)):
        yield


@contextmanager
def skipping(
    body: nn.Module,
    blocks: Sequence[nn.Module],
    gone: Collection[int],
) -> Iterator[None]:
    """Inside, these blocks return the hidden states that they are given.

    body: the model without its output head. In a key-value cache such a block counts the tokens.
    """
    if not gone:
        yield
        return
    n_returned = _n_returned(body, blocks)

    def skip(index: int, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        for cache in (*args, *kwargs.values()):
            if isinstance(cache, Cache):
                # A cache counts no tokens by keys without a number.
                placeholder = hidden.new_zeros(
                    len(hidden),
                    1,
                    hidden.shape[1],
                    1,
                )
                cache.update(placeholder, placeholder, index)
        return _block_output(hidden, n_returned)

    removed = sorted(gone)
    stubs = [partial(skip, index) for index in removed]
    with forward_replaced([blocks[index] for index in removed], stubs):
        yield


def remove_blocks_(
    model: nn.Module,
    path: str,
    gone: Sequence[int],
) -> None:
    """Remove these blocks from the model and its config, in place. path: of the list of blocks."""
    owner, _, name = path.rpartition(".")
    blocks = list(model.get_submodule(path).children())
    kept = [index for index in range(len(blocks)) if index not in gone]
    for place, index in enumerate(kept):
        for module in blocks[index].modules():
            # Its place in a key-value cache.
            for key in {"layer_idx", "layer_id"} & vars(module).keys():
                setattr(module, key, place)
    setattr(
        model.get_submodule(owner),
        name,
        nn.ModuleList(blocks[index] for index in kept),
    )
    model.config = shortened_config(model.config, kept)


def renumbered(
    name: str,
    blocks: str,
    gone: Sequence[int],
) -> str | None:
    """A tensor's name once these layers are removed; None if it is of one. blocks: their path."""
    number, _, suffix = name.removeprefix(f"{blocks}.").partition(".")
    if not name.startswith(f"{blocks}.") or not number.isdigit():
        return name
    index = int(number)
    n_before = sum(layer < index for layer in gone)
    return None if index in gone else f"{blocks}.{index - n_before}.{suffix}"


def shortened_config(config: PretrainedConfig, kept: Sequence[int]) -> PretrainedConfig:
    """The config of the model of which only these layers are left."""
    shorter = copy.deepcopy(config)
    text = language_config(shorter)
    for key, value in fewer_layers(text.to_dict(), kept).items():
        setattr(text, key, value)
    return shorter


@contextmanager
def forward_replaced(
    blocks: Sequence[nn.Module], stubs: Sequence[Any]
) -> Iterator[None]:
    """Inside, every block's forward is replaced by its stub."""
    before = [vars(block).get("forward") for block in blocks]
    for block, stub in zip(blocks, stubs, strict=True):
        block.forward = stub
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            # The stub lies on the instance; without it the class's own forward shows again.
            del block.forward
            if forward is not None:
                block.forward = forward


_N_RETURNED: "WeakKeyDictionary[nn.Module, int]" = WeakKeyDictionary()


def _block_output(hidden: Tensor, n_returned: int) -> Any:
    """Hidden states as a block of this model returns them; see `_n_returned`."""
    return (hidden, *[None] * (n_returned - 1)) if n_returned else hidden


def _n_returned(body: nn.Module, blocks: Sequence[nn.Module]) -> int:
    """Length of the tuple that a block of this model returns, tried on one token; 0 if a tensor."""
    if body not in _N_RETURNED:
        outputs: list[Any] = []
        token = torch.zeros(
            1,
            1,
            dtype=torch.long,
            device=next(body.parameters()).device,
        )
        with (
            blocks[0].register_forward_hook(
                lambda module, inputs, output: outputs.append(output)
            ),
            forward_replaced(
                blocks[1:], [lambda *_, **__: outputs[0]] * (len(blocks) - 1)
            ),
        ):
            body(input_ids=token, use_cache=False)
        _N_RETURNED[body] = (
            len(outputs[0]) if isinstance(outputs[0], (tuple, list)) else 0
        )
    return _N_RETURNED[body]


def batches_by_length(
    sequences: Sequence[Sequence[int]], budget: int, pad: int, device: torch.device
) -> list[tuple[list[int], Batch]]:
    """Positions of sequences and their right-padded batch, longest first.

    A batch has `budget` tokens at most, or one sequence.
    """
    order = sorted(range(len(sequences)), key=lambda row: (-len(sequences[row]), row))
    batches = []
    start = 0
    while start < len(order):
        longest = len(sequences[order[start]])
        rows = order[start : start + max(1, budget // longest)]
        start += len(rows)
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(sequences[row])] = torch.tensor(sequences[row])
            mask[place, : len(sequences[row])] = 1
        batches.append((rows, Batch(ids.to(device), mask.to(device))))
    return batches


def n_fitting(sizes: Iterable[int], n_tokens: float) -> int:
    """Number of first batches that have at most n_tokens together, padding included; at least 1."""
    return max(1, sum(together <= n_tokens for together in accumulate(sizes)))


def preallocated_cache(n_tokens: int) -> DynamicCache:
    """An empty key-value cache with memory for n_tokens a row: none is copied for the next one."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = partial(PreallocatedLayer, n_tokens)
    return cache


Offload = Callable[[Sequence[Tensor]], list[Tensor]]
"""See `Resident.offload_all`."""


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of a key-value cache with memory for n_tokens a row from the beginning."""

    def __init__(
        self,
        n_tokens: int,
        offload: Offload = list,
    ) -> None:
        super().__init__()
        self._n_tokens = n_tokens
        self._offload = offload
        self._buffers: list[Tensor] = []

    @classmethod
    def right_aligned(
        cls,
        parts: Sequence[tuple[Tensor, Tensor]],
        n_more: int,
        offload: Offload = list,
    ) -> "PreallocatedLayer":
        """A layer with the rows of all parts, right-aligned, and memory for n_more tokens.

        parts: keys and values, (r, heads, t, e); r and t differ from part to part. offload: of the
        buffers.
        """
        longest = max(keys.shape[2] for keys, _ in parts)
        n_rows = sum(len(keys) for keys, _ in parts)
        layer = cls(longest + n_more, offload)
        keys, values = parts[0]
        layer.lazy_initialization(
            keys.new_empty(n_rows, keys.shape[1], 0, keys.shape[3]),
            values.new_empty(n_rows, values.shape[1], 0, values.shape[3]),
        )
        start = 0
        for part in parts:
            n_padding = longest - part[0].shape[2]
            rows = slice(start, start + len(part[0]))
            start = rows.stop
            for buffer, states in zip(layer._buffers, part, strict=True):
                # What is masked must be finite all the same: 0 times NaN is NaN.
                buffer[rows, :, :n_padding] = 0
                buffer[rows, :, n_padding:longest] = states
        layer._buffers = offload(layer._buffers)
        layer._show(longest)
        return layer

    def lazy_initialization(
        self,
        key_states: Tensor,
        value_states: Tensor,
    ) -> None:
        """Allocate buffers for rows like these."""
        super().lazy_initialization(key_states, value_states)
        self._buffers = [
            states.new_empty(*states.shape[:2], self._n_tokens, states.shape[3])
            for states in (key_states, value_states)
        ]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Add these tokens to every row; returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        for buffer, states in zip(
            self._buffers, (key_states, value_states), strict=True
        ):
            buffer[:, :, start:stop] = states
        self._show(stop)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        n_tokens = self.get_seq_length()
        self._buffers = self._offload([buffer[indices] for buffer in self._buffers])
        self._show(n_tokens)

    def _show(self, n_tokens: int) -> None:
        self.keys, self.values = (buffer[:, :, :n_tokens] for buffer in self._buffers)
