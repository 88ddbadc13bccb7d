"""The data folder keeps what was put there, and neither runs nor shows what was planted or
damaged.
"""

import os
import pickle
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import diskcache
import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.errors import CalibrationError, SettingsError, StoreError
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.records import Passages, about_artefact
from sparsedash.storage import disk_cache
from sparsedash.storage.checkpoint import CHECKPOINT_INTERVAL_S, StageCheckpoint
from sparsedash.storage.disk_cache import USUAL_GB, PlainDisk, bytes_of
from sparsedash.storage.store import Store
from tests.storage.every_kind import harm_file

LARGE = 100_000
"""Bytes enough for diskcache to use a file of their own instead of a column."""


def continuation(key: str, left: str = " upon a time") -> Continuation:
    return Continuation(key=key, prompt="Once", left=left, right=" more")


def change(
    store: Store, statement: str, *values: object, cache: str = "records"
) -> None:
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


def test_a_record_comes_back_also_in_another_process_and_under_its_kind_alone(store):
    store.put("a", continuation("a"))
    with closing(Store(store.folder)) as reopened:
        assert reopened.get(Continuation, "a") == continuation("a")
        assert reopened.has(Continuation, "a")
        assert reopened.get(Passages, "a") is None and not reopened.has(Passages, "a")
    assert store.get_artefact("a") is None


def test_keys_come_oldest_first_and_a_rewritten_record_keeps_its_place(store):
    for key in "cab":
        store.put(key, continuation(key))
    store.put("c", continuation("c", left=" again"))
    store.remember(store_keys.calibrated_note("a"), "is no record")
    assert store.keys(Continuation) == ["c", "a", "b"]


def test_artefacts_of_any_size_and_notes_come_back_until_they_are_forgotten(store):
    for n_bytes in (0, 1, LARGE):
        data = os.urandom(n_bytes)
        store.put_artefact("a", data)
        assert store.has_entry("artefacts", "a") and store.get_artefact("a") == data
    name = store_keys.peak_memory_note("gpt2", "float32")
    store.remember(name, "1234.5")
    assert store.recall(name) == "1234.5"
    store.forget(name)
    store.forget(store_keys.calibrated_note("never"))
    assert store.recall(name) is None


def test_healed_weights_are_evicted_until_they_are_protected_and_do_not_count_from_then_on(
    store,
):
    store.allow_artefacts(200_000)

    def names_after(name, kind="statistics"):
        store.put_artefact(name, b"x" * 70_000, about_artefact(kind, "m"))
        return {entry.name for entry in store.entries("artefacts")}

    names_after("a/healed/0", "unfinished")
    assert names_after("b") == {"a/healed/0", "b"}
    assert names_after("c") == {"b", "c"}
    names_after("a/healed/0", "unfinished")
    store.retag_artefacts("a/healed/", about_artefact("healed", "m"))
    free = store.artefact_left
    assert names_after("d") == {"a/healed/0", "c", "d"}
    assert free - store.artefact_left > 70_000
    assert names_after("e") == {"a/healed/0", "d", "e"}


def test_only_what_was_used_since_the_store_was_opened_takes_room_from_checkpoints(
    store,
):
    store.allow_artefacts(200_000)
    store.put_artefact("old", b"x" * 90_000)
    whole = Store(store.folder)
    assert whole.artefact_left == whole.artefact_room
    whole.get_artefact("old")
    assert whole.artefact_left <= whole.artefact_room - 90_000
    whole.close()


def test_artefacts_are_forgotten_when_room_runs_short_and_records_are_not(store):
    store.allow_artefacts(5 * LARGE)
    for name in "0123456789":
        store.put_artefact(name, os.urandom(LARGE))
        store.put(name, continuation(name, left="x" * LARGE))
        store.get_artefact("0")
    assert sorted(entry.name for entry in store.entries("artefacts")) == [
        "0",
        "7",
        "8",
        "9",
    ]
    assert len(store.keys(Continuation)) == 10


def test_the_folder_is_for_its_owner_only(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    for folder in (tmp_path / "open", tmp_path / "new" / "nested"):
        Store(folder).close()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_planted_pickles_are_set_aside_reported_and_never_run_nor_hide_the_records(
    store, tmp_path, caplog
):
    pickle.loads(pickle.dumps(Trap(tmp_path / "trap works")))
    assert (tmp_path / "trap works").exists()
    store.put("sound", continuation("sound"))
    planted = diskcache.Cache(str(store.folder / "records"))
    planted.set("continuation/a", [Trap(tmp_path / "sprung"), "x" * LARGE])
    planted.set("continuation/b", 5)
    planted.set("continuation/c", "text")
    planted.set(("tuple",), b"value")
    planted.close()
    change(
        store,
        "UPDATE Cache SET key = ? WHERE raw = 0",
        pickle.dumps(Trap(tmp_path / "sprung")),
    )
    for key in "abc":
        assert store.get(Continuation, key) is None
        assert f"Set aside the damaged entry continuation/{key}" in caplog.text
    assert store.keys(Continuation) == ["sound"]
    assert not (tmp_path / "sprung").exists()


def test_nothing_but_bytes_under_text_can_be_written(store):
    cache = diskcache.Cache(str(store.folder / "records"), disk=PlainDisk)
    for key, value in (("a", "text"), ("a", [1]), (5, b""), (b"a", b"")):
        with pytest.raises(StoreError, match="in the store is"):
            cache.set(key, value)
    cache.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (harm_file, "its checksum does not match"),
        (lambda path: path.write_bytes(b""), "its checksum does not match"),
        (Path.unlink, "The file of an entry is gone"),
    ],
    ids=["flipped", "empty", "gone"],
)
def test_a_damaged_artefact_is_dropped_reported_and_can_be_put_again(
    store, caplog, damage, reason
):
    store.put_artefact("a", bytes(LARGE))
    (path,) = store.folder.rglob("*.val")
    damage(path)
    assert store.get_artefact("a") is None
    assert f"Dropped the damaged entry a: {reason}" in caplog.text
    assert store.entries("artefacts") == []
    store.put_artefact("a", b"new")
    assert store.get_artefact("a") == b"new"


def test_a_damaged_record_is_set_aside_whoever_looks_and_stays_when_it_is_made_again(
    store, caplog
):
    store.put("a", continuation("a"))
    change(
        store, "UPDATE Cache SET value = CAST(replace(value, 'time', 'tide') AS BLOB)"
    )
    assert store.get(Continuation, "a") is None
    with closing(Store(store.folder)) as reopened:
        assert reopened.get(Continuation, "a") is None
        assert reopened.why_missing(Continuation, "a") == "was damaged and is set aside"
    assert "Set aside the damaged entry continuation/a" in caplog.text
    assert store.damaged_keys(Continuation) == ["a"]
    assert store.keys(Continuation) == []
    store.put("a", continuation("a"))
    assert store.get(Continuation, "a") == continuation("a")
    assert store.damaged_keys(Continuation) == []
    data, is_sound = store.raw_value("records", "damaged/continuation/a")
    assert b"tide" in data and not is_sound
    store.drop(Continuation, "a")
    assert store.why_missing(Continuation, "a") == "is no longer stored"
    assert store.entries("records") == []


def test_a_record_that_another_replaces_while_it_is_read_is_not_damaged(
    store, monkeypatch
):
    old, new = (continuation("a", letter * LARGE) for letter in "on")
    store.put("a", old)
    fetch = PlainDisk.fetch
    writers = [Store(store.folder)]

    def late(disk, *args):
        while writers:
            writers.pop().put("a", new)
        return fetch(disk, *args)

    monkeypatch.setattr(PlainDisk, "fetch", late)
    assert (
        store.get(Continuation, "a") == new and store.damaged_keys(Continuation) == []
    )


def test_a_value_that_finds_no_room_leaves_no_piece_of_a_file(store):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        with pytest.raises(StoreError):
            store.put_artefact("a", bytes(2 * 10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*store.folder.rglob("*.val")]


def test_the_value_of_another_key_is_dropped_and_not_shown(store, caplog):
    for key in "ab":
        store.put(key, continuation(key))
    value_of_b = "(SELECT value FROM Cache WHERE key LIKE '%b')"
    change(store, f"UPDATE Cache SET value = {value_of_b} WHERE key LIKE '%a'")
    assert store.get(Continuation, "a") is None
    assert store.get(Continuation, "b") == continuation("b")
    assert "Set aside the damaged entry continuation/a" in caplog.text


WRITER = """
import sys
from pathlib import Path
from sparsedash.schema.pair_records import Continuation
from sparsedash.storage.store import Store
store = Store(Path(sys.argv[1]))
for number in range(40):
    key = f"{sys.argv[2]}{number}"
    store.put(key, Continuation(key=key, prompt="p", left="l" * number, right="r"))
    store.put_artefact(key, bytes(50_000))
store.close()
"""


def test_two_processes_write_at_once_and_nothing_is_lost_or_torn(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "data"), name])
        for name in ("left", "right")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    with closing(Store(tmp_path / "data")) as store:
        keys = store.keys(Continuation)
        assert len(keys) == 80
        for key in keys:
            assert store.get(Continuation, key) is not None
            assert store.get_artefact(key) == bytes(50_000)


def test_a_table_that_finds_no_room_is_a_store_error_and_the_old_value_stays(store):
    store.put("a", continuation("a"))
    store._caches["records"]._sql("PRAGMA max_page_count = 1")
    with pytest.raises(
        StoreError, match="could not be written: database or disk is full"
    ) as full:
        store.put("a", continuation("a", left="x" * 20_000))
    assert "disk is full" in full.value.advice
    assert store.get(Continuation, "a") == continuation("a")


@pytest.mark.parametrize(
    ("file", "folder", "reason"),
    [
        ("file", "file", r"is a file\. Name a folder with .*SPARSEDASH_DATA_DIR"),
        ("file", "file/below", r"cannot be used: .*SPARSEDASH_DATA_DIR"),
        (
            "jobs.sqlite",
            ".",
            r"another layout\. Name another folder .*, or delete this one\.$",
        ),
        ("layout-99", ".", "in another layout"),
        ("letters.txt", ".", "is not a data folder"),
    ],
)
def test_a_folder_that_is_no_data_folder_is_refused_with_advice_and_left_as_it_is(
    tmp_path, file, folder, reason
):
    (tmp_path / file).touch()
    tmp_path.chmod(0o755)
    with pytest.raises(StoreError, match=reason):
        Store(tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_table_that_is_no_table_is_a_store_error(store):
    store.close()
    (store.folder / "records" / "cache.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(store.folder)


@contextmanager
def locked(store: Store, cache: str, for_s: float | None = None):
    """Another connection writes for that long, or to the end of the block."""
    db = sqlite3.connect(
        store.folder / cache / "cache.db", isolation_level=None, check_same_thread=False
    )
    db.execute("BEGIN IMMEDIATE")
    ending = threading.Timer(for_s or 60.0, db.execute, ["ROLLBACK"])
    ending.start()
    yield
    if for_s is None:
        ending.cancel()
    ending.join()
    db.close()


def open_again(store: Store) -> None:
    Store(store.folder, lock_timeout_s=store._lock_timeout_s).close()


@pytest.mark.parametrize(
    ("cache", "work"),
    [
        (
            "records",
            lambda store: store.change(
                Continuation, "a", lambda kept: continuation("a")
            ),
        ),
        ("artefacts", lambda store: store.put_artefact("b", bytes(LARGE))),
        ("records", open_again),
    ],
    ids=["change", "put_artefact", "open"],
)
def test_a_lock_of_another_is_waited_for_and_said_when_patience_ends(
    tmp_path, monkeypatch, cache, work
):
    # SQLite's own timeout, after which the store tries again.
    monkeypatch.setattr(disk_cache, "_TRY_S", 0.1)
    store = Store(tmp_path, lock_timeout_s=60.0)
    store.put_artefact("a", bytes(LARGE))
    with locked(store, cache, 0.3):
        work(store)
    store._lock_timeout_s = 0.2
    with locked(store, cache), pytest.raises(StoreError, match="locked"):
        work(store)
    assert len(list(tmp_path.rglob("*.val"))) <= 2
    store.close()


def test_a_checkpoint_keeps_nothing_before_it_is_time_then_everything_for_another_attempt_until_it_is_done(
    store, clock
):
    halfway = StageCheckpoint(store, "tiny", clock)
    halfway.keep({"a": lambda: b"1"})
    assert store.get_artefact("a") is None
    clock.now = CHECKPOINT_INTERVAL_S
    halfway.keep({"b": lambda: b"2"})
    halfway.keep({"c": lambda: pytest.fail("it is asked for too early")})
    again = StageCheckpoint(store, "tiny")
    assert [again.get(key, bytes) for key in "abc"] == [b"1", b"2", None]
    again.done()
    assert store.entries("artefacts") == []


def test_a_file_whose_entry_was_never_written_is_deleted_once_it_is_old(store):
    store.put_artefact("kept", b"x" * LARGE)
    (kept,) = (store.folder / "artefacts").rglob("*.val")
    orphan = kept.with_name("killed.val")
    orphan.write_bytes(b"x" * LARGE)
    store.tidy()
    assert orphan.exists(), "its entry may be on its way"
    for file in (kept, orphan):
        os.utime(file, (1.0, 1.0))
    store.tidy()
    assert not orphan.exists() and store.get_artefact("kept") == b"x" * LARGE


def test_what_a_checkpoint_lets_go_is_not_written_and_some_parts_stay(store, clock):
    scores = StageCheckpoint(store, "tiny", clock, "scores")
    scores.keep({"a": lambda: pytest.fail("it was let go")})
    scores.discard_pending()
    clock.now = CHECKPOINT_INTERVAL_S
    scores.keep({"b": lambda: b"2"})
    (entry,) = store.entries("artefacts")
    assert entry.name == "b" and "scores" in entry.tag


def test_no_artefact_is_evicted_for_a_checkpoint(store, clock):
    store.allow_artefacts(100_000)
    store.put_artefact("statistics", b"x" * 60_000)
    halfway = StageCheckpoint(store, "tiny", clock)
    clock.now = CHECKPOINT_INTERVAL_S
    halfway.keep({"large": lambda: b"x" * 90_000})
    assert [entry.name for entry in store.entries("artefacts")] == ["statistics"]


def test_what_is_chosen_is_kept_and_holds_for_every_process_unless_the_environment_overrides(
    store, monkeypatch
):
    assert store.artefact_room == USUAL_GB * 10**9
    store.allow_artefacts(bytes_of(1.5))
    with closing(Store(store.folder)) as reopened:
        assert reopened.artefact_room == 1.5 * 10**9
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "0.5")
    assert store.artefact_room == 5 * 10**8


@pytest.mark.parametrize("gigabytes", [-1.0, float("nan"), 1e9])
def test_a_limit_out_of_range_is_refused(gigabytes):
    with pytest.raises(SettingsError, match=r"must be a number from 0\.1"):
        bytes_of(gigabytes)


def test_a_checkpoint_that_cannot_be_read_is_dropped_and_made_again(store, caplog):
    def unpack(data):
        raise CalibrationError("They are of other batches.")

    store.put_artefact("a", b"of other batches")
    assert (
        StageCheckpoint(store, "tiny").get_or_make(
            "a", lambda: "made", str.encode, unpack
        )
        == "made"
    )
    assert store.get_artefact("a") is None
    assert "They are of other batches." in caplog.text
