"""What is put on record about a sparse model: how it was made, how much of it is gone, and what each layer loses."""

from collections.abc import Sequence

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.weight_counts import n_matmul_weights, weights_per_channel
from sparsedash.engine.pruning.patterns import matmul_ratio, mlp_sparsity
from sparsedash.engine.pruning.reconstruction_error import PrunedModel
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned
from sparsedash.schema.settings import CalibrationSettings


def described(
    loaded: LoadedModel,
    made: PrunedModel,
    asked: tuple[MethodSettings, CalibrationSettings, int],
    passage_errors: Sequence[float],
) -> Pruned:
    """The record's part on pruning; asked while the model is still the dense one.

    asked: method, calibration, per mille.
    """
    method, calibration, permille = asked
    dense_widths = [mlp.width for mlp in loaded.mlps]
    widths = [len(narrow.kept) for narrow in made.narrowed] or dense_widths
    in_mlps, everywhere = _shares(loaded, made, widths)
    return Pruned(
        method=method,
        calibration=calibration,
        sparsity_permille=permille,
        widths=tuple(widths),
        dense_widths=tuple(dense_widths),
        mlp_sparsity=in_mlps,
        matmul_ratio=everywhere,
        layer_errors=tuple(made.layer_errors),
        held_out_errors=tuple(made.held_out_errors),
        uncompensated_errors=tuple(made.uncompensated_errors),
        passage_errors=tuple(passage_errors),
        sensitivities=tuple(made.sensitivities),
    )


def _shares(loaded: LoadedModel, made: PrunedModel, widths: Sequence[int]) -> tuple[float, float]:
    """What is gone of the MLPs, and of all Linear and Conv layers, output head included."""
    total = n_matmul_weights(loaded.model)
    if not made.masked:
        dense_widths = [mlp.width for mlp in loaded.mlps]
        per_channel = [weights_per_channel(mlp) for mlp in loaded.mlps]
        gone = mlp_sparsity(dense_widths, widths)
        return gone, matmul_ratio(dense_widths, widths, per_channel, total)
    zeros = [
        (name in loaded.family.mlp, int((weight == 0).sum())) for block in made.masked for name, weight in block.items()
    ]
    n_mlp = sum(weight.numel() for block in loaded.projections("mlp") for weight in (p.weight for p in block.values()))
    in_mlps = sum(n for is_mlp, n in zeros if is_mlp)
    return in_mlps / n_mlp, sum(n for _, n in zeros) / total
