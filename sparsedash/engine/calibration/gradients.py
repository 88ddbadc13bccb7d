"""Gradients of the next-token loss by each channel's mask, which Fisher information is made of.

Dimensions: d hidden width, m inner width, b sequences and t tokens of one batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from sparsedash.catalog.resources import FISHER_BATCH_TOKENS
from sparsedash.engine.models.decoder_blocks import Batch, forward_replaced, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.matmul import current_matmul_mode
from sparsedash.schema.progress import Checkpointed, OnStep, Step, without_checkpoint

OnBlock = Callable[[int, int], None]
"""Called between blocks with the steps done and their total. May raise `Cancelled`."""

Masks = Callable[[float, list[Tensor], OnBlock], list[Tensor]]
"""The mask (m,) of every block, 0 or 1, from the share of the rounds that are done and the
gradients (s, m) so far.
"""


def mask_gradients(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    on_step: OnStep,
    *,
    n_rounds: int = 1,
    masks: Masks | None = None,
    made: Checkpointed[list[Tensor]] = without_checkpoint,
) -> list[Tensor]:
    """For every block (s, m) float32: the derivative of each sequence's mean loss by each channel's
    mask.

    n_rounds: the sequences are read in so many parts, at most one for each of them; the dense model
    reads the first, with all masks at 1, and the others are read with what `masks` gives after
    each. A channel whose mask is 0 has a derivative as well, and may come back. made: checkpoints
    each batch.
    Source: arXiv:2204.09656, whose Fisher information is made of them; the rounds are those of the
    program behind the published tables, PytorchRetrainFreePruner of neural-compressor.
    """
    n_rounds = min(n_rounds, len(sequences))
    ends = [len(sequences) * number // n_rounds for number in range(n_rounds + 1)]
    rounds = [
        loaded.batches(sequences[start:end], FISHER_BATCH_TOKENS) for start, end in pairwise(ends)
    ]
    step, n_done = (
        Step("calibrate", 0, sum(map(len, rounds)), unit="batches", message="backward pass"),
        0,
    )
    found = [torch.empty(0, mlp.width) for mlp in loaded.mlps]

    def on_block(done: int, total: int) -> None:
        # No batch is read meanwhile: the same step again, so that the work can be stopped.
        on_step(replace(step, done=n_done, message="choosing channels"))

    def known_masks(done: float) -> Sequence[Tensor | None]:
        return masks(done, found, on_block) if done and masks else [None] * len(found)

    for number, batches in enumerate(rounds):
        # Where the weights are streamed, what each block keeps for the way back would fill the
        # memory instead.
        with _recomputed(loaded) if loaded.residency.streamed else nullcontext():
            asked = partial(known_masks, number / n_rounds)
            parts = _backward(loaded, batches, asked, replace(step, done=n_done), on_step, made)
        n_done += len(batches)
        order = torch.argsort(torch.tensor([row for rows, _ in batches for row in rows]))
        for block, before in enumerate(found):
            # One block after another, and nothing kept twice: all of them may be gigabytes.
            found[block] = torch.cat([before, torch.cat([part.pop(0) for part in parts])[order]])
    return found


def _watched(
    mask: Tensor | None, out: nn.Module, real: Tensor, keep: Callable[[Tensor], None]
) -> RemovableHandle:
    """During a backward pass, keep (b, m) of an out-projection's inputs. real: (b, t), which tokens
    are.

    A mask times x has the derivative x * dL/d(mask x), summed over the tokens.
    """

    def before(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        given, seen = inputs[0], inputs[0].detach()
        if mask is not None:
            given = given * mask.to(given)

        def backward(gradient: Tensor) -> None:
            products = (seen * gradient).reshape(*real.shape, -1).float()
            keep((products * real[:, :, None]).sum(dim=1))

        given.register_hook(backward)  # type: ignore[no-untyped-call]
        return (given,)

    return out.register_forward_pre_hook(before)


def _backward(
    loaded: LoadedModel,
    batches: Sequence[tuple[list[int], Batch]],
    masks: Callable[[], Sequence[Tensor | None]],
    step: Step,
    on_step: OnStep,
    made: Checkpointed[list[Tensor]],
) -> list[list[Tensor]]:
    """The gradients of each batch, of each block. masks: called once, where a batch must be
    read.
    """
    known = cache(masks)

    def read(index: int, batch: Batch) -> list[Tensor]:
        # No weight needs a gradient; the embedded tokens do, so that there is a way back through
        # all blocks.
        embeddings: nn.Module = loaded.model.get_input_embeddings()
        found: dict[int, Tensor] = {}

        def keep(number: int, gradient: Tensor) -> None:
            found[number] = gradient
            on_step(replace(step, done=index, ahead=len(found) / len(loaded.mlps)))

        with ExitStack() as watched, torch.enable_grad():
            watched.callback(
                embeddings.register_forward_hook(lambda _, inputs, out: out.requires_grad_()).remove
            )
            for number, (mask, mlp) in enumerate(zip(known(), loaded.mlps, strict=True)):
                watched.callback(
                    _watched(mask, mlp.out, batch.mask.bool(), partial(keep, number)).remove
                )
            _mean_loss(loaded.model, batch).backward()  # type: ignore[no-untyped-call]
        return [found[number].cpu() for number in range(len(found))]

    parts = []
    for number, (_, batch) in enumerate(batches, step.done):
        on_step(replace(step, done=number))
        # A list of the caller's own: the part itself may still have to be kept.
        parts.append(list(made(number, partial(read, number, batch))))
    on_step(replace(step, done=step.done + len(batches)))
    return parts


@contextmanager
def _recomputed(loaded: LoadedModel) -> Iterator[None]:
    """Inside, a block keeps only its input and is run again in the backward pass: less memory for
    more time.
    """

    # On the way back a block must find the same tensors as on the way there.
    how: Any = {
        "preserve_rng_state": False,
        "context_fn": lambda: (nullcontext(), current_matmul_mode()),
    }
    again = [
        partial(checkpoint, block.forward, use_reentrant=False, **how) for block in loaded.blocks
    ]
    with forward_replaced(loaded.blocks, again):
        yield


def _mean_loss(model: Any, batch: Batch) -> Tensor:
    """Sum over the sequences of the mean next-token cross-entropy of each."""
    real = batch.mask[:, 1:].bool()
    weights = real / real.sum(dim=1, keepdim=True).clamp_min(1)
    with head_sees_only(model, *real.nonzero(as_tuple=True)):
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    losses = nn.functional.cross_entropy(logits.float(), batch.ids[:, 1:][real], reduction="none")
    return (losses * weights[real]).sum()
