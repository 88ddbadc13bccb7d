"""The order in which whole layers are removed: by their influence, by what the model loses without them, or at random.

An order is nested: what goes at 10 % goes at 20 % too.
"""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from random import Random

import torch

from sparsedash.engine.calibration.curves import CurveMeasurement, OnPart, layer_text
from sparsedash.engine.calibration.statistics import BATCH_TOKENS
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.method_settings import MethodSettings

Sequences = Callable[[], Sequence[Sequence[int]]]
"""Gives the calibration text, token ids."""


def layer_order(
    loaded: LoadedModel, sequences: Sequences, method: MethodSettings, known: Sequence[int], on_part: OnPart
) -> Iterator[int]:
    """The layers in the order of their removal, behind those that are known; found as far as they are asked for.

    At random by the seed; the least influence first (ShortGPT, arXiv:2403.03853); or the one without which the
    model loses least, measured anew: SLEB (arXiv:2402.09025) by the perplexity of the text, or by the divergence from
    dense. on_part: called with the share of the work on the next one that is done; may raise. Raises CalibrationError
    where a loss is not finite.
    """
    n, gone = len(loaded.blocks), list(known)
    if method.saliency == "random":
        yield from Random(method.seed).sample(range(n), n)[len(gone) :]
        return
    if method.saliency == "block-influence":
        found = _influences(loaded, sequences(), on_part)
        yield from sorted(range(n), key=found.__getitem__)[len(gone) :]
        return
    measurement = CurveMeasurement(loaded, layer_text(sequences()), by=method.saliency)
    while len(gone) < n:
        losses = measurement.losses_without(gone, on_part)
        if not all(map(isfinite, losses.values())):
            raise CalibrationError("Without one of its layers, predictions are not finite.", "Use float32.")
        gone.append(min(losses, key=losses.__getitem__))
        yield gone[-1]


@torch.no_grad()
def _influences(loaded: LoadedModel, sequences: Sequence[Sequence[int]], on_part: OnPart) -> list[float]:
    """Of each block 1 - the mean cosine, over all tokens, between the residual stream before and after it."""
    found = list[float]()
    batches = [batch for _, batch in loaded.batches(sequences, BATCH_TOKENS)]
    walk = loaded.walk(batches)
    for index in range(len(loaded.blocks)):
        on_part(index / len(loaded.blocks))
        before, total, n_tokens = walk.hidden, 0.0, 0
        for number in walk.step(index):
            real = batches[number].mask.bool()
            old, new = (own[real].float() for own in (before[number], walk.hidden[number]))
            cosines = torch.cosine_similarity(old, new, dim=-1)
            total, n_tokens = total + float(cosines.sum()), n_tokens + len(cosines)
        found.append(1 - total / n_tokens)
    return found
