"""Inputs and streams of the blocks in a plain forward pass, to compare with collected ones."""

from contextlib import ExitStack
from functools import partial

import torch

WEIGHTS = {
    "equal": lambda stream: torch.ones(len(stream)),
    "residual": lambda stream: 1 / stream.square().mean(dim=1),
}


def seen_by(loaded, sequences):
    """Of each block, the out-projection's inputs and the residual stream after it, by sequence."""
    inputs = [[] for _ in loaded.mlps]
    streams = [[] for _ in loaded.mlps]

    def note_input(index, _, args):
        inputs[index].append(args[0][0])

    def note_stream(index, _, args, out):
        hidden = out[0] if isinstance(out, tuple) else out
        streams[index].append(hidden[0])

    with ExitStack() as hooks:
        for index, mlp in enumerate(loaded.mlps):
            block = loaded.blocks[index]
            hooks.enter_context(
                mlp.out.register_forward_pre_hook(partial(note_input, index))
            )
            hooks.enter_context(
                block.register_forward_hook(partial(note_stream, index))
            )
        for ids in sequences:
            loaded.model(torch.tensor([ids]))
    return inputs, streams
