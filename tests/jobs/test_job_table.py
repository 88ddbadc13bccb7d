"""What the job table promises."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.progress import STARTING, Step


def submitted(table, key="a", kind="run"):
    return table.submit(kind, key, {"model": "m"})


def running(table, key="a", pid=1):
    return table.claim(submitted(table, key).id, "slot-0", pid)


def order(table):
    return [job.id for job in table.queue()]


REPORTED = Step(
    "evaluate",
    3,
    9,
    unit="passages",
    message="dense",
    point=1,
    rate=2.0,
    texts=("\x1e“a”", ""),
)


def test_the_same_request_is_one_job_while_it_is_live_and_a_new_one_afterwards(
    table, tmp_path
):
    assert table.newest("a") is None
    first = submitted(table)
    assert submitted(table) == first
    job = table.claim(first.id, "slot-0", 1)
    assert submitted(table).id == first.id
    assert not table.end(first, "crashed", "no worker"), (
        "it is claimed, and not given up as one that never started"
    )
    assert table.end(job, "done")
    assert not table.end(job, "crashed")
    newest = submitted(table)
    assert newest.id != first.id and table.newest("a") == newest
    with pytest.raises(JobError, match="done"):
        table.retry(first.id)
    table.end(table.claim(newest.id, "slot-0", 1), "failed")
    again = submitted(table)
    assert table.retry(newest.id) == again
    reopened = JobTable(tmp_path / "jobs.sqlite")
    assert [job.id for job in reopened.newest_jobs(2)] == [again.id, newest.id]
    reopened.close()


def test_a_live_job_is_listed_and_newest_however_many_were_submitted_since(table):
    first = submitted(table)
    table.end(table.claim(first.id, "slot-0", 1), "failed")
    table.end(table.claim(submitted(table).id, "slot-0", 1), "failed")
    others = [submitted(table, key) for key in "bc"]
    for peer in others:
        table.end(table.claim(peer.id, "slot-0", 1), "done")
    assert table.retry(first.id).id == first.id
    assert [job.id for job in table.newest_jobs(1)] == [others[1].id, first.id]
    assert table.newest("a").id == first.id


def at_once(path, work):
    """Eight processes' worth of tables, each at the same moment."""
    start = threading.Barrier(8)

    def one(n):
        second_table = JobTable(path)
        start.wait()
        done = work(second_table, n)
        second_table.close()
        return done

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(8)))


def test_of_many_at_once_all_get_one_job_one_claims_it_and_moves_lose_no_order(
    tmp_path,
):
    path = tmp_path / "jobs.sqlite"
    assert {
        job.id
        for job in at_once(path, lambda own, n: own.submit("run", "the same", {}))
    } == {1}
    winners = list(
        filter(None, at_once(path, lambda own, n: own.claim(1, f"slot-{n}", n)))
    )
    table = JobTable(path)
    assert [table.get(1)] == winners
    ids = [submitted(table, key).id for key in "abcdefgh"]
    at_once(
        path, lambda own, n: [own.move(ids[n], to) for to in ("up", "front", "down")]
    )
    assert (
        sorted(order(table)) == ids and len({job.place for job in table.queue()}) == 8
    )
    table.close()


def test_a_run_that_heals_or_quantises_stays_on_the_server(table):
    job = submitted(table, "run", "run")
    plain = {"heal_steps": [0], "quantise": []}
    for change, may in (
        ({}, True),
        ({"heal_steps": [0, 8]}, False),
        ({"quantise": ["q8_0"]}, False),
    ):
        assert replace(job, settings=plain | change).may_spread == may
    for n_steps, may in ((0, True), (8, False)):
        assert (
            replace(job, kind="find", settings={"heal_steps": n_steps}).may_spread
            == may
        )


def test_the_queue_is_first_come_first_served_with_prompts_before_all_that_takes_minutes(
    table,
):
    long = [
        submitted(table, kind, kind) for kind in ("run", "timing", "find", "export")
    ]
    prompt = submitted(table, "d", "continuation")
    assert order(table) == [prompt.id, *(job.id for job in long)]
    assert [table.position(job.id) for job in (prompt, *long)] == [1, 2, 3, 4, 5]
    assert [job.makes_run for job in (prompt, *long)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    job = table.claim(long[0].id, "slot-0", 1)
    table.report(job, REPORTED)
    seen = table.get(job.id).progress
    assert (seen, seen.remaining_s, seen.share, table.position(job.id)) == (
        REPORTED,
        3.0,
        1 / 3,
        None,
    )
    for refused, message in (
        (lambda: table.move(job.id, "front"), "is running and cannot be moved"),
        (
            lambda: table.prioritise(job.id, "high"),
            "is running and cannot be given a priority",
        ),
        (lambda: table.prioritise(prompt.id, "low"), "is a prompt"),
    ):
        with pytest.raises(JobError, match=message):
            refused()


def test_a_request_to_cancel_ends_a_queued_job_asks_a_running_one_once_and_comes_too_late_for_others(
    table,
):
    queued = table.request_cancel(submitted(table).id)
    assert (queued.state, queued.error_text) == (
        "cancelled",
        "Cancelled before it started.",
    )
    assert table.claim(queued.id, "slot-0", 1) is None
    job = running(table)
    assert table.wanted(job)
    cancelled = table.request_cancel(job.id)
    assert (cancelled.state, cancelled.stopping, table.wanted(job)) == (
        "running",
        True,
        False,
    )
    assert (
        table.request_cancel(job.id).cancel_requested_at
        == cancelled.cancel_requested_at
    )
    table.end(job, "done")
    assert (
        table.request_cancel(job.id) == table.get(job.id)
        and table.get(job.id).state == "done"
    )


def test_an_earlier_attempt_cannot_touch_the_present_one(table):
    job = running(table)
    table.end(job, "failed", "text", "advice")
    table.retry(job.id)
    present = table.claim(job.id, "slot-1", 2)
    table.report(job, REPORTED)
    assert not table.end(job, "done")
    assert table.get(job.id) == present
    assert not table.wanted(job)


def test_a_retry_is_a_clean_row_at_the_end_of_the_queue_as_urgent_as_before(table):
    queued = submitted(table)
    table.prioritise(queued.id, "high")
    table.move(queued.id, "front")
    job = table.claim(queued.id, "slot-0", 7)
    peer = submitted(table, "b")
    table.prioritise(peer.id, "high")
    table.report(job, REPORTED)
    table.end(job, "failed", "text", "advice")
    took_s = table.get(job.id).took_s
    again = table.retry(job.id)
    assert (again.id, again.state, again.attempt, again.priority) == (
        job.id,
        "queued",
        2,
        "high",
    )
    assert (again.progress, again.error_text) == (STARTING, "")
    assert (again.pid, again.started_at, again.worker, again.place) == (
        None,
        None,
        "",
        None,
    )
    assert (again.took_s, again.all_s) == (None, took_s) and took_s > 0
    assert order(table) == [peer.id, job.id]
    table.request_cancel(again.id)
    # Asked for anew, it is the next attempt as well, until one is done.
    anew = submitted(table)
    assert (anew.id != job.id, anew.attempt, anew.earlier_s) == (True, 3, took_s)
    table.end(table.claim(anew.id, "slot-0", 7), "done")
    assert (submitted(table).attempt, submitted(table).earlier_s) == (1, 0.0)


def test_a_signal_is_only_sent_while_the_attempt_runs_and_an_error_in_it_changes_nothing(
    table,
):
    job = running(table)
    sent = []
    table.while_running(job, lambda: sent.append("now"))
    with pytest.raises(RuntimeError):
        table.while_running(job, lambda: (_ for _ in ()).throw(RuntimeError))
    assert table.end(job, "done")
    table.while_running(job, lambda: sent.append("too late"))
    assert sent == ["now"]


@pytest.mark.parametrize("number", [7, 0, -1, 2**63])
def test_a_job_that_is_not_there_is_a_clear_error(table, number):
    moves = (
        lambda job: table.move(job, "up"),
        lambda job: table.prioritise(job, "low"),
    )
    for verb in (table.get, table.retry, table.request_cancel, *moves):
        with pytest.raises(JobError, match=f"There is no job {number}"):
            verb(number)


def test_a_file_that_cannot_be_used_is_reported_and_left_alone(tmp_path, table):
    path = tmp_path / "damaged.sqlite"
    path.write_bytes(b"not a database, but a letter from home" * 100)
    with pytest.raises(StoreError, match="move it and the folder logs away"):
        JobTable(path)
    assert path.read_bytes().startswith(b"not a database")
    with pytest.raises(StoreError, match="cannot be used"):
        JobTable(tmp_path / "nowhere" / "jobs.sqlite")
    table._database._db.execute(
        "UPDATE jobs SET settings = '{' WHERE id = ?", (submitted(table).id,)
    )
    with pytest.raises(
        StoreError, match=r"jobs.sqlite is damaged: job 1 .* move it and the folder"
    ):
        table.newest_jobs(9)


def test_a_run_stands_before_a_prompt_only_where_it_was_put_there(table):
    first, second = (submitted(table, key).id for key in "ab")
    prompt = submitted(table, "c", "continuation").id
    table.move(second, "up")
    later = submitted(table, "d", "divergence").id
    assert order(table) == [prompt, later, second, first]
    table.move(second, "front")
    last = submitted(table, "e", "continuation").id
    latest = submitted(table, "f").id
    assert order(table) == [second, prompt, later, last, first, latest]


def test_a_waiting_job_is_moved_up_down_and_to_the_front(table):
    a, b, c = (submitted(table, key).id for key in "abc")
    moves = (
        (c, "up", [a, c, b]),
        (a, "down", [c, a, b]),
        (b, "front", [b, c, a]),
        (b, "up", [b, c, a]),
    )
    for job, to, expected in (*moves, (a, "down", [b, c, a])):
        assert table.move(job, to).id == job
        assert order(table) == expected


def test_urgent_runs_go_first_those_that_can_wait_last_and_a_move_leads_past_the_same_priority_only(
    table,
):
    a, b, c = (submitted(table, key).id for key in "abc")
    prompt = submitted(table, "d", "continuation").id
    assert table.prioritise(c, "high").priority == "high"
    table.prioritise(a, "low")
    later = submitted(table, "e").id
    assert order(table) == [c, prompt, b, later, a]
    table.prioritise(later, "high")
    assert order(table) == [c, later, prompt, b, a]
    table.move(later, "front")
    table.move(a, "front")
    assert order(table) == [later, c, prompt, b, a]
    table.move(c, "down")
    assert order(table) == [later, c, prompt, b, a]
    table.prioritise(c, "normal")
    assert order(table) == [later, prompt, b, c, a]


def test_whoever_resumes_what_another_has_asked_for_meanwhile_may_see_that_job(table):
    first = table.submit("run", "k", {}, "ada")
    table.request_cancel(first.id)
    table.owners.take("k", "ada")
    again = table.submit("run", "k", {}, "bob")
    assert table.retry(first.id, "ada").id == again.id and table.owners.of("k") == {
        "ada",
        "bob",
    }


def test_a_job_is_whose_who_started_it_and_its_result_all_theirs_who_asked(table):
    first, second = (table.submit("run", "k", {}, name) for name in ("ada", "bob"))
    assert (first.id, second.owner) == (second.id, "ada")
    assert (table.owners.of("k"), table.owners.things("bob")) == ({"ada", "bob"}, {"k"})
    assert table.owners.take("k", "ada") and not table.owners.take("k", "bob")
    assert table.submit("run", "n", {}).owner == ""
    assert (table.owners.of("n"), table.owners.things("")) == (frozenset(), frozenset())
    table.owners.add("k", "ada")
    table.owners.forget("k")
    assert table.owners.of("k") == frozenset()
    table.submit("run", "b", {}, "bob")
    for name, keys in (("ada", ["k"]), ("bob", ["b"]), ("", ["b", "n", "k"])):
        assert [job.key for job in table.newest_jobs(9, name)] == keys


def test_one_job_too_many_is_refused_and_leaves_nothing(table):
    for key in ("a", "b"):
        table.submit("run", key, {}, "ada", 2)
    with pytest.raises(JobError, match="You have 2 jobs"):
        table.submit("run", "c", {}, "ada", 2)
    assert table.owners.things("ada") == {"a", "b"}
    assert table.submit("run", "a", {}, "ada", 2).id == 1, (
        "the same again is no further job"
    )
    table.request_cancel(1)
    assert table.retry(1, "bob", 1).owner == "bob", "who tries a job again starts it"
    table.request_cancel(2)
    with pytest.raises(JobError, match="You have 1 jobs"):
        table.retry(2, "bob", 1)
