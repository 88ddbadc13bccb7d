"""Gradients of the next-token loss with respect to each channel's mask, for Fisher information.

Dimensions: d hidden width, m inner width, b sequences and t tokens of one batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from sparsedash.catalog.resources import FISHER_BATCH_TOKENS
from sparsedash.engine.models.decoder_blocks import (
    Batch,
    forward_replaced,
    head_sees_only,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.matmul import current_matmul_mode
from sparsedash.schema.progress import Checkpointed, OnStep, Step, without_checkpoint

OnBlock = Callable[[int, int], None]
"""Called between blocks with the steps done and their total. May raise `Cancelled`."""

Masks = Callable[[float, list[Tensor], OnBlock], list[Tensor]]
"""The mask (m,) of every block, 0 or 1, from the share of rounds done and the gradients so far."""


def mask_gradients(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    on_step: OnStep,
    *,
    n_rounds: int = 1,
    masks: Masks | None = None,
    checkpointed: Checkpointed[list[Tensor]] = without_checkpoint,
) -> list[Tensor]:
    """Derivatives (s, m) float32 of each sequence's mean loss by each block's channel masks.

    n_rounds: the sequences are read in so many parts, at most one for each of them; the dense model
    reads the first, with all masks at 1, and the others are read with what `masks` returns after
    each. A channel whose mask is 0 has a derivative as well, and may come back. checkpointed: each
    batch.
    Source: arXiv:2204.09656, whose Fisher information is made of them; the rounds are those of the
    program behind the published tables, PytorchRetrainFreePruner of neural-compressor.
    """
    n_rounds = min(n_rounds, len(sequences))
    ends = [len(sequences) * number // n_rounds for number in range(n_rounds + 1)]
    rounds = [
        loaded.batches(sequences[start:end], FISHER_BATCH_TOKENS)
        for start, end in pairwise(ends)
    ]
    n_batches = sum(map(len, rounds))
    step = Step(
        "calibrate",
        0,
        n_batches,
        unit="batches",
        message="backward pass",
    )
    gradients = [torch.empty(0, mlp.width) for mlp in loaded.mlps]
    n_done = 0

    def on_block(done: int, total: int) -> None:
        # No batch is read meanwhile: the same step again, so that the work can be stopped.
        on_step(replace(step, done=n_done, message="choosing channels"))

    def masks_of(round_number: int) -> Sequence[Tensor | None]:
        if round_number == 0 or masks is None:
            return [None] * len(gradients)
        return masks(round_number / n_rounds, gradients, on_block)

    for round_number, batches in enumerate(rounds):
        # Only called where a batch must be read.
        round_masks = cache(partial(masks_of, round_number))
        parts: list[list[Tensor]] = []
        # Where the weights are streamed, activations kept for the way back would fill the memory.
        with _recomputed(loaded) if loaded.residency.streamed else nullcontext():
            for _, batch in batches:
                batch_step = replace(step, done=n_done)
                on_step(batch_step)
                read = partial(
                    _batch_gradients,
                    loaded,
                    batch,
                    round_masks,
                    batch_step,
                    on_step,
                )
                # A copy: the checkpoint may still have to write the part itself.
                parts.append(list(checkpointed(n_done, read)))
                n_done += 1
        on_step(replace(step, done=n_done))
        rows = list(chain.from_iterable(batch_rows for batch_rows, _ in batches))
        order = torch.argsort(torch.tensor(rows))
        for block, before in enumerate(gradients):
            # One block after another, and nothing kept twice: all of them may be gigabytes.
            in_order = torch.cat([part.pop(0) for part in parts])[order]
            gradients[block] = torch.cat([before, in_order])
    return gradients


def _batch_gradients(
    loaded: LoadedModel,
    batch: Batch,
    masks: Callable[[], Sequence[Tensor | None]],
    step: Step,
    on_step: OnStep,
) -> list[Tensor]:
    """Gradients (b, m) of each block in one batch."""
    # No weight needs a gradient; the embedded tokens do, so that there is a way back through all
    # blocks.
    embeddings: nn.Module = loaded.model.get_input_embeddings()
    gradients: dict[int, Tensor] = {}
    for number, mlp in enumerate(loaded.mlps):
        if not mlp.width:
            gradients[number] = torch.empty(len(batch.ids), 0)

    def keep(number: int, gradient: Tensor) -> None:
        gradients[number] = gradient
        on_step(replace(step, ahead=len(gradients) / len(loaded.mlps)))

    with ExitStack() as hooks, torch.enable_grad():
        hooks.enter_context(
            embeddings.register_forward_hook(
                lambda _, inputs, out: out.requires_grad_()
            )
        )
        real = batch.mask.bool()
        for number, (mask, mlp) in enumerate(zip(masks(), loaded.mlps, strict=True)):
            hooks.enter_context(_watched(mask, mlp.out, real, partial(keep, number)))
        _mean_loss(loaded.model, batch).backward()  # type: ignore[no-untyped-call]
    return [gradients[number].cpu() for number in range(len(gradients))]


def _watched(
    mask: Tensor | None, out: nn.Module, real: Tensor, keep: Callable[[Tensor], None]
) -> RemovableHandle:
    """Keep gradients (b, m) by the mask of an out-projection's inputs. real: (b, t), real tokens.

    A mask times x has the derivative x * dL/d(mask x), summed over the tokens.
    """

    def before(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        activations = inputs[0].detach()
        masked = inputs[0] if mask is None else inputs[0] * mask.to(inputs[0])

        def backward(gradient: Tensor) -> None:
            products = (activations * gradient).reshape(*real.shape, -1).float()
            keep((products * real[:, :, None]).sum(dim=1))

        masked.register_hook(backward)  # type: ignore[no-untyped-call]
        return (masked,)

    return out.register_forward_pre_hook(before)


@contextmanager
def _recomputed(loaded: LoadedModel) -> Iterator[None]:
    """Inside, a block keeps only its input and runs again in the backward pass."""
    options: Any = {
        "use_reentrant": False,
        "preserve_rng_state": False,
        # On the way back a block must find the same tensors as on the way there.
        "context_fn": lambda: (nullcontext(), current_matmul_mode()),
    }
    recomputed = [
        partial(checkpoint, block.forward, **options) for block in loaded.blocks
    ]
    with forward_replaced(loaded.blocks, recomputed):
        yield


def _mean_loss(model: Any, batch: Batch) -> Tensor:
    """Sum over the sequences of the mean next-token cross-entropy of each."""
    real = batch.mask[:, 1:].bool()
    weights = real / real.sum(dim=1, keepdim=True).clamp_min(1)
    with head_sees_only(model, *real.nonzero(as_tuple=True)):
        logits = model(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        ).logits
    losses = nn.functional.cross_entropy(
        logits.float(),
        batch.ids[:, 1:][real],
        reduction="none",
    )
    return (losses * weights[real]).sum()
