"""What somebody may ask of two records' models beside a run: what they write, and how far they are apart."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.hashing import stage_key
from sparsedash.schema.settings import Dtype
from sparsedash.schema.validation import one_of, text, whole

MOST_OTHERS = 100
_RECORD_FIELDS = ("left", "right", "dense", "sparse", "others")


def records_read(request: Mapping[str, Any]) -> frozenset[str]:
    """The keys of all records that a job works with. request: its settings in plain form, whatever its kind."""
    named = [request.get(field) or () for field in _RECORD_FIELDS]
    return frozenset(str(key) for each in named for key in ([each] if isinstance(each, str) else each))


@dataclass(frozen=True, kw_only=True)
class ContinuationSettings:
    """A request for what records' models write after a prompt. left, right, others: record keys.

    temperature_percent: 0: each model's first choice; 100: drawn as the model says. seed: of the drawing, for both
    alike.
    """

    left: str
    right: str
    prompt: str
    n_tokens: int = 40
    temperature_percent: int = 0
    seed: int = 0
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole("tokens to write", self.n_tokens, 1, 400)
        whole("models beside the two", len(self.others), 0, MOST_OTHERS)
        whole("temperature (percent)", self.temperature_percent, 0, 200)
        whole("seed", self.seed, 0, 2**31 - 1)
        text("prompt", self.prompt)

    def key(self) -> str:
        """The name of this request and of what it produces; without a seed where nothing is drawn, or others where
        there are none.
        """
        values = asdict(self)
        if self.temperature_percent == 0:
            del values["temperature_percent"], values["seed"]
        if not self.others:
            del values["others"]
        return stage_key("continuation", **values)


@dataclass(frozen=True, kw_only=True)
class DivergenceSettings:
    """A request for how far two records' models are apart at every token of a text. left, right: record keys."""

    left: str
    right: str
    text: str

    def __post_init__(self) -> None:
        text("text", self.text)

    def key(self) -> str:
        """The name of this request and of what it produces."""
        return stage_key("divergence", **asdict(self))


@dataclass(frozen=True, kw_only=True)
class TimingSettings:
    """A request for how fast a sparse model is beside its dense one. dense, sparse: record keys.

    dtype: of the weights while they are timed; None: as the records have it. n_threads: of the processor; None: as many
    as torch takes by itself. n_prompt: tokens that are read, and that stand before what is written. n_decode: tokens
    that are written in one sample. batches: passages at once, each timed for itself. Each is timed until its interval
    is within so many per mille of the ratio, or for `most_s` seconds. seed: of the tokens and of the order.
    """

    dense: str
    sparse: str
    dtype: Dtype | None = None
    n_threads: int | None = None
    n_prompt: int = 512
    n_decode: int = 16
    batches: tuple[int, ...] = (1, 8)
    within_permille: int = 50
    least_rounds: int = 15
    most_s: int = 120
    n_warmup: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype is not None:
            one_of("dtype", self.dtype, Dtype)
        if self.n_threads is not None:
            whole("threads", self.n_threads, 1, 1024)
        whole("tokens to read", self.n_prompt, 1, 32_768)
        whole("tokens to write", self.n_decode, 1, 1024)
        if not self.batches or len(set(self.batches)) != len(self.batches):
            raise SettingsError("batches", self.batches, "one or several different numbers")
        for batch in self.batches:
            whole("passages at once", batch, 1, 256)
        whole("width of the interval (per mille)", self.within_permille, 1, 1000)
        whole("least rounds", self.least_rounds, 2, 1000)
        whole("seconds for each", self.most_s, 1, 3600)
        whole("warm-up rounds", self.n_warmup, 0, 100)
        whole("seed", self.seed, 0, 2**31 - 1)

    def key(self) -> str:
        """The name of this request and of what it produces."""
        return stage_key("timing", **asdict(self))
