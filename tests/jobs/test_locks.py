"""A lock is held by a living process or by nobody."""

import subprocess
import sys
import threading

from sparsedash.jobs.locks import hold, is_held


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
