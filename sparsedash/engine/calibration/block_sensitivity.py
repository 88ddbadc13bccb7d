"""What the model loses by a unit of error in each block, from a backward pass over little text."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from sparsedash.catalog.engine_limits import SENSITIVITY_BATCH_TOKENS, SENSITIVITY_TOKENS
from sparsedash.engine.calibration.gradients import sensitivities
from sparsedash.engine.calibration.parts_io import pack_tensors, unpack_tensors
from sparsedash.engine.calibration.token_sequences import first_tokens
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.layer import Statistics, layer_of
from sparsedash.engine.pruning.sensitivity import reference_cut
from sparsedash.schema.progress import OnStep
from sparsedash.storage.halfway import Halfway


def block_sensitivities(
    loaded: LoadedModel,
    statistics: Callable[[int], Statistics],
    sequences: Sequence[list[int]],
    on_step: OnStep,
    halfway: Halfway,
    key: str,
) -> list[float]:
    """Of every block. statistics: of a block, by its index. halfway, key: where what is done so far is kept."""
    tried = halfway.numbered(f"{key}/change", pack_tensors, unpack_tensors)
    read = halfway.numbered(f"{key}/batch", pack_tensors, unpack_tensors)
    changes, errors = [], []
    for index in range(len(loaded.mlps)):
        weight, bias, error = tried(index, partial(_trial_change, loaded, statistics, index))
        errors.append(float(error))
        changes.append((loaded.residency.hold(weight), bias))
    # Long sequences are cut: only the last predictions of each are judged, and many are wanted.
    short = [ids[:SENSITIVITY_BATCH_TOKENS] for ids in sequences]
    few = first_tokens(short, SENSITIVITY_TOKENS)
    losses = sensitivities(loaded, few, changes, on_step, read)
    found = [loss / error if error > 0 else 0.0 for loss, error in zip(losses, errors, strict=True)]
    # Nothing measured is not nothing lost: what goes there may be active on the rest of the text.
    usual = median([value for value in found if value > 0] or [0.0])
    return [value or usual for value in found]


def _trial_change(loaded: LoadedModel, statistics: Callable[[int], Statistics], index: int) -> list[Tensor]:
    """What one block's out-projection and its bias are changed by, and what the block loses by it."""
    layer = layer_of(loaded.mlps[index], statistics(index))
    cut = reference_cut(layer)
    return [*cut.change(layer.out_weight, layer.out_bias), torch.tensor(cut.lost, dtype=torch.float64)]
