"""The speed of the machine: measured by a process of its own, once in a while, and believed only where it is one."""

import os
import platform
import time

import pytest

from sparsedash.schema import notes
from sparsedash.service import machine_speed
from sparsedash.service.machine_speed import MachineSpeed, measure
from sparsedash.storage.store import Store

NAME = notes.machine_speed(platform.node(), os.cpu_count() or 1)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    yield store
    store.close()


@pytest.fixture
def speed(store):
    speed = MachineSpeed(store)
    yield speed
    speed.close()


def test_it_is_not_known_at_first_and_soon_after(speed, store):
    assert speed.known() is None
    deadline = time.monotonic() + 120
    while (found := speed.known()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found is not None
    assert found > 1e6
    assert MachineSpeed(store).known() == found


def test_a_note_that_is_no_speed_is_measured_again(speed, store):
    store.remember(NAME, "nan at yesterday")
    assert speed.known() is None


def test_an_old_measurement_holds_until_there_is_a_new_one(speed, store):
    store.remember(NAME, "5e9 at 1.0")
    assert speed.known() == 5e9


def test_a_measurement_that_fails_is_not_tried_again_and_again(speed, monkeypatch):
    monkeypatch.setattr(machine_speed.sys, "executable", "/bin/false")
    deadline = time.monotonic() + 60
    while not speed._failed and time.monotonic() < deadline:
        assert speed.known() is None
        time.sleep(0.01)
    assert speed.known() is None
    assert speed._failed and speed._measuring is None


def test_a_measurement_is_some_operations_a_second():
    assert measure(1) > 1e6
