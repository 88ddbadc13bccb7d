"""What the job table promises."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.progress import STARTING, Step
from sparsedash.schema.settings import RunSettings, settings_from_plain


@pytest.fixture
def table(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    yield table
    table.close()


def submitted(table, key="a", kind="run"):
    return table.submit(kind, key, {"model": "m"})


def running(table, key="a", pid=1):
    return table.claim(submitted(table, key).id, "slot-0", pid)


def report(table, job, rate=2.0):
    table.report(job, Step("evaluate", 3, 9, unit="passages", message="dense", point=1, rate=rate))


def test_the_same_request_is_one_job_while_it_is_live_and_a_new_one_afterwards(table):
    first = submitted(table)
    assert submitted(table) == first
    job = table.claim(first.id, "slot-0", 1)
    assert submitted(table).id == first.id
    table.end(job, "done")
    newest = submitted(table)
    assert newest.id != first.id and table.newest("a") == newest


def at_once(path, work):
    """Eight processes' worth of tables, each at the same moment."""
    start = threading.Barrier(8)

    def one(n):
        own = JobTable(path)
        start.wait()
        done = work(own, n)
        own.close()
        return done

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(8)))


def test_of_many_at_once_all_get_one_job_and_one_claims_it(tmp_path, table):
    path = tmp_path / "jobs.sqlite"
    assert {job.id for job in at_once(path, lambda own, n: own.submit("run", "the same", {}))} == {1}
    winners = list(filter(None, at_once(path, lambda own, n: own.claim(1, f"slot-{n}", n))))
    assert [table.get(1)] == winners


def test_settings_come_back_as_they_went_in(table):
    settings = RunSettings(sparsities_permille=(125, 300))
    job = table.submit("run", settings.key(), asdict(settings))
    assert settings_from_plain(RunSettings, job.settings) == settings


def test_the_queue_is_first_come_first_served_with_prompts_before_all_that_takes_minutes(table):
    long = [submitted(table, kind, kind) for kind in ("run", "timing", "find", "export")]
    prompt = submitted(table, "d", "continuation")
    assert [job.id for job in table.queue()] == [prompt.id, *(job.id for job in long)]
    assert [table.position(job.id) for job in (prompt, *long)] == [1, 2, 3, 4, 5]
    assert [job.makes_run for job in (prompt, *long)] == [False, True, False, True, False]


def test_a_retried_job_queues_at_the_end(table):
    job = running(table)
    other = submitted(table, "b")
    table.end(job, "failed", "text", "advice")
    table.retry(job.id)
    assert [queued.id for queued in table.queue()] == [other.id, job.id]


def test_a_report_is_seen_with_the_time_that_remains(table):
    job = running(table)
    report(table, job)
    seen = table.get(job.id).progress
    assert (seen.stage, seen.done, seen.total, seen.unit, seen.point) == ("evaluate", 3, 9, "passages", 1)
    assert (seen.rest_s, table.position(job.id)) == (3.0, None)
    report(table, job, rate=None)
    assert table.get(job.id).progress.rest_s is None


def test_a_queued_job_is_cancelled_at_once(table):
    job = table.request_cancel(submitted(table).id)
    assert job.state == "cancelled"
    assert job.error_text == "Cancelled before it started."
    assert table.claim(job.id, "slot-0", 1) is None


def test_a_running_job_is_asked_once_to_stop(table):
    job = running(table)
    assert table.wanted(job)
    asked = table.request_cancel(job.id)
    assert asked.state == "running"
    assert not table.wanted(job)
    assert table.request_cancel(job.id).cancel_requested_at == asked.cancel_requested_at


def test_a_cancel_that_comes_too_late_changes_nothing(table):
    job = running(table)
    table.end(job, "done")
    done = table.get(job.id)
    assert table.request_cancel(job.id) == done
    assert done.state == "done"


@pytest.mark.parametrize("late", ["done", "failed", "cancelled", "crashed", "report"])
def test_an_earlier_attempt_cannot_touch_the_present_one(table, late):
    job = running(table)
    table.end(job, "crashed", "text", "advice")
    table.retry(job.id)
    present = table.claim(job.id, "slot-1", 2)
    if late == "report":
        report(table, job)
    else:
        assert not table.end(job, late)
    assert table.get(job.id) == present
    assert not table.wanted(job)


def test_what_ended_cannot_end_again_and_a_claimed_job_is_not_given_up_as_one_that_never_started(table):
    queued = submitted(table)
    job = table.claim(queued.id, "slot-0", 1)
    assert not table.end(queued, "crashed", "no worker", "advice")
    assert table.end(job, "done")
    assert not table.end(job, "crashed", "text", "advice")
    assert table.get(job.id).state == "done"


def test_a_retry_begins_with_a_clean_row(table):
    job = running(table)
    report(table, job)
    table.end(job, "crashed", "text", "advice", exit_code=-9)
    again = table.retry(job.id)
    assert (again.id, again.state, again.attempt) == (job.id, "queued", 2)
    assert (again.progress, again.error_text, again.exit_code) == (STARTING, "", None)
    assert (again.pid, again.started_at, again.worker, again.place) == (None, None, "", None)


def test_a_retry_joins_the_live_job_with_the_same_request_and_a_done_job_is_not_retried(table):
    first = running(table)
    table.end(first, "failed", "text", "advice")
    second = submitted(table)
    assert table.retry(first.id) == second
    table.end(table.claim(second.id, "slot-0", 1), "done")
    assert table.retry(first.id) == table.retry(first.id)
    with pytest.raises(JobError, match="done"):
        table.retry(second.id)


def test_a_signal_is_only_sent_while_the_attempt_runs_and_an_error_in_it_changes_nothing(table):
    job = running(table)
    sent = []
    table.while_running(job, lambda: sent.append("now"))
    with pytest.raises(RuntimeError):
        table.while_running(job, lambda: (_ for _ in ()).throw(RuntimeError))
    assert table.end(job, "done")
    table.while_running(job, lambda: sent.append("too late"))
    assert sent == ["now"]


def test_nobody_ends_a_job_while_it_is_signalled(tmp_path, table):
    job = running(table)
    other = JobTable(tmp_path / "jobs.sqlite")
    ended = threading.Thread(target=other.end, args=(job, "done"))

    def signal():
        ended.start()
        ended.join(timeout=0.2)
        assert ended.is_alive()

    table.while_running(job, signal)
    ended.join()
    other.close()
    assert table.get(job.id).state == "done"


def test_jobs_are_listed_newest_first_and_kept_over_a_restart(tmp_path, table):
    assert table.newest("a") is None
    jobs = [submitted(table, key) for key in "abc"]
    again = JobTable(tmp_path / "jobs.sqlite")
    assert again.list(2) == (jobs[2], jobs[1])
    assert (again.newest("a"), again.count()) == (jobs[0], 3)
    again.close()


@pytest.mark.parametrize("number", [7, 0, -1, 2**63, -(2**70)])
def test_a_job_that_is_not_there_is_a_clear_error(table, number):
    moves = (lambda job: table.move(job, "up"), lambda job: table.prioritise(job, "low"))
    for verb in (table.get, table.retry, table.request_cancel, *moves):
        with pytest.raises(JobError, match=f"There is no job {number}"):
            verb(number)


def test_a_damaged_file_is_reported_and_left_alone(tmp_path):
    path = tmp_path / "damaged.sqlite"
    path.write_bytes(b"not a database, but a letter from home" * 100)
    with pytest.raises(StoreError, match="move it away"):
        JobTable(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_row_that_cannot_be_read_is_a_store_error_with_advice(table):
    table._database._db.execute("UPDATE jobs SET settings = '{' WHERE id = ?", (submitted(table).id,))
    with pytest.raises(StoreError, match=r"jobs.sqlite is damaged: job 1 .* move it away"):
        table.list(9)


def test_a_folder_that_is_not_there_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="cannot be used"):
        JobTable(tmp_path / "nowhere" / "jobs.sqlite")


def test_settings_that_are_not_plain_are_refused(table):
    with pytest.raises(TypeError):
        table.submit("run", "a", {"model": object()})
    assert table.list(10) == ()


def test_a_waiting_job_is_moved_up_down_and_to_the_front(table):
    a, b, c = (submitted(table, key).id for key in "abc")
    for job, to, order in (
        (c, "up", [a, c, b]),
        (a, "down", [c, a, b]),
        (b, "front", [b, c, a]),
        (b, "up", [b, c, a]),
        (a, "down", [b, c, a]),
    ):
        assert table.move(job, to).id == job
        assert [waiting.id for waiting in table.queue()] == order


def test_a_run_stands_before_a_prompt_only_where_it_was_put_there(table):
    first, second = (submitted(table, key).id for key in "ab")
    prompt = submitted(table, "c", "continuation").id
    table.move(second, "up")
    later = submitted(table, "d", "divergence").id
    assert [job.id for job in table.queue()] == [prompt, later, second, first]
    table.move(second, "front")
    last, latest = submitted(table, "e", "continuation").id, submitted(table, "f").id
    assert [job.id for job in table.queue()] == [second, prompt, later, last, first, latest]


def test_a_job_that_is_tried_again_forgets_where_it_was_put(table):
    first, second = submitted(table, "a"), submitted(table, "b")
    table.move(second.id, "front")
    claimed = table.claim(second.id, "slot-0", 1)
    table.end(claimed, "failed", "text", "advice")
    table.retry(second.id)
    assert [job.id for job in table.queue()] == [first.id, second.id]


def test_only_a_waiting_job_can_be_moved(table):
    job, other = running(table), submitted(table, "b")
    with pytest.raises(JobError, match="is running and cannot be moved"):
        table.move(job.id, "front")
    assert table.get(job.id) == job
    assert table.queue() == (other,)


def test_moves_by_many_processes_at_once_lose_no_job_and_no_order(tmp_path, table):
    ids = [submitted(table, key).id for key in "abcdefgh"]
    at_once(tmp_path / "jobs.sqlite", lambda own, n: [own.move(ids[n], to) for to in ("up", "front", "down")])
    queue = table.queue()
    assert sorted(job.id for job in queue) == ids
    assert len({job.place for job in queue}) == 8


def test_urgent_runs_go_first_and_those_that_can_wait_last_whoever_comes_later(table):
    a, b, c = (submitted(table, key).id for key in "abc")
    prompt = submitted(table, "d", "continuation").id
    assert table.prioritise(c, "high").priority == "high"
    table.prioritise(a, "low")
    later = submitted(table, "e").id
    assert [job.id for job in table.queue()] == [c, prompt, b, later, a]
    table.prioritise(later, "high")
    assert [job.id for job in table.queue()] == [c, later, prompt, b, a]
    table.prioritise(c, "normal")
    assert [job.id for job in table.queue()] == [later, prompt, b, c, a]


def test_a_move_leads_past_jobs_of_the_same_priority_only(table):
    a, b, c, d = (submitted(table, key).id for key in "abcd")
    for urgent in (a, b):
        table.prioritise(urgent, "high")
    table.move(b, "up")
    table.move(d, "front")
    assert [job.id for job in table.queue()] == [b, a, d, c]
    table.move(a, "down")
    assert [job.id for job in table.queue()] == [b, a, d, c]
    assert table.get(c).place is not None


def test_only_a_waiting_run_has_a_priority_that_can_be_changed(table):
    job, prompt = running(table), submitted(table, "b", "divergence")
    with pytest.raises(JobError, match="is running and cannot be made more or less urgent"):
        table.prioritise(job.id, "high")
    with pytest.raises(JobError, match="is a prompt"):
        table.prioritise(prompt.id, "low")
    assert {each.priority for each in table.list(9)} == {"normal"}


def test_a_run_that_is_tried_again_is_as_urgent_as_before(table):
    job = submitted(table)
    table.prioritise(job.id, "high")
    table.end(table.claim(job.id, "slot-0", 1), "failed", "text", "advice")
    assert table.retry(job.id).priority == "high"


def test_a_job_is_whose_who_started_it_and_its_result_all_theirs_who_asked(table):
    first = table.submit("run", "k", {}, "ada")
    second = table.submit("run", "k", {}, "bob")
    assert first.id == second.id
    assert second.owner == "ada"
    assert table.owners.of("k") == {"ada", "bob"}
    assert table.owners.things("bob") == {"k"}


def test_without_a_name_a_thing_is_nobody_s(table):
    assert table.submit("run", "k", {}).owner == ""
    assert table.owners.of("k") == frozenset()
    assert table.owners.things("") == frozenset()


def test_what_one_gives_up_stays_the_others(table):
    for name in ("ada", "bob"):
        table.owners.add("k", name)
    assert table.owners.take("k", "ada")
    assert table.owners.of("k") == {"bob"}
    assert not table.owners.take("k", "bob")
    table.owners.add("k", "ada")
    table.owners.forget("k")
    assert table.owners.of("k") == frozenset()


def test_one_job_too_many_is_refused_and_leaves_nothing(table):
    for key in ("a", "b"):
        table.submit("run", key, {}, "ada", 2)
    with pytest.raises(JobError, match="You have 2 jobs"):
        table.submit("run", "c", {}, "ada", 2)
    assert table.owners.things("ada") == {"a", "b"}
    assert table.submit("run", "a", {}, "ada", 2).id == 1, "the same again is no further job"
    assert table.submit("run", "c", {}, "bob", 2).id == 3


def test_who_tries_a_job_again_starts_it_and_their_quota_counts(table):
    job = table.submit("run", "a", {}, "ada", 1)
    table.request_cancel(job.id)
    assert table.retry(job.id, "bob", 1).owner == "bob"
    other = table.submit("run", "b", {}, "ada", 1)
    table.request_cancel(other.id)
    with pytest.raises(JobError, match="You have 1 jobs"):
        table.retry(other.id, "bob", 1)


def test_the_list_of_one_owner_holds_what_they_asked_for(table):
    for key, name in (("a", "ada"), ("b", "bob"), ("c", "ada"), ("b", "ada")):
        table.submit("run", key, {}, name)
    assert [job.key for job in table.list(9, "ada")] == ["c", "b", "a"]
    assert [job.key for job in table.list(9, "bob")] == ["b"]
    assert [job.key for job in table.list(9)] == ["c", "b", "a"]
