"""What a run takes in the data folder, by arithmetic from the model's dimensions: nothing is loaded or downloaded."""

from dataclasses import dataclass

from sparsedash.catalog.choices import in_one_walk, n_side_by_side
from sparsedash.catalog.dimensions import Dimensions
from sparsedash.catalog.engine_limits import (
    HELD_OUT_EVERY,
    HELD_OUT_TOKENS,
    MISMATCH_PASSAGES,
    MISMATCH_TOKENS,
    TOKENS_A_PASSAGE,
)
from sparsedash.catalog.memory import BYTES, STREAM_INPUTS, kept_bytes, needs_sensitivity, unfinished_bytes
from sparsedash.schema.cache_keys import shares_read
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import RunSettings

_SAMPLE_ITEMSIZE = 2
"""Bytes of a number that passages put into a block."""

ANSWER_BYTES = 1000
"""One answer in a record, about."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """stays_bytes: what the run leaves. passing_bytes: what is kept besides while it is under way, at most."""

    stays_bytes: int
    passing_bytes: int


def disk(counted: Dimensions, settings: RunSettings, n_passages: int, *, streamed: bool) -> Disk:
    """What a run of this model takes where nothing of it is stored. streamed: whether it is read block by block."""
    itemsize, calibration = BYTES[settings.dtype], settings.calibration
    stays = kept_bytes(counted.widths, counted.hidden, settings, calibration.n_samples)
    stays += _sample_bytes(counted, settings, n_passages)
    stays += sum(_out_bytes(counted, permille) for method, permille in settings.points if _refits_in_order(method))
    stays += (1 + settings.n_sparse) * n_passages * ANSWER_BYTES
    if streamed and counted.stored_bytes != itemsize:
        # A copy in the run's own type, which can be read block by block.
        stays += counted.n_parameters * itemsize
    streams = 2 if any(map(_refits_in_order, settings.methods)) else 1
    passing = [streams * calibration.n_samples * calibration.length * counted.hidden * itemsize]
    models = sorted(_model_bytes(counted, method, permille, itemsize) for method, permille in settings.points)
    if streamed:
        # They are put aside besides, those that answer side by side together, and what is kept of their passages.
        n_together = n_side_by_side(settings)
        of_passages = n_together * n_passages * TOKENS_A_PASSAGE * counted.kept_of_a_token * itemsize
        kept = min(unfinished_bytes(counted, settings.dtype, streamed=True), of_passages)
        if in_one_walk(settings, some=True):
            # Between two blocks calibration text is put aside, beside what a kill would leave of it.
            kept += passing[0]
        held = sorted(_held_bytes(counted, method, permille, itemsize) for method, permille in settings.points)
        models.append(sum(models[-n_together:]) + sum(held[-n_together:]) + kept)
    passing.append(max(models, default=0))
    if needs_sensitivity(settings):
        passing.append(_out_bytes(counted, 0))
    return Disk(stays_bytes=stays, passing_bytes=max(passing) if settings.points else 0)


def _sample_bytes(counted: Dimensions, settings: RunSettings, n_passages: int) -> int:
    """Inputs of the projections that are pruned, of the tokens that are kept out of every fit and of a few passages."""
    if not settings.reads_text:
        return 0
    inputs = sum(counted.widths)
    if any(not method.takes_channels for method in settings.methods):
        inputs += STREAM_INPUTS * counted.hidden * len(counted.widths)
    kept_out = settings.calibration.n_samples * settings.calibration.length // HELD_OUT_EVERY
    kept_out //= max(1, kept_out // HELD_OUT_TOKENS)
    passages = min(n_passages, MISMATCH_PASSAGES) * min(TOKENS_A_PASSAGE, MISMATCH_TOKENS)
    return inputs * (len(shares_read(settings)) * 4 * kept_out + _SAMPLE_ITEMSIZE * passages)


def _refits_in_order(method: MethodSettings) -> bool:
    return method.compensation == "sequential"


def _out_bytes(counted: Dimensions, permille: int) -> int:
    """Of all out-projections in single precision, with as many channels as are left."""
    return 4 * counted.hidden * sum(counted.widths) * (1000 - permille) // 1000


def _held_bytes(counted: Dimensions, method: MethodSettings, permille: int, itemsize: int) -> int:
    """What is put aside of one sparse model, to be run: its out-projections, or all that is masked."""
    if method.takes_channels:
        return _out_bytes(counted, permille) * itemsize // 4
    return _masked_weights(counted, method) * itemsize


def _masked_weights(counted: Dimensions, method: MethodSettings) -> int:
    return counted.n_mlp if method.scope == "mlp" else counted.n_matmul - counted.vocabulary * counted.hidden


def _model_bytes(counted: Dimensions, method: MethodSettings, permille: int, itemsize: int) -> int:
    """What is kept of one sparse model until it has answered; of masked weights a bit each, and what is left."""
    if method.takes_channels:
        return _out_bytes(counted, permille)
    n = _masked_weights(counted, method)
    refitted = n * itemsize * (1000 - permille) // 1000 if method.compensation != "none" else 0
    return n // 8 + refitted
