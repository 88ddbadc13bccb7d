"""What this machine can do at best: the rate of one large matrix multiplication, which bounds every
forward pass.

And the walk of calibration, which is timed in more than one benchmark.
"""

import statistics
import time

import torch

from sparsedash.engine.calibration.statistics import statistics_walk
from sparsedash.schema.progress import ignore_steps

SIDE = 2048
REPEATS = 3


def matmul_flops(dtype: torch.dtype, side: int = SIDE) -> float:
    """Floating-point operations a second of a square matrix product, median of REPEATS after a
    warm-up.
    """
    left, right = (torch.randn(side, side, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds)


class Pace:
    """Work timed in pieces, with the matmul rate measured between them, so that a drifting machine
    cancels out.
    """

    def __init__(self, dtype: torch.dtype, side: int = SIDE) -> None:
        self._dtype = dtype
        self._side = side
        self.seconds = 0.0
        self._possible = 0.0
        self.begin()

    def begin(self) -> None:
        """Measure the rate; the clock of the next piece starts after it."""
        self._rate = matmul_flops(self._dtype, self._side)
        self._started = time.perf_counter()

    def piece(self, least_s: float = 0.0) -> None:
        """A piece is done: it counts at the mean of the rates before and after it.

        least_s: one that took less goes on, since measuring the rate takes its time too.
        """
        seconds = time.perf_counter() - self._started
        if seconds < least_s:
            return
        before = self._rate
        self.begin()
        self.seconds += seconds
        self._possible += seconds * (before + self._rate) / 2

    @property
    def rate(self) -> float:
        """Mean matmul rate over the work, FLOP/s."""
        return self._possible / self.seconds

    def share(self, flops: float) -> float:
        """Part of what matrix multiplication could have done meanwhile."""
        return flops / self._possible

    def times(self, other: "Pace") -> float:
        """How many times as long as the other work this took, had the machine been as fast for
        both.
        """
        return self._possible / other._possible


def calibrate(loaded, sequences, token_weights="equal", on_step=ignore_steps):
    """Read the sequences as calibration does; its statistics are dropped."""
    watched = [[mlp.out] for mlp in loaded.mlps]
    walk = statistics_walk(
        loaded,
        lambda: sequences,
        watched,
        lambda *_: None,
        on_step,
        token_weights=token_weights,
    )
    walk.reach(len(loaded.blocks) - 1)
