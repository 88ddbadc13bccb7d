"""The order in which whole layers are removed: by what the model loses without them, by their influence, or at random.

An order is nested: what goes at 10 % goes at 20 % too. To add one: a function of `Removal` and a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from random import Random

import torch

from sparsedash.engine.calibration.curves import CurveMeasurement, OnPart, layer_text
from sparsedash.engine.calibration.statistics import BATCH_TOKENS
from sparsedash.engine.models.decoder_blocks import BlockWalk, batches_by_length
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import CalibrationError


@dataclass(eq=False)
class Removal:
    """Finds the next layer to remove. sequences: the calibration text, token ids. influences: once they are known."""

    loaded: LoadedModel
    sequences: Callable[[], Sequence[Sequence[int]]]
    saliency: str
    seed: int
    influences: list[float] = field(default_factory=list)

    def next(self, gone: Sequence[int], on_part: OnPart) -> int:
        """The layer that goes after these. on_part: called with the share of the work that is done; may raise."""
        return LAYER_SALIENCIES[self.saliency](self, gone, on_part)

    @cached_property
    def _drawn(self) -> list[int]:
        n = len(self.loaded.blocks)
        return Random(self.seed).sample(range(n), n)

    def by_chance(self, gone: Sequence[int], on_part: OnPart) -> int:
        """In an order that the seed draws."""
        return self._drawn[len(gone)]

    @torch.no_grad()
    def by_influence(self, gone: Sequence[int], on_part: OnPart) -> int:
        """The least influence first: 1 - the mean cosine between the residual stream before and after a block.

        Source: ShortGPT, arXiv:2403.03853.
        """
        if not self.influences:
            self.influences = self._measured_influences(on_part)
        return min(set(range(len(self.influences))) - set(gone), key=lambda index: (self.influences[index], index))

    def _measured_influences(self, on_part: OnPart) -> list[float]:
        """Of each block, over all tokens."""
        loaded, found = self.loaded, list[float]()
        pad = loaded.tokenizer.pad_token_id or 0
        batches = [batch for _, batch in batches_by_length(self.sequences(), BATCH_TOKENS, pad, loaded.model.device)]
        walk = BlockWalk(loaded.model.base_model, loaded.blocks, batches)
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

    @cached_property
    def _measurement(self) -> CurveMeasurement:
        return CurveMeasurement(self.loaded, layer_text(self.sequences()), by=self.saliency)

    def by_loss(self, gone: Sequence[int], on_part: OnPart) -> int:
        """The one without which the model loses least, measured anew after each.

        Source: SLEB, arXiv:2402.09025, by the perplexity of the text; here also by the divergence from dense. Raises
        CalibrationError where a loss is not finite.
        """
        found = self._measurement.losses_without(gone, on_part)
        if not all(map(isfinite, found.values())):
            raise CalibrationError("Without one of its layers, predictions are not finite.", "Use float32.")
        return min(found, key=lambda each: (found[each], each))


LAYER_SALIENCIES: dict[str, Callable[[Removal, Sequence[int], OnPart], int]] = {
    "random": Removal.by_chance,
    "block-influence": Removal.by_influence,
    "perplexity": Removal.by_loss,
    "divergence": Removal.by_loss,
}
