"""How much calibration may take: the environment goes before the data folder, and that before what is usual."""

import os

import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.errors import SettingsError
from sparsedash.storage.disk_cache import LEAST_GB, MOST_GB, USUAL_GB, bytes_of, kept_room
from sparsedash.storage.store import Store

LARGE = 100_000


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSEDASH_ARTEFACT_GB", raising=False)
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def test_what_is_chosen_is_kept_and_holds_for_every_process_at_once(store):
    other = Store(store.folder)
    assert store.artefact_room == USUAL_GB * 2**30
    store.allow_artefacts(bytes_of(1.5))
    assert other.artefact_room == 1.5 * 2**30
    other.close()


def test_the_environment_goes_before_what_was_chosen(store, monkeypatch):
    store.allow_artefacts(bytes_of(1.5))
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "0.5")
    assert store.artefact_room == 2**29


def test_lowering_it_forgets_what_was_used_least_recently(store, monkeypatch):
    for number in range(5):
        store.put_artefact(str(number), os.urandom(LARGE))
    store.get_artefact("0")
    store._given_room = 3 * LARGE + 50_000
    store.shrink_artefacts()
    assert {entry.name for entry in store.entries("artefacts")} == {"0", "3", "4"}


@pytest.mark.parametrize("asked", [LEAST_GB, 0.3, 7.7, MOST_GB])
def test_whatever_may_be_asked_for_is_kept(store, asked):
    store.allow_artefacts(bytes_of(asked))
    assert store.artefact_room == bytes_of(asked)


@pytest.mark.parametrize("asked", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_room_that_is_none_is_refused(asked):
    with pytest.raises(SettingsError, match=r"allowed: a number from 0\.1"):
        bytes_of(asked)


@pytest.mark.parametrize("noted", [None, "", "x", "-5", "1" * 30, "5", "²"])
def test_a_note_that_nobody_can_have_meant_counts_as_none(store, noted):
    assert kept_room(noted) is None
    if noted:
        store.remember(store_keys.artefact_room_note(), noted)
    assert store.artefact_room == USUAL_GB * 2**30
