"""What is put on record about a sparse model: how it was made, how much of it is gone, and what each layer loses."""

from collections.abc import Sequence

from sparsedash.engine.run.sparse_model import SparseModel
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned
from sparsedash.schema.settings import CalibrationSettings


def described(
    made: SparseModel,
    method: MethodSettings,
    calibration: CalibrationSettings,
    permille: int,
    passage_errors: Sequence[float],
) -> Pruned:
    """The record's part on pruning; asked while the loaded model is still the dense one."""
    in_mlps, everywhere = made.shares_gone()
    return Pruned(
        method=method,
        calibration=calibration,
        sparsity_permille=permille,
        widths=tuple(made.widths),
        dense_widths=tuple(mlp.width for mlp in made.loaded.mlps),
        mlp_sparsity=in_mlps,
        matmul_ratio=everywhere,
        layer_errors=tuple(made.errors.fitted),
        held_out_errors=tuple(made.errors.held_out),
        uncompensated_errors=tuple(made.errors.uncompensated),
        passage_errors=tuple(passage_errors),
        sensitivities=tuple(made.errors.sensitivities),
    )
