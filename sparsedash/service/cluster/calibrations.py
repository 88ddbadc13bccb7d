"""What a calibration leaves on one machine of a cluster, brought to another one in pieces, from machine to machine.

Never through the scheduler or the server: of a model of 135 million weights it is 0.14 GB, of 7 billion 8 GB. What
cannot be brought is made again, so that nothing fails for want of it.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from sparsedash.jobs.parts import KeptCalibration, PartEnd
from sparsedash.schema import notes
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)

PIECE_BYTES = 8 * 2**20

Fetch = Callable[[KeptCalibration, str, int], tuple[bytes, int]]


def kept_calibration(end: PartEnd, part_key: str, address: str, store: Store) -> PartEnd:
    """The end of a part, which also tells what the calibration has left here. address: of this machine."""
    told = store.recall(notes.part_calibrations(part_key))
    if end.state != "done" or told is None:
        return end
    prefixes = tuple(str(prefix) for prefix in json.loads(told))
    names = tuple(name for name in store.artefact_keys() if name.partition("/")[0] in prefixes)
    found = {name: text for name in notes.of_calibrations(prefixes) if (text := store.recall(name)) is not None}
    kept = KeptCalibration(machine=address, artefacts=names, notes={str(name): text for name, text in found.items()})
    return replace(end, calibration=kept)


def fetch_calibration(kept: KeptCalibration, store: Store, fetch: Fetch, stopped: Callable[[], bool]) -> int:
    """Bring what this store lacks of a calibration here. Returns how many artefacts were brought.

    Where one cannot be had, the notes that say that all are there are left out, and the calibration is made anew.
    """
    n_brought = 0
    here = set(store.artefact_keys())
    for name in kept.artefacts:
        if name in here:
            continue
        data = None if stopped() else _brought(kept, name, fetch)
        if data is None:
            return n_brought
        store.put_artefact(name, data)
        n_brought += 1
    prefixes = {name.partition("/")[0] for name in kept.artefacts}
    for name in notes.of_calibrations(tuple(prefixes)):
        if str(name) in kept.notes:
            store.remember(name, kept.notes[str(name)])
    return n_brought


def piece_of(store: Store, name: str, offset: int) -> tuple[bytes, int]:
    """A piece of an artefact from an offset on, and how many bytes it has in all; none where it is not there."""
    try:
        data = _whole(store, name)
    except LookupError:
        return b"", 0
    return data[offset : offset + PIECE_BYTES], len(data)


@lru_cache(maxsize=2)
def _whole(store: Store, name: str) -> bytes:
    """Read once for all its pieces; two machines may fetch at a time. Raises LookupError where it is gone."""
    data = store.get_artefact(name)
    if data is None:
        raise LookupError(name)
    return data


def _brought(kept: KeptCalibration, name: str, fetch: Fetch) -> bytes | None:
    pieces: list[bytes] = []
    found, n_bytes = 0, 1
    try:
        while found < n_bytes:
            piece, n_bytes = fetch(kept, name, found)
            if not piece:
                return None
            pieces.append(piece)
            found += len(piece)
    except Exception as error:  # noqa: BLE001 - Dask raises much; without it the calibration is made here
        log.warning("%s could not be fetched from %s: %s", name, kept.machine, error)
        return None
    return b"".join(pieces)
