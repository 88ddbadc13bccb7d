"""Records that users keep: prompts, choices, and names and pins of runs."""

from dataclasses import dataclass

from sparsedash.schema.pair_records import ContinuationSettings


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A user's prompts for one pair of records, newest first. owner: empty without a login;
    likewise below.
    """

    key: str
    asked: tuple[ContinuationSettings, ...]
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class OwnPrompts:
    """The prompts that a user's runs begin with."""

    key: str
    prompts: tuple[str, ...]
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A user's choices in blind comparisons of two records.

    better: by passage or prompt, the key of the chosen record, or "" for "the same".
    """

    key: str
    better: dict[str, str]
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class RunMark:
    """A user's name for a run, or "", and whether it is pinned before the others."""

    name: str = ""
    pinned: bool = False


@dataclass(frozen=True, kw_only=True)
class RunMarks:
    """A user's marks of runs, by key."""

    key: str
    marks: dict[str, RunMark]
    owner: str = ""
