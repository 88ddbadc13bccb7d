"""Whether a cluster can be used: what answers, what each machine is, and what is to be mended, in words."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sparsedash
from sparsedash.jobs.parts import Machine
from sparsedash.jobs.scheduler import Scheduler
from sparsedash.service.cluster.runner import connected

FACTS_WITHIN_S = 10.0
"""A machine says what it is with its next heartbeat."""

_MUST_AGREE = ("python", "distributed", "dask", "msgpack", "cloudpickle", "tornado")
_OF_THE_ENGINE = ("torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """machines: every Dask worker. to_mend: what keeps work from being done, or results from being equal, in words."""

    machines: tuple[Machine, ...]
    to_mend: tuple[str, ...]


def checked(scheduler: Scheduler, within_s: float = FACTS_WITHIN_S) -> Checked:
    """What there is at this scheduler. Raises JobError where none answers."""
    cluster = connected(scheduler, "check")
    try:
        deadline = time.monotonic() + within_s
        found = cluster.machines()
        while not all(machine.facts for machine in found) and time.monotonic() < deadline:
            time.sleep(0.1)
            found = cluster.machines()
        names = {machine.address: machine.name for machine in found}
        versions = {names.get(name, name): about for name, about in cluster.versions().items()}
    finally:
        cluster.close()
    return Checked(machines=found, to_mend=(*_unusable(found), *_differing(versions), *_of_the_engine(found)))


def _unusable(machines: Sequence[Machine]) -> Iterator[str]:
    if not machines:
        yield "No Dask worker is there: start one on each machine, see docs/cluster.md."
    for machine in machines:
        if machine.problem:
            yield f"{machine.name} takes nothing: {machine.problem}"
        ours = sparsedash.__version__
        theirs = machine.facts.sparsedash if machine.facts else ""
        if theirs not in ("", ours):
            yield f"sparsedash: {ours} on this server, {theirs} on {machine.name}."


def _differing(versions: dict[str, dict[str, str]]) -> Iterator[str]:
    for package in _MUST_AGREE:
        yield from _difference(package, {name: about.get(package, "none") for name, about in versions.items()})


def _of_the_engine(machines: Sequence[Machine]) -> Iterator[str]:
    for package in _OF_THE_ENGINE:
        found = {machine.name: str(getattr(machine.facts, package)) for machine in machines if machine.facts}
        yield from _difference(package, found)
        yield from (f"{package} is not installed on {name}." for name, told in found.items() if not told[:1].isdigit())


def _difference(package: str, found: dict[str, str]) -> Iterator[str]:
    by_version: dict[str, list[str]] = {}
    for name, version in found.items():
        by_version.setdefault(version, []).append(name)
    if len(by_version) > 1:
        yield f"{package}: " + "; ".join(f"{told} on {', '.join(names)}" for told, names in by_version.items()) + "."
