"""Parts of a job for machines of a cluster, as messages; the scheduler's address and certificates."""

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from sparsedash.jobs.job import Count, JobKind, Taken
from sparsedash.schema.errors import JobError, SettingsError, SparseDashError

SCHEDULER = "SPARSEDASH_SCHEDULER"
CA, CERTIFICATE, KEY = "SPARSEDASH_TLS_CA", "SPARSEDASH_TLS_CERT", "SPARSEDASH_TLS_KEY"

SLOT = "SLOT"
"""The resource that a Dask worker must have for it to be given a part: one each, so that it has one at a time."""

_ADDRESS = re.compile(r"(?P<way>tcp|tls)://(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """address: as Dask takes it. ca, certificate, key: files in PEM; empty where Dask's configuration names them."""

    address: str
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        found = _ADDRESS.fullmatch(self.address)
        if found is None or not 0 < int(found["port"]) < 2**16:
            raise SettingsError(SCHEDULER, self.address, "tls and a host and a port, as in tls://127.0.0.1:8786")
        if not self.encrypted and not _is_loopback(found["host"]):
            raise SettingsError(
                SCHEDULER,
                self.address,
                "tls where the scheduler is not on this machine: whoever reaches one without certificates runs code on"
                " every machine of the cluster",
            )
        for name, path in ((CA, self.ca), (CERTIFICATE, self.certificate), (KEY, self.key)):
            if path and not os.access(path, os.R_OK):
                raise SettingsError(name, path, "a file in PEM that can be read")

    @property
    def encrypted(self) -> bool:
        """Whether both ends show a certificate, and nobody between them can read along."""
        return self.address.startswith("tls:")


def named_scheduler() -> Scheduler | None:
    """The scheduler that the environment names, or None. Raises SettingsError for one that must not be talked to."""
    address = os.environ.get(SCHEDULER, "").strip()
    if not address:
        return None
    ca, certificate, key = (_path(name) for name in (CA, CERTIFICATE, KEY))
    return Scheduler(address=address, ca=ca, certificate=certificate, key=key)


def _path(name: str) -> str:
    asked = os.environ.get(name, "")
    return str(Path(asked).expanduser()) if asked else ""


def _is_loopback(host: str) -> bool:
    """Whether nobody else can listen under this name; one that has to be looked up may be anybody's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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


def failed_part(error: SparseDashError, machine: str = "") -> PartEnd:
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
class ClusterMachine:
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

    machine: ClusterMachine
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
