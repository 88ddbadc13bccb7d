"""What stands in a cache's own tables is neither obeyed nor run, and what is locked is waited for."""

import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparsedash.schema.errors import StoreError
from sparsedash.schema.pair_records import Continuation
from sparsedash.storage.store import Store

LARGE = 100_000


def continuation(key: str) -> Continuation:
    return Continuation(key=key, prompt="Once", left=" upon", right=" more")


def change(folder: Path, *statements: str, cache: str = "records") -> None:
    db = sqlite3.connect(folder / cache / "cache.db", isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()


def settings_of(folder: Path, cache: str = "records") -> dict[str, object]:
    db = sqlite3.connect(folder / cache / "cache.db")
    found = dict(db.execute("SELECT key, value FROM Settings").fetchall())
    db.close()
    return found


@pytest.fixture
def folder(tmp_path):
    """With a record and an artefact in it."""
    store = Store(tmp_path)
    store.put("a", continuation("a"))
    store.put_artefact("a", bytes(LARGE))
    store.close()
    return tmp_path


SETTINGS = [
    "UPDATE Settings SET value = 'abc' WHERE key = 'size_limit'",
    "UPDATE Settings SET value = 'xyz' WHERE key = 'eviction_policy'",
    "UPDATE Settings SET value = 'abc' WHERE key IN ('count', 'size')",
    "UPDATE Settings SET value = 1e300 WHERE key = 'size'",
    "UPDATE Settings SET value = 999999999999999999 WHERE key = 'size'",
    "UPDATE Settings SET value = x'ff' WHERE key = 'cull_limit'",
    "UPDATE Settings SET value = 1 WHERE key = 'statistics'",
    "DELETE FROM Settings WHERE key = 'count'",
    "DELETE FROM Settings",
    "INSERT INTO Settings VALUES ('disk_unknown', 1)",
    "UPDATE Settings SET value = 0 WHERE key = 'disk_min_file_size'",
    "INSERT INTO Settings VALUES ('get', 'a name of the cache itself')",
    "INSERT INTO Settings VALUES ('_disk', 'a name of the cache itself')",
    "INSERT INTO Settings VALUES ('sqlite_query_only', 1)",
    "INSERT INTO Settings VALUES ('sqlite_writable_schema = ON; --', 1)",
    "INSERT INTO Settings VALUES (CAST(x'fffe' AS TEXT), 1)",
    "DROP TABLE Settings",
    "ALTER TABLE Settings ADD COLUMN more",
    "ALTER TABLE Settings RENAME COLUMN value TO worth",
    "CREATE TRIGGER prank AFTER INSERT ON Cache BEGIN DELETE FROM Cache WHERE key <> NEW.key; END",
]


@pytest.mark.parametrize("cache", ["records", "artefacts"])
@pytest.mark.parametrize("statement", SETTINGS)
def test_settings_in_the_file_are_put_right_and_not_obeyed(folder, statement, cache):
    before = settings_of(folder, cache)
    change(folder, statement, cache=cache)
    for _ in range(2):
        store = Store(folder)
        assert store.get(Continuation, "a") == continuation("a")
        assert store.get_artefact("a") == bytes(LARGE)
        store.put("b", continuation("b"))
        store.put_artefact("b", b"x")
        assert store.get_artefact("a") == bytes(LARGE)
        assert store.get_artefact("b") == b"x"
        store.close()
    after = settings_of(folder, cache)
    assert {name: after[name] for name in before if name not in ("count", "size")} == {
        name: before[name] for name in before if name not in ("count", "size")
    }
    assert set(after) == set(before)
    assert after["count"] == 2


@pytest.mark.parametrize("made", ["CREATE VIEW Settings AS SELECT 'size_limit' AS key, 5 AS value"])
def test_a_view_in_place_of_the_settings_is_replaced(folder, made):
    change(folder, "DROP TABLE Settings", made)
    store = Store(folder)
    assert store.get(Continuation, "a") == continuation("a")
    store.close()


def test_a_table_of_other_columns_is_a_store_error(folder):
    change(folder, "DROP TABLE Cache", "CREATE TABLE Cache (letters)")
    with pytest.raises(StoreError, match="cannot be used: no such column"):
        Store(folder)


UNDECODABLE = "CAST(x'fffe' AS TEXT)"


def test_a_key_that_is_no_utf_8_hides_no_record(folder, caplog):
    change(folder, f"INSERT INTO Cache (key, raw) VALUES ({UNDECODABLE}, 1)")
    store = Store(folder)
    assert list(store.keys(Continuation)) == ["a"]
    assert "did not write" in caplog.text
    store.close()


@pytest.mark.parametrize("column", ["filename", "tag", "value"])
def test_a_row_with_a_text_that_is_no_utf_8_is_dropped_and_can_be_written_again(folder, column, caplog):
    damage = f"UPDATE Cache SET {column} = {UNDECODABLE}"
    change(folder, damage, cache="artefacts")
    store = Store(folder)
    assert store.get_artefact("a") is None
    assert "Dropped the damaged entry a" in caplog.text
    store.put_artefact("a", b"new")
    change(folder, damage, cache="artefacts")
    store.put_artefact("a", b"newer")
    assert store.get_artefact("a") == b"newer"
    store.close()


def as_link_to_zero(path):
    path.symlink_to("/dev/zero")


KINDS = [os.mkfifo, os.mkdir, as_link_to_zero]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal"])
@pytest.mark.parametrize("cache", ["records", "artefacts"])
def test_what_is_no_file_in_the_place_of_one_is_named_and_not_waited_for(folder, cache, name, make):
    path = folder / cache / name
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(StoreError, match=f"{cache}/{name} is a .*: a file of this program belongs there"):
        Store(folder)


@pytest.mark.parametrize("make", KINDS)
def test_what_is_no_file_in_the_place_of_an_entry_s_is_dropped_and_not_waited_for(folder, make, caplog):
    (path,) = folder.rglob("*.val")
    path.unlink()
    make(path)
    store = Store(folder)
    assert store.get_artefact("a") is None
    assert "Dropped the damaged entry a" in caplog.text
    store.put_artefact("a", b"new")
    assert store.get_artefact("a") == b"new"
    store.close()


@contextmanager
def locked(folder: Path, cache: str, for_s: float):
    """Somebody else writes for that long."""
    path, begun = folder / cache / "cache.db", threading.Event()

    def hold():
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        begun.set()
        time.sleep(for_s)
        db.execute("ROLLBACK")
        db.close()

    holding = threading.Thread(target=hold)
    holding.start()
    begun.wait()
    yield
    holding.join()


WORK = {
    "put": lambda store: store.put("b", continuation("b")),
    "change": lambda store: store.change(Continuation, "a", lambda kept: kept),
    "put_artefact": lambda store: store.put_artefact("b", bytes(LARGE)),
    "get_artefact": lambda store: store.get_artefact("a"),
    "forget": lambda store: store.forget("a"),
    "open": lambda store: Store(store.folder, patience_s=60.0).close(),
}


@pytest.mark.parametrize("cache", ["records", "artefacts"])
@pytest.mark.parametrize("work", WORK)
def test_a_patient_store_waits_for_a_lock_of_another(folder, work, cache):
    store = Store(folder, patience_s=60.0)
    with locked(folder, cache, 2.5):
        WORK[work](store)
    store.close()
    assert len(list(folder.rglob("*.val"))) <= 2


@pytest.mark.parametrize("work", ["put", "change", "forget", "open"])
def test_an_impatient_store_says_that_it_is_locked(folder, work):
    store = Store(folder, patience_s=0.2)
    with locked(folder, "records", 4.0):
        begun = time.monotonic()
        with pytest.raises(StoreError, match="locked"):
            (Store(folder, patience_s=0.2) if work == "open" else WORK[work](store))
        assert time.monotonic() - begun < 3.5
        assert store.get(Continuation, "a") == continuation("a")
    store.close()
