"""The measured speed of this machine: once, by a process of its own, and for a while."""

import os
import platform
import time

import pytest

from sparsedash.catalog.cost_model import Speeds
from sparsedash.schema import store_keys
from sparsedash.service import machine_speed
from sparsedash.service.machine_speed import MachineSpeed

NAME = store_keys.machine_speed_note(platform.node(), os.cpu_count() or 1)
GOOD = '{"float32": 5e9, "bfloat16": 6e9, "disk": 1e8, "at": %s}'
KNOWN = Speeds(float32=5e9, bfloat16=6e9, disk=1e8)


@pytest.fixture
def speed(store):
    speed = MachineSpeed(store)
    yield speed
    speed.close()


@pytest.mark.parametrize(
    ("script", "known"),
    [
        (f"echo '{GOOD % 0}'", KNOWN),
        ("false", None),
        ("""echo '{"float32": 0, "bfloat16": 1}'""", None),
    ],
    ids=["measured", "fails", "no speeds"],
)
def test_the_speed_is_known_once_it_was_measured_and_a_measurement_that_fails_is_not_repeated(
    script, known, speed, store, tmp_path, monkeypatch
):
    """tests/engine/comparison/test_machine_rates.py has the program that measures."""
    program = tmp_path / "measure"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(machine_speed.sys, "executable", str(program))
    assert speed.known() is None
    measuring = speed._measuring
    measuring.wait(timeout=60)
    assert speed.known() == speed.known() == known
    assert (
        speed._measuring is (None if known else measuring) and not speed.is_measuring()
    )


@pytest.mark.parametrize(
    ("note", "known", "measures"),
    [
        pytest.param("busy", True, False, id="old, while jobs run"),
        pytest.param("nan at yesterday", False, True, id="words"),
        pytest.param(
            '{"float32": 5e9, "bfloat16": 0, "disk": 1, "at": 1}',
            False,
            True,
            id="no speed",
        ),
        pytest.param(GOOD % (time.time() + 1e6), True, True, id="of the future"),
        pytest.param(GOOD % 1, True, True, id="old, until there is a new one"),
        pytest.param(GOOD % "NOW", True, False, id="new"),
    ],
)
def test_what_was_measured_holds_for_a_while(
    note, known, measures, speed, store, monkeypatch
):
    monkeypatch.setattr(machine_speed.sys, "executable", "true")
    if note == "busy":
        speed._busy = lambda: True
        note = GOOD % 1
    store.remember(NAME, note.replace("NOW", str(time.time())))
    assert speed.known() == (KNOWN if known else None)
    assert (speed._measuring is not None) == measures
