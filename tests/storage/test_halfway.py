"""Parts of a long stage: kept when it is time and there is room, found by the next attempt, gone when it is whole."""

import pytest

from sparsedash.schema.errors import CalibrationError
from sparsedash.storage.store import EVERY_S, StageCheckpoint, Store


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def test_nothing_is_kept_before_it_is_time_and_then_everything(store):
    clock = Clock()
    halfway = StageCheckpoint(store, "tiny", clock)
    halfway.keep("a", lambda: b"1")
    assert store.get_artefact("a") is None
    clock.now = EVERY_S
    halfway.keep("b", lambda: b"2")
    assert [store.get_artefact(key) for key in "ab"] == [b"1", b"2"]
    halfway.keep("c", lambda: pytest.fail("it is asked for too early"))


def test_what_is_added_is_kept_at_the_same_time(store):
    clock = Clock()
    halfway = StageCheckpoint(store, "tiny", clock)
    clock.now = EVERY_S
    halfway.add("a", lambda: b"1")
    halfway.add("b", lambda: b"2")
    assert store.get_artefact("a") is None
    halfway.keep_added()
    assert [store.get_artefact(key) for key in "ab"] == [b"1", b"2"]


def test_of_what_is_kept_under_one_key_the_last_one_counts(store):
    clock = Clock()
    halfway = StageCheckpoint(store, "tiny", clock)
    halfway.keep("a", lambda: pytest.fail("it is not the last"))
    clock.now = EVERY_S
    halfway.keep("a", lambda: b"2")
    assert store.get_artefact("a") == b"2"


def test_another_attempt_finds_it_and_lets_it_go_when_it_is_whole(store):
    clock = Clock()
    halfway = StageCheckpoint(store, "tiny", clock)
    clock.now = EVERY_S
    halfway.keep("a", lambda: b"1")
    again = StageCheckpoint(store, "tiny")
    assert again.get("a", bytes) == b"1"
    assert again.get("b", bytes) is None
    again.done()
    assert store.get_artefact("a") is None


def test_what_cannot_be_read_is_dropped_and_made_again(store, caplog):
    def unpack(data):
        raise CalibrationError("It is of another form.")

    store.put_artefact("a", b"another version's")
    assert StageCheckpoint(store, "tiny").made("a", lambda: "made", str.encode, unpack) == "made"
    assert store.get_artefact("a") is None
    assert "It is of another form." in caplog.text


def test_nothing_else_is_dropped_for_it(tmp_path):
    store, clock = Store(tmp_path / "data", artefact_bytes=100_000), Clock()
    store.put_artefact("statistics", b"x" * 60_000)
    halfway = StageCheckpoint(store, "tiny", clock)
    clock.now = EVERY_S
    halfway.keep("large", lambda: b"x" * 90_000)
    assert store.get_artefact("large") is None
    assert store.get_artefact("statistics") is not None
    store.close()
