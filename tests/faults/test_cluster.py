"""Whatever dies of a cluster, a job goes on or says why not; no record is kept twice, no child left
behind.
"""

import random
import time
from pathlib import Path

import pytest

from sparsedash.jobs.job import CLUSTER
from tests.dask_cluster import eventually
from tests.faults.cluster_process import ClusterHouse

pytestmark = pytest.mark.faults


@pytest.fixture
def house(tmp_path, monkeypatch):
    house = ClusterHouse(tmp_path)
    for name, value in house.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "300")
    yield house
    house.end()


def at_work(server, job):
    return [
        seen
        for seen in server.view().machines
        if seen.job_id == job.id and seen.progress is not None
    ]


def test_a_sweep_is_spread_says_how_far_it_is_and_who_is_at_work_and_stops_within_two_seconds(
    house,
):
    house.begin("ann", "ben")
    server = house.serve()
    job = house.submit("quick")
    done = house.until_state(job, "done", "failed", "crashed")
    assert (done.state, done.worker, done.error_text) == ("done", CLUSTER, ""), (
        house.log()
    )
    house.assert_whole(job)

    running = house.at_work("steady")
    assert (running.progress.total, running.progress.unit, running.progress.point) == (
        1_000_000,
        "tokens",
        0,
    )
    (seen,) = at_work(server, running)
    assert seen.progress.stage == "calibrate"
    assert seen.name in running.progress.message
    house.stopped_within(running, 2.0)


def test_a_machine_that_says_it_takes_nothing_is_given_no_part(house):
    (house.data_of("ann") / "jobs.sqlite").mkdir(parents=True)
    house.begin("ann", "ben")
    server = house.serve()

    def problems():
        return {
            machine.name: bool(machine.problem) for machine in server.view().machines
        }

    eventually(lambda: problems() == {"ann": True, "ben": False})
    jobs = [house.submit("quick", (point,)) for point in (100, 200, 300, 400)]
    ends = [house.until_state(job, "done", "failed", "crashed") for job in jobs]
    assert [end.error_text for end in ends] == [""] * len(jobs)


@pytest.mark.long
def test_what_goes_wrong_on_a_machine_is_told_with_its_name_and_the_machine_goes_on(
    house,
):
    house.begin("ann")
    house.serve()
    house.stopped_within(house.at_work("stubborn", "prune"), 3.0)
    eventually(lambda: not house.children_of("ann"))
    failed = house.until_state(house.submit("broken"), "failed")
    assert failed.error_text == "ann: ValueError: a tensor of shape (3, 4)"
    assert "Traceback" in Path(failed.log_path).read_text()
    job = house.at_work("steady")
    for child in house.children_of("ann"):
        child.kill()
    crashed = house.until_state(job, "crashed")
    assert crashed.error_text.startswith(
        "ann: Its worker process was killed (signal 9)"
    )
    house.until_state(house.submit("quick"), "done")


def test_a_killed_machine_is_named_and_trying_again_makes_only_what_is_missing(house):
    house.begin("ann", "ben")
    server = house.serve()
    points = tuple(range(50, 300, 50))
    job = house.submit("slower", points)
    house.until_made(job, 2)
    # In the first half of a part, of about three seconds: between two it would not be missed.
    eventually(
        lambda: any(
            0 < seen.progress.done < 50
            for seen in at_work(server, job)
            if seen.name == "ann"
        )
    )
    before = house.kept()
    house.kill_worker("ann")
    crashed = house.until_state(job, "crashed", "done")
    assert crashed.state == "crashed"
    assert crashed.error_text.startswith("ann: lost")
    eventually(lambda: not house.children_of("ann"), within_s=5)

    house.table.retry(job.id)
    house.until_state(job, "done", "failed", "crashed")
    house.assert_whole(job, len(points))
    assert before.keys() <= house.kept().keys()


@pytest.mark.long
def test_a_server_that_is_killed_leaves_a_job_that_the_next_one_brings_to_its_end(
    house,
):
    house.begin("ann", "ben")
    server = house.serve_apart()
    job = house.submit("slow")
    house.until_made(job, 2)
    server.kill()
    server.wait()
    assert house.table.get(job.id).state == "running"
    time.sleep(2)
    house.serve()
    done = house.until_state(job, "done", "failed", "crashed")
    assert (done.state, done.attempt) == ("done", 1), done.error_text
    house.assert_whole(job)


@pytest.mark.long
def test_a_scheduler_that_dies_ends_its_jobs_in_words_and_leaves_no_child(house):
    house.begin("ann")
    server = house.serve(grace_s=2.0)
    job = house.at_work("steady")
    house.scheduler.kill()
    house.scheduler.wait()
    crashed = house.until_state(job, "crashed")
    assert crashed.error_text.startswith("The scheduler does not answer.")
    assert house.address in server.view().trouble
    eventually(lambda: not house.children_of("ann"))
    assert not server.takes(house.submit("quick", (100,))), "runs are done here now"


def kill_at(house, moment_s):
    """A sweep during which one of two machines is killed at this moment, tried again until it is
    done.
    """
    house.start_worker("ann")
    eventually(lambda: len(house.server.view().machines) == 2)
    job = house.submit(f"slow-{moment_s}")
    time.sleep(moment_s)
    house.kill_worker("ann")
    state = house.until_state(job, "done", "crashed").state
    eventually(lambda: not house.children_of("ann"), within_s=5)
    if state == "crashed":
        house.table.retry(job.id)
        house.until_state(job, "done", "crashed", "failed")
    kept = house.kept()
    (house.data / "kept").unlink()
    assert (len(kept), set(kept.values())) == (7, {1})
    return state


@pytest.mark.long
def test_a_machine_killed_at_any_moment_leaves_a_job_that_ends_and_no_record_twice(
    house,
):
    house.begin("ben")
    house.serve()
    seeded = random.Random(10)
    ends = [kill_at(house, round(5 * seeded.random(), 2)) for _ in range(10)]
    print(
        f"\nkilled at 10 moments: {ends.count('crashed')} said crashed, {ends.count('done')} went on"
    )
