"""What a pruning method is: four choices and their few parameters, checked when they are made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import MAX_SEED, check_settings, setting

Pattern = Literal["channelx1", "1x1", "2:4", "4:8"]
Scope = Literal["mlp", "decoder"]
Saliency = Literal["activation-aware", "magnitude", "wifv", "obs", "fisher", "random"]
Compensation = Literal["none", "bias", "least-squares", "sequential"]
Allocation = Literal["uniform", "global", "standardised", "sensitivity"]
Schedule = Literal["exponential", "linear", "cubic", "cosine"]

FIXED_PERMILLE: dict[Pattern, int] = {"2:4": 500, "4:8": 500}
"""Patterns that decide the sparsity themselves."""

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

    saliency: Saliency = setting(
        "activation-aware",
        key="saliency",
        label="Saliency: what matters",
        help="What makes a channel or a weight worth keeping. activation-aware: its size times how active it is. "
        "magnitude: its size. wifv: how much it varies. obs: what is lost when the others make up for it as well as "
        "they can. fisher: how the loss answers to a mask on it; takes a backward pass over all the text. random: by "
        "chance.",
    )
    pattern: Pattern = setting(
        "channelx1",
        key="pattern",
        label="Pattern: what goes",
        help="channelx1: whole channels leave the MLPs. 1x1: single weights become zero, anywhere. 2:4 and 4:8: so "
        "many in every four or eight neighbours.",
    )
    compensation: Compensation = setting(
        "least-squares",
        key="compensation",
        label="Compensation: what makes up for it",
        help="none: what stays is left as it is. bias: the mean of what went. least-squares: what stays is refitted to "
        "the dense outputs. sequential: and once more on the sparse model's own activations, layer by layer.",
    )
    allocation: Allocation = setting(
        "uniform",
        key="allocation",
        label="Allocation: how much each layer gives",
        help="uniform: every layer the same share. global: one threshold for all scores. standardised: the same, with "
        "each layer's scores in standard deviations. sensitivity: more from layers that the model minds less.",
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
    damping: float = setting(
        0.01,
        above=0.0,
        low=0.001,
        high=10.0,
        key="damping",
        label="Damping: towards the original weights",
        help="Pulls the refit towards the original weights, as a share of the median of diag H, the activations' "
        "second moments. Larger is steadier and fits less closely.",
    )
    strength: float = setting(
        0.5,
        key="strength",
        label="Strength: towards the residual stream",
        help="0: every layer aims at its own dense output. 1: at the dense model's residual stream, and so makes up "
        "for the layers before it as well.",
    )
    seed: int = setting(
        0,
        title="method seed",
        high=MAX_SEED,
        key="lot",
        label="Seed of the random choice",
        help="Another number draws other channels or weights.",
    )
    scope: Scope = setting(
        "mlp",
        key="scope",
        label="Scope: where it goes",
        help="The projections whose weights can go: those of the MLPs, or all of the decoder blocks.",
    )
    rounds: int = setting(
        1,
        low=1,
        high=64,
        key="rounds",
        label="Rounds: each on a part of the text",
        help="The text is read in so many parts, and after each what would go so far is masked. 1: the dense model "
        "reads all of it, once for all sparsities.",
    )
    schedule: Schedule = setting(
        "exponential",
        key="schedule",
        label="Schedule: how it gets sparser",
        help="How much of the sparsity is reached after each round.",
    )
    floor: float = setting(
        0.0,
        key="floor",
        label="Floor: least share that a layer gives",
        help="0.1: every layer gives at least 10 % of its channels, as far as the width multiple allows.",
    )
    ceiling: float = setting(
        0.6,
        key="ceiling",
        label="Ceiling: largest share that a layer gives",
        help="0.6: no layer gives more than 60 % of its channels.",
    )
    blend: float = setting(
        0.5,
        key="blend",
        label="Blend: from uniform to cheapest widths",
        help="0: uniform widths. 1: those that cost the model least, as far as little text can tell.",
    )
    plain_text: float = setting(
        0.0,
        key="plain_text",
        label="Plain text: its share of the calibration",
        help="0.5: half of the calibration tokens are plain stories that ship with the program, so that a close fit to "
        "unusual text keeps ordinary text.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name, allowed in allowed_choices(self.pattern).items():
            if getattr(self, name) not in allowed:
                words = f"{', '.join(allowed)} with pattern {self.pattern}"
                raise SettingsError(name, getattr(self, name), words)
        if self.saliency == "obs" and self.allocation in ("global", "standardised"):
            # Its scores are the places in an order, which are the same in every block.
            raise SettingsError("allocation", self.allocation, "uniform, sensitivity with saliency obs")
        if self.floor > self.ceiling:
            raise SettingsError("floor", self.floor, f"at most the ceiling, {self.ceiling:g}")
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
