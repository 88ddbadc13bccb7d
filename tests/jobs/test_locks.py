"""A lock is held by a living process or by nobody."""

import os
import subprocess
import sys
import threading

import pytest

from sparsedash.jobs import local_runner
from sparsedash.jobs.local_runner import hold_lock, is_lock_held, lock_holder, machine_restarted
from sparsedash.schema.errors import StoreError


def test_a_lock_has_one_holder(tmp_path):
    path = tmp_path / "jobs" / "1.lock"
    with hold_lock(path):
        assert is_lock_held(path)
        assert hold_lock(path, wait_s=0.0) is None
    assert not is_lock_held(path)


def test_a_lock_that_was_never_taken_is_free(tmp_path):
    assert not is_lock_held(tmp_path / "1.lock")


def test_looking_does_not_keep_a_worker_out(tmp_path):
    path = tmp_path / "1.lock"
    hold_lock(path).close()
    stop = threading.Event()

    def look():
        while not stop.is_set():
            is_lock_held(path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            lock = hold_lock(path, wait_s=30.0)
            assert lock is not None
            lock.close()
    finally:
        stop.set()
        looking.join()


def test_a_child_that_was_started_does_not_keep_the_lock(tmp_path):
    path = tmp_path / "1.lock"
    with hold_lock(path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not is_lock_held(path)
    child.communicate(b"\n")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_lock_file_is_named_and_not_waited_for(tmp_path, make):
    path = tmp_path / "1.lock"
    make(path)
    for look in (hold_lock, is_lock_held):
        with pytest.raises(StoreError, match=r"1\.lock is a .*: a file of this program belongs there"):
            look(path)


def test_a_file_where_the_folder_of_locks_belongs_is_named(tmp_path):
    (tmp_path / "jobs").touch()
    with pytest.raises(StoreError, match="jobs is in the way"):
        hold_lock(tmp_path / "jobs" / "1.lock")


def test_a_lock_tells_whether_the_machine_was_started_since_it_was_taken(tmp_path, monkeypatch):
    path, boot = tmp_path / "1.lock", tmp_path / "boot_id"
    monkeypatch.setattr(local_runner, "_BOOT_ID", boot)
    assert machine_restarted(path) is None
    hold_lock(path).close()
    assert machine_restarted(path) is None
    for number in (1, 2):
        boot.write_text(f"start {number}\n")
        if number == 2:
            assert machine_restarted(path) is True
        hold_lock(path).close()
        assert machine_restarted(path) is False


def test_a_lock_that_is_held_says_by_which_process(tmp_path):
    path = tmp_path / "1.lock"
    assert lock_holder(path) is None
    with hold_lock(path):
        assert lock_holder(path) == os.getpid()
    assert lock_holder(path) is None
