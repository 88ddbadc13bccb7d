"""A row of the job table that cannot be read is a crashed job that says so, and everything else goes on."""

import random
import sqlite3
from dataclasses import asdict

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import LocalRunner
from sparsedash.schema.plain_values import canonical_json
from sparsedash.schema.progress import Step
from sparsedash.schema.settings import RunSettings

SETTINGS = RunSettings()
NO_UTF_8 = sqlite3.Binary(b"\xff\xfe{")


@pytest.fixture
def table(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    yield table
    table.close()


def submitted(table, key="a"):
    return table.submit("run", key, asdict(SETTINGS))


def damage(folder, column, value, as_text=False):
    """Set a column of the first job, whatever the table's own checks say."""
    db = sqlite3.connect(folder / "jobs.sqlite")
    db.execute("PRAGMA ignore_check_constraints = ON")
    schema = "SELECT sql FROM sqlite_master WHERE name = 'jobs'"
    ((text,),) = db.execute(schema).fetchall()
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'jobs'", (text.replace(" NOT NULL", ""),))
    db.commit()
    db.close()
    db = sqlite3.connect(folder / "jobs.sqlite")
    db.execute("PRAGMA ignore_check_constraints = ON")
    given = "CAST(? AS TEXT)" if as_text else "?"
    db.execute(f"UPDATE jobs SET {column} = {given} WHERE id = 1", (value,))
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'jobs'", (text,))
    db.commit()
    db.close()


DAMAGES = [
    ("settings", "{no json", False),
    ("settings", "[1]", False),
    ("settings", "[" * 100_000, False),
    ("settings", None, False),
    ("settings", 5, False),
    ("settings", NO_UTF_8, False),
    ("settings", NO_UTF_8, True),
    ("kind", "prank", False),
    ("kind", None, False),
    ("state", "asleep", False),
    ("stage", NO_UTF_8, True),
    ("message", NO_UTF_8, False),
    ("key", NO_UTF_8, True),
    ("done", "many", False),
    ("done", -1, False),
    ("total", None, False),
    ("rate", "fast", False),
    ("rate", float("inf"), False),
    ("attempt", 0, False),
    ("created_at", 1e300, False),
    ("queued_at", "now", False),
    ("queued_at", None, False),
    ("pid", -1, False),
    ("pid", 2**40, False),
    ("point", "first", False),
    ("error_text", NO_UTF_8, True),
    ("priority", "urgent", False),
    ("digest", None, False),
    ("digest", "0" * 64, False),
    ("digest", NO_UTF_8, True),
    ("key", "b2", False),
    ("kind", "divergence", False),
]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(("column", "value", "as_text"), DAMAGES, ids=[f"{d[0]}-{n}" for n, d in enumerate(DAMAGES)])
def test_a_damaged_row_is_a_crashed_job_that_says_so(table, tmp_path, column, value, as_text, begun, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    first, second = submitted(table), submitted(table, "b")
    if begun:
        table.claim(first.id, "slot-0", 4242)
    damage(tmp_path, column, value, as_text)
    runner = LocalRunner(tmp_path, table)
    for _ in range(2):
        runner.reconcile()
        assert [job.id for job in table.queue()] == [second.id]
        assert table.running() == ()
        newest, mended = table.list(9)
        assert newest == second
        assert (mended.id, mended.state) == (first.id, "crashed")
        assert "damaged" in mended.error_text
        assert table.get(first.id) == mended
    assert table.claim(first.id, "slot-0", 1) is None
    again = JobTable(tmp_path / "jobs.sqlite")
    assert again.get(first.id) == mended
    again.close()


def test_what_can_be_read_of_a_damaged_row_is_kept(table, tmp_path):
    job = submitted(table)
    damage(tmp_path, "done", "many")
    mended = table.get(job.id)
    assert (mended.kind, mended.key, mended.settings) == ("run", "a", job.settings)
    assert table.retry(job.id).state == "queued"


def test_settings_that_are_lost_are_not_taken_for_the_usual_ones(table, tmp_path):
    job = submitted(table)
    damage(tmp_path, "settings", "{no json")
    assert table.get(job.id).settings == {"damaged": True}


def test_the_same_request_is_a_new_job_where_the_live_one_was_damaged(table, tmp_path):
    job = submitted(table)
    damage(tmp_path, "rate", "fast")
    assert submitted(table).id == job.id + 1


def test_a_job_whose_row_is_damaged_while_it_is_claimed_or_runs_is_not_wanted(table, tmp_path):
    job = submitted(table)
    damage(tmp_path, "settings", "{no json")
    assert table.claim(job.id, "slot-0", 1) is None
    running = table.claim(submitted(table, "b").id, "slot-0", 1)
    assert table.wanted(running)
    db = sqlite3.connect(tmp_path / "jobs.sqlite")
    db.execute("UPDATE jobs SET n_right = 'some' WHERE id = ?", (running.id,))
    db.commit()
    db.close()
    assert not table.wanted(running)
    table.report(running, Step("evaluate", 3, 9), rate=None)
    assert not table.finish(running)
    assert table.get(running.id).state == "crashed"


def test_a_damaged_row_can_be_read_while_nobody_can_write(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite", patience_s=0.0)
    job = submitted(table)
    damage(tmp_path, "settings", "{no json")
    blocker = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert table.get(job.id).state == "crashed"
    blocker.close()
    table.close()


FLIPS = [("128", "129"), ("float32", "gloat32"), ('"seed":0', '"seed":1'), ("builtin:", "cuiltin:")]


@pytest.mark.parametrize(("sound", "flipped"), FLIPS)
def test_settings_with_a_flipped_bit_are_lost_and_never_taken_for_what_was_asked(table, tmp_path, sound, flipped):
    job = submitted(table)
    table.close()
    path = tmp_path / "jobs.sqlite"
    data = path.read_bytes()
    assert data.count(sound.encode()) >= 1
    path.write_bytes(data.replace(sound.encode(), flipped.encode()))
    again = JobTable(path)
    found = again.get(job.id)
    assert (found.state, found.settings) == ("crashed", {"damaged": True})
    assert "damaged" in found.error_text
    assert again.queue() == ()
    again.close()


def test_every_flipped_bit_of_a_row_gives_the_settings_that_were_asked_for_or_none(table, tmp_path):
    job = submitted(table)
    table.close()
    path = tmp_path / "jobs.sqlite"
    sound = path.read_bytes()
    start = sound.index(b'{"calibration"')
    places = random.Random(0)
    for _ in range(60):
        data = bytearray(sound)
        data[start + places.randrange(len(canonical_json(asdict(SETTINGS))))] ^= 1 << places.randrange(8)
        path.write_bytes(data)
        again = JobTable(path)
        assert again.get(job.id).lost
        again.close()


def test_rows_of_earlier_versions_carry_no_digest_and_are_read(table, tmp_path):
    job = submitted(table)
    damage(tmp_path, "digest", "")
    assert table.get(job.id) == job


def test_a_flipped_bit_in_the_name_of_a_column_hides_no_job(table, tmp_path):
    job = submitted(table)
    table.close()
    path = tmp_path / "jobs.sqlite"
    data = path.read_bytes()
    assert b" left_text " in data
    path.write_bytes(data.replace(b" left_text ", b" Left_text "))
    again = JobTable(path)
    assert again.get(job.id) == job
    again.close()
