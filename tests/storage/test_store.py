"""The data folder keeps what was put there, and neither runs nor shows what somebody else put there."""

import hashlib
import json
import logging
import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import diskcache
import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.errors import NewerError, SettingsError, StoreError
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.records import Passages
from sparsedash.storage.disk_cache import PlainDisk
from sparsedash.storage.store import Store
from sparsedash.storage.verification import verify

LARGE = 100_000
"""Bytes enough for diskcache to use a file of their own instead of a column."""


def continuation(key: str, left: str = " upon a time") -> Continuation:
    return Continuation(key=key, prompt="Once", left=left, right=" more")


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def change(store: Store, statement: str, *values: object, cache: str = "records") -> None:
    """Change the cache's table behind the store's back."""
    with sqlite3.connect(store.folder / cache / "cache.db") as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_trap_of_these_tests_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_a_record_comes_back_and_another_process_would_find_it(store):
    store.put("a", continuation("a"))
    assert store.get(Continuation, "a") == continuation("a")
    again = Store(store.folder)
    assert again.get(Continuation, "a") == continuation("a")
    again.close()


def test_what_is_not_there_is_none(store):
    assert store.get(Continuation, "a") is None
    assert store.get_artefact("a") is None
    assert store.recall(store_keys.calibrated_note("a")) is None


def test_kinds_do_not_meet_under_one_key(store):
    store.put("a", continuation("a"))
    assert store.get(Passages, "a") is None
    assert list(store.keys(Passages)) == []


def test_keys_come_oldest_first_and_a_rewritten_record_keeps_its_place(store):
    for key in "cab":
        store.put(key, continuation(key))
    store.put("c", continuation("c", left=" again"))
    store.remember(store_keys.calibrated_note("a"), "is no record")
    assert list(store.keys(Continuation)) == ["c", "a", "b"]


@pytest.mark.parametrize("n_bytes", [0, 1, LARGE])
def test_artefacts_of_any_size_come_back(store, n_bytes):
    data = os.urandom(n_bytes)
    store.put_artefact("a", data)
    assert "a" in store._artefacts
    assert store.get_artefact("a") == data


def test_notes_come_back_until_they_are_forgotten(store):
    name = store_keys.peak_memory_note("gpt2", "float32")
    store.remember(name, "1234.5")
    assert store.recall(name) == "1234.5"
    store.forget(name)
    store.forget(store_keys.calibrated_note("never"))
    assert store.recall(name) is None


def test_a_record_can_be_asked_for_without_reading_it(store):
    store.put("a", continuation("a"))
    assert store.has(Continuation, "a")
    assert not store.has(Continuation, "b")
    assert not store.has(Passages, "a")


def test_artefacts_are_forgotten_when_room_runs_short_and_records_are_not(tmp_path):
    store = Store(tmp_path, artefact_bytes=5 * LARGE)
    for number in range(10):
        store.put_artefact(str(number), os.urandom(LARGE))
        store.put(str(number), continuation(str(number), left="x" * LARGE))
        store.get_artefact("0")
    kept = [number for number in range(10) if str(number) in store._artefacts]
    assert kept == [0, 7, 8, 9]
    assert len(list(store.keys(Continuation))) == 10
    store.close()


def test_an_artefact_larger_than_all_the_room_is_kept_until_the_next_one(tmp_path):
    store = Store(tmp_path, artefact_bytes=5 * LARGE)
    store.put_artefact("large", bytes(10 * LARGE))
    assert "large" in store._artefacts
    store.put_artefact("next", b"x")
    assert "large" not in store._artefacts
    store.close()


def test_the_room_for_artefacts_is_taken_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "0.5")
    store = Store(tmp_path)
    assert store.artefact_room == 2**29
    store.close()


@pytest.mark.parametrize("asked", ["much", "0", "-1", "nan", "inf"])
def test_room_that_is_no_number_is_refused(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", asked)
    with pytest.raises(SettingsError, match=r"SPARSEDASH_ARTEFACT_GB: .* from 0.1 to"):
        Store(tmp_path)


def test_the_folder_is_for_its_owner_only(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    for folder in (tmp_path / "open", tmp_path / "new" / "nested"):
        Store(folder).close()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("padding", [0, LARGE])
def test_a_planted_pickle_is_set_aside_reported_and_never_run(store, tmp_path, caplog, padding):
    planted = diskcache.Cache(str(store.folder / "records"))
    planted.set("continuation/a", [Trap(tmp_path / "sprung"), "x" * padding])
    planted.set("continuation/b", 5)
    planted.set("continuation/c", "text")
    planted.close()
    for key in "abc":
        assert store.get(Continuation, key) is None
        assert f"Set aside the damaged entry continuation/{key}" in caplog.text
    assert list(store.keys(Continuation)) == []
    assert not (tmp_path / "sprung").exists()


def test_a_planted_pickle_among_the_artefacts_is_dropped_and_never_run(store, tmp_path):
    planted = diskcache.Cache(str(store.folder / "artefacts"))
    planted.set("a", Trap(tmp_path / "sprung"))
    planted.close()
    assert store.get_artefact("a") is None
    assert "a" not in store._artefacts
    assert not (tmp_path / "sprung").exists()


def test_bytes_relabelled_as_a_pickle_are_never_run(store, tmp_path):
    store.put_artefact("a", b"x")
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    change(store, "UPDATE Cache SET mode = 4, value = ?", trap, cache="artefacts")
    assert store.get_artefact("a") is None
    assert not (tmp_path / "sprung").exists()


def test_a_pickled_key_is_not_run_and_does_not_hide_the_records(store, tmp_path, caplog):
    store.put("a", continuation("a"))
    planted = diskcache.Cache(str(store.folder / "records"))
    planted.set(("tuple",), b"value")
    planted.close()
    change(store, "UPDATE Cache SET key = ? WHERE raw = 0", pickle.dumps(Trap(tmp_path / "sprung")))
    assert list(store.keys(Continuation)) == ["a"]
    assert "did not write" in caplog.text
    assert not (tmp_path / "sprung").exists()


def test_nothing_but_bytes_under_text_can_be_written(store):
    cache = diskcache.Cache(str(store.folder / "records"), disk=PlainDisk)
    for value in ("text", 5, None, [1]):
        with pytest.raises(StoreError, match="is bytes"):
            cache.set("a", value)
    for key in (5, b"a", ("a",)):
        with pytest.raises(StoreError, match="is text"):
            cache.set(key, b"value")
    cache.close()


def only_file(store: Store) -> Path:
    (path,) = store.folder.rglob("*.val")
    return path


def test_a_flipped_byte_in_a_file_is_noticed_dropped_and_reported(store, caplog):
    store.put_artefact("a", bytes(LARGE))
    path = only_file(store)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert store.get_artefact("a") is None
    assert "Dropped the damaged entry a: its checksum does not match" in caplog.text
    assert "a" not in store._artefacts


def test_a_flipped_byte_in_the_table_is_noticed_dropped_and_reported(store, caplog):
    store.put("a", continuation("a"))
    change(store, "UPDATE Cache SET value = CAST(replace(value, 'time', 'tide') AS BLOB)")
    assert store.get(Continuation, "a") is None
    assert "Set aside the damaged entry continuation/a" in caplog.text
    assert list(store.keys(Continuation)) == []


def test_a_damaged_record_is_set_aside_whoever_looks_and_stays_when_it_is_made_again(store, tmp_path):
    store.put("a", continuation("a"))
    change(store, "UPDATE Cache SET value = CAST(replace(value, 'time', 'tide') AS BLOB)")
    with closing(Store(store.folder)) as other:
        assert [each.get(Continuation, "a") for each in (store, other, store)] == [None, None, None]
        assert other.why_missing(Continuation, "a") == "was damaged and is set aside"
    assert store.damaged_keys(Continuation) == ["a"]
    store.put("a", continuation("a"))
    assert store.get(Continuation, "a") == continuation("a") and store.damaged_keys(Continuation) == []
    data, is_sound = store.raw_value("records", "damaged/continuation/a")
    assert b"tide" in data and not is_sound
    (found,) = verify(store, lambda step: None).damaged
    assert (found.name, found.what) == ("damaged/continuation/a", "it was damaged when it was read, and is set aside")
    store.drop(Continuation, "a")
    assert store.why_missing(Continuation, "a") == "is no longer stored"
    assert store.entries("records") == []


def test_a_record_of_another_kind_is_dropped_and_reported(store, caplog):
    store.put("a", Passages(key="a", indices=(0,), contexts=("x",), targets=("y",)))
    change(store, "UPDATE Cache SET key = 'continuation/a'")
    assert store.get(Continuation, "a") is None
    assert "A stored continuation cannot be read" in caplog.text


def put_newer(store, key="a", **changes):
    """What a version to come might write: a form of this kind that is not known yet, with its sum."""
    data = json.dumps({"key": key, "prompt": ["Once", "upon"], "shades": 3, **changes}).encode()
    store._records.set(f"continuation/{key}", hashlib.sha256(data).digest() + data)
    return store._records.get(f"continuation/{key}")


def test_a_record_that_a_newer_version_wrote_is_told_and_never_replaced(store, caplog):
    before = put_newer(store)
    for asked in (
        lambda: store.get(Continuation, "a"),
        lambda: store.put("a", continuation("a")),
        lambda: store.change(Continuation, "a", lambda _: continuation("a")),
    ):
        with pytest.raises(NewerError, match="written by another version") as told:
            asked()
        assert told.value.advice == "Upgrade, or name another data folder."
    assert store._records.get("continuation/a") == before
    assert "Dropped" not in caplog.text


def test_a_field_more_than_is_known_is_no_newer_form(store):
    put_newer(store, prompt="Once", left="l", right="r")
    assert store.get(Continuation, "a") == Continuation(key="a", prompt="Once", left="l", right="r")


def test_a_dropped_entry_can_be_put_again(store):
    store.put_artefact("a", bytes(LARGE))
    only_file(store).write_bytes(b"")
    assert store.get_artefact("a") is None
    store.put_artefact("a", b"new")
    assert store.get_artefact("a") == b"new"


def test_an_entry_whose_file_is_gone_is_dropped_and_reported(store, caplog):
    store.put_artefact("a", bytes(LARGE))
    only_file(store).unlink()
    assert store.get_artefact("a") is None
    assert "a" not in store._artefacts
    assert "The file of an entry is gone" in caplog.text


@pytest.mark.parametrize("escape", ["../../secret", "{absolute}", "..\\secret", "a/../../../secret"])
@pytest.mark.parametrize("mode", [1, 2])
def test_a_path_out_of_the_store_is_neither_read_nor_removed(store, tmp_path, escape, mode):
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours")
    store.put_artefact("a", b"x")
    change(
        store,
        "UPDATE Cache SET mode = ?, filename = ?, value = NULL",
        mode,
        escape.format(absolute=secret),
        cache="artefacts",
    )
    assert store.get_artefact("a") is None
    store.put_artefact("a", b"new")
    assert store.get_artefact("a") == b"new"
    assert secret.read_bytes() == b"not yours"


@pytest.mark.parametrize("filename", [None, b"blob", "nul\x00byte", 5])
def test_a_file_name_that_is_none_is_refused(store, filename):
    store.put_artefact("a", b"x")
    change(store, "UPDATE Cache SET mode = 2, filename = ?, value = NULL", filename, cache="artefacts")
    assert store.get_artefact("a") is None


def test_the_value_of_another_key_is_dropped_and_not_shown(store, caplog):
    for key in "ab":
        store.put(key, continuation(key))
        store.put_artefact(key, key.encode() * 9)
    for cache in ("records", "artefacts"):
        other = "(SELECT value FROM Cache WHERE key LIKE '%b')"
        change(store, f"UPDATE Cache SET value = {other} WHERE key LIKE '%a'", cache=cache)
    assert store.get(Continuation, "a") is None
    assert store.get_artefact("a") is None
    assert store.get(Continuation, "b") == continuation("b")
    assert store.get_artefact("b") == b"bbbbbbbbb"
    assert caplog.text.count("the damaged entry") == 2


def test_what_an_earlier_version_wrote_with_the_sum_of_the_value_alone_is_read(store):
    store._artefacts.set("a", hashlib.sha256(b"data").digest() + b"data")
    store._records.set("note/a", hashlib.sha256(b"text").digest() + b"text")
    assert store.get_artefact("a") == b"data"
    assert store.recall("a") == "text"


WRITER = """
import sys
from pathlib import Path
from sparsedash.schema.pair_records import Continuation
from sparsedash.storage.store import Store
store = Store(Path(sys.argv[1]))
for number in range(40):
    key = f"{sys.argv[2]}{number}"
    store.put(key, Continuation(key=key, prompt="p", left="l" * number, right="r"))
    store.put("both", Continuation(key="both", prompt=sys.argv[2], left="l", right="r"))
    store.put_artefact(key, bytes(50_000))
store.close()
"""


def test_two_processes_write_at_once_and_nothing_is_lost_or_torn(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "data"), name]) for name in ("left", "right")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    store = Store(tmp_path / "data")
    assert len(list(store.keys(Continuation))) == 81
    for name in ("left", "right"):
        for number in range(40):
            assert store.get(Continuation, f"{name}{number}") is not None
            assert store.get_artefact(f"{name}{number}") == bytes(50_000)
    last = store.get(Continuation, "both")
    assert last is not None
    assert last.prompt in ("left", "right")
    store.close()


LIMITED = """
import resource, sys
from pathlib import Path
from sparsedash.schema.errors import NewerError, SettingsError, StoreError
from sparsedash.storage.store import Store
store = Store(Path(sys.argv[1]))
store.put_artefact("a", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    store.put_artefact("a", bytes(1_000_000))
except StoreError as error:
    print(error)
print(store.get_artefact("a"))
"""


def test_a_file_that_finds_no_room_is_a_store_error_and_the_old_value_stays(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    said, kept = done.stdout.splitlines()
    assert said.startswith("The data folder could not be written")
    assert "disk is full" in said
    assert kept == "b'old'"


def test_a_table_that_finds_no_room_is_a_store_error_and_the_old_value_stays(store):
    store.put("a", continuation("a"))
    store._records._sql("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError, match="could not be written: database or disk is full") as full:
        store.put("a", continuation("a", left="x" * 20_000))
    assert "disk is full" in full.value.advice
    assert store.get(Continuation, "a") == continuation("a")


def test_a_table_that_may_only_be_read_is_a_store_error(store):
    store._records._sql("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match=r"could not be written: attempt to write a readonly .* It is read-only"):
        store.put("a", continuation("a"))


def test_a_data_folder_that_may_only_be_read_is_called_that(tmp_path, monkeypatch):
    # Whoever runs the tests as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(StoreError, match=r"The data folder .* is read-only for this user"):
        Store(tmp_path / "data")


def test_a_table_that_stays_locked_is_a_store_error_and_drops_nothing(store):
    store.put_artefact("a", b"x")
    store._patience_s = 0.0
    store._artefacts._sql("PRAGMA busy_timeout = 10")
    blocker = sqlite3.connect(store.folder / "artefacts" / "cache.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="could not be read: database is locked"):
        store.get_artefact("a")
    blocker.execute("ROLLBACK")
    blocker.close()
    assert store.get_artefact("a") == b"x"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_data_folder_that_cannot_be_made_is_a_store_error_with_advice(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be used") as refused:
        Store(tmp_path / name)
    assert "SPARSEDASH_DATA_DIR" in refused.value.advice


def test_a_table_that_is_no_table_is_a_store_error(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "cache.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path)


def test_a_folder_with_other_things_in_it_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    tmp_path.chmod(0o755)
    with pytest.raises(StoreError, match="holds other things"):
        Store(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]
