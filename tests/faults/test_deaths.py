"""Whatever dies, the table says so, in words, and a retry goes on."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from sparsedash.jobs.lock_files import cluster_lock, hold_lock, is_lock_held, slot_lock
from sparsedash.schema.settings import RunSettings
from tests.faults.server_process import eventually

pytestmark = pytest.mark.faults

N_SERVERS_KILLED = 20


def test_a_killed_job_is_crashed_for_want_of_memory_and_a_retry_finishes_it(house):
    job = house.at_work("steady")
    second = house.submit("quick")
    os.kill(job.pid, signal.SIGKILL)
    crashed = house.tend_until_state(job, "crashed")
    assert "most often because memory ran out" in crashed.error_text
    assert "“Resume”" in crashed.error_advice
    house.tend_until(lambda: not psutil.pid_exists(job.pid))
    assert house.tend_until_state(second, "done").pid != job.pid

    house.release()
    house.table.retry(job.id)
    done = house.tend_until_state(job, "done")
    assert (done.attempt, done.error_text) == (2, "")
    assert "attempt 2" in house.log(job)


AT_OTHERS = (0.0, 0.05, 0.2, 0.3, 0.5)


@pytest.mark.parametrize(
    "delay_s",
    [0.1, *(pytest.param(delay, marks=pytest.mark.long) for delay in AT_OTHERS)],
)
def test_a_worker_killed_at_any_moment_leaves_a_job_that_ends(house, delay_s):
    job = house.submit("quick")
    house.runner.reconcile()
    time.sleep(delay_s)
    for child in house.runner._children.values():
        child.kill()
    if house.tend_until_state(job, "done", "crashed").state == "crashed":
        house.table.retry(job.id)
        house.tend_until_state(job, "done")


@pytest.mark.parametrize(
    ("model", "state", "text", "advice", "logged", "stays"),
    [
        (
            "segfault",
            "crashed",
            "segmentation fault",
            "",
            "Fatal Python error: Segmentation fault",
            False,
        ),
        (
            "quits",
            "crashed",
            "exit code 3",
            "out of patience",
            "out of patience",
            False,
        ),
        (
            "broken",
            "failed",
            "ValueError: a tensor of shape (3, 4)",
            "",
            "Traceback",
            False,
        ),
        (
            "unfindable",
            "failed",
            "There is no such model.",
            "Check the spelling.",
            "",
            True,
        ),
        ("hungry", "failed", "Memory ran out.", "", "", False),
    ],
)
def test_what_ends_a_job_is_one_line_for_the_page_and_all_of_it_in_the_log(
    house, model, state, text, advice, logged, stays
):
    ended = house.tend_until_state(house.submit(model), state)
    assert text in ended.error_text and "\n" not in ended.error_text
    assert advice in ended.error_advice
    assert logged in house.log(ended)
    assert (
        house.tend_until_state(house.submit("quick"), "done").pid == ended.pid
    ) == stays


def test_a_shutdown_is_not_taken_for_a_crash(house):
    job = house.at_work("deaf", "prune")
    os.kill(job.pid, signal.SIGTERM)
    stopped = house.tend_until_state(job, "cancelled")
    assert "shutdown" in stopped.error_text
    house.tend_until(lambda: not psutil.pid_exists(job.pid))


def test_a_worker_that_cannot_start_is_given_up_with_its_last_words(house):
    words = "No module named sparsedash"
    house.runner = house.new_runner(
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys, os; os.write(2, b'{words}\\n'); sys.exit(1)",
        ]
    )
    jobs = [house.submit("quick-1"), house.submit("quick-2")]
    for job in jobs:
        crashed = house.tend_until_state(job, "crashed")
        assert "3 times in a row" in crashed.error_text
        assert words in crashed.error_text
    assert (house.folder / "logs/slot-0.log").read_text().count(words) == 6
    house.runner = house.new_runner(["/no/such/python"])
    assert (
        "No such file"
        in house.tend_until_state(house.submit("quick-3"), "crashed").error_text
    )


def test_a_worker_that_hangs_at_its_start_is_ended_and_given_up(house):
    hang = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    house.runner = house.new_runner(hang, start_within_s=0.05)
    crashed = house.tend_until_state(house.submit("quick"), "crashed")
    assert "3 times in a row" in crashed.error_text
    house.tend_until(
        lambda: all(
            child.returncode is not None for child in house.runner._children.values()
        )
    )


def test_a_worker_that_hangs_at_its_end_does_not_hold_up_the_next_job(
    house, monkeypatch
):
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "0")
    monkeypatch.setenv("FAKE_WORKER_HANGS_AT_ITS_END", "1")
    first = house.tend_until_state(house.submit("quick-1"), "done")
    house.tend_until(lambda: not is_lock_held(slot_lock(house.folder, 0)))
    house.runner._start_within_s = 0.0
    house.tend_until(lambda: not psutil.pid_exists(first.pid))
    house.runner._start_within_s = 60.0
    second = house.tend_until_state(house.submit("quick-2"), "done")
    assert second.pid != first.pid


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(house):
    job = house.submit("steady")
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as innocent:
        house.table.claim(job.id, "slot-0", innocent.pid)
        house.table.request_cancel(job.id)
        house.runner = house.new_runner(term_after_s=0.0, kill_after_s=0.0)
        assert house.tend_until_state(job, "cancelled").pid == innocent.pid
        assert innocent.poll() is None
        innocent.kill()


def served(house):
    """A server that is at work on a job."""
    server = house.start_server()
    job = house.submit("steady")
    eventually(lambda: house.table.get(job.id).progress.stage == "calibrate")
    return server, job


def test_a_job_outlives_its_server_and_the_next_server_finds_it(house):
    server, job = served(house)
    server.kill()
    server.wait()

    before = house.table.get(job.id)
    house.tend_until(
        lambda: house.table.get(job.id).progress.done > before.progress.done + 10
    )
    house.release()
    assert house.tend_until_state(job, "done").pid == before.pid
    assert len(house.ledger()) == 1


def test_when_server_and_worker_die_together_the_next_server_says_so(house):
    server, job = served(house)
    for process in (server.pid, house.table.get(job.id).pid):
        os.kill(process, signal.SIGKILL)
    server.wait()
    assert "worker process died" in house.tend_until_state(job, "crashed").error_text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_shares_no_session_or_file_with_the_server_and_offers_itself_when_memory_runs_out(
    house,
):
    (house.folder / "held-by-the-server").touch()
    with (house.folder / "held-by-the-server").open() as open_file:
        os.set_inheritable(open_file.fileno(), True)
        job = house.at_work("steady")
    assert os.getsid(job.pid) == job.pid
    files = {
        fd.name: str(fd.readlink()) for fd in Path(f"/proc/{job.pid}/fd").iterdir()
    }
    assert files["0"] == "/dev/null"
    assert files["1"] == files["2"] == job.log_path
    assert not any("held-by-the-server" in name for name in files.values())
    assert int(Path(f"/proc/{job.pid}/oom_score_adj").read_text()) == 800


def test_a_bound_worker_ends_with_whoever_started_it(house):
    bound = house.new_runner(bound=True)
    job = house.submit("deaf")
    bound.reconcile()
    eventually(lambda: house.table.get(job.id).progress.stage == "prune")
    child = psutil.Process(house.table.get(job.id).pid)
    bound.close()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_runs_that_a_cluster_takes_are_left_to_it_and_those_that_nobody_tells_of_any_more_say_so(
    house,
):
    with hold_lock(cluster_lock(house.folder)):
        run = house.submit("quick")
        healed = RunSettings(model="fake/quick").healed(8)
        local_jobs = (
            house.table.submit("run", "healed", asdict(healed)),
            house.table.submit("continuation", "a prompt", {}),
        )
        for job in local_jobs:
            house.tend_until_state(job, "done")
        assert house.table.get(run.id).state == "queued"
    house.table.claim(run.id, "cluster", 0)
    assert "It ran on a cluster" in house.tend_until_state(run, "crashed").error_text


@pytest.mark.long
@pytest.mark.parametrize("both", [False, True])
def test_a_server_killed_at_any_moment_leaves_jobs_that_the_next_one_brings_to_their_end(
    house, both, monkeypatch
):
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "0")
    moments = random.Random(int(both))
    ended = Counter()
    for number in range(N_SERVERS_KILLED):
        (house.folder / "release").unlink(missing_ok=True)
        job = house.submit(f"steady-{number}")
        server = house.start_server()
        time.sleep(2.0 * moments.random())
        server.kill()
        server.wait()
        if both:
            house.kill_all()
        house.release()
        state = house.tend_until_state(job, "done", "crashed").state
        ended[state] += 1
        if state == "crashed":
            assert both
            house.table.retry(job.id)
            house.tend_until_state(job, "done")
    victims = "server and worker" if both else "server"
    print(f"\n{victims} killed {N_SERVERS_KILLED} times: {dict(ended)}")
