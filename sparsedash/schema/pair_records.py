"""Two models side by side: requests (continuation, divergence, timing) and results."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import MAX_SEED, check_settings, setting
from sparsedash.schema.plain_values import Count, require_text, require_whole
from sparsedash.schema.settings import Dtype
from sparsedash.schema.stage_versions import stage_key

MAX_OTHERS = 100
NOT_CONTINUED = (
    "The prompts were not continued: the weights are streamed, and every token would read all of them again. "
    "The Compare page continues a prompt on request."
)
"""The warning of a run that left its prompts out, which the pages show in place of the texts."""
_RECORD_FIELDS = ("left", "right", "dense", "sparse", "others")


def records_read(request: Mapping[str, Any]) -> frozenset[str]:
    """Keys of all records that a job of any kind reads. request: its settings in plain form."""
    keys = set[str]()
    for name in _RECORD_FIELDS:
        value = request.get(name) or ()
        keys |= {value} if isinstance(value, str) else set(map(str, value))
    return frozenset(keys)


@dataclass(frozen=True, kw_only=True)
class ContinuationSettings:
    """A request for continuations of a prompt. left, right, others: record keys.

    temperature_percent: 0: each model's first choice; 100: drawn from its distribution. seed: the
    same for all.
    """

    left: str
    right: str
    prompt: str
    n_tokens: int = setting(24, title="tokens to write", low=1, high=400)
    temperature_percent: int = setting(0, title="temperature (percent)", high=200)
    seed: int = setting(0, high=MAX_SEED)
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self)
        require_whole("models next to the two", len(self.others), 0, MAX_OTHERS)
        require_text("prompt", self.prompt)

    def key(self) -> str:
        """The name of this request and of its result; the seed matters only if tokens are drawn."""
        values = asdict(self) | ({} if self.temperature_percent else {"seed": 0})
        return stage_key("continuation", **values)

    def by_one(self, record: str) -> "ContinuationSettings":
        """The same of one model alone, which stands on both sides: so runs keep what each of their
        models writes.
        """
        return replace(self, left=record, right=record, others=())


@dataclass(frozen=True, kw_only=True)
class DivergenceSettings:
    """A request for the divergence of two models at every token of a text. left, right: record
    keys.
    """

    left: str
    right: str
    text: str

    def __post_init__(self) -> None:
        require_text("text", self.text)

    def key(self) -> str:
        """The name of this request and of its result."""
        return stage_key("divergence", **asdict(self))


Runtime = Literal["torch", "llama.cpp"]


@dataclass(frozen=True, kw_only=True)
class TimingSettings:
    """A request for the speed of a sparse model next to dense. dense, sparse: record keys.

    dtype: of the weights; None: as in the records. n_threads: None: torch's default. n_prompt:
    tokens read before decoding. n_decode: tokens decoded in one sample. batches: passages at once,
    timed one by one, each until its interval is within so many per mille of the ratio, or for
    `most_s` seconds. seed: of the tokens and of the order.
    runtime: torch, or llama.cpp with the models' GGUF files, dense's in 16 bits.
    """

    dense: str
    sparse: str
    dtype: Dtype | None = None
    n_threads: int | None = setting(
        None,
        title="threads",
        low=1,
        high=1024,
        flag="--threads",
        flag_help="threads (as many as torch takes by itself)",
    )
    n_prompt: int = setting(512, title="tokens to read", low=1, high=32_768)
    n_decode: int = setting(16, title="tokens to write", low=1, high=1024)
    batches: tuple[int, ...] = (1, 8)
    within_permille: int = setting(
        50, title="width of the interval (per mille)", low=1, high=1000
    )
    least_rounds: int = setting(15, title="least rounds", low=2, high=1000)
    most_s: int = setting(120, title="seconds for each", low=1, high=3600)
    n_warmup: int = setting(2, title="warm-up rounds", high=100)
    seed: int = setting(0, high=MAX_SEED)
    runtime: Runtime = setting(
        "torch",
        flag="--runtime",
        label="Runtime",
        help="llama.cpp: GGUF files of the models, quantised ones as well, against dense in 16 bits",
    )

    def __post_init__(self) -> None:
        if self.dtype not in (None, *get_args(Dtype)):
            raise SettingsError("dtype", self.dtype, ", ".join(get_args(Dtype)))
        check_settings(self)
        if not self.batches or len(set(self.batches)) != len(self.batches):
            raise SettingsError(
                "batches", self.batches, "one or several different numbers"
            )
        for batch in self.batches:
            require_whole("passages at once", batch, 1, 256)

    def key(self) -> str:
        """The name of this request and of its result."""
        values = asdict(self)
        if self.runtime == "torch":
            del values["runtime"]
        else:
            # The second version of their ceilings: what removed layers free, and how wide a file's
            # MLPs are.
            values["ceilings"] = 2
        return stage_key("timing", **values)


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Continuations of one prompt, without the prompt. stopped: cancelled before the end.

    others: of the other models, in their order. n_unread: tokens of the prompt's beginning beyond a
    model's context.
    """

    key: str
    prompt: str
    left: str
    right: str
    stopped: bool = False
    others: tuple[str, ...] = ()
    n_unread: Count = 0


class PromptTexts(NamedTuple):
    """A prompt and its continuations. sparse: None where there is no such model yet, or its text is
    not stored.
    """

    prompt: str
    dense: str
    sparse: str | None


def prompt_texts(
    prompts: Iterable[str],
    dense: str,
    sparse: str | None,
    continuation_of: Callable[[ContinuationSettings], Continuation | None],
) -> Iterator[PromptTexts]:
    """Texts that two models wrote after the prompts; none of a prompt that the dense one has not
    continued.

    dense, sparse: record keys. continuation_of: what is stored of a request.
    """
    for prompt in prompts:
        request = ContinuationSettings(left=dense, right=dense, prompt=prompt)
        by_dense = continuation_of(request)
        if by_dense is not None:
            by_sparse = continuation_of(request.by_one(sparse)) if sparse else None
            yield PromptTexts(
                prompt, by_dense.left, by_sparse.left if by_sparse else None
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDivergence:
    """One token of a text, and both models' predictions of it.

    text: of this token; empty for a later part of one character. nats: the Kullback-Leibler divergence
    KL(left || right) of the next-token distributions, in nats; 0 if equal. left, right: each model's first choice.
    """

    text: str
    nats: float
    left: str
    right: str


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Divergence of two models over a text: a place for every token but the first.

    opening: the text before the first place; of a long text only the end is compared.
    """

    key: str
    opening: str
    places: tuple[TokenDivergence, ...]


@dataclass(frozen=True, kw_only=True)
class SpeedRatio:
    """Speedup of the sparse model over dense, with its 95 % interval."""

    value: float
    low: float
    high: float


Phase = Literal["prefill", "decode", "load"]
"""Reading a prompt; writing tokens after it; loading the weights from a file."""


@dataclass(frozen=True, kw_only=True)
class TimedPhase:
    """Both models at the same work, in turn.

    batch: passages at once. dense_s, sparse_s: seconds of every round, in the order they were
    timed. dense_first: whether the dense model began that round. ceiling: the speed-up if nothing
    but multiply-adds (prefill) or bytes (decode, load) took time.
    """

    phase: Phase
    batch: int
    dense_s: tuple[float, ...]
    sparse_s: tuple[float, ...]
    dense_first: tuple[bool, ...]
    ratio: SpeedRatio
    ceiling: float


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Speed of a sparse model beside its dense one, on one machine.

    dense, sparse: record keys. machine: its processor or GPU. n_prompt, n_decode: tokens read, and
    written in one sample. dense_bytes, sparse_bytes: of all weights, as a file holds them. precise:
    whether every interval became as narrow as was asked for. versions: as in Run. dense_resident,
    sparse_resident: bytes of memory that each model's weights took when they were read into it; 0
    where that was not measured. weights: of llama.cpp the type of the file beside dense's F16; else
    empty.
    """

    key: str
    dense: str
    sparse: str
    machine: str
    dtype: Dtype
    n_threads: int
    n_prompt: int
    n_decode: int
    phases: tuple[TimedPhase, ...]
    dense_bytes: int
    sparse_bytes: int
    precise: bool
    started_at: float
    versions: dict[str, str]
    dense_resident: int = 0
    sparse_resident: int = 0
    runtime: Runtime = "torch"
    weights: str = ""

    def timed(self, phase: Phase, batch: int = 1) -> TimedPhase | None:
        """One of its phases, or None."""
        return next(
            (
                timed
                for timed in self.phases
                if (timed.phase, timed.batch) == (phase, batch)
            ),
            None,
        )
