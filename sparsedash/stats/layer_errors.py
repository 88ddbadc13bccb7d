"""What the layers of a sparse model lose on one text, as a multiple of what they lose on another."""

from collections.abc import Sequence
from statistics import median

from sparsedash.schema.records import Pruned

ALARM = 1.3
"""From how many times as much as on calibration text that was kept out of the fit the passages are unlike it.

Measured: see
docs/adr/0007."""


def median_ratio(errors: Sequence[float], usual: Sequence[float]) -> float | None:
    """The median over the layers that usually lose anything; None where nothing was measured."""
    ratios = [error / base for error, base in zip(errors, usual, strict=False) if base > 0]
    return median(ratios) if ratios else None


def mismatch(made: Pruned) -> float | None:
    """How many times as much the layers lose on passages of the evaluation as on calibration text.

    That was kept out of the fit, since an overfit is another matter; where none was, the text they were fitted to.
    """
    return median_ratio(made.passage_errors, made.held_out_errors or made.layer_errors)
