"""Who has asked for what."""

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import JobError


@pytest.fixture
def table(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    yield table
    table.close()


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
