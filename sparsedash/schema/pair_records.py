"""What came out of two models side by side, and what visitors made of it."""

from dataclasses import dataclass

from sparsedash.schema.pair_settings import ContinuationSettings


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What two models wrote after one prompt, without the prompt. stopped: somebody ended it before it was whole."""

    key: str
    prompt: str
    left: str
    right: str
    stopped: bool = False


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
    """The prompts that visitors tried with one pair of records, newest first."""

    key: str
    asked: tuple[ContinuationSettings, ...]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Which of two records' models was chosen where nobody could see which was which.

    better: by what was judged (a passage, a prompt), the key of the record that was chosen, or "" for "the same".
    """

    key: str
    better: dict[str, str]
