"""What a plain forward pass shows of the blocks, for tests of what is collected block by block."""

import torch

WEIGHTS = {
    "equal": lambda stream: torch.ones(len(stream)),
    "residual": lambda stream: 1 / stream.square().mean(dim=1),
}


def seen_by(loaded, sequences):
    """Of each block, what its out-projection is given and the residual stream after it, sequence by
    sequence.
    """
    inputs, streams = ([[] for _ in loaded.mlps] for _ in range(2))
    hooks = []
    for i, (mlp, block) in enumerate(zip(loaded.mlps, loaded.blocks, strict=True)):
        hooks += [
            mlp.out.register_forward_pre_hook(lambda _, args, i=i: inputs[i].append(args[0][0])),
            block.register_forward_hook(
                lambda _, args, out, i=i: streams[i].append(
                    (out[0] if isinstance(out, tuple) else out)[0]
                )
            ),
        ]
    for ids in sequences:
        loaded.model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return inputs, streams
