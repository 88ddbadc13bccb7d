"""What a run is asked for, and the limits of every value: frozen, checked, plain values.

Sparsities are whole per mille (125 = 12.5 %), so that keys never drift with rounding.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.hashing import digest
from sparsedash.schema.method_settings import MethodSettings, method_values
from sparsedash.schema.validation import one_of, reference, whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Dtype = Literal["float32", "bfloat16"]
TokenWeights = Literal["equal", "residual"]
Rule = Literal["plain", "published"]
Residency = Literal["auto", "resident", "streamed"]

BUILTIN_MODEL = "builtin:smollm2-135m"
BUILTIN_CLOZE = "builtin:cloze"
BUILTIN_CLOZE_402 = "builtin:cloze-402"
BUILTIN_TEXT = "builtin:smollm2-text"
SELF = "self"
"""The calibration text that the model itself writes."""

MAX_SPARSITY_PERMILLE = 900

MIN_TOKENS_PER_CHANNEL = 4
"""Of calibration text, for each inner channel of the widest MLP; fewer are refused."""

PUBLISHED_LONGEST = 197
"""Tokens of the longest passage that the published rule can judge: 196 that were read, and the last, which is
predicted.
"""


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Which text the statistics come from, and how much: at most n_samples * length tokens.

    corpus: a text reference (see engine.texts.corpora): a catalog name, `self` or `file:PATH`.
    token_weights: how much each token counts: `equal`, or `residual`, by 1 / the mean square of the residual stream
    after the block, so that tokens with an enormous stream count little (see engine.calibration.token_weights). packed:
    the same tokens, but the documents, each cut to `length`, are joined and cut again, as the published program does;
    else every document is a sequence of its own. A running text is always joined.
    """

    corpus: str = SELF
    n_samples: int = 128
    length: int = 256
    seed: int = 0
    token_weights: TokenWeights = "equal"
    packed: bool = False

    def __post_init__(self) -> None:
        reference("calibration text", self.corpus)
        one_of("token weights", self.token_weights, TokenWeights)
        whole("calibration samples", self.n_samples, 1, 100_000)
        whole("calibration length", self.length, 8, 32_768)
        whole("seed", self.seed, 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Which passages are answered. n_passages None: all. shuffle_seed None: in file order.

    rule: how the last token is judged. `plain`: right when it is the model's first choice. `published`: as the
    published run did, which could not count a passage of more than PUBLISHED_LONGEST tokens as right. stop_early: a
    sparse model answers only until its difference to the dense one is decided; see stats.anytime.
    """

    corpus: str = BUILTIN_CLOZE
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
    """One job: a model, one calibration, and every method at every sparsity beside the dense model.

    methods: where none is named, the plain one of MethodSettings; what the form recommends is catalog.presets'.
    residency: whether its weights are all in memory while it runs, or read from their files block by block; auto: as
    the memory of the machine allows. The results are the same, so that it is no part of any key.
    """

    model: str = BUILTIN_MODEL
    dtype: Dtype = "float32"
    methods: tuple[MethodSettings, ...] = field(default_factory=lambda: (MethodSettings(),))
    sparsities_permille: tuple[int, ...] = (100, 200)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    residency: Residency = "auto"

    def __post_init__(self) -> None:
        reference("model", self.model)
        one_of("dtype", self.dtype, Dtype)
        one_of("residency", self.residency, Residency)
        if not self.methods:
            raise SettingsError("methods", (), "at least one")
        if len(set(self.methods)) != len(self.methods):
            raise SettingsError("methods", self.methods, "each one once")
        if not 1 <= len(self.sparsities_permille) <= 50:
            raise SettingsError("sparsities", _percents(self.sparsities_permille), "1 to 50 of them")
        for permille in self.sparsities_permille:
            whole("sparsity (per mille)", permille, 0, MAX_SPARSITY_PERMILLE)
        if len(set(self.sparsities_permille)) != len(self.sparsities_permille):
            raise SettingsError("sparsities", _percents(self.sparsities_permille), "each one once")

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
            (method, permille) for method in self.methods for permille in method.sparsities(self.sparsities_permille)
        )

    @property
    def reads_text(self) -> bool:
        """Whether any of its methods depends on the calibration text."""
        return any(method.reads_text for method in self.methods)

    @property
    def solves(self) -> bool:
        """Whether any of its methods looks at second moments as a whole."""
        return any(method.solves for method in self.methods)

    @property
    def made_permille(self) -> tuple[int, ...]:
        """The sparsities of all points, each once: those asked for, and those that patterns decide themselves."""
        return tuple(dict.fromkeys(permille for _, permille in self.points))

    def key(self, fingerprints: Mapping[str, str] | None = None) -> str:
        """The name of this request. fingerprints: what tells two states of the local files named in it apart."""
        values = asdict(self) | {
            "calibration": calibration_values(self.calibration),
            "evaluation": evaluation_values(self.evaluation),
            "methods": [method_values(method) for method in self.methods],
        }
        del values["residency"]
        return digest({"settings": values, "stamps": dict(fingerprints or {})})


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


def calibration_values(calibration: CalibrationSettings) -> dict[str, Any]:
    """Without the token weights where they are equal, and without packing where there is none: the first keys knew
    neither.
    """
    values = asdict(calibration)
    if calibration.token_weights == "equal":
        del values["token_weights"]
    if not calibration.packed:
        del values["packed"]
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


def _percents(permilles: tuple[int, ...]) -> str:
    return ", ".join(f"{value / 10:g} %" for value in permilles)


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
