"""Pruning methods: four choices and their parameters, checked when made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import MAX_SEED, check_settings, setting

Pattern = Literal["channelx1", "layer", "expert", "expert-channel", "1x1", "2:4", "4:8"]
Scope = Literal["mlp", "decoder"]
Saliency = Literal[
    "activation-aware",
    "magnitude",
    "wifv",
    "obs",
    "fisher",
    "random",
    "divergence",
    "perplexity",
    "block-influence",
    "output-energy",
    "reap",
    "frequency",
]
Compensation = Literal["none", "bias", "least-squares", "sequential"]
Allocation = Literal["uniform", "global", "standardised", "curves"]
Schedule = Literal["exponential", "linear", "cubic", "cosine"]
Budget = Literal["channels", "weights", "bytes", "macs", "kv-cache"]
"""What a sparsity is a share of: catalog.budgets says what is counted."""

FIXED_PERMILLE: dict[Pattern, int] = {"2:4": 500, "4:8": 500}
"""Patterns with a sparsity of their own."""

_CHANNEL_CHOICES: dict[str, tuple[str, ...]] = {
    "saliency": ("activation-aware", "magnitude", "wifv", "obs", "fisher", "random"),
    "compensation": get_args(Compensation),
    "allocation": get_args(Allocation),
    "scope": ("mlp",),
    "budget": get_args(Budget),
}
_LAYER_CHOICES: dict[str, tuple[str, ...]] = {
    "saliency": ("divergence", "perplexity", "block-influence", "random"),
    "compensation": ("none", "sequential"),
    "allocation": ("uniform",),
    "scope": ("mlp",),
    "budget": get_args(Budget),
}
_EXPERT_CHOICES: dict[str, tuple[str, ...]] = {
    "saliency": ("output-energy", "reap", "frequency", "random"),
    "compensation": ("none", "least-squares"),
    "allocation": ("uniform",),
    "scope": ("mlp",),
    "budget": get_args(Budget),
}
_EXPERT_CHANNEL_CHOICES: dict[str, tuple[str, ...]] = _EXPERT_CHOICES | {
    "saliency": ("activation-aware", "magnitude", "obs", "random"),
}
_WEIGHT_CHOICES: dict[str, tuple[str, ...]] = {
    "saliency": ("activation-aware", "magnitude", "obs"),
    "compensation": ("none", "least-squares", "sequential"),
    "allocation": ("uniform",),
    "scope": get_args(Scope),
    "budget": ("channels",),
}


def allowed_choices(pattern: Pattern) -> Mapping[str, tuple[str, ...]]:
    """The possible other choices of a method with this pattern, by name."""
    choices = {
        "channelx1": _CHANNEL_CHOICES,
        "layer": _LAYER_CHOICES,
        "expert": _EXPERT_CHOICES,
        "expert-channel": _EXPERT_CHANNEL_CHOICES,
    }
    return choices.get(pattern, _WEIGHT_CHOICES)


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The four choices that make a pruning method, with their few parameters.

    scope: only for weights. seed: only for random saliency. rounds, schedule: only for Fisher
    saliency. curve_levels: only for allocation by curves. damping: the order of an elimination has
    one of its own. budget: what sparsities are a share of, only where channels or layers are removed.
    """

    saliency: Saliency = setting(
        "activation-aware",
        label="Saliency: what to keep",
        help="activation-aware: weight times activation. magnitude: weight. wifv: variance. obs: loss "
        "after the others compensate. fisher: Fisher information of a mask, by a backward pass. random: the baseline. "
        "Of layers, by the model's loss without them: divergence, from dense; perplexity, of the text. "
        "block-influence: how much they turn the residual stream. "
        "Of experts: output-energy, the mean square of what they add; reap, the mean of what they add where they are "
        "chosen; frequency, how often they are chosen.",
    )
    pattern: Pattern = setting(
        "channelx1",
        label="Pattern: what to remove",
        help="channelx1: whole channels of the MLPs. layer: whole layers, attention included. "
        "expert: whole experts of a mixture. expert-channel: channels of every expert, as many of each. "
        "1x1: single weights. "
        "2:4, 4:8: 2 of 4 weights, 4 of 8.",
    )
    compensation: Compensation = setting(
        "least-squares",
        label="Compensation: bias or refit",
        help="bias: the mean of what was removed. least-squares: refit to the dense outputs. sequential: refit again, "
        "layer by layer, on the sparse model's own activations; of single weights chosen on them as well.",
    )
    allocation: Allocation = setting(
        "uniform",
        label="Allocation: sparsity of each layer",
        help="global: one threshold for all scores. standardised: the same, in standard deviations of each layer. "
        "curves: the least total loss, measured layer by layer.",
    )
    width_multiple: int = setting(
        32,
        low=1,
        high=4096,
        key="width",
        flag="--width-multiple",
        label="Kept widths are multiples of",
        flag_help="kept widths are multiples of N channels",
    )
    budget: Budget = setting(
        "channels",
        flag="--budget",
        label="Sparsity is a share of",
        help="channels: the MLPs' inner channels. weights: the blocks' weights. bytes: the model file. macs: the "
        "multiply-adds of a token, of experts those chosen for it, attention's own products not counted. "
        "kv-cache: a token's keys and values, "
        "of which only whole layers free any. Channels or layers go until that share is gone.",
    )
    damping: float = setting(
        0.01,
        above=0.0,
        low=0.001,
        high=10.0,
        label="Damping: towards the original weights",
        help="Ridge towards the original weights, as a share of the median of diag H. Larger: more stable, less exact.",
    )
    strength: float = setting(
        0.5,
        label="Strength: towards the residual stream",
        help="0: fit the layer's own dense output. 1: fit the dense residual stream, earlier layers' errors included.",
    )
    seed: int = setting(
        0,
        title="method seed",
        high=MAX_SEED,
        key="lot",
        label="Seed of the random choice",
        help="Draws other channels or weights.",
    )
    scope: Scope = setting(
        "mlp",
        label="Scope: which projections",
        help="Projections of the MLPs, or all of the decoder blocks.",
    )
    rounds: int = setting(
        1,
        low=1,
        high=64,
        label="Rounds: each on a part of the text",
        help="After each part of the text the channels chosen so far are masked. 1: one pass, by the dense model.",
    )
    schedule: Schedule = setting(
        "exponential", label="Schedule of the rounds", help="Sparsity after each round."
    )
    curve_levels: int = setting(
        4,
        low=2,
        high=64,
        flag="--curve-levels",
        flag_help="widths of each layer at which the model's loss is measured, by methods by curves",
        label="Levels: points of each layer's curve",
        help="Widths of each layer at which the whole model's loss is measured. More: closer, and slower.",
    )
    mix: float = setting(
        0.0,
        high=1.0,
        flag="--mix",
        label="Mix: its share of the calibration",
        flag_help="share of the calibration tokens that are the built-in mix; 0 is your text alone (as in the method)",
        help="0.5: half of the calibration tokens are the built-in mix of stories, prose, sums, lists, code, tables "
        "and instructions, so that fewer abilities are lost. 0: your text alone, for example in another language.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name, allowed in allowed_choices(self.pattern).items():
            if getattr(self, name) not in allowed:
                several = "one of " if len(allowed) > 1 else ""
                words = f"{several}{', '.join(allowed)} with pattern {self.pattern}"
                raise SettingsError(name, getattr(self, name), words)
        if self.eliminates and self.allocation in ("global", "standardised"):
            # Its scores are the places in an order, which are the same in every block.
            words = f"uniform or curves with saliency {self.saliency}"
            raise SettingsError("allocation", self.allocation, words)
        if self.needs_curves and self.by_gradient and self.rounds > 1:
            # In every round others go first, at every sparsity: each would need curves of its own.
            raise SettingsError("rounds", self.rounds, "1 with allocation curves")
        if self.rounds == 1:
            # One round has no schedule: whatever is asked for, it is the same method under the same
            # name.
            object.__setattr__(self, "schedule", "exponential")

    def uses(self, parameter: str) -> bool:
        """Whether its choices use the parameter of this name."""
        choices = {
            name: getattr(self, name)
            for name in ("pattern", "saliency", "compensation", "allocation")
        }
        return uses_parameter(parameter, **choices)

    @property
    def is_structured(self) -> bool:
        """Whether channels, experts or whole layers are removed; else single weights are set to
        zero.
        """
        return self.pattern in ("channelx1", "layer") or self.prunes_experts

    @property
    def removes_channels(self) -> bool:
        """Whether inner channels of the MLPs are removed."""
        return self.pattern == "channelx1"

    @property
    def can_be_healed(self) -> bool:
        """Whether its models can be healed and quantised: those with fewer channels or layers."""
        return self.removes_channels or self.removes_layers

    @property
    def removes_experts(self) -> bool:
        """Whether whole experts are removed."""
        return self.pattern == "expert"

    @property
    def prunes_experts(self) -> bool:
        """Whether experts are removed, or channels of them."""
        return self.pattern in ("expert", "expert-channel")

    @property
    def removes_layers(self) -> bool:
        """Whether whole layers are removed."""
        return self.pattern == "layer"

    @property
    def reads_text(self) -> bool:
        """Whether the result depends on the calibration text."""
        return self.uses("mix")

    @property
    def by_gradient(self) -> bool:
        """Whether its saliency needs the gradients of the channels' masks, by a backward pass."""
        return self.saliency == "fisher"

    @property
    def refits(self) -> bool:
        """Whether what stays is solved anew by least squares."""
        return self.compensation in ("least-squares", "sequential")

    @property
    def in_sequence(self) -> bool:
        """Whether block after block is solved on what the sparse model itself sees."""
        return self.compensation == "sequential"

    @property
    def needs_curves(self) -> bool:
        """Whether the model's loss is measured layer by layer."""
        return self.allocation == "curves"

    @property
    def is_block_local(self) -> bool:
        """Whether the width of a block depends on no other block."""
        return self.allocation == "uniform"

    @property
    def needs_statistics(self) -> bool:
        """Whether the dense model's activations on the calibration text are collected: for the
        result, or for the errors of its layers.
        """
        is_read = self.removes_channels or not (self.is_structured or self.in_sequence)
        return self.reads_text and is_read

    @property
    def eliminates(self) -> bool:
        """Whether what goes is chosen step by step, after the rest has compensated what went
        before.
        """
        return self.saliency == "obs"

    @property
    def solves(self) -> bool:
        """Whether the method needs full second moments, not only their diagonals."""
        solves = self.refits or self.eliminates or self.needs_curves
        return solves and not self.prunes_experts

    @property
    def needs_later_blocks(self) -> bool:
        """Whether a pruned block depends on more than the first pass of the calibration text up to
        it.
        """
        later = self.in_sequence or self.removes_layers or self.prunes_experts
        return later or self.by_gradient or not self.is_block_local

    def nearest_width(self, width: int, share: float) -> int:
        """The multiple nearest to what this share leaves of a width: at least one, at most all."""
        multiple = self.width_multiple
        if share <= 0 or width <= multiple:
            return width
        n_multiples = int(channels_left(width, share) / multiple + 0.5)
        return min(width, max(1, n_multiples) * multiple)

    def sparsities(self, requested: tuple[int, ...]) -> tuple[int, ...]:
        """The sparsities (per mille) of this method in a sweep: those requested, or its pattern's."""
        fixed = FIXED_PERMILLE.get(self.pattern)
        return requested if fixed is None else (fixed,)


def channels_left(n: int, share: float) -> float:
    """Channels to keep as a float, rounded to 6 digits to remove float error."""
    return round(n * (1 - share), 6)


def with_budget(
    methods: Sequence[MethodSettings], budget: Budget
) -> tuple[MethodSettings, ...]:
    """The methods with this budget; those beside them that set single weights to zero keep their
    own.

    Raises SettingsError where none of them removes channels, and the budget is another.
    """
    is_mixed = len({method.is_structured for method in methods}) > 1
    budgeted = []
    for method in methods:
        if method.is_structured or not is_mixed:
            method = replace(method, budget=budget)
        budgeted.append(method)
    return tuple(budgeted)


def uses_parameter(
    parameter: str, *, pattern: str, saliency: str, compensation: str, allocation: str
) -> bool:
    """Whether a method of these four choices uses its parameter of this name."""
    # A compensation that is not named here counts as damped, so that its damping is in the keys.
    damped = compensation not in ("none", "bias")
    measured = allocation == "curves"
    single = pattern not in ("channelx1", "layer", "expert", "expert-channel")
    conditions = {
        "width_multiple": pattern in ("channelx1", "expert-channel"),
        "budget": not single,
        "scope": single,
        **dict.fromkeys(("rounds", "schedule"), saliency == "fisher"),
        "seed": saliency == "random",
        "curve_levels": measured,
        "strength": compensation == "sequential" and not single,
        "mix": saliency not in ("magnitude", "random")
        or compensation != "none"
        or measured,
        "damping": damped or (single and saliency == "obs"),
    }
    return conditions.get(parameter, True)
