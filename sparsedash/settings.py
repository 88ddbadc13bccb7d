"""What was asked for: frozen, checked, plain values.

Sparsities are whole per mille (125 = 12.5 %), so that keys never drift with rounding.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, get_args

import msgspec

from sparsedash.canonical import digest, stage_key
from sparsedash.errors import SettingsError

Dtype = Literal["float32", "bfloat16"]
Pattern = Literal["channelx1"]
Saliency = Literal["activation-aware", "magnitude", "wifv", "obs", "fisher", "random"]
Compensation = Literal["none", "bias", "least-squares", "sequential"]
Allocation = Literal["uniform", "global", "standardised", "sensitivity"]
Rule = Literal["plain", "published"]

MAX_SPARSITY_PERMILLE = 900


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The four choices that make a pruning method, with their few parameters.

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

    def __post_init__(self) -> None:
        _one_of("saliency", self.saliency, Saliency)
        _one_of("pattern", self.pattern, Pattern)
        _one_of("compensation", self.compensation, Compensation)
        _one_of("allocation", self.allocation, Allocation)
        _whole("width_multiple", self.width_multiple, 1, 4096)
        _whole("method seed", self.seed, 0, 2**31 - 1)
        if type(self.damping) not in (int, float) or not 0 < self.damping <= 10:
            raise SettingsError("damping", self.damping, "more than 0 and at most 10")
        if type(self.strength) not in (int, float) or not 0 <= self.strength <= 1:
            raise SettingsError("strength", self.strength, "from 0 to 1")
        # 1 and 1.0 are equal settings and must have one key.
        object.__setattr__(self, "damping", float(self.damping))
        object.__setattr__(self, "strength", float(self.strength))


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
        _reference("calibration text", self.corpus)
        _whole("calibration samples", self.n_samples, 1, 100_000)
        _whole("calibration length", self.length, 8, 32_768)
        _whole("seed", self.seed, 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Which passages are answered. n_passages None: all. shuffle_seed None: in file order.

    rule: how the last token is judged. `plain`: right when it is the model's first choice. `published`: as the published
    run did, which padded every passage to 196 tokens and so could not count a longer one as right.
    """

    corpus: str = "builtin:cloze"
    n_passages: int | None = None
    shuffle_seed: int | None = None
    rule: Rule = "plain"

    def __post_init__(self) -> None:
        _reference("evaluation text", self.corpus)
        _one_of("rule", self.rule, Rule)
        if self.n_passages is not None:
            _whole("passages", self.n_passages, 1, 10_000_000)
        if self.shuffle_seed is not None:
            _whole("shuffle seed", self.shuffle_seed, 0, 2**31 - 1)


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
        _reference("model", self.model)
        _one_of("dtype", self.dtype, Dtype)
        if not self.methods:
            raise SettingsError("methods", (), "at least one")
        if not 1 <= len(self.sparsities_permille) <= 50:
            raise SettingsError("sparsities", self.sparsities_permille, "1 to 50 of them")
        if len(set(self.sparsities_permille)) != len(self.sparsities_permille):
            raise SettingsError("sparsities", self.sparsities_permille, "each one once")
        for permille in self.sparsities_permille:
            _whole("sparsity (per mille)", permille, 0, MAX_SPARSITY_PERMILLE)

    def key(self, stamps: Mapping[str, str] | None = None) -> str:
        """The name of this request. `stamps`: what tells two states of the local files named in it apart."""
        values = asdict(self) | {"evaluation": evaluation_values(self.evaluation)}
        return digest({"settings": values, "stamps": dict(stamps or {})})


@dataclass(frozen=True, kw_only=True)
class ContinuationSettings:
    """A request for what two records' models write after a prompt. left, right: record keys."""

    left: str
    right: str
    prompt: str
    n_tokens: int = 40

    def __post_init__(self) -> None:
        _whole("tokens to write", self.n_tokens, 1, 400)
        if not self.prompt.strip() or len(self.prompt) > 100_000:
            raise SettingsError("prompt", self.prompt[:40], "1 to 100,000 characters")

    def key(self) -> str:
        """The name of this request and of what it produces."""
        return stage_key(
            "continuation",
            left=self.left,
            right=self.right,
            prompt=self.prompt,
            n_tokens=self.n_tokens,
        )


S = TypeVar("S", RunSettings, ContinuationSettings)


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


def evaluation_values(evaluation: EvaluationSettings) -> dict[str, Any]:
    """Without the plain rule, which had no name when the first keys were made."""
    values = asdict(evaluation)
    if evaluation.rule == "plain":
        del values["rule"]
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


def _one_of(name: str, value: object, choices: Any) -> None:
    if value not in get_args(choices):
        raise SettingsError(name, value, ", ".join(get_args(choices)))


def _whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise SettingsError(name, value, f"a whole number from {low:,} to {high:,}")


def _reference(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise SettingsError(name, value, "a reference without spaces around it")
    if len(value) > 4096 or not value.isprintable():
        raise SettingsError(name, value[:40], "at most 4,096 printable characters")
