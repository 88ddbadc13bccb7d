"""What is put on record about a sparse model: how it was made, how much of it is gone, and what each layer loses."""

from collections.abc import Callable
from functools import cache

from sparsedash.engine.pruning.layer import Sample
from sparsedash.engine.pruning.lazily import Lazily
from sparsedash.engine.pruning.reconstruction_error import BlockErrors, LayerErrors
from sparsedash.engine.run.sparse_model import SparseModel
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned
from sparsedash.schema.settings import CalibrationSettings

Samples = Callable[[int], list[Sample] | None]
"""What the watched projections of a block are given, one sample each; None where the store has no room for them."""


class OnRecord:
    """A sparse model with all that is told of it, block by block; asked while the loaded model is the dense one.

    samples: of passages of the evaluation.
    """

    def __init__(self, model: SparseModel, samples: Samples) -> None:
        self.model, self._samples = model, samples
        self._passage_errors = Lazily(len(model.errors), self._passage_error)
        self._sensitivities = cache(model.sensitivities)

    def block(self, index: int) -> tuple[BlockErrors, float | None]:
        """Make this block, and see what it loses on calibration text and on passages.

        More of it than the model runs with is not needed any longer then.
        """
        self.model.made(index)
        self._sensitivities()
        found = self.model.errors[index], self._passage_errors[index]
        self.model.round_(index)
        return found

    def described(self, method: MethodSettings, calibration: CalibrationSettings, permille: int) -> Pruned:
        """The record's part on pruning."""
        made, in_mlps, everywhere = self.model, *self.model.shares_gone()
        errors, on_passages = LayerErrors.of(made.errors), list(self._passage_errors)
        known = [error for error in on_passages if error is not None]
        return Pruned(
            method=method,
            calibration=calibration,
            sparsity_permille=permille,
            widths=tuple(made.widths),
            dense_widths=tuple(mlp.width for mlp in made.loaded.mlps),
            mlp_sparsity=in_mlps,
            matmul_ratio=everywhere,
            layer_errors=tuple(errors.fitted),
            held_out_errors=tuple(errors.held_out),
            uncompensated_errors=tuple(errors.uncompensated),
            passage_errors=tuple(known) if len(known) == len(on_passages) else (),
            sensitivities=tuple(self._sensitivities()),
        )

    def _passage_error(self, index: int) -> float | None:
        samples = self._samples(index)
        return None if samples is None else self.model.passage_error(index, samples)
