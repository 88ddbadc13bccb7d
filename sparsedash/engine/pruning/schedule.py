"""How the sparsity grows where a model is pruned in rounds. To add a way: one function and one row.

Every function takes the sparsity at the end and the share of the rounds that are done, and returns the sparsity so far;
all from 0 to 1. Source: the schedulers of neural-compressor.
"""

import math
from collections.abc import Callable


def exponential(target: float, done: float) -> float:
    """What is left shrinks by the same factor in every round."""
    left: float = (1 - target) ** done
    return 1 - left


def linear(target: float, done: float) -> float:
    """The same share in every round."""
    return target * done


def cubic(target: float, done: float) -> float:
    """Little at first, most at the end."""
    return target * done**3


def cosine(target: float, done: float) -> float:
    """A quarter of a cosine wave: little at first."""
    return target * (1 - math.cos(done * math.pi / 2))


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "exponential": exponential,
    "linear": linear,
    "cubic": cubic,
    "cosine": cosine,
}


def reached_permille(schedule: str, permille: int, done: float) -> int:
    """The sparsity after this share of the rounds, per mille."""
    return round(1000 * SCHEDULES[schedule](permille / 1000, done))
