"""One machine by itself, with a fake child; and a calibration fetched from one store to another."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import msgspec
import pytest

from sparsedash.jobs import cluster
from sparsedash.jobs.cluster_parts import (
    MachineFacts,
    Part,
    PartEnd,
    from_bytes,
    to_bytes,
)
from sparsedash.jobs.job import CLUSTER
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema import store_keys
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.plain_values import canonical_json
from sparsedash.schema.progress import STARTING
from sparsedash.schema.records import Record
from sparsedash.schema.settings import PartSettings, RunSettings
from sparsedash.schema.stage_versions import STAGE_VERSIONS
from sparsedash.service import cluster_machine, cluster_runner
from sparsedash.service.cluster_machine import (
    PartMachine,
    fetch_calibration,
    kept_calibration,
    perform_part,
)
from sparsedash.service.cluster_runner import ClusterRunner
from sparsedash.storage.run_files import read_run_file
from sparsedash.storage.serving import may_use_token
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import Uploads
from tests.faults.fake_worker import COMMAND


def part_of(behaviour, points=(0,)):
    run = RunSettings(model=f"fake/{behaviour}", sparsities_permille=(100, 200))
    request = PartSettings(run=run, run_key=run.key(), points=points)
    return Part(
        name="0",
        kind="part",
        key=request.key(),
        settings=json.loads(canonical_json(asdict(request))),
    )


@pytest.fixture
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_LINGER_S", "30")
    machine = PartMachine(tmp_path / "0", command=COMMAND)
    yield machine
    machine._runner.close()


def never():
    return False


def test_a_visitor_s_part_is_a_visitor_s_job_there_and_comes_back_as_the_file_of_a_run(
    alone,
):
    steps = []
    text = {"abc/mine.txt": b"the lamp and the boat"}
    part = from_bytes(
        Part, to_bytes(replace(part_of("quick", (1,)), owner="bob", texts=text))
    )
    table = JobTable(alone.folder / "jobs.sqlite")
    steady = part_of("steady")
    before = table.submit("part", steady.key, steady.settings)
    seen = set()

    def report(progress):
        steps.append(progress)
        seen.update(Uploads(alone.folder).kept())

    end = alone.do(part, "ann", report, never)
    assert (end.state, end.machine) == ("done", "ann")
    assert len(seen) == 1 and not Uploads(alone.folder).kept(), (
        "nobody could delete it there"
    )
    run = read_run_file(end.file).run
    assert (run.key, len(run.sparse)) == (part.key, 1)
    assert alone.store.get(Record, run.sparse[0]).sparsity_permille == 200
    assert {progress.machine for progress in steps} == {"ann"}
    newest, *_ = table.newest_jobs(9)
    assert (newest.owner, may_use_token(newest.owner)) == ("bob", False)
    assert table.get(before.id).state == "cancelled", (
        "what waited there before is not done first"
    )
    table.close()
    assert alone.do(steady, "ann", steps.append, lambda: True).state == "cancelled", (
        "nobody wants it any more"
    )


def test_a_part_that_could_not_be_followed_does_not_hold_up_the_next_one(
    alone, monkeypatch
):
    looks = iter(range(1_000_000))
    look = alone._table.get

    def failing(job_id):
        if next(looks) == 5:
            raise StoreError("locked")
        return look(job_id)

    monkeypatch.setattr(alone._table, "get", failing)
    with pytest.raises(StoreError, match="locked"):
        alone.do(part_of("steady"), "ann", lambda progress: None, never)
    assert (
        alone.do(part_of("quick"), "ann", lambda progress: None, never).state == "done"
    )


def test_a_part_that_another_server_begins_while_this_one_connects_goes_on(tmp_path):
    store = Store(tmp_path)
    table = JobTable(tmp_path / "jobs.sqlite")
    request = RunSettings()
    job = table.submit("run", request.key(), asdict(request))
    dropped = []

    def part_keys():
        return {f"{cluster_runner._attempt_name(table.claim(job.id, CLUSTER, 0))}/0"}

    there = SimpleNamespace(part_keys=part_keys, drop=dropped.append)
    scheduler = SimpleNamespace(address="tcp://there")
    runner = ClusterRunner(
        tmp_path,
        JobTable(tmp_path / "jobs.sqlite"),
        store,
        scheduler,
        connect=lambda *_: there,
    )
    assert runner._connect() and not dropped
    store.close()


def test_a_machine_with_other_stages_than_the_server_makes_nothing(alone, monkeypatch):
    monkeypatch.setattr(cluster_machine, "this_part_machine", lambda: alone)
    monkeypatch.setattr(cluster, "this_machine", lambda: ("tcp://here", "ann"))
    part = replace(part_of("quick"), stages=STAGE_VERSIONS | {"pruned": 0})
    end = perform_part(part, lambda progress: None, never, lambda *_: None)
    assert (end.state, end.error_text) == (
        "failed",
        "ann has another version of SparseDash than the server.",
    )


def test_two_workers_of_one_computer_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_DATA_DIR", str(tmp_path))
    first, second = (cluster_machine._opened.__wrapped__() for _ in range(2))
    assert (first.folder, second.folder) == (
        tmp_path / "cluster" / "0",
        tmp_path / "cluster" / "1",
    )


def test_what_a_machine_says_of_itself_can_be_read(alone, monkeypatch):
    monkeypatch.setattr(cluster_machine, "this_part_machine", lambda: alone)
    facts = msgspec.convert(cluster_machine.machine_facts(), MachineFacts)
    assert facts.total_bytes >= facts.free_bytes > 0
    assert (facts.child_bytes, facts.problem) == (0, "")


def test_what_crosses_is_checked_when_it_is_read():
    end = PartEnd(state="done", machine="ann", file=b"\x00\xff")
    assert from_bytes(PartEnd, to_bytes(end)) == end
    for wrong in (b"", b"\xff" * 9, to_bytes(STARTING), to_bytes(end)[:-3], None):
        with pytest.raises(JobError, match="cannot be read"):
            from_bytes(PartEnd, wrong)


STATISTICS = "a" * 64
OTHER = "b" * 64
DONE = PartEnd(state="done", machine="ann")


@pytest.fixture
def stores(tmp_path):
    opened = Store(tmp_path / "has"), Store(tmp_path / "wants")
    has = opened[0]
    for number in range(3):
        has.put_artefact(f"{STATISTICS}/{number}", bytes([number]) * 100)
    has.put_artefact(f"{OTHER}/0", b"of another run")
    has.remember(store_keys.calibrated_note(STATISTICS), "3")
    has.remember(store_keys.calibration_warning_note(STATISTICS), "")
    has.remember(store_keys.part_calibrations_note("part"), json.dumps([STATISTICS]))
    yield opened
    for store in opened:
        store.close()


def calibration_in(store):
    return kept_calibration(DONE, "part", "tls://127.0.0.1:1", store).calibration


def test_all_that_belongs_to_a_calibration_is_fetched_and_nothing_else(stores):
    has, wants = stores

    def fetch(kept, name):
        return has.get_artefact(name)

    kept = calibration_in(has)
    assert fetch_calibration(kept, wants, fetch, lambda: True) == 0, "it was stopped"
    assert fetch_calibration(kept, wants, fetch, never) == 3
    assert [wants.get_artefact(f"{STATISTICS}/{n}") for n in range(3)] == [
        bytes([n]) * 100 for n in range(3)
    ]
    assert wants.get_artefact(f"{OTHER}/0") is None
    assert wants.recall(store_keys.calibrated_note(STATISTICS)) == "3"
    assert wants.recall(store_keys.calibration_warning_note(STATISTICS)) == ""
    assert fetch_calibration(kept, wants, fetch, never) == 0, (
        "what is here is not fetched again"
    )


@pytest.mark.parametrize("gone", ["artefact", "machine"])
def test_where_a_part_is_gone_it_is_not_noted_that_all_are_there(stores, gone):
    has, wants = stores

    def fetch(kept, name):
        if gone == "machine":
            raise OSError("no route to host")
        return has.get_artefact("gone" if name.endswith("/1") else name)

    assert fetch_calibration(calibration_in(has), wants, fetch, never) == (
        1 if gone == "artefact" else 0
    )
    assert wants.recall(store_keys.calibrated_note(STATISTICS)) is None
    for end, part in ((DONE, "another part"), (PartEnd(state="failed"), "part")):
        assert kept_calibration(end, part, "tls://127.0.0.1:1", has).calibration is None
