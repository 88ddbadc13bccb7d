"""What came out of two models side by side, and what visitors made of results."""

from dataclasses import dataclass
from typing import Literal

from sparsedash.schema.errors import StoreError
from sparsedash.schema.pair_settings import ContinuationSettings
from sparsedash.schema.settings import Dtype


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What models wrote after one prompt, without the prompt. stopped: somebody ended it before it was whole.

    others: of the models that were asked beside the two, in that order.
    """

    key: str
    prompt: str
    left: str
    right: str
    stopped: bool = False
    others: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One token of a text, and what both models expected there, given what stands before it.

    text: the part of the text that is this token; empty for a later part of one character.
    nats: the Kullback-Leibler divergence of the right model's distribution from the left one's, KL(left || right), in
    nats: 0 where they expect the same. left, right: each model's first choice for this place.
    """

    text: str
    nats: float
    left: str
    right: str


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """How far two models are apart over one text: a place for every token but the first, before which nothing stands.

    opening: the text before the first place; the end of a longer text is what is looked at.
    """

    key: str
    opening: str
    places: tuple[Place, ...]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts that visitors tried with one pair of records, newest first. owner: whose they are; empty where nobody
    else is served; likewise below.
    """

    key: str
    asked: tuple[ContinuationSettings, ...]
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Which of two records' models was chosen where nobody could see which was which.

    better: by what was judged (a passage, a prompt), the key of the record that was chosen, or "" for "the same".
    """

    key: str
    better: dict[str, str]
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class RunMark:
    """What visitors called a run, or "", and whether it is to stand before the others."""

    name: str = ""
    pinned: bool = False


@dataclass(frozen=True, kw_only=True)
class RunMarks:
    """The marks of all runs that have one, by the runs' keys: what a run is does not depend on them."""

    key: str
    marks: dict[str, RunMark]
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class SpeedRatio:
    """How many times as fast the sparse model is as the dense one, with its 95 % interval."""

    value: float
    low: float
    high: float


Phase = Literal["prefill", "decode", "load"]
"""Reading a prompt; writing after one; bringing the weights from a file into memory."""


@dataclass(frozen=True, kw_only=True)
class TimedPhase:
    """Both models at the same work, in turn.

    batch: passages at once. dense_s, sparse_s: seconds of every round, in the order they were timed. dense_first:
    whether the dense model began that round. ceiling: the speed-up if nothing but multiply-adds (prefill) or bytes
    (decode, load) took time.
    """

    phase: Phase
    batch: int
    dense_s: tuple[float, ...]
    sparse_s: tuple[float, ...]
    dense_first: tuple[bool, ...]
    ratio: SpeedRatio
    ceiling: float

    def __post_init__(self) -> None:
        if not len(self.dense_s) == len(self.sparse_s) == len(self.dense_first) or not self.dense_s:
            raise StoreError("Its rounds do not belong together.")
        if min(*self.dense_s, *self.sparse_s) <= 0:
            raise StoreError("It holds a time that is not above zero.")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast a sparse model is beside its dense one, on one machine.

    dense, sparse: record keys. machine: its processor or GPU. n_prompt, n_decode: tokens read, and written in one
    sample. dense_bytes, sparse_bytes: of all weights, as a file holds them. precise: whether every interval became as
    narrow as was asked for. versions: as in Run. dense_resident, sparse_resident: bytes of memory that each model's
    weights took when they were read into it; 0 where that was not measured.
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

    def timed(self, phase: Phase, batch: int = 1) -> TimedPhase | None:
        """One of its phases, or None where that was not timed."""
        return next((each for each in self.phases if (each.phase, each.batch) == (phase, batch)), None)
