"""What a calibration left is brought from one store to another, whole or not at all."""

import json

import pytest

from sparsedash.jobs.cluster_parts import PartEnd
from sparsedash.schema import store_keys
from sparsedash.service import cluster_machine
from sparsedash.service.cluster_machine import fetch_calibration, kept_calibration, piece_of
from sparsedash.storage.store import Store

STATISTICS, OTHER = "a" * 64, "b" * 64
DONE = PartEnd(state="done", machine="ann")


@pytest.fixture
def stores(tmp_path):
    opened = Store(tmp_path / "has"), Store(tmp_path / "wants")
    has = opened[0]
    for number in range(3):
        has.put_artefact(f"{STATISTICS}/{number}", bytes([number]) * 100)
    has.put_artefact(f"{OTHER}/0", b"of another run")
    has.remember(store_keys.calibrated_note(STATISTICS), "3")
    has.remember(store_keys.part_calibrations_note("part"), json.dumps([STATISTICS]))
    yield opened
    for store in opened:
        store.close()


def fetched_from(store):
    return lambda kept, name, offset: piece_of(store, name, offset)


def never():
    return False


def test_all_that_belongs_to_it_is_brought_in_pieces_and_nothing_else(stores, monkeypatch):
    monkeypatch.setattr(cluster_machine, "PIECE_BYTES", 33)
    has, wants = stores
    kept = kept_calibration(DONE, "part", "tls://127.0.0.1:1", has).calibration
    assert fetch_calibration(kept, wants, fetched_from(has), never) == 3
    assert [wants.get_artefact(f"{STATISTICS}/{n}") for n in range(3)] == [bytes([n]) * 100 for n in range(3)]
    assert wants.get_artefact(f"{OTHER}/0") is None
    assert wants.recall(store_keys.calibrated_note(STATISTICS)) == "3"
    assert fetch_calibration(kept, wants, fetched_from(has), never) == 0, "what is here is not brought again"


def test_where_one_is_gone_it_is_not_said_that_all_are_there(stores):
    has, wants = stores
    kept = kept_calibration(DONE, "part", "tls://127.0.0.1:1", has).calibration

    def lost(kept, name, offset):
        return (b"", 0) if name.endswith("/1") else piece_of(has, name, offset)

    assert fetch_calibration(kept, wants, lost, never) == 1
    assert wants.recall(store_keys.calibrated_note(STATISTICS)) is None


def test_a_machine_that_is_gone_fails_nothing(stores):
    has, wants = stores
    kept = kept_calibration(DONE, "part", "tls://127.0.0.1:1", has).calibration

    def broken(kept, name, offset):
        raise OSError("no route to host")

    assert fetch_calibration(kept, wants, broken, never) == 0
    assert wants.recall(store_keys.calibrated_note(STATISTICS)) is None


def test_a_part_that_failed_or_calibrated_nothing_tells_of_none(stores):
    has, _ = stores
    assert kept_calibration(DONE, "another part", "tls://127.0.0.1:1", has).calibration is None
    assert kept_calibration(PartEnd(state="failed"), "part", "tls://127.0.0.1:1", has).calibration is None
    assert piece_of(has, "gone", 0) == (b"", 0)
