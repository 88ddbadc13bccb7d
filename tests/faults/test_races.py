"""Two of everything at the same time: servers, workers, visitors."""

import pytest

from tests.faults.server_process import eventually

pytestmark = pytest.mark.faults


def test_two_servers_run_every_job_once_and_one_at_a_time(house):
    jobs = [house.submit(f"quick-{n}") for n in range(6)]
    for _ in range(2):
        house.start_server()
    eventually(lambda: all(house.table.get(job.id).state == "done" for job in jobs))
    begun = [key for key, _ in house.ledger()]
    assert begun == [job.key for job in jobs]
    assert len({pid for _, pid in house.ledger()}) == 1


def test_a_slot_has_room_for_one_worker(house):
    house.tend_until_state(house.submit("quick"), "done")
    second = house.start_worker(0)
    assert second.wait(timeout=60) == 0
    assert len(house.ledger()) == 1
