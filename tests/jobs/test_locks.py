"""A lock is held by a living process or by nobody."""

import os
import subprocess
import sys
import threading

import pytest

from sparsedash.jobs import locks
from sparsedash.jobs.locks import hold, holder, is_held, outlived
from sparsedash.schema.errors import StoreError


def test_a_lock_has_one_holder(tmp_path):
    path = tmp_path / "jobs" / "1.lock"
    with hold(path):
        assert is_held(path)
        assert hold(path, wait_s=0.0) is None
    assert not is_held(path)


def test_a_lock_that_was_never_taken_is_free(tmp_path):
    assert not is_held(tmp_path / "1.lock")


def test_looking_does_not_keep_a_worker_out(tmp_path):
    path = tmp_path / "1.lock"
    hold(path).close()
    stop = threading.Event()

    def look():
        while not stop.is_set():
            is_held(path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            lock = hold(path, wait_s=30.0)
            assert lock is not None
            lock.close()
    finally:
        stop.set()
        looking.join()


def test_a_child_that_was_started_does_not_keep_the_lock(tmp_path):
    path = tmp_path / "1.lock"
    with hold(path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not is_held(path)
    child.communicate(b"\n")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_lock_file_is_named_and_not_waited_for(tmp_path, make):
    path = tmp_path / "1.lock"
    make(path)
    for look in (hold, is_held):
        with pytest.raises(StoreError, match=r"1\.lock is a .*: a file of this program belongs there"):
            look(path)


def test_a_file_where_the_folder_of_locks_belongs_is_named(tmp_path):
    (tmp_path / "jobs").touch()
    with pytest.raises(StoreError, match="jobs is in the way"):
        hold(tmp_path / "jobs" / "1.lock")


def test_a_lock_tells_whether_the_machine_was_started_since_it_was_taken(tmp_path, monkeypatch):
    path, boot = tmp_path / "1.lock", tmp_path / "boot_id"
    monkeypatch.setattr(locks, "_BOOT_ID", boot)
    assert outlived(path) is None
    hold(path).close()
    assert outlived(path) is None
    for number in (1, 2):
        boot.write_text(f"start {number}\n")
        if number == 2:
            assert outlived(path) is True
        hold(path).close()
        assert outlived(path) is False


def test_a_lock_that_is_held_says_by_which_process(tmp_path):
    path = tmp_path / "1.lock"
    assert holder(path) is None
    with hold(path):
        assert holder(path) == os.getpid()
    assert holder(path) is None
