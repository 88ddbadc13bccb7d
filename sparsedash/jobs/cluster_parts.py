"""Parts of a job on a cluster: messages between server and machine, and the scheduler's address and
certificates.

Messages are bytes, each value checked on reading: never a pickle of our own. Whoever reaches a
scheduler can run code on it, so only a named one with certificates, or one on loopback, may be
used.
"""

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sparsedash.jobs.job import EndState, JobKind
from sparsedash.schema.errors import JobError, SettingsError, SparseDashError
from sparsedash.schema.plain_values import Count
from sparsedash.schema.progress import Step
from sparsedash.schema.stage_versions import STAGE_VERSIONS

SCHEDULER = "SPARSEDASH_SCHEDULER"
CA = "SPARSEDASH_TLS_CA"
CERTIFICATE = "SPARSEDASH_TLS_CERT"
KEY = "SPARSEDASH_TLS_KEY"

SLOT = "SLOT"
"""The resource that a Dask worker needs to be given a part: one each, so that it has one part at a
time.
"""

_ADDRESS = re.compile(
    r"(?P<way>tcp|tls)://(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>\d{1,5})"
)


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A scheduler that may be used. Raises SettingsError for any other.

    address: as in Dask. ca, certificate, key: files in PEM; empty to use those of Dask's
    configuration.
    """

    address: str
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        parts = _ADDRESS.fullmatch(self.address)
        if parts is None or not 0 < int(parts["port"]) < 2**16:
            raise SettingsError(
                SCHEDULER,
                self.address,
                "tls and a host and a port, as in tls://127.0.0.1:8786",
            )
        if not self.encrypted and not is_loopback(parts["host"]):
            raise SettingsError(
                SCHEDULER,
                self.address,
                "tls where the scheduler is not on this machine",
                "Any client of one without certificates runs code on every machine of the cluster.",
            )
        for name, path in (
            (CA, self.ca),
            (CERTIFICATE, self.certificate),
            (KEY, self.key),
        ):
            if path and not os.access(path, os.R_OK):
                raise SettingsError(name, path, "a file in PEM that can be read")

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS with certificates at both ends."""
        return self.address.startswith("tls:")


def named_scheduler() -> Scheduler | None:
    """The scheduler that the environment names, or None. Raises SettingsError for one that must not
    be used.
    """
    address = os.environ.get(SCHEDULER, "").strip()
    if not address:
        return None
    paths = [os.environ.get(name, "") for name in (CA, CERTIFICATE, KEY)]
    ca, certificate, key = (
        str(Path(path).expanduser()) if path else "" for path in paths
    )
    return Scheduler(address=address, ca=ca, certificate=certificate, key=key)


def is_loopback(host: str) -> bool:
    """Whether this host is surely this machine; a name that has to be looked up may be any."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class KeptCalibration:
    """Artefacts of a calibration on a machine, for others to fetch from there.

    machine: its address. artefacts: their names in its store. notes: the short notes that mark them
    as complete.
    """

    machine: str
    artefacts: tuple[str, ...]
    notes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a job for one machine.

    name: unique in the attempt. key: of its result. known: a run file with records that exist
    already, or nothing.
    texts: uploads that it reads, by hash and name. owner: the user, if the machine must ask the hub
    without its token; else empty. stages: the server's STAGE_VERSIONS.
    """

    name: str
    kind: JobKind
    key: str
    settings: dict[str, Any]
    known: bytes = b""
    texts: dict[str, bytes] = field(default_factory=dict)
    calibration: KeptCalibration | None = None
    owner: str = ""
    stages: dict[str, int] = field(default_factory=lambda: dict(STAGE_VERSIONS))


@dataclass(frozen=True, kw_only=True)
class PartEnd:
    """End of a part. file: the run file that it made. log: the end of its log."""

    state: EndState
    machine: str = ""
    error_text: str = ""
    error_advice: str = ""
    log: str = ""
    file: bytes = b""
    calibration: KeptCalibration | None = None


def failed_part(error: SparseDashError, machine: str = "") -> PartEnd:
    """End of a part that raised this error."""
    return PartEnd(
        state="failed",
        machine=machine,
        error_text=error.message,
        error_advice=error.advice,
    )


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """A machine's own report. sparsedash, torch, transformers: versions. gpus: their names.

    total_bytes, free_bytes: of its memory; None if unknown. child_bytes: memory of the child at
    work.
    problem: why it is of no use; empty if it is.
    """

    hostname: str = ""
    sparsedash: str = ""
    torch: str = ""
    transformers: str = ""
    gpus: tuple[str, ...] = ()
    total_bytes: Count | None = None
    free_bytes: Count | None = None
    child_bytes: Count = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ClusterMachine:
    """A Dask worker, and the job of which it does a part, with its progress.

    name: unique. n_slots: parts that it takes at once. facts: None before its first report.
    """

    address: str
    name: str
    n_slots: int
    facts: MachineFacts | None
    job_id: int | None = None
    progress: Step | None = None

    @property
    def problem(self) -> str:
        """The reason it cannot be given a part, in words; empty if it can."""
        if self.n_slots < 1:
            return f"It was started without --resources {SLOT}=1."
        return "It has not reported yet." if self.facts is None else self.facts.problem


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """The named scheduler, why it cannot be used just now, and its machines."""

    address: str
    trouble: str
    machines: tuple[ClusterMachine, ...]


Report = Callable[[Step], None]
Fetch = Callable[[KeptCalibration, str], bytes | None]
"""An artefact of another machine; None where it is gone."""
Do = Callable[[Part, Report, Callable[[], bool], Fetch], PartEnd]
"""Does a part on this machine; the third argument says whether to stop. Never raises an error of
the work itself.
"""

V = TypeVar("V", Part, Step, PartEnd)


def to_bytes(value: Part | Step | PartEnd) -> bytes:
    """The message for `from_bytes`."""
    return msgspec.msgpack.encode(value)


def from_bytes(kind: type[V], data: Any) -> V:
    """The value of a message of `to_bytes`, every type checked. Raises JobError on anything
    else.
    """
    try:
        read: V = msgspec.msgpack.decode(data, type=kind)
        return read
    except (msgspec.MsgspecError, TypeError, RecursionError) as error:
        raise JobError(
            "A message from a machine of the cluster cannot be read.",
            "Run `sparsedash cluster check`: all machines need the same version of SparseDash.",
        ) from error
