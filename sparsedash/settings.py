"""What was asked for: frozen, checked, plain values.

Sparsities are whole per mille (125 = 12.5 %), so that keys never drift with rounding.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import msgspec

from sparsedash.canonical import digest
from sparsedash.checks import one_of, reference, whole
from sparsedash.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Dtype = Literal["float32", "bfloat16"]
Pattern = Literal["channelx1", "1x1", "2:4", "4:8"]
Scope = Literal["mlp", "decoder"]
Saliency = Literal["activation-aware", "magnitude", "wifv", "obs", "fisher", "random"]
Compensation = Literal["none", "bias", "least-squares", "sequential"]
Allocation = Literal["uniform", "global", "standardised", "sensitivity"]
Rule = Literal["plain", "published"]

MAX_SPARSITY_PERMILLE = 900

PUBLISHED_LONGEST = 197
"""Tokens of the longest passage that the published rule can judge: 196 that were read, and the last, which is predicted."""

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


def choices(pattern: Pattern) -> Mapping[str, tuple[str, ...]]:
    """What the other choices of a method may be with this pattern, by the name of the choice."""
    return _CHANNEL_CHOICES if pattern == "channelx1" else _WEIGHT_CHOICES


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The four choices that make a pruning method, with their few parameters.

    pattern: whole channels, single weights, or so many zeros in so many neighbours of a row.
    scope: the projections whose single weights go: those of the MLPs, or all of the decoder blocks.
    width_multiple: kept widths are rounded to the nearest multiple of this many channels.
    damping: ridge of the least squares, as a share of the median of diag H.
    strength: of the sequential least squares, from 0, a block's own output, to 1, the dense residual stream.
    seed: only for random saliency.
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

    def __post_init__(self) -> None:
        one_of("saliency", self.saliency, Saliency)
        one_of("pattern", self.pattern, Pattern)
        one_of("compensation", self.compensation, Compensation)
        one_of("allocation", self.allocation, Allocation)
        one_of("scope", self.scope, Scope)
        for name, allowed in choices(self.pattern).items():
            if getattr(self, name) not in allowed:
                words = f"{', '.join(allowed)} with pattern {self.pattern}"
                raise SettingsError(name, getattr(self, name), words)
        whole("width_multiple", self.width_multiple, 1, 4096)
        whole("method seed", self.seed, 0, 2**31 - 1)
        if type(self.damping) not in (int, float) or not 0 < self.damping <= 10:
            raise SettingsError("damping", self.damping, "more than 0 and at most 10")
        if type(self.strength) not in (int, float) or not 0 <= self.strength <= 1:
            raise SettingsError("strength", self.strength, "from 0 to 1")
        # 1 and 1.0 are equal settings and must have one key.
        object.__setattr__(self, "damping", float(self.damping))
        object.__setattr__(self, "strength", float(self.strength))

    def sparsities(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        """Those of a sweep's sparsities (per mille) at which this method is made; its pattern's own where it has one."""
        fixed = FIXED_PERMILLE.get(self.pattern)
        return asked if fixed is None else (fixed,)


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Which text the statistics come from, and how much: at most n_samples * length tokens.

    corpus: a text reference (see engine.corpora): a catalog name, `self` or `file:PATH`.
    """

    corpus: str = "self"
    n_samples: int = 128
    length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        reference("calibration text", self.corpus)
        whole("calibration samples", self.n_samples, 1, 100_000)
        whole("calibration length", self.length, 8, 32_768)
        whole("seed", self.seed, 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Which passages are answered. n_passages None: all. shuffle_seed None: in file order.

    rule: how the last token is judged. `plain`: right when it is the model's first choice. `published`: as the published
    run did, which could not count a passage of more than PUBLISHED_LONGEST tokens as right.
    stop_early: a sparse model answers only until its difference to the dense one is decided; see sequential_test.
    """

    corpus: str = "builtin:cloze"
    n_passages: int | None = None
    shuffle_seed: int | None = None
    rule: Rule = "plain"
    stop_early: bool = False

    def __post_init__(self) -> None:
        reference("evaluation text", self.corpus)
        one_of("rule", self.rule, Rule)
        if self.n_passages is not None:
            whole("passages", self.n_passages, 1, 10_000_000)
        if self.shuffle_seed is not None:
            whole("shuffle seed", self.shuffle_seed, 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One job: a model, one calibration, and every method at every sparsity beside the dense model."""

    model: str = "builtin:smollm2-135m"
    dtype: Dtype = "float32"
    methods: tuple[MethodSettings, ...] = field(default_factory=lambda: (MethodSettings(),))
    sparsities_permille: tuple[int, ...] = (100, 200)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        reference("model", self.model)
        one_of("dtype", self.dtype, Dtype)
        if not self.methods:
            raise SettingsError("methods", (), "at least one")
        if len(set(self.methods)) != len(self.methods):
            raise SettingsError("methods", self.methods, "each one once")
        if not 1 <= len(self.sparsities_permille) <= 50:
            raise SettingsError("sparsities", self.sparsities_permille, "1 to 50 of them")
        if len(set(self.sparsities_permille)) != len(self.sparsities_permille):
            raise SettingsError("sparsities", self.sparsities_permille, "each one once")
        for permille in self.sparsities_permille:
            whole("sparsity (per mille)", permille, 0, MAX_SPARSITY_PERMILLE)

    @property
    def n_sparse(self) -> int:
        """How many sparse models are made, and compared with the dense one."""
        return len(self.points)

    @property
    def points(self) -> tuple[tuple[MethodSettings, int], ...]:
        """Every sparse model that is made: method by method, each at every sparsity in per mille.

        A pattern that decides the sparsity itself is made once, at its own, whatever the sparsities of the sweep are.
        """
        return tuple(
            (method, permille)
            for method in self.methods
            for permille in method.sparsities(self.sparsities_permille)
        )

    @property
    def made_permille(self) -> tuple[int, ...]:
        """The sparsities of all points, each once: those asked for, and those that patterns decide themselves."""
        return tuple(dict.fromkeys(permille for _, permille in self.points))

    def key(self, stamps: Mapping[str, str] | None = None) -> str:
        """The name of this request. `stamps`: what tells two states of the local files named in it apart."""
        values = asdict(self) | {
            "evaluation": evaluation_values(self.evaluation),
            "methods": [method_values(method) for method in self.methods],
        }
        return digest({"settings": values, "stamps": dict(stamps or {})})


S = TypeVar("S", bound="DataclassInstance")


def settings_from_plain(kind: type[S], plain: object) -> S:
    """The settings of this kind that `dataclasses.asdict` made plain, checked again. Raises SettingsError."""
    allowed = "what was written by this version"
    try:
        made = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(kind.__name__, str(error), allowed) from error
    if not _covers(asdict(made), plain):
        raise SettingsError(kind.__name__, "a field that is unknown here", allowed)
    return made


def method_values(method: MethodSettings) -> dict[str, Any]:
    """Without the scope where channels go, which had no such choice when the first keys were made."""
    values = asdict(method)
    if method.pattern == "channelx1":
        del values["scope"]
    return values


def evaluation_values(evaluation: EvaluationSettings) -> dict[str, Any]:
    """Without the plain rule, and without stopping early where it is not wanted: the first keys knew neither."""
    values = asdict(evaluation)
    if evaluation.rule == "plain":
        del values["rule"]
    else:
        values["longest"] = PUBLISHED_LONGEST
    if not evaluation.stop_early:
        del values["stop_early"]
    return values


def _covers(made: Any, plain: Any) -> bool:
    """Whether nothing of a plain value was dropped; a field it lacks has its default."""
    if isinstance(made, dict) and isinstance(plain, dict):
        return all(name in made and _covers(made[name], plain[name]) for name in plain)
    if isinstance(made, list | tuple) and isinstance(plain, list | tuple):
        return len(made) == len(plain) and all(map(_covers, made, plain))
    return bool(made == plain)


def parse_percents(text: str) -> tuple[int, ...]:
    """Per mille from "10,20" or "12.5 30 %". Raises SettingsError on anything finer than a tenth."""
    words = text.replace("%", " ").replace(",", " ").split()
    if not words:
        raise SettingsError("sparsity", text, "percents such as 10,20")
    return tuple(_permille(word) for word in words)


def _permille(word: str) -> int:
    try:
        permille = round(float(word) * 10)
        exact = math.isclose(permille, float(word) * 10, abs_tol=1e-6)
    except (ValueError, OverflowError):
        exact = False
    if not exact or not 0 <= permille <= MAX_SPARSITY_PERMILLE:
        limit = MAX_SPARSITY_PERMILLE // 10
        raise SettingsError("sparsity", word, f"0 to {limit} percent, in tenths at the finest")
    return permille
