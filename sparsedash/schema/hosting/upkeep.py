"""Keeping house in the data folder: what calibration leaves, by kind, and whether everything is as it was written."""

from dataclasses import asdict, dataclass
from typing import Literal

from sparsedash.schema.hashing import digest

ArtefactKind = Literal[
    "statistics", "inputs", "gradients", "sensitivity", "activations", "scores", "text", "weights", "unfinished"
]
"""What can be computed again. inputs: statistics of all projections' inputs. text: that a model wrote. weights: that a
sequential refit made. unfinished: what a job has done so far in a long stage.
"""


def about_artefact(kind: ArtefactKind, model_identity: str) -> str:
    """What is noted beside an artefact, so that it can be told whose it is without reading it."""
    return f"{kind} {model_identity}"


def told_of(about: str) -> tuple[str, str]:
    """Kind and model identity of an artefact, from what is noted beside it; empty where earlier versions noted none."""
    kind, _, identity = about.partition(" ")
    return kind, identity


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """A request to read everything that carries a checksum. There is nothing to choose."""

    def key(self) -> str:
        """The name of the request and of what was found."""
        return digest({"verify": asdict(self)})


Checked = Literal["record", "artefact", "unpacked model", "upload", "export"]
"""What carries a checksum: entries of the two caches, and files."""

MOST_NAMED = 500


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One thing that is not as it was written. name: as the data folder calls it. what: is wrong with it, in words.

    entry: where the fault lies in a file of many, the name of the whole: of the model's folder, the export's key.
    """

    kind: Checked
    name: str
    what: str
    entry: str = ""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found the last time that everything was read; kept when it was read to the end.

    n_checked: by kind. damaged: the first MOST_NAMED of n_damaged. Times are seconds since the epoch.
    """

    key: str
    started_at: float
    finished_at: float
    n_checked: dict[str, int]
    n_bytes: int
    damaged: tuple[Damage, ...]
    n_damaged: int
