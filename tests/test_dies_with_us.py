"""Servers that tests start end with the tests, however those end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import dies_with_us
from tests.faults.house import eventually

ROOT = Path(__file__).parents[1]
STARTER = """
import sys, time
from tests import dies_with_us
child = dies_with_us.start(["-c", "import time; print('up', flush=True); time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own way")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_test_started_ends_when_the_test_is_killed(number):
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        said = {starter.stdout.readline().strip() for _ in range(2)}
        (pid,) = (int(line) for line in said - {"up"})
        assert psutil.pid_exists(pid)
        os.kill(starter.pid, number)
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_what_does_not_end_when_asked_is_ended():
    hear = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    deaf = dies_with_us.start(["-c", hear], stdout=subprocess.PIPE)
    assert deaf.stdout.readline() == b"deaf\n"
    dies_with_us.end(deaf, within_s=0.2)
    assert deaf.returncode == -signal.SIGKILL
    deaf.stdout.close()
