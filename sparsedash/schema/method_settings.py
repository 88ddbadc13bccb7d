"""What a pruning method is: four choices and their few parameters, checked when they are made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.plain_values import require_one_of, require_share, require_whole

Pattern = Literal["channelx1", "1x1", "2:4", "4:8"]
Scope = Literal["mlp", "decoder"]
Saliency = Literal["activation-aware", "magnitude", "wifv", "obs", "fisher", "random"]
Compensation = Literal["none", "bias", "least-squares", "sequential"]
Allocation = Literal["uniform", "global", "standardised", "sensitivity"]
Schedule = Literal["exponential", "linear", "cubic", "cosine"]

FIXED_PERMILLE: dict[Pattern, int] = {"2:4": 500, "4:8": 500}
"""Patterns that decide the sparsity themselves."""

MAX_ROUNDS = 64

_CHANNEL_CHOICES: dict[str, tuple[str, ...]] = {
    "saliency": get_args(Saliency),
    "compensation": get_args(Compensation),
    "allocation": get_args(Allocation),
    "scope": ("mlp",),
}
_WEIGHT_CHOICES: dict[str, tuple[str, ...]] = {
    "saliency": ("activation-aware", "magnitude", "obs"),
    "compensation": ("none", "least-squares"),
    "allocation": ("uniform",),
    "scope": get_args(Scope),
}


def allowed_choices(pattern: Pattern) -> Mapping[str, tuple[str, ...]]:
    """What the other choices of a method may be with this pattern, by the name of the choice."""
    return _CHANNEL_CHOICES if pattern == "channelx1" else _WEIGHT_CHOICES


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The four choices that make a pruning method, with their few parameters.

    pattern: whole channels, single weights, or so many zeros in so many neighbours of a row.
    scope: the projections whose single weights go: those of the MLPs, or all of the decoder blocks.
    width_multiple: kept widths are rounded to the nearest multiple of this many channels.
    damping: ridge of the least squares, as a share of the median of diag H; the order of an elimination has one of its
    own. strength: of the sequential least squares, from 0, a block's own output, to 1, the dense residual stream. seed:
    only for random saliency. rounds: only for Fisher saliency. The calibration text is read in so many parts, and after
    each but the last the channels that would go so far are masked while the rest is read; with 1 the dense model reads
    all of it. schedule: how the sparsity grows from round to round. floor, ceiling: only for allocation by sensitivity.
    The least and the largest share of its channels that a block gives; where the sparsity asked for is outside, it is
    the bound itself. blend: of the same, from 0, the uniform widths, to 1, those that cost the model least as far as
    was measured. plain_text: the share of the calibration tokens that are taken from plain stories, which ship with the
    program, instead of the run's text: what is fitted closely to unusual text alone forgets ordinary text.
    """

    saliency: Saliency = "activation-aware"
    pattern: Pattern = "channelx1"
    compensation: Compensation = "least-squares"
    allocation: Allocation = "uniform"
    width_multiple: int = 32
    damping: float = 0.01
    strength: float = 0.5
    seed: int = 0
    scope: Scope = "mlp"
    rounds: int = 1
    schedule: Schedule = "exponential"
    floor: float = 0.0
    ceiling: float = 0.6
    blend: float = 0.5
    plain_text: float = 0.0

    def __post_init__(self) -> None:
        require_one_of("saliency", self.saliency, Saliency)
        require_one_of("pattern", self.pattern, Pattern)
        require_one_of("compensation", self.compensation, Compensation)
        require_one_of("allocation", self.allocation, Allocation)
        require_one_of("scope", self.scope, Scope)
        require_one_of("schedule", self.schedule, Schedule)
        for name, allowed in allowed_choices(self.pattern).items():
            if getattr(self, name) not in allowed:
                words = f"{', '.join(allowed)} with pattern {self.pattern}"
                raise SettingsError(name, getattr(self, name), words)
        if self.saliency == "obs" and self.allocation in ("global", "standardised"):
            # Its scores are the places in an order, which are the same in every block.
            raise SettingsError("allocation", self.allocation, "uniform, sensitivity with saliency obs")
        require_whole("width_multiple", self.width_multiple, 1, 4096)
        require_whole("method seed", self.seed, 0, 2**31 - 1)
        require_whole("rounds", self.rounds, 1, MAX_ROUNDS)
        if type(self.damping) not in (int, float) or not 0 < self.damping <= 10:
            raise SettingsError("damping", self.damping, "more than 0 and at most 10")
        for name in ("strength", "floor", "ceiling", "blend", "plain_text"):
            require_share(name, getattr(self, name))
        if self.floor > self.ceiling:
            raise SettingsError("floor", self.floor, f"at most the ceiling, {self.ceiling:g}")
        # 1 and 1.0 are equal settings and must have one key.
        for name in ("damping", "strength", "floor", "ceiling", "blend", "plain_text"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.rounds == 1:
            # One round has no schedule: whatever is asked for, it is the same method under the same name.
            object.__setattr__(self, "schedule", "exponential")

    @property
    def takes_channels(self) -> bool:
        """Whether channels leave the network; else single weights are set to zero where they are."""
        return self.pattern == "channelx1"

    @property
    def reads_text(self) -> bool:
        """Whether what is made depends on the calibration text; else nobody need read it, or write it."""
        blind = self.saliency in ("magnitude", "random") and self.compensation == "none"
        return not blind or self.allocation == "sensitivity"

    @property
    def solves(self) -> bool:
        """Whether the method looks at second moments as a whole, not only at their diagonals."""
        refits = self.compensation in ("least-squares", "sequential")
        return refits or self.saliency == "obs" or self.allocation == "sensitivity"

    @property
    def reads_again(self) -> bool:
        """Whether pruning takes passes over the calibration text of its own, beside the calibration."""
        sequential = self.compensation == "sequential"
        return self.saliency == "fisher" or sequential or (self.reads_text and not self.takes_channels)

    @property
    def looks_back(self) -> bool:
        """Whether what a block becomes depends on more than the calibration text on its first way to that block."""
        sequential = self.compensation == "sequential"
        return self.saliency == "fisher" or sequential or self.allocation != "uniform"

    def sparsities(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        """Those of a sweep's sparsities (per mille) at which this method is made; its pattern's own where it
        has one.
        """
        fixed = FIXED_PERMILLE.get(self.pattern)
        return asked if fixed is None else (fixed,)


def method_values(method: MethodSettings) -> dict[str, Any]:
    """Without what had no choice when the first keys were made: the scope where channels go, the schedule of one round,
    what an allocation by sensitivity is bounded by where it is what it was then, and the share of plain text where
    there is none.
    """
    values = asdict(method)
    if method.takes_channels:
        del values["scope"]
    if method.rounds == 1:
        del values["rounds"], values["schedule"]
    for name, first in (("floor", 0.0), ("ceiling", 0.6), ("blend", 0.5), ("plain_text", 0.0)):
        if values[name] == first:
            del values[name]
    return values
