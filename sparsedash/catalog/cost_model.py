"""The cost model of a run: seconds and memory of each stage, counted from the model's shape.

One table, STAGES, serves the estimate before a run, its progress bar and the check of its memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import Annotated, Literal

import msgspec

from sparsedash.catalog import resources
from sparsedash.catalog.budgets import n_layers_gone
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.mixed_text import SOURCES
from sparsedash.catalog.model_sizes import WEIGHT_BYTES
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.progress import Stage
from sparsedash.schema.settings import SELF, Residency, RunSettings
from sparsedash.schema.sparse_spec import DENSE, SparseSpec

USUAL_DISK = 1e9
"""Bytes a second, where the disk could not be measured."""

_MOVE_OPERATIONS = 64
"""Operations in whose time a processor moves one number of four bytes to or from memory."""

_MODULES_S = 3.0
"""Seconds to make the modules of a model."""
_ELIMINATION_S = 0.0003
"""Seconds to choose one channel by elimination, beside its products: many small operations."""
_ROUNDING_MOVES = 100
"""Numbers moved for each weight of a file that is written in full, quantised and read back."""
_ANSWER_TOKENS = 3
"""Of a built-in question's answer."""
CHARACTERS_A_TOKEN = 4
_WORD_PASSES = 9
"""Passes over all weights for the words that continue after their first token."""
_STEP_MOVES = 14
"""Numbers moved for each weight of the MLPs by a step of the optimiser."""
_LOGIT_MOVES = 12
"""Numbers moved for each logit by the gradient of healing, or to compare two models."""
_HEAL_SPEEDUP = 2.0
"""Most that bfloat16 units speed up healing, whose passes are of few tokens."""
_SOLVE_MATRICES = 4
"""Float32 matrices of the widest MLP's inner width that solving holds at once."""

Rate = Annotated[float, msgspec.Meta(gt=1e6, lt=1e18)]


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Measured rates of a machine.

    float32, bfloat16: operations (multiply-adds times two) per second of matrix products on all
    cores. disk: bytes read per second; 0 where that could not be measured. at: when it was
    measured, in seconds since the epoch.
    """

    float32: Rate
    bfloat16: Rate
    disk: Annotated[float, msgspec.Meta(ge=0.0, lt=1e18)] = 0.0
    at: float = field(default=0.0, compare=False)


USUAL_SPEEDS = Speeds(float32=1e11, bfloat16=1e11)
"""Of a laptop: where no speed is measured, they serve to compare one run with another."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One run on one machine, as the costs of its stages are counted.

    streamed: the weights are read block by block. n_passages: of the evaluation; None where that is
    not known. passage_tokens: of one of them on average.
    """

    shape: ModelShape
    settings: RunSettings
    speeds: Speeds = USUAL_SPEEDS
    streamed: bool = False
    n_passages: int | None = None
    passage_tokens: float = resources.TOKENS_A_PASSAGE

    @property
    def itemsize(self) -> int:
        """Bytes of a weight."""
        return WEIGHT_BYTES[self.settings.dtype]

    @property
    def n_blocks(self) -> int:
        """Number of decoder blocks."""
        return len(self.shape.widths)

    @property
    def n_calibrated(self) -> int:
        """Tokens of the calibration text."""
        return self.settings.calibration.n_samples * self.settings.calibration.length

    @cached_property
    def collects_moments(self) -> bool:
        """Whether calibration collects whole second moments, not only their diagonals."""
        collects = resources.collects_whole_moments(self.shape.widths, self.settings)
        return self.settings.reads_text and collects

    def widths(self, power: int = 1) -> int:
        """The sum of the blocks' inner widths, each raised to this power."""
        return sum(width**power for width in self.shape.widths)

    @property
    def operation_s(self) -> float:
        """Seconds of an operation of a matrix product, in the number format of the run."""
        float32 = self.settings.dtype == "float32"
        return 1 / (self.speeds.float32 if float32 else self.speeds.bfloat16)

    @property
    def solve_s(self) -> float:
        """Seconds of an operation in single precision."""
        return 1 / self.speeds.float32

    @property
    def move_s(self) -> float:
        """Seconds to move one number of four bytes to or from memory."""
        return _MOVE_OPERATIONS / self.speeds.float32

    @property
    def read_s(self) -> float:
        """Seconds to read one byte from the disk."""
        return 1 / (self.speeds.disk or USUAL_DISK)

    @cached_property
    def token_s(self) -> float:
        """Seconds of one token through all blocks; each number that a block writes is moved three
        times.
        """
        n_written = 8 * self.shape.hidden * self.n_blocks + 3 * self.widths()
        products = (
            2 * (self.shape.n_block_weights - self.shape.n_idle) * self.operation_s
        )
        return products + 3 * n_written * self.move_s

    @property
    def logits_s(self) -> float:
        """Seconds of the logits of one token."""
        return 2 * self.shape.n_head * self.operation_s

    @property
    def walk_s(self) -> float:
        """Seconds to read all streamed blocks once; 0 where they are in memory."""
        if not self.streamed:
            return 0.0
        return self.shape.n_block_weights * self.itemsize * self.read_s

    @property
    def text_walk_s(self) -> float:
        """Seconds of a walk for calibration text; 0 where it goes along with the passages."""
        return 0.0 if resources.in_one_walk(self.settings) else self.walk_s


def _load_s(run: Workload, spec: SparseSpec) -> float:
    return run.shape.n_parameters * run.itemsize * run.read_s + _MODULES_S


def _text_s(run: Workload, spec: SparseSpec) -> float:
    """Of writing the text: each step reads all weights, and the keys and values so far, or without
    these the whole text.
    """
    calibration = run.settings.calibration
    if not run.shape.structure.plain_cache:
        whole_text_s = run.token_s * calibration.length / 2
        return (whole_text_s + run.logits_s) * run.n_calibrated
    n_texts = min(calibration.n_samples, resources.MAX_TEXTS)
    n_moved = (
        run.shape.n_matmul / n_texts
        + run.shape.cache_per_token * calibration.length / 2
    )
    return (run.token_s + run.logits_s + n_moved * run.move_s) * run.n_calibrated


def _calibrate_s(run: Workload, spec: SparseSpec) -> float:
    moments_s = run.widths(2) * run.solve_s if run.collects_moments else 0.0
    return (run.token_s + moments_s) * run.n_calibrated + run.text_walk_s


def _prune_s(run: Workload, spec: SparseSpec) -> float:
    """Of one sparse model, without what `shared_pruning_s` counts."""
    method = spec.method
    if method is None:
        return 0.0
    # It is judged on a sample of the calibration text and on a few passages, which are read for it.
    n_sample = resources.MISMATCH_PASSAGES * resources.TOKENS_A_PASSAGE
    sample_s = run.token_s * n_sample + run.text_walk_s
    if not method.is_structured:
        return sample_s + _mask_s(run, method)
    if method.prunes_experts:
        return _experts_s(run, method)
    hidden = run.shape.hidden
    n_projection = hidden * run.widths()
    n_moments = 2 * hidden * run.widths(2)
    n_operations = 4 * (resources.HELD_OUT_TOKENS + n_sample) * n_projection
    if run.collects_moments:
        n_operations += n_moments
    if method.refits:
        n_operations += run.widths(3) + n_moments
    seconds = sample_s + n_operations * run.solve_s + 4 * n_projection * run.read_s
    if method.by_gradient:
        # A backward pass takes three times as long as reading; it reads the blocks twice.
        n_batches = ceil(run.n_calibrated / resources.FISHER_BATCH_TOKENS)
        seconds += (run.token_s + run.logits_s) * 3 * run.n_calibrated
        seconds += run.text_walk_s * 2 * n_batches
    if method.in_sequence:
        # Both models read it, and what the refit changes is added.
        token_s = 2 * run.token_s + 2 * n_projection * run.operation_s
        seconds += (token_s + 2 * run.widths(2) * run.solve_s) * run.n_calibrated
        seconds += run.text_walk_s * 2
    return seconds


def _experts_s(run: Workload, method: MethodSettings) -> float:
    """Of reading the text as the router chooses now, and refitting the experts that stay."""
    token_s = run.token_s
    if method.refits:
        for layout in run.shape.structure.mixtures.values():
            n_products = run.shape.per_expert * layout.n_chosen
            moments = (
                layout.n_chosen * layout.width * (layout.width + 2 * run.shape.hidden)
            )
            token_s += (
                resources.EXPERT_PASSES * 2 * (n_products + moments) * run.solve_s
            )
    return token_s * run.n_calibrated + run.text_walk_s


def _mask_s(run: Workload, method: MethodSettings) -> float:
    """Of choosing single weights, and refitting those that stay."""
    hidden = run.shape.hidden
    n_streams = resources.STREAM_INPUTS * run.n_blocks
    n_weight_inputs = (run.shape.n_block_weights - hidden * run.widths()) * hidden
    n_weight_inputs += hidden * run.widths(2)
    seconds = 4 * n_weight_inputs * run.solve_s
    if method.reads_text:
        token_s = run.token_s + n_streams * hidden**2 * run.solve_s
        seconds += token_s * run.n_calibrated + run.text_walk_s
    if method.in_sequence:
        # Once more, with the new weights; and the inputs of the out-projections are summed here.
        token_s = run.token_s + run.widths(2) * run.solve_s
        seconds += token_s * run.n_calibrated + run.text_walk_s
    if method.saliency == "obs" or method.compensation != "none":
        # Within 128 columns each one changes all that follow it.
        n_inverses = run.widths(3) + n_streams * hidden**3
        seconds += (2 * n_weight_inputs + n_inverses) * run.solve_s
        seconds += 128 * run.shape.n_block_weights * run.move_s
    return seconds


def shared_pruning_s(run: Workload, method: MethodSettings) -> float:
    """Seconds that the first sparse model of a method takes for all of them: orders and curves."""
    if method.removes_layers:
        return _layer_order_s(run, method)
    if not method.is_structured:
        return 0.0
    if method.prunes_experts:
        # The dense model reads the text, and every expert what was routed to it once more.
        token_s = run.token_s
        for layout in run.shape.structure.mixtures.values():
            token_s += 2 * run.shape.per_expert * layout.n_chosen * run.operation_s
        return token_s * run.n_calibrated + run.text_walk_s
    seconds = 0.0
    if method.eliminates:
        # In 256 rounds, in which what is left of the inverse is read and written; it is halved on
        # the way.
        seconds += 2 * run.widths(3) * run.solve_s + 300 * run.widths(2) * run.move_s
        seconds += _ELIMINATION_S * run.widths()
    if method.needs_curves:
        # Each level goes through the blocks behind its own, half of all; its refit keeps some two
        # thirds. One level more tells rounding apart.
        token_s = run.token_s / 2 + 2 * run.shape.n_head * run.operation_s
        level_s = token_s * resources.CURVE_TOKENS * run.n_blocks
        level_s += run.text_walk_s * run.n_blocks / 2
        n_refit = (run.widths(3) / 3 + 2 * run.shape.hidden * run.widths(2)) / 2
        seconds += (method.curve_levels + 1) * level_s
        seconds += method.curve_levels * n_refit * run.solve_s
    return seconds


def _layer_order_s(run: Workload, method: MethodSettings) -> float:
    """Of ordering layers, once for the most that are removed."""
    if method.saliency == "random":
        return 0.0
    if method.saliency == "block-influence":
        return run.token_s * run.n_calibrated + run.text_walk_s
    n_removed = max(
        n_layers_gone(run.shape, method, permille)
        for permille in run.settings.sparsities_permille
    )
    # Each of the others is left out once, and the text goes on behind it.
    by_perplexity = method.saliency == "perplexity"
    n_scored = resources.LAYER_TOKENS if by_perplexity else resources.CURVE_TOKENS
    trial_s = run.token_s / 2 * resources.LAYER_TOKENS + run.logits_s * n_scored
    return n_removed * (trial_s * run.n_blocks + run.text_walk_s)


def _heal_s(run: Workload, spec: SparseSpec) -> float:
    """As if nothing were removed: three passes, gradients of the MLPs, and three of the head.

    Products are those of bfloat16 units, where there are such; checks and reading by the dense
    model take a pass more.
    """
    shape = run.shape
    n_operations = (
        4 * 2 * shape.n_block_weights + 2 * shape.n_mlp + 4 * 2 * shape.n_head
    )
    n_moved = (
        _STEP_MOVES * shape.n_mlp / resources.HEAL_BATCH_TOKENS + 4 * 24 * run.widths()
    )
    n_moved += _LOGIT_MOVES * shape.vocabulary
    speeds = run.speeds
    rate = min(max(speeds.float32, speeds.bfloat16), _HEAL_SPEEDUP * speeds.float32)
    token_s = n_operations / rate + n_moved * run.move_s
    return spec.heal_steps * resources.HEAL_BATCH_TOKENS * token_s


def _quantise_s(run: Workload, spec: SparseSpec) -> float:
    """Of writing a full file, rounding it, reading it back, and comparing what it predicts."""
    n_compared = resources.COMPARED_PASSAGES * resources.TOKENS_A_PASSAGE
    n_scored = resources.compared_tokens(run.shape.vocabulary)
    file_s = run.shape.n_parameters * (_ROUNDING_MOVES * run.move_s + 10 * run.read_s)
    return file_s + run.token_s * n_compared + run.logits_s * n_scored


def _continue_s(run: Workload, spec: SparseSpec) -> float:
    """Of all prompts at once; every token takes all weights, or a reading of all texts so far."""
    n_new = ContinuationSettings.n_tokens
    if run.shape.structure.plain_cache:
        return n_new * run.shape.n_matmul * run.move_s
    n_prompt_tokens = (
        sum(len(prompt) for prompt in run.settings.prompts) / CHARACTERS_A_TOKEN
    )
    n_read = n_prompt_tokens + len(run.settings.prompts) * n_new / 2
    return n_new * n_read * run.token_s


def _evaluate_s(run: Workload, spec: SparseSpec) -> float | None:
    """Of one model; the reading of streamed weights is shared by those evaluated side by side."""
    if run.n_passages is None:
        return None
    n_tokens = run.n_passages * run.passage_tokens
    n_models = resources.n_side_by_side(run.settings)
    # The words of about half of the passages go on.
    unfinished_bytes = (
        n_models * n_tokens * run.shape.cache_per_token * run.itemsize / 2
    )
    room = resources.unfinished_bytes(run.shape, run.settings.dtype, streamed=True)
    n_walks = ceil(n_models * n_tokens / resources.TOGETHER_TOKENS)
    if run.shape.structure.plain_cache:
        n_walks += _WORD_PASSES * ceil(unfinished_bytes / room)
        words_s = run.shape.n_matmul * _WORD_PASSES * run.move_s
    else:
        # Half of the passages are read whole again, for two tokens on average.
        n_walks *= 1 + _WORD_PASSES
        words_s = run.token_s * n_tokens
    seconds = run.token_s * n_tokens + words_s + run.walk_s * n_walks / n_models
    if spec == DENSE:
        return seconds
    # What was forgotten: dense and sparse logits of held-out text of every kind.
    n_kinds = len(SOURCES)
    # As the engine counts them, which has not read the passages then.
    n_in_run = run.n_calibrated + run.n_passages * resources.TOKENS_A_PASSAGE
    n_held_out = n_kinds * resources.kind_tokens(n_in_run, n_kinds)
    logits_s = 2 * run.logits_s + _LOGIT_MOVES * run.shape.vocabulary * run.move_s
    return seconds + n_held_out * (run.token_s + logits_s)


def _answer_s(run: Workload, spec: SparseSpec) -> float | None:
    """Of one model's answers to built-in tasks; None where others are asked."""
    evaluation = run.settings.evaluation
    n_models = resources.n_side_by_side(run.settings)
    seconds = 0.0
    for name in evaluation.tasks:
        if name not in BUILTIN_TASKS:
            return None
        task = BUILTIN_TASKS[name]
        n_questions = task.n_asked(evaluation.task_limit)
        n_walks = ceil(
            n_models * n_questions * task.n_tokens / resources.TOGETHER_TOKENS
        )
        question_s = run.token_s * task.n_tokens + run.logits_s * _ANSWER_TOKENS
        seconds += question_s * n_questions + run.walk_s * n_walks / n_models
    return seconds


def _stream_bytes(run: Workload) -> int:
    """Of the hidden states of the calibration text."""
    if not run.settings.reads_text:
        return 0
    return run.n_calibrated * run.shape.hidden * run.itemsize


def _moment_bytes(run: Workload) -> int:
    """Of the sum of one block's second moments, and what is made of it."""
    return 2 * 4 * max(run.shape.widths) ** 2 if run.collects_moments else 0


def _waiting_bytes(run: Workload) -> int:
    """Of passages that wait at each block for what else is done there."""
    waits = run.streamed and resources.in_one_walk(run.settings, some=True)
    return _evaluation_bytes(run) if waits else 0


def _writing_bytes(run: Workload) -> int:
    """Of the keys and values of the texts written at once, and the float32 scores that next tokens
    are drawn from.
    """
    calibration = run.settings.calibration
    if calibration.corpus != SELF or not run.settings.reads_text:
        return 0
    text_bytes = calibration.length * run.shape.cache_per_token * run.itemsize
    n_texts = min(calibration.n_samples, resources.texts_at_once(text_bytes))
    return n_texts * (text_bytes + 3 * 4 * run.shape.vocabulary)


def _calibration_bytes(run: Workload) -> int:
    return _stream_bytes(run) + _moment_bytes(run) + _waiting_bytes(run)


def _solving_bytes(run: Workload) -> int:
    """Of the matrices that are solved, and the blocks of which single weights are masked."""
    masked = [
        resources.n_masked_weights(run.shape, method)
        for method in run.settings.methods
        if not method.is_structured
    ]
    n_at_once = 1 if run.streamed else run.n_blocks
    mask_bytes = max(masked, default=0) * n_at_once // run.n_blocks * run.itemsize
    matrix_bytes = _SOLVE_MATRICES * 4 * max(run.shape.widths) ** 2
    solve_bytes = matrix_bytes if run.settings.solves else 0
    return solve_bytes + mask_bytes + _waiting_bytes(run)


def _backward_bytes(run: Workload) -> int:
    """Of four vectors of each of the two widths of the blocks in memory, and the inputs of all
    blocks, of each token; besides, four vectors of the vocabulary and the gradients.
    """
    if not resources.needs_fisher(run.settings):
        return 0
    block_width = max(run.shape.widths) + run.shape.hidden
    vector_bytes = 4 * run.n_blocks * block_width
    if run.streamed and run.n_blocks > 1:
        vector_bytes = (4 + run.n_blocks) * block_width
    # A sequence is never divided.
    n_tokens = max(resources.FISHER_BATCH_TOKENS, run.settings.calibration.length)
    token_bytes = 4 * 4 * run.shape.vocabulary + run.itemsize * vector_bytes
    n_sequences = run.settings.calibration.n_samples
    gradients = resources.gradient_bytes(run.shape.widths, run.settings, n_sequences)
    return gradients + n_tokens * token_bytes


def _curve_bytes(run: Workload) -> int:
    """Of all candidate widths of one MLP, or the model without one layer, in one batch; and their
    logits beside the dense ones.
    """
    methods = run.settings.methods
    levels = [
        method.curve_levels + 1 for method in methods if method.uses("curve_levels")
    ]
    block_width = max(run.shape.widths) + run.shape.hidden
    candidates = (
        max(levels, default=0) * resources.CURVE_TOKENS * 4 * run.itemsize * block_width
    )
    states = 0
    if any(method.saliency in ("divergence", "perplexity") for method in methods):
        states = run.n_blocks * resources.LAYER_TOKENS * run.itemsize * run.shape.hidden
    if not candidates and not states:
        return 0
    vocabulary = run.shape.vocabulary
    return max(candidates, states) + 4 * 4 * vocabulary * resources.judged_tokens(
        vocabulary
    )


def _sequential_bytes(run: Workload) -> int:
    """Of the dense and the sparse stream; where channels go, also the inner activations of one
    block.
    """
    sequential = [method for method in run.settings.methods if method.in_sequence]
    if not sequential:
        return 0
    streams = _stream_bytes(run)
    inner = 0
    if any(method.is_structured for method in sequential):
        inner = streams + streams * max(run.shape.widths) // run.shape.hidden
    return 2 * streams + _moment_bytes(run) + inner


def _expert_bytes(run: Workload) -> int:
    """Of the stream before and after a block, and what its experts get and give for every token."""
    if not any(method.prunes_experts for method in run.settings.methods):
        return 0
    token_bytes = run.shape.hidden * (2 * run.itemsize + 4)
    return 2 * _stream_bytes(run) + run.n_calibrated * token_bytes


def _healing_bytes(run: Workload) -> int:
    """Of the weights that healing trains, what the blocks keep of each token for the way back, the
    logits, and the dense model's last hidden states.
    """
    healed = resources.n_healed_weights(run.shape, run.settings)
    if not healed:
        return 0
    weight_bytes = resources.HEALED_WEIGHT_BYTES * max(healed)
    n_text = run.n_calibrated
    if run.settings.calibration.corpus != SELF:
        n_text = max(n_text, resources.HEAL_TEXT_TOKENS)
    n_steps = max(run.settings.heal_steps)
    n_read = min(n_text, resources.HEAL_BATCH_TOKENS * n_steps)
    kept_width = 20 * run.shape.hidden + 6 * max(run.shape.widths)
    pass_bytes = resources.HEAL_PASS_TOKENS * run.n_blocks * kept_width * run.itemsize
    logit_bytes = 6 * 4 * resources.HEAL_LOGITS
    return (
        weight_bytes
        + pass_bytes
        + logit_bytes
        + n_read * run.shape.hidden * run.itemsize
    )


def _quantised_bytes(run: Workload) -> int:
    """Of all weights once more, and the logits of dense."""
    if not run.settings.quantises:
        return 0
    vocabulary = run.shape.vocabulary
    n_scores = vocabulary * resources.compared_tokens(vocabulary)
    return 4 * (run.shape.n_parameters + n_scores)


def _quantising_bytes(run: Workload) -> int:
    """Of weights and logits as they are read back, and as the model keeps them."""
    return 2 * _quantised_bytes(run)


def _evaluation_bytes(run: Workload) -> int:
    """Of the keys and values of unfinished passages and of the next batch, of one block if
    streamed; and the sparse model beside the dense one.
    """
    shape = run.shape
    settings = run.settings
    token_bytes = shape.cache_per_token * run.itemsize
    cache_bytes = resources.unfinished_bytes(
        shape, settings.dtype, streamed=run.streamed
    )
    cache_bytes += resources.BATCH_TOKENS * token_bytes
    if (n_passages := resources.n_passages(settings)) is not None:
        cache_bytes = min(
            cache_bytes, n_passages * round(run.passage_tokens) * token_bytes
        )
    if run.streamed:
        # Sparse models are made block by block.
        return cache_bytes // run.n_blocks + _quantised_bytes(run)
    sparse = max(
        (resources.n_own_weights(shape, spec) for spec in settings.points), default=0
    )
    return cache_bytes + max(_quantised_bytes(run), run.itemsize * sparse)


Purpose = Literal[
    "the text that the model writes",
    "calibration",
    "the curves",
    "pruning",
    "the sequential refit",
    "choosing experts",
    "the backward pass",
    "quantising",
    "healing",
    "the evaluation",
]


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage. seconds: for one model, None where that cannot be counted.

    memory: bytes beside the weights, by purpose.
    """

    seconds: Callable[[Workload, SparseSpec], float | None]
    memory: Mapping[Purpose, Callable[[Workload], int]] = field(default_factory=dict)


STAGES: dict[Stage, StageCost] = {
    "load": StageCost(_load_s),
    "text": StageCost(_text_s, {"the text that the model writes": _writing_bytes}),
    "evaluate": StageCost(_evaluate_s, {"the evaluation": _evaluation_bytes}),
    "continue": StageCost(_continue_s),
    "answer": StageCost(_answer_s),
    "calibrate": StageCost(_calibrate_s, {"calibration": _calibration_bytes}),
    "prune": StageCost(
        _prune_s,
        {
            "pruning": _solving_bytes,
            "the backward pass": _backward_bytes,
            "the curves": _curve_bytes,
            "the sequential refit": _sequential_bytes,
            "choosing experts": _expert_bytes,
        },
    ),
    "heal": StageCost(_heal_s, {"healing": _healing_bytes}),
    "quantise": StageCost(_quantise_s, {"quantising": _quantising_bytes}),
}
"""The stages of a run that cost anything worth counting."""


@dataclass(frozen=True, kw_only=True)
class LeastMemory:
    """n_bytes: the engine, the weights in memory, and the largest need beside them.

    beside_bytes: of that, what purpose needs. streamed: whether the weights are read block by
    block.
    """

    n_bytes: int
    beside_bytes: int
    purpose: Purpose
    streamed: bool = False


def least_memory(
    shape: ModelShape, settings: RunSettings, *, streamed: bool = False
) -> LeastMemory:
    """The least memory of a run of this model. streamed: its weights are read block by block."""
    run = Workload(shape=shape, settings=settings, streamed=streamed)
    purpose: Purpose = "the evaluation"
    beside_bytes = 0
    for stage in STAGES.values():
        for stage_purpose, count_bytes in stage.memory.items():
            n_bytes = count_bytes(run)
            if n_bytes > beside_bytes:
                purpose = stage_purpose
                beside_bytes = n_bytes
    n_weights = shape.n_parameters
    if streamed:
        # Embeddings and head, and of the blocks one as it is and one as it becomes.
        n_weights += 2 * shape.n_block_weights // run.n_blocks - shape.n_block_weights
    return LeastMemory(
        n_bytes=resources.RUNTIME_BYTES + n_weights * run.itemsize + beside_bytes,
        beside_bytes=beside_bytes,
        purpose=purpose,
        streamed=streamed,
    )


def chosen_memory(
    shape: ModelShape, settings: RunSettings, machine_bytes: int | None
) -> LeastMemory:
    """The least memory of a run as it is made: as asked for, or streamed where it would not fit.

    machine_bytes: of the machine; None where the model runs on a GPU.
    """
    resident = least_memory(shape, settings)
    if is_streamed(settings.residency, resident.n_bytes, machine_bytes):
        return least_memory(shape, settings, streamed=True)
    return resident


def is_streamed(
    residency: Residency, resident_bytes: int, machine_bytes: int | None
) -> bool:
    """Whether the weights are read block by block. resident_bytes: the run's least memory if they
    are not.
    """
    if residency != "auto":
        return residency == "streamed"
    return (
        machine_bytes is not None and resident_bytes > resources.USABLE * machine_bytes
    )
