"""What crosses between the server and a machine of the cluster: a part of a job one way, how it went the other.

As bytes, each value checked when it is read: never a pickle of our own.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from sparsedash.jobs.job import Count, JobKind, Taken
from sparsedash.jobs.scheduler import SLOT
from sparsedash.schema.errors import JobError, SparseDashError

PartState = Literal["done", "failed", "cancelled", "crashed", "lost"]


@dataclass(frozen=True, kw_only=True)
class KeptCalibration:
    """What a calibration has left on a machine, for others to fetch from there.

    machine: its address. artefacts: their names in its store. notes: short notes that say that they are whole.
    """

    machine: str
    artefacts: tuple[str, ...]
    notes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one machine is asked to do for a job.

    name: tells it from the other parts of the attempt. key: what its result is kept under there. known: the file of a
    run with records that need not be made again, or nothing. texts: uploads that it reads, by name. owner: who asked,
    where the machine must ask the hub without its token; else empty.
    """

    name: str
    kind: JobKind
    key: str
    settings: dict[str, Any]
    known: bytes = b""
    texts: dict[str, bytes] = field(default_factory=dict)
    calibration: KeptCalibration | None = None
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class PartProgress:
    """How far a part is, as in Job. machine: the name of the one at work."""

    machine: str
    stage: str = ""
    done: Count = 0
    total: Count = 0
    unit: str = ""
    rate: float | None = None
    message: str = ""
    n_right: Count | None = None
    point: Count | None = None
    taken: tuple[Taken, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PartEnd:
    """How a part ended: `lost` where its machine was. file: of the run that it made. log: the end of its log."""

    state: PartState
    machine: str = ""
    error_kind: str = ""
    error_text: str = ""
    error_advice: str = ""
    log: str = ""
    file: bytes = b""
    calibration: KeptCalibration | None = None


def failed(error: SparseDashError, machine: str = "") -> PartEnd:
    """The end of a part that was refused, in the words of the error."""
    kind, text, advice = type(error).__name__, error.message, error.advice
    return PartEnd(state="failed", machine=machine, error_kind=kind, error_text=text, error_advice=advice)


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """What a machine says of itself. sparsedash, torch, transformers: versions. gpus: their names.

    total_bytes, free_bytes: of its memory; None where it cannot tell. child_bytes: memory of the child at work.
    folder: its data folder. problem: why it can do nothing; empty where it can.
    """

    hostname: str = ""
    sparsedash: str = ""
    torch: str = ""
    transformers: str = ""
    gpus: tuple[str, ...] = ()
    total_bytes: Count | None = None
    free_bytes: Count | None = None
    child_bytes: Count = 0
    folder: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A Dask worker. name: unlike any other's. n_slots: parts that it takes at once. facts: None before it told any."""

    address: str
    name: str
    n_slots: int
    facts: MachineFacts | None

    @property
    def problem(self) -> str:
        """Why it cannot be given anything, in words; empty where it can."""
        if self.n_slots < 1:
            return f"It was started without --resources {SLOT}=1."
        return "It has not said yet what it is." if self.facts is None else self.facts.problem


@dataclass(frozen=True, kw_only=True)
class MachineView:
    """A machine, and the job of which it does a part, with how far that is."""

    machine: Machine
    job_id: int | None = None
    progress: PartProgress | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """The scheduler that is named, why it is of no use just now, and the machines that it has."""

    address: str
    trouble: str
    machines: tuple[MachineView, ...]


V = TypeVar("V", Part, PartProgress, PartEnd)


def to_bytes(value: Part | PartProgress | PartEnd) -> bytes:
    """The value as `from_bytes` reads it."""
    return msgspec.msgpack.encode(value)


def from_bytes(kind: type[V], data: Any) -> V:
    """The value that `to_bytes` wrote, every type checked. Raises JobError on anything else."""
    try:
        read: V = msgspec.msgpack.decode(data, type=kind)
        return read
    except (msgspec.MsgspecError, TypeError, RecursionError) as error:
        raise JobError(
            "A machine of the cluster speaks another language than this server.",
            "Run `sparsedash cluster check`: all of them must have the same version of SparseDash.",
        ) from error
