"""Memory and disk that a run needs, counted from the model's shape, and advice when memory runs out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sparsedash.catalog.choices import in_one_walk, n_passages, n_side_by_side
from sparsedash.catalog.engine_limits import (
    BATCH_TOKENS,
    CACHE_BYTES,
    FEWEST_TEXTS,
    FISHER_BATCH_TOKENS,
    HELD_OUT_EVERY,
    HELD_OUT_TOKENS,
    HELD_SHARE,
    KEPT_BYTES,
    KEPT_SHARE,
    MISMATCH_PASSAGES,
    MISMATCH_TOKENS,
    MOST_TEXTS,
    SENSITIVITY_BATCH_TOKENS,
    TOKENS_A_PASSAGE,
)
from sparsedash.catalog.model_shape import Dimensions, shipped_shape
from sparsedash.catalog.published_results import PUBLISHED_MODELS
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    MIN_TOKENS_PER_CHANNEL,
    SELF,
    Dtype,
    Residency,
    RunSettings,
    planned_run,
    run_or_find_settings,
)
from sparsedash.schema.store_keys import shares_read

BUILTIN_CONFIG = "smollm2-135m"

BYTES = {"float32": 4, "bfloat16": 2}
STREAM_INPUTS = 3
"""Inputs of a block's projections that are as wide as the residual stream."""

_CONFIGS = {BUILTIN_MODEL: BUILTIN_CONFIG} | {model.reference: model.config for model in PUBLISHED_MODELS}

_DRAWING = 3
"""Numbers in single precision of each token that could come next, for each text that is written."""

_SOLVING, _MASKING = 3.5, 4.2
"""Matrices in single precision of the widest MLP's inner width that solving holds at once, and that making up for
single weights does, as measured.
"""

Purpose = Literal[
    "the text that the model writes", "calibration", "pruning", "the sequential refit", "the backward pass", "answering"
]


RUNTIME_BYTES = 550_000_000
"""Of the engine itself, before it has loaded a model: torch, transformers and what they need, as measured."""

USABLE = 0.9
"""Share of a machine's memory that a model may take: the system and the server need some."""


@dataclass(frozen=True, kw_only=True)
class LeastMemory:
    """n_bytes: the engine, the weights that are in memory as they are run, and what is largest beside them.

    beside_bytes: of that, what purpose needs. streamed: whether the weights are read block by block.
    """

    n_bytes: int
    beside_bytes: int
    purpose: Purpose
    streamed: bool = False


def dimensions_of(reference: str) -> Dimensions | None:
    """The dimensions of a model whose config ships with the program, or None."""
    config = _CONFIGS.get(reference)
    return shipped_shape(config) if config else None


def least_memory(counted: Dimensions, settings: RunSettings, *, streamed: bool = False) -> LeastMemory:
    """What a run of this model cannot do without. streamed: whether its weights are read block by block."""
    n_at_once = 1 if streamed else len(counted.widths)
    answering = _answering_bytes(counted, settings, streamed=streamed)
    streams, moments = _stream_bytes(counted, settings), _moments_bytes(counted, settings)
    # At each block, passages wait in memory for what else is done there; calibration text waits in files.
    waiting = answering if streamed and in_one_walk(settings, some=True) else 0
    beside: dict[Purpose, int] = {
        "the text that the model writes": _writing_bytes(counted, settings),
        "answering": answering,
        "calibration": streams + moments + waiting,
        "pruning": _solving_bytes(counted, settings) + _masked_bytes(counted, settings, n_at_once) + waiting,
        "the backward pass": max(
            _fisher_bytes(counted, settings, n_at_once), _sensitivity_bytes(counted, settings, n_at_once)
        ),
    }
    if any(method.compensation == "sequential" for method in settings.methods):
        beside["the sequential refit"] = 3 * streams + moments
    purpose = max(beside, key=beside.__getitem__)
    n_weights = _streamed_weights(counted) if streamed else counted.n_parameters
    return LeastMemory(
        n_bytes=RUNTIME_BYTES + n_weights * BYTES[settings.dtype] + beside[purpose],
        beside_bytes=beside[purpose],
        purpose=purpose,
        streamed=streamed,
    )


def chosen_memory(counted: Dimensions, settings: RunSettings, there_bytes: int | None) -> LeastMemory:
    """What the run cannot do without in the way that it is run: as asked for, or streamed where it would not fit.

    there_bytes: of the machine; None where the model runs on a GPU.
    """
    resident = least_memory(counted, settings)
    if is_streamed(settings.residency, resident.n_bytes, there_bytes):
        return least_memory(counted, settings, streamed=True)
    return resident


def is_streamed(asked: Residency, resident_bytes: int, there_bytes: int | None) -> bool:
    """Whether the weights are read block by block. resident_bytes: what the run takes at least where they are not."""
    if asked == "auto":
        return there_bytes is not None and resident_bytes > USABLE * there_bytes
    return asked == "streamed"


def needs_backward(settings: RunSettings) -> bool:
    """Whether one of the run's methods looks at derivatives."""
    return needs_fisher(settings) or needs_sensitivity(settings)


def gradient_bytes(widths: Sequence[int], settings: RunSettings, n_sequences: int) -> int:
    """Bytes of the mask gradients, in memory and then in the store: one value for each channel and sequence.

    For one sparsity: where the model is pruned in rounds, the store keeps as much for every other. widths: of the
    blocks.
    """
    if not needs_fisher(settings):
        return 0
    return 4 * n_sequences * sum(widths)


def kept_bytes(widths: Sequence[int], hidden: int, settings: RunSettings, n_sequences: int) -> int:
    """What calibrating leaves in the store at least, for one sparsity: half of every second moment, and the gradients.

    widths: of the blocks. hidden: width of the residual stream; where single weights go, at least two more inputs of
    each block are as wide.
    """
    if not settings.reads_text:
        return 0
    gradients = gradient_bytes(widths, settings, n_sequences)
    if not collects_whole_moments(widths, settings):
        return gradients
    moments = len(shares_read(settings)) * sum(width * width for width in widths)
    if any(not method.takes_channels for method in settings.methods):
        moments += 2 * hidden * hidden * len(widths)
    return 2 * moments + gradients


def collects_whole_moments(widths: Sequence[int], settings: RunSettings) -> bool:
    """Whether there are tokens enough for more of second moments than their diagonal, as far as is known beforehand."""
    n_tokens = settings.calibration.n_samples * settings.calibration.length
    return settings.solves or n_tokens >= MIN_TOKENS_PER_CHANNEL * max(widths)


def _stream_bytes(counted: Dimensions, settings: RunSettings) -> int:
    """Hidden states of all calibration tokens between two blocks, of one walk; nothing where no method reads them."""
    n_tokens = settings.calibration.n_samples * settings.calibration.length
    return n_tokens * counted.hidden * BYTES[settings.dtype] if settings.reads_text else 0


def _moments_bytes(counted: Dimensions, settings: RunSettings) -> int:
    """Twice one block's moments: the sum, and what is made of it."""
    whole = settings.reads_text and collects_whole_moments(counted.widths, settings)
    return 2 * 4 * max(counted.widths) ** 2 if whole else 0


def _writing_bytes(counted: Dimensions, settings: RunSettings) -> int:
    """Keys and values of the texts that are written at once, and what their next tokens are drawn from."""
    asked = settings.calibration
    if asked.corpus != SELF or not settings.reads_text:
        return 0
    a_text = asked.length * counted.kept_of_a_token * BYTES[settings.dtype]
    n_texts = min(asked.n_samples, MOST_TEXTS, max(FEWEST_TEXTS, CACHE_BYTES // a_text))
    return n_texts * (a_text + _DRAWING * 4 * counted.vocabulary)


def unfinished_bytes(counted: Dimensions, dtype: Dtype, *, streamed: bool) -> int:
    """What is kept of passages, at most, until their answers are finished together: in memory, or in files."""
    share = HELD_SHARE if streamed else KEPT_SHARE
    return max(KEPT_BYTES, int(share * counted.n_parameters * BYTES[dtype]))


def _answering_bytes(counted: Dimensions, settings: RunSettings, *, streamed: bool) -> int:
    """Keys and values of passages whose answers are no whole words yet, and of the batch after them: all, at worst.

    Those of one block where the others' are in files.
    """
    a_token = counted.kept_of_a_token * BYTES[settings.dtype]
    kept = unfinished_bytes(counted, settings.dtype, streamed=streamed) + BATCH_TOKENS * a_token
    asked = n_passages(settings)
    most = kept if asked is None else min(kept, asked * TOKENS_A_PASSAGE * a_token)
    return most // len(counted.widths) if streamed else most


def _solving_bytes(counted: Dimensions, settings: RunSettings) -> int:
    if not settings.solves:
        return 0
    n_matrices = _SOLVING if all(method.takes_channels for method in settings.methods) else _MASKING
    return int(n_matrices * 4 * max(width * width for width in counted.widths))


def _streamed_weights(counted: Dimensions) -> int:
    """Embeddings and head, and of the blocks one as it is and one as it becomes."""
    head = counted.hidden * counted.vocabulary
    outside = counted.n_parameters - counted.n_matmul + head
    return outside + 2 * (counted.n_matmul - head) // len(counted.widths)


def _masked_bytes(counted: Dimensions, settings: RunSettings, n_at_once: int) -> int:
    """The sparse weights, which are all there before the first one takes a dense one's place.

    n_at_once: blocks whose new weights are in memory together.
    """
    head = counted.hidden * counted.vocabulary
    weights = {"mlp": counted.n_mlp, "decoder": counted.n_matmul - head}
    scopes = {method.scope for method in settings.methods if not method.takes_channels}
    most = max((weights[scope] for scope in scopes), default=0)
    return most * n_at_once // len(counted.widths) * BYTES[settings.dtype]


def _fisher_bytes(counted: Dimensions, settings: RunSettings, n_at_once: int) -> int:
    """All tokens are judged, and of each about four vectors of each block's two widths and of the vocabulary are kept.

    n_at_once: blocks of which they are kept together; of the others what they are given, and what channels were. On the
    built-in model 1.8 GB; measured in FP32: 2.1 to 2.5 GB more than the loaded model.
    """
    if not needs_fisher(settings):
        return 0
    # A sequence is never divided.
    n_tokens = max(FISHER_BATCH_TOKENS, settings.calibration.length)
    logits = 4 * 4 * counted.vocabulary * n_tokens
    of_blocks = sum(counted.widths) + len(counted.widths) * counted.hidden
    activations = 4 * n_tokens * BYTES[settings.dtype] * of_blocks
    if n_at_once < len(counted.widths):
        activations = n_tokens * BYTES[settings.dtype] * (of_blocks + 4 * (max(counted.widths) + counted.hidden))
    kept = gradient_bytes(counted.widths, settings, settings.calibration.n_samples)
    return kept + logits + activations


def _sensitivity_bytes(counted: Dimensions, settings: RunSettings, n_at_once: int) -> int:
    """In FP32 a change of each block's out-projection and what it does to each token; and the activations.

    n_at_once: blocks whose changes are in memory together.

    Those are what each block is given, and of the block that is on its way back four vectors of each width.
    """
    if not needs_sensitivity(settings):
        return 0
    changes = 4 * counted.hidden * sum(counted.widths) * n_at_once // len(counted.widths)
    streams = (4 + BYTES[settings.dtype]) * len(counted.widths) * counted.hidden
    of_a_block = 4 * BYTES[settings.dtype] * (max(counted.widths) + counted.hidden)
    return changes + SENSITIVITY_BATCH_TOKENS * (streams + of_a_block)


def needs_fisher(settings: RunSettings) -> bool:
    """Whether one of the run's methods looks at the derivatives of the channels' masks."""
    return any(method.saliency == "fisher" for method in settings.methods)


def needs_sensitivity(settings: RunSettings) -> bool:
    """Whether one of the run's methods asks how much the model minds what each block loses."""
    return any(method.allocation == "sensitivity" for method in settings.methods)


_SAMPLE_ITEMSIZE = 2
"""Bytes of a number that passages put into a block."""

ANSWER_BYTES = 1000
"""One answer in a record, about."""


@dataclass(frozen=True, kw_only=True)
class RunDisk:
    """stays_bytes: what the run leaves. passing_bytes: what is kept besides while it is under way, at most."""

    stays_bytes: int
    passing_bytes: int


def run_disk(counted: Dimensions, settings: RunSettings, n_passages: int, *, streamed: bool) -> RunDisk:
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
    return RunDisk(stays_bytes=stays, passing_bytes=max(passing) if settings.points else 0)


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


_GENERAL = "Choose a smaller model, bfloat16 or less calibration text, or free some memory."
_TWO_MODELS = "Both models are held at once: compare models of a smaller run, or free some memory."
_FILES = "The model and its copy in files are held at once: free some memory, or choose bfloat16."
_SMALLER: dict[Purpose, str] = {
    "the text that the model writes": "take shorter calibration samples, or a text that is there already",
    "answering": "answer fewer passages",
    "calibration": "take fewer or shorter calibration samples",
    "pruning": "choose a method that refits nothing, such as wanda-channels",
    "the sequential refit": "take fewer calibration samples, or least-squares instead of the sequential refit",
    "the backward pass": "choose a method without a backward pass, such as least-squares",
}


def out_of_memory(kind: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    """What ran out of memory, and what would help, for a job of this kind with these settings."""
    if kind == "export":
        return "Memory ran out.", _FILES
    if kind == "verify":
        return "Memory ran out.", "Free some memory, and start it again."
    if kind not in ("run", "find"):
        return "Memory ran out.", _TWO_MODELS
    try:
        asked = planned_run(run_or_find_settings(kind, settings))
    except SettingsError:
        return "Memory ran out.", _GENERAL
    counted = dimensions_of(asked.model)
    if counted is None:
        return f"Memory ran out with {asked.model} in {asked.dtype}.", _GENERAL
    least = least_memory(counted, asked)
    weights = least.n_bytes - least.beside_bytes - RUNTIME_BYTES
    return (
        f"Memory ran out: {asked.model} in {asked.dtype} takes at least {_gigabytes(least.n_bytes)}, "
        f"{_gigabytes(weights)} for {counted.n_parameters / 1e9:.2f} billion weights and "
        f"{_gigabytes(least.beside_bytes)} for {least.purpose}, the rest for the program itself.",
        _advice(asked, least, weights),
    )


def _advice(asked: RunSettings, least: LeastMemory, weights: int) -> str:
    """The larger part first."""
    of_weights = ["choose a smaller model"]
    if asked.dtype == "float32":
        of_weights.insert(0, "choose bfloat16, which halves the weights")
    of_purpose = [_SMALLER[least.purpose]]
    first, then = (of_weights, of_purpose) if weights >= least.beside_bytes else (of_purpose, of_weights)
    ways = [*first, *then, "free some memory"]
    text = f"{'; '.join(ways[:-1])}; or {ways[-1]}."
    return text[0].upper() + text[1:]


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
