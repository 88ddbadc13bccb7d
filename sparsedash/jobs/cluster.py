"""A Dask cluster behind four verbs: submit, progress, end, stop. The only import of Dask.

Every message of Dask may run code, so a scheduler is used with certificates only; see
docs/adr/0028. The work itself is `do`, called in the worker's process; its result comes back as
bytes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import distributed
import msgspec
from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.utils import sync

from sparsedash.jobs import cluster_parts as parts
from sparsedash.schema.errors import JobError
from sparsedash.schema.progress import Step

log = logging.getLogger(__name__)

PREFIX = "sparsedash"
CONNECT_S = 5.0
_POLL_S = 0.2
_ASK_S = 5.0
_FETCH_S = 600.0
LOST_S = 30.0
"""A task stops after so long without an answer from the scheduler: its result would be lost."""

_OVER = (Status.closing, Status.closed, Status.failed)
"""A worker that is ending, most often with its scheduler: its result would be lost."""

LOST = parts.PartEnd(
    state="crashed",
    error_text="lost: its Dask worker was killed or became unreachable.",
)
_FACTS = "sparsedash"
_ARTEFACT = "sparsedash_artefact"


@dataclass(frozen=True, kw_only=True)
class OnMachine:
    """Functions that are called by name in the processes of Dask workers, which have the same
    modules.

    facts: the values of a MachineFacts. artefact: serves a Fetch.
    """

    do: parts.Do
    facts: Callable[[], dict[str, Any]]
    artefact: Callable[[str], bytes | None]


class Cluster:
    """One connection to a scheduler. Safe to share between threads; a lost one stays lost.

    name: of the data folder: several can share a scheduler. Raises JobError when no scheduler
    answers.
    """

    def __init__(
        self, scheduler: parts.Scheduler, name: str, on_machine: OnMachine
    ) -> None:
        self._on_machine = on_machine
        self._prefix = f"{PREFIX}-{name}-"
        self._futures: dict[str, Any] = {}
        self._given_to: dict[str, frozenset[str]] = {}
        self._progress: dict[str, Step] = {}
        self._client = _connected(scheduler)
        try:
            self._client.subscribe_topic(self._prefix, self._hear)
            self._client.register_plugin(
                _MachinePlugin(on_machine), name=f"{PREFIX}-machine"
            )
        except Exception as error:
            self.close()
            raise JobError(
                f"The machines of the scheduler at {scheduler.address} cannot be used: {_in_a_line(error)}.",
                "Every worker needs the same SparseDash as this server; see docs/cluster.md.",
            ) from error

    @property
    def alive(self) -> bool:
        """Whether the scheduler is there, as of its last sign of life."""
        return bool(self._client.status == "running")

    def machines(self) -> tuple[parts.ClusterMachine, ...]:
        """Every Dask worker, by name."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        machines = [_machine(address, about) for address, about in workers.items()]
        return tuple(sorted(machines, key=lambda machine: machine.name))

    def versions(self) -> dict[str, dict[str, str]]:
        """Versions of Python and the packages that must agree, by address or role."""
        versions = self._client.get_versions(check=False)
        by_name = {
            "scheduler": versions["scheduler"],
            "this server": versions["client"],
            **versions["workers"],
        }
        return {
            name: _package_versions(about) for name, about in by_name.items() if about
        }

    def submit(
        self, key: str, part: parts.Part, machines: Iterable[parts.ClusterMachine]
    ) -> None:
        """Give a part to any free one of these machines, or resume one with this key."""
        # Dask knows their slots, and not why they can take nothing.
        self._given_to[key] = frozenset(
            machine.address for machine in machines if not machine.problem
        )
        # Several servers can ask for the same: whoever comes second gets the result of the first.
        future = self._client.submit(
            _in_task,
            self._on_machine.do,
            parts.to_bytes(part),
            self._prefix,
            self._prefix + key,
            key=self._prefix + key,
            resources={parts.SLOT: 1},
            workers=list(self._given_to[key]) or None,
            retries=0,
            pure=False,
        )
        self._futures[key] = future
        # The scheduler forgets what no client waits for, and a server may be started again.
        self._client.publish_dataset(future, name=self._prefix + key, override=True)

    def part_keys(self) -> set[str]:
        """Keys of all parts of this data folder that the scheduler has, from any server."""
        names = [str(name) for name in self._client.list_datasets()]
        return {
            name.removeprefix(self._prefix)
            for name in names
            if name.startswith(self._prefix)
        }

    def progress(self, key: str) -> Step | None:
        """Progress of a part; None before it began."""
        return self._progress.get(key)

    def end(self, key: str) -> parts.PartEnd | None:
        """End of a part that was submitted here; None until then. Raises JobError when the
        scheduler is gone.
        """
        future = self._futures[key]
        match future.status:
            case "pending":
                return LOST if self._is_stranded(key) else None
            case "finished":
                sent = self._client.gather(future)
                try:
                    return parts.from_bytes(parts.PartEnd, sent)
                except JobError as unreadable:
                    return parts.failed_part(unreadable)
            case "error":
                error = future.exception()
                if type(error).__name__ == "KilledWorker":
                    return LOST
                return parts.PartEnd(
                    state="crashed",
                    error_text=f"The machine could not do it: {_in_a_line(error)}.",
                )
            case _:
                if self.alive and future.status != "lost":
                    return parts.PartEnd(
                        state="cancelled", error_text="Stopped on request."
                    )
                raise JobError("The connection to the scheduler was lost.")

    def stop(self, key: str) -> None:
        """Ask the machine of this part to stop; a part that has not begun is cancelled."""
        self._event(key, "stop").set()
        if key in self._futures and self.progress(key) is None:
            self._client.cancel([self._futures[key]], force=True)

    def forget(self, key: str) -> None:
        """Let the scheduler forget a part."""
        self._client.unpublish_dataset(self._prefix + key)
        self._futures.pop(key, None)
        self._given_to.pop(key, None)
        self._progress.pop(key, None)
        self._event(key, "begun").clear()

    def drop(self, key: str) -> None:
        """Stop and forget a part that was submitted by an earlier connection."""
        self._event(key, "stop").set()
        self.forget(key)

    def close(self) -> None:
        """Close the connection; submitted parts go on."""
        try:
            self._client.close(timeout=2)
        except Exception as error:  # noqa: BLE001 - it is gone either way
            log.debug("The connection to the scheduler did not close: %s", error)

    def _is_stranded(self, key: str) -> bool:
        """Whether a part has not begun, and none of the machines that it was given to is left."""
        addresses = self._given_to[key]
        if self.progress(key) is not None or not addresses:
            return False
        return addresses.isdisjoint(
            self._client.scheduler_info(n_workers=-1)["workers"]
        )

    def _event(self, key: str, what: str) -> Any:
        return distributed.Event(f"{self._prefix}{key}-{what}", client=self._client)

    def _hear(self, event: Any) -> None:
        """Called by Dask in a thread of its own."""
        try:
            _, sent = event
            key = str(sent["key"]).removeprefix(self._prefix)
            self._progress[key] = parts.from_bytes(Step, sent["progress"])
        except (JobError, LookupError, TypeError, ValueError) as error:
            log.warning("A message of a machine cannot be read: %s", error)


class _MachinePlugin(WorkerPlugin):  # type: ignore[misc]
    """Adds a machine's facts to every heartbeat of its Dask worker, and serves its artefacts."""

    def __init__(self, on_machine: OnMachine) -> None:
        self._facts = on_machine.facts
        self._artefact = on_machine.artefact

    def setup(self, worker: Any) -> None:
        """Called in the process of every worker, now and later."""

        async def artefact(name: str) -> bytes | None:
            return await asyncio.to_thread(self._artefact, name)

        worker.metrics[_FACTS] = lambda _: asyncio.to_thread(self._facts)
        worker.handlers[_ARTEFACT] = artefact


def _in_task(do: parts.Do, part: bytes, topic: str, key: str) -> bytes:
    """Runs in a thread of a Dask worker. The bytes of a PartEnd."""
    worker = distributed.get_worker()

    def ask(what: str, **values: str) -> Any:
        return sync(
            worker.loop,
            getattr(worker.scheduler, what),
            callback_timeout=_ASK_S,
            **values,
        )

    # Dask may run a task again whose worker was lost. Here that is for the job table to decide:
    # never twice at once.
    if ask("event_is_set", name=f"{key}-begun"):
        return parts.to_bytes(LOST)
    ask("event_set", name=f"{key}-begun")
    heard = asked_at = time.monotonic()
    stop = False

    def stopped() -> bool:
        nonlocal heard, asked_at, stop
        now_s = time.monotonic()
        stop = stop or worker.status in _OVER
        if not stop and now_s - asked_at >= _POLL_S:
            asked_at = now_s
            try:
                stop = bool(ask("event_is_set", name=f"{key}-stop"))
                heard = now_s
            except (TimeoutError, OSError, RuntimeError) as error:
                log.warning("The scheduler does not answer: %s", error)
                stop = now_s - heard > LOST_S
        return stop

    def report(progress: Step) -> None:
        worker.log_event(topic, {"key": key, "progress": parts.to_bytes(progress)})

    def fetch(kept: parts.KeptCalibration, name: str) -> bytes | None:
        artefact: bytes | None = sync(
            worker.loop,
            getattr(worker.rpc(kept.machine), _ARTEFACT),
            name=name,
            callback_timeout=_FETCH_S,
        )
        return artefact

    return parts.to_bytes(
        do(parts.from_bytes(parts.Part, part), report, stopped, fetch)
    )


def this_machine() -> tuple[str, str]:
    """Address and name of the Dask worker that this is called in; both empty elsewhere."""
    try:
        worker = distributed.get_worker()
    except ValueError:
        return "", ""
    return str(worker.contact_address), _readable(str(worker.name))


def _connected(scheduler: parts.Scheduler) -> Any:
    try:
        security = _security(scheduler) if scheduler.encrypted else None
        return distributed.Client(
            scheduler.address,
            security=security,
            timeout=CONNECT_S,
            set_as_default=False,
            name=PREFIX,
        )
    except JobError:
        raise
    except Exception as error:
        raise JobError(
            f"No scheduler answers at {scheduler.address}: {_in_a_line(error)}.",
            "Check that it runs, its address and the certificates: `sparsedash cluster check`.",
        ) from error


def _security(scheduler: parts.Scheduler) -> Any:
    paths = {
        "tls_ca_file": scheduler.ca,
        "tls_client_cert": scheduler.certificate,
        "tls_client_key": scheduler.key,
    }
    named = {name: path for name, path in paths.items() if path}
    security = distributed.Security(require_encryption=True, **named)
    if not (security.tls_ca_file and security.tls_client_cert):
        raise JobError(
            f"No certificates are named for the scheduler at {scheduler.address}.",
            f"Name them by {parts.CA}, {parts.CERTIFICATE} and {parts.KEY}, or in Dask's own: docs/cluster.md.",
        )
    # Reads the files now: a client that cannot would complain once more when it is gone.
    security.get_connection_args("client")
    return security


def _machine(address: str, about: dict[str, Any]) -> parts.ClusterMachine:
    sent = (about.get("metrics") or {}).get(_FACTS)
    try:
        facts = sent and msgspec.convert(sent, parts.MachineFacts)
    except (msgspec.ValidationError, RecursionError):
        facts = parts.MachineFacts(
            problem="Its report cannot be read: check its version of SparseDash."
        )
    return parts.ClusterMachine(
        address=address,
        name=_readable(str(about.get("name"))),
        n_slots=int((about.get("resources") or {}).get(parts.SLOT, 0)),
        facts=facts,
    )


def _readable(name: str) -> str:
    """A Dask worker's name; its default is its address, of which host and port are enough."""
    return name.rpartition("//")[2]


def _package_versions(about: dict[str, Any]) -> dict[str, str]:
    host = dict(about.get("host") or {})
    versions = {"python": host.get("python"), **dict(about.get("packages") or {})}
    return {name: str(version) for name, version in versions.items() if version}


def _in_a_line(error: BaseException | None) -> str:
    text = str(error).strip().splitlines()[:1] or [""]
    return f"{type(error).__name__}: {text[0][:300]}".rstrip(": .")
