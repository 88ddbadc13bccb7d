"""What the cached statistics of a model take on disk: one block's are packed as a run packs them, and counted.

    python -m benchmarks.statistics_size --width 11008 --hidden 4096 --blocks 32

The defaults are those of a LLaMA of 7B. No model is read: the size depends on the widths alone. Channels need the
statistics of the MLPs' inner activations; single weights also those of what all other projections are given.
"""

import argparse

import torch

from sparsedash.catalog.resources import HELD_OUT_TOKENS
from sparsedash.engine.calibration.statistics import pack_statistics
from sparsedash.engine.pruning.layer import Sample, Statistics


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=11_008, help="inner channels of an MLP")
    parser.add_argument("--hidden", type=int, default=4_096, help="width of the residual stream")
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--inputs", type=int, default=3, help="other inputs a block, hidden wide")
    arguments = parser.parse_args()
    inner = _packed_bytes(arguments.width)
    others = arguments.inputs * _packed_bytes(arguments.hidden)
    _say("a block's inner activations", arguments.width, inner, arguments.blocks)
    _say("a block's other inputs", arguments.hidden, others, arguments.blocks)
    whole = arguments.blocks * (4 * arguments.width**2) / 1e9
    print(f"the matrices of the inner activations as they are: {whole:.2f} GB")


def _packed_bytes(width):
    statistics = Statistics(
        covariance=torch.zeros(width, width),
        mean=torch.zeros(width),
        held_out=Sample(inputs=torch.zeros(HELD_OUT_TOKENS, width), weights=torch.ones(HELD_OUT_TOKENS)),
        n_tokens=1,
    )
    return len(pack_statistics(statistics))


def _say(what, width, n_bytes, blocks):
    print(f"{what}, {width:,} wide: {n_bytes / 1e6:,.1f} MB, {blocks * n_bytes / 1e9:.2f} GB in all")


if __name__ == "__main__":
    main()
