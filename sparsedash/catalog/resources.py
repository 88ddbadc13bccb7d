"""Sizes that the engine works by and the cost model counts with, and the disk that a run takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsedash.catalog.budgets import channel_share
from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA
from sparsedash.catalog.export_forms import is_gguf
from sparsedash.catalog.model_sizes import WEIGHT_BYTES
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.settings import MIN_TOKENS_PER_CHANNEL, Dtype, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import shares_read

BATCH_TOKENS = 1024
"""Tokens of an evaluation batch: with twice as many, a block's activations no longer fit into a
processor's caches.
"""
TOGETHER_TOKENS = 4 * BATCH_TOKENS
"""Tokens of the batches that share one reading of streamed weights. More would delay progress and
cancellation.
"""

MODELS_TOGETHER = 4
"""Streamed models evaluated side by side, so that a block is read once for all of them. Each takes
room on the disk, and none finishes before the others.
"""

FISHER_BATCH_TOKENS = 1024
"""Tokens in one batch of a backward pass."""

CURVE_TOKENS = 256
MIN_CURVE_LENGTH = 128
"""Held-out tokens that curves are measured on, and the fewest of each sequence."""
LAYER_TOKENS = 1024
"""Tokens of the text by which layers are ordered; their loss is measured at CURVE_TOKENS of
them.
"""
MIN_REFIT_TOKENS_PER_CHANNEL = 10
"""Of an expert: with fewer a refit does more harm than good."""

JUDGED_VALUES = 2**26
"""Probabilities of the dense model that are kept for it: fewer tokens are judged where the
vocabulary is large.
"""

MAX_TEXTS = 128
"""The most texts that a model writes at once."""

MIN_TEXTS = 32
"""The fewest texts written at once, even if their caches exceed CACHE_BYTES; also the fewest worth
a thread of their own, since each thread reads all weights.
"""

CACHE_BYTES = 3 * 2**29
"""Room for the keys and values of texts written at once."""

WIDE_BYTES = 2**30
"""Room for float32 copies of a BF16 model's weights, kept for a run on machines that multiply those
faster.
"""

KEPT_BYTES = 256 * 2**20
KEPT_SHARE = 1 / 8
HELD_SHARE = 1 / 2
"""Unfinished answers are completed together once their passages' caches take so much, or this share
of the model's weights where that is more: each token takes a pass over all weights. The second
share is for streamed models, whose caches lie in files.
"""

EXPERT_PASSES = 3
"""How often each kept expert is fitted, while the others change as well."""
HELD_OUT_EVERY = 16
HELD_OUT_TOKENS = 512
"""Which calibration sequences are kept out of every fit, and about how many tokens of them are
kept.
"""

HEAL_BATCH_TOKENS = 2048
HEAL_PASS_TOKENS = 512
"""Tokens of a step of healing, and of the passes that its gradient is gathered from; longer
sequences are cut.
"""
HEAL_TEXT_TOKENS = 2**18
"""Up to so many tokens healing reads text behind the calibration's: the dense model's last hidden
states of all that is read are in memory.
"""
HEALED_WEIGHT_BYTES = 40
"""Bytes that healing takes for each weight that it trains, in either number format: as measured.
Two copies, gradient, moments and best value would be 24.
"""
HEAL_LOGITS = 2**23
"""Logits that healing holds at once, in each of about six tensors: of a part of the tokens."""

_TEXTS = {entry.name: entry for entry in (*EVALUATION_CORPORA, *CALIBRATION_CORPORA)}

MISMATCH_PASSAGES = 8
MISMATCH_TOKENS = 128
"""The passages that calibration text is compared with, and the most tokens of each."""

COMPARED_PASSAGES = 64
"""Passages whose tokens quantised models are compared with dense at."""

TOKENS_A_PASSAGE = 115
"""Of the built-in passages, and nearly as many of LAMBADA's."""

STREAM_INPUTS = 3
"""Inputs of a block's projections that are as wide as the residual stream."""

RUNTIME_BYTES = 550_000_000
"""Of the engine before it has loaded a model: torch, transformers and what they need, as
measured.
"""

USABLE = 0.9
"""Share of a machine's memory that a model may take: the system and the server need some."""

ANSWER_BYTES = 1000
"""One answer in a record, about."""


@dataclass(frozen=True, kw_only=True)
class RunDisk:
    """stays_bytes: what the run leaves in the data folder.

    passing_bytes: what it needs besides while it runs.
    """

    stays_bytes: int
    passing_bytes: int


def n_passages(settings: RunSettings) -> int | None:
    """Number of passages evaluated, as far as known before the text is read."""
    limit = settings.evaluation.n_passages
    entry = _TEXTS.get(settings.evaluation.corpus)
    n_texts = entry.n_texts if entry else 0
    return min(limit, n_texts) if limit and n_texts else limit or n_texts or None


def passage_tokens(corpus: str) -> int:
    """Tokens of a passage on average, as far as is known before the text is read."""
    entry = _TEXTS.get(corpus)
    return entry.n_tokens if entry and entry.n_tokens else TOKENS_A_PASSAGE


def n_side_by_side(settings: RunSettings) -> int:
    """The most streamed models evaluated together: one where the run may stop early."""
    return (
        1
        if settings.evaluation.stop_early
        else min(1 + settings.n_sparse, MODELS_TOGETHER)
    )


def in_one_walk(settings: RunSettings, *, some: bool = False) -> bool:
    """Whether streamed weights are read once for everything: calibrate, prune and evaluate block by
    block.

    some: whether that may be so for some of the models, where other methods look back.
    """
    forward = [not spec.needs_later_blocks for spec in settings.points]
    return not settings.evaluation.stop_early and (
        any(forward) if some else all(forward)
    )


def needs_fisher(settings: RunSettings) -> bool:
    """Whether one of the run's methods looks at the derivatives of the channels' masks."""
    return any(method.by_gradient for method in settings.methods)


def judged_tokens(vocabulary: int) -> int:
    """Most tokens at which a curve's loss is measured."""
    return min(CURVE_TOKENS, max(64, JUDGED_VALUES // vocabulary))


def compared_tokens(vocabulary: int) -> int:
    """About how many tokens quantised models are compared with dense at."""
    return max(64, JUDGED_VALUES // vocabulary)


KIND_BLOCK_TOKENS = 16
"""Tokens whose mean divergence is one observation of what was forgotten."""

_MAX_KIND_TOKENS = 512
_MIN_KIND_TOKENS = 128
_KIND_SHARE = 0.05


def kind_tokens(n_run_tokens: int, n_kinds: int) -> int:
    """Held-out tokens of each kind that a model is measured on: about a twentieth of those that
    pruning it reads.

    n_run_tokens: of calibration and passages.
    """
    return min(
        _MAX_KIND_TOKENS,
        max(_MIN_KIND_TOKENS, int(_KIND_SHARE * n_run_tokens / n_kinds)),
    )


def gradient_bytes(
    widths: Sequence[int], settings: RunSettings, n_sequences: int
) -> int:
    """Bytes of the mask gradients of one sparsity: one value per channel and sequence."""
    return 4 * n_sequences * sum(widths) if needs_fisher(settings) else 0


MORE_ROOM = "Raise the limit on the settings page or by SPARSEDASH_ARTEFACT_GB."


def kept_bytes(
    widths: Sequence[int], hidden: int, settings: RunSettings, n_sequences: int
) -> int:
    """Least bytes that calibrating leaves in the store for one sparsity: half of each second
    moment, and gradients.

    widths: of the blocks. hidden: width of the residual stream; where single weights go, at least
    two more inputs of each block are as wide.
    """
    if not settings.reads_text:
        return 0
    gradients = gradient_bytes(widths, settings, n_sequences)
    if not collects_whole_moments(widths, settings):
        return gradients
    moments = len(shares_read(settings)) * sum(width * width for width in widths)
    if any(
        method.needs_statistics and not method.is_structured
        for method in settings.methods
    ):
        moments += 2 * hidden * hidden * len(widths)
    return 2 * moments + gradients


def collects_whole_moments(widths: Sequence[int], settings: RunSettings) -> bool:
    """Whether the tokens suffice for whole second moments, as far as known beforehand."""
    n_tokens = settings.calibration.n_samples * settings.calibration.length
    return settings.solves or n_tokens >= MIN_TOKENS_PER_CHANNEL * max(widths)


def unfinished_bytes(shape: ModelShape, dtype: Dtype, *, streamed: bool) -> int:
    """Most bytes of passages whose answers wait to be finished together: in memory, or in files."""
    share = HELD_SHARE if streamed else KEPT_SHARE
    return max(KEPT_BYTES, int(share * shape.n_parameters * WEIGHT_BYTES[dtype]))


def texts_at_once(n_bytes: int) -> int:
    """Number of texts written together. n_bytes: of the keys and values of one."""
    return min(MAX_TEXTS, max(MIN_TEXTS, CACHE_BYTES // max(1, n_bytes)))


def heal_tokens(n_steps: int) -> int:
    """Tokens of text that healing for so many steps asks for, those of the calibration included."""
    return min(HEAL_BATCH_TOKENS * n_steps, HEAL_TEXT_TOKENS)


def n_healed_weights(shape: ModelShape, settings: RunSettings) -> list[int]:
    """Weights that are left in the MLPs of each healed model."""
    weights = []
    for spec in settings.points:
        # A model that is quantised as well is made from the same healed weights.
        if spec.is_healed and not spec.is_quantised:
            share = channel_share(shape, spec.pruning, spec.permille)
            weights.append(round(shape.n_mlp * (1 - share)))
    return weights


def run_disk(
    shape: ModelShape,
    settings: RunSettings,
    n_passages: int,
    room: int,
    *,
    streamed: bool,
) -> RunDisk:
    """Bytes that a run takes in the data folder where nothing of it is stored.

    room: the limit of calibration data, beyond which the oldest is deleted. streamed: read block by
    block.
    """
    itemsize = WEIGHT_BYTES[settings.dtype]
    calibration = settings.calibration
    stays = kept_bytes(shape.widths, shape.hidden, settings, calibration.n_samples)
    stays += _sample_bytes(shape, settings, n_passages)
    sequential = [spec for spec in settings.points if spec.pruning.in_sequence]
    stays += sum(_model_bytes(shape, spec, itemsize) for spec in sequential)
    stays = min(stays, room) + (1 + settings.n_sparse) * n_passages * ANSWER_BYTES
    healed = n_healed_weights(shape, settings)
    stays += sum(healed) * itemsize
    if streamed and shape.stored_bytes != itemsize:
        # A copy in the run's own type, which can be read block by block.
        stays += shape.n_parameters * itemsize
    if settings.quantises and not is_gguf(settings.model):
        # The dense model's GGUF file, in the checkpoint's own type.
        stays += shape.n_parameters * shape.stored_bytes
    streams = (
        (1 + bool(sequential))
        * calibration.n_samples
        * calibration.length
        * shape.hidden
        * itemsize
    )
    models = sorted(_model_bytes(shape, spec, itemsize) for spec in settings.points)
    passing = [streams, max(models, default=0)]
    # Two checkpoints of a healing: weights in single precision, their moments, and the best
    # weights.
    passing.append(2 * (3 * 4 + itemsize) * max(healed, default=0))
    # A full file in single precision, and the quantised one beside it.
    passing.append(5 * shape.n_parameters * settings.quantises)
    if streamed:
        # Models that are evaluated side by side are put aside together, with what is kept of their
        # passages.
        n_together = n_side_by_side(settings)
        of_passages = (
            n_together
            * n_passages
            * TOKENS_A_PASSAGE
            * shape.cache_per_token
            * itemsize
        )
        kept = min(unfinished_bytes(shape, settings.dtype, streamed=True), of_passages)
        if in_one_walk(settings, some=True):
            # Between two blocks calibration text is put aside, beside what a kill would leave of
            # it.
            kept += streams
        changed_bytes = sorted(
            _out_bytes(shape, spec) * itemsize // 4
            if spec.pruning.is_structured
            else n_masked_weights(shape, spec.pruning) * itemsize
            for spec in settings.points
        )
        passing.append(
            sum(models[-n_together:]) + sum(changed_bytes[-n_together:]) + kept
        )
    return RunDisk(
        stays_bytes=stays, passing_bytes=max(passing) if settings.points else 0
    )


def _sample_bytes(shape: ModelShape, settings: RunSettings, n_passages: int) -> int:
    """Inputs of the pruned projections: of the tokens kept out of every fit and, in two bytes, of a
    few passages.
    """
    if all(method.removes_layers for method in settings.methods):
        return 0
    inputs = sum(shape.widths)
    streams = STREAM_INPUTS * shape.hidden * len(shape.widths)
    masks = [m for m in settings.methods if not m.is_structured]
    kept_out = (
        settings.calibration.n_samples * settings.calibration.length // HELD_OUT_EVERY
    )
    kept_out //= max(1, kept_out // HELD_OUT_TOKENS)
    passages = min(n_passages, MISMATCH_PASSAGES) * min(
        TOKENS_A_PASSAGE, MISMATCH_TOKENS
    )
    collected = inputs + streams * any(method.needs_statistics for method in masks)
    return (
        collected * len(shares_read(settings)) * 4 * kept_out
        + (inputs + streams * bool(masks)) * 2 * passages
    )


def _out_bytes(shape: ModelShape, spec: SparseSpec) -> int:
    """Of all out-projections in float32, with as many channels as are left."""
    kept = 1 - channel_share(shape, spec.pruning, spec.permille)
    return round(4 * shape.hidden * sum(shape.widths) * kept)


def n_masked_weights(shape: ModelShape, method: MethodSettings) -> int:
    """Weights of the layers whose single weights the method sets to zero."""
    return shape.n_mlp if method.scope == "mlp" else shape.n_block_weights


def n_own_weights(shape: ModelShape, spec: SparseSpec) -> int:
    """Weights of a sparse model that are not those of the dense one; where layers go, the other
    out-projections.
    """
    method = spec.method
    if method is None:
        return 0
    if not method.is_structured:
        return n_masked_weights(shape, method)
    kept = shape.n_mlp * (1 - channel_share(shape, method, spec.permille))
    if method.removes_layers and shape.per_channel:
        return round(kept * shape.hidden / shape.per_channel)
    return round(kept)


def _model_bytes(shape: ModelShape, spec: SparseSpec, itemsize: int) -> int:
    """Of one sparse model until it is evaluated; of masked weights a bit each, and the refitted
    ones.
    """
    if spec.pruning.is_structured:
        return _out_bytes(shape, spec)
    n = n_masked_weights(shape, spec.pruning)
    if spec.pruning.compensation == "none":
        return n // 8
    return n // 8 + n * itemsize * (1000 - spec.permille) // 1000
