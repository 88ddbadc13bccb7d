"""The speed of the machine: measured by a process of its own, once in a while, and believed only where it is one."""

import os
import platform
import time

import pytest

from sparsedash.schema import store_keys
from sparsedash.service import time_forecast
from sparsedash.service.time_forecast import MachineSpeed, Speeds
from sparsedash.storage.store import Store

NAME = store_keys.machine_speed_note(platform.node(), os.cpu_count() or 1)


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
    assert min(found.float32, found.bfloat16) > 1e6
    assert found.of("bfloat16") == found.bfloat16
    assert found.disk >= 0
    assert MachineSpeed(store).known() == found


@pytest.mark.parametrize(
    "kept",
    [
        "nan at yesterday",
        "5e9 at 1.0",
        "[" * 10_000,
        '[{"float32": 0, "bfloat16": 5e9}, 1.0]',
        '{"speeds": {"float32": 5e9, "bfloat16": 0, "disk": 1}, "at": 1}',
        '{"speeds": {"float32": 5e9, "bfloat16": 5e9, "disk": -1}, "at": 1}',
    ],
)
def test_a_note_that_is_no_speed_is_measured_again(kept, speed, store):
    store.remember(NAME, kept)
    assert speed.known() is None


def test_an_old_measurement_holds_until_there_is_a_new_one(speed, store):
    store.remember(NAME, '{"speeds": {"float32": 5e9, "bfloat16": 6e9, "disk": 1e8}, "at": 1.0}')
    assert speed.known() == Speeds(float32=5e9, bfloat16=6e9, disk=1e8)


def test_a_measurement_that_fails_is_not_tried_again_and_again(speed, monkeypatch):
    monkeypatch.setattr(time_forecast.sys, "executable", "/bin/false")
    deadline = time.monotonic() + 60
    while not speed._failed and time.monotonic() < deadline:
        assert speed.known() is None
        time.sleep(0.01)
    assert speed.known() is None
    assert speed._failed and speed._measuring is None
