"""What of a job each machine does, and what becomes of what comes back; with a store, without a
cluster.
"""

import json
from contextlib import closing
from dataclasses import asdict, replace
from unittest.mock import Mock

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.jobs.cluster_parts import KeptCalibration, PartEnd
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import SparseDashError, StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    PartSettings,
    RunSettings,
    settings_from_plain,
)
from sparsedash.schema.stage_versions import STAGE_VERSIONS
from sparsedash.service.cluster_plan import ClusterPlan, first_points
from sparsedash.storage.run_files import run_file
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import Uploads
from tests.factories import RUN
from tests.faults.fake_worker import PASSAGES, records_of

ASKED = RunSettings(model="fake/quick", sparsities_permille=(100, 200, 300))
KEPT = KeptCalibration(machine="tls://127.0.0.1:1", artefacts=("a/0",), notes={})


@pytest.fixture
def machine(tmp_path):
    with closing(Store(tmp_path / "machine")) as opened:
        yield opened


@pytest.fixture
def job(tmp_path, store):
    table = JobTable(store.folder / "jobs.sqlite")
    queued = table.submit("run", ASKED.key(), asdict(ASKED))
    yield table.claim(queued.id, "cluster", 0)
    table.close()


def made(part, machine, calibration=KEPT, **changes) -> PartEnd:
    """What a machine sends back for a part. changes: to its run."""
    request = settings_from_plain(PartSettings, part.settings)
    dense, sparse = records_of(request)
    machine.put(PASSAGES.key, PASSAGES)
    for record in (dense, *sparse):
        machine.put(record.key, record)
    run = replace(
        RUN,
        key=part.key,
        settings=request.run,
        dense=dense.key,
        sparse=tuple(r.key for r in sparse),
    )
    run = replace(run, finished=True, seconds={"evaluate": 2.0}, **changes)
    return PartEnd(
        state="done",
        machine="ann",
        file=run_file(run, machine),
        calibration=calibration,
    )


def keep(plan, machine, *names, **changes):
    """Have parts come back. changes: to their runs."""
    for name in names:
        part = plan.part(name)
        plan.keep(part, made(part, machine, **changes))


def test_the_first_part_goes_alone_and_the_run_grows_in_order_whatever_comes_back_first(
    job, store, machine
):
    plan = ClusterPlan(job, store)
    shown = []
    assert plan.remaining() == ("0",)
    assert (plan.part("0").known, plan.part("0").calibration) == (b"", None)
    for name, share in (("0", "12.5"), ("2", "13"), ("1", "14.25")):
        keep(
            plan,
            machine,
            name,
            warnings=(f"Layers lose {share} times more.", "Few tokens."),
        )
        run = store.get(Run, job.key)
        shown.append(
            (len(run.sparse), run.finished, plan.progress_message(), *plan.remaining())
        )
        again = ClusterPlan(job, store)
        if not plan.is_complete:
            assert again.remaining() == plan.remaining(), (
                "neither another attempt nor another server asks for it again"
            )
            assert again.part("1").known and again.part("1").calibration == KEPT
    messages = [f"{n} of 3 sparse models are made" for n in (1, 2, 3)]
    assert shown == [
        (1, False, messages[0], "1", "2"),
        (1, False, messages[1], "1"),
        (3, True, messages[2]),
    ]
    assert run.seconds == {"evaluate": 6.0}
    assert [store.get(Record, key).sparsity_permille for key in run.sparse] == [
        100,
        200,
        300,
    ]
    assert run.warnings == ("Layers lose 12.5 times more.", "Few tokens."), (
        "each once, whatever its numbers"
    )


def test_the_last_part_is_asked_for_again_where_the_whole_run_could_not_be_stored(
    job, store, machine, monkeypatch
):
    plan = ClusterPlan(job, store)
    keep(plan, machine, "0", "1")
    with monkeypatch.context() as patched:
        patched.setattr(
            type(store), "put", Mock(side_effect=StoreError("The disk is full."))
        )
        with pytest.raises(StoreError):
            keep(plan, machine, "2")
    again = ClusterPlan(job, store)
    assert not again.is_complete and tuple(again.remaining()) == ("2",)
    keep(again, machine, "2")
    assert store.get(Run, job.key).finished


@pytest.mark.parametrize("why", ["a record is gone", "a stage has another version"])
def test_noted_parts_that_are_of_no_use_are_asked_for_again(
    job, store, machine, monkeypatch, why
):
    keep(ClusterPlan(job, store), machine, "0")
    if why == "a record is gone":
        store.drop(Record, store.get(Run, job.key).dense)
    else:
        monkeypatch.setitem(STAGE_VERSIONS, "outcomes", 99)
    assert ClusterPlan(job, store).remaining() == ("0",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": "f" * 64}, "a result that was not asked for"),
        (
            {"settings": replace(ASKED, dtype="bfloat16")},
            "a result that was not asked for",
        ),
        (
            {"corpora": {"calibration": "other", "evaluation": "b" * 40}},
            "another model or text",
        ),
    ],
)
def test_what_was_not_asked_for_is_refused_and_nothing_of_it_kept(
    job, store, machine, changes, reason
):
    plan = ClusterPlan(job, store)
    keep(plan, machine, "0")
    part = plan.part("1")
    n_kept = len(list(store.keys(Record)))
    with pytest.raises(StoreError, match=reason):
        plan.keep(part, made(part, machine, **changes))
    assert len(list(store.keys(Record))) == n_kept
    assert plan.remaining() == ["1", "2"]
    # After two models met under one name another attempt begins anew.
    assert ClusterPlan(job, store).remaining() == (
        ("0",) if "another model" in reason else ["1", "2"]
    )


def test_uploads_go_along_and_one_that_is_gone_is_told(job, store, tmp_path):
    content, another = (
        json.dumps({"text": text}).encode()
        for text in ("the lamp and the boat", "another text")
    )
    reference, same_name = (
        Uploads(store.folder).keep("mine.jsonl", upload)
        for upload in (content, another)
    )
    calibration = CalibrationSettings(corpus=reference)
    evaluation = EvaluationSettings(corpus=same_name)
    request = replace(ASKED, calibration=calibration, evaluation=evaluation)
    plan = ClusterPlan(replace(job, settings=asdict(request)), store)
    assert {
        Uploads(tmp_path).keep(*upload) for upload in plan.part("0").texts.items()
    } == {
        reference,
        same_name,
    }
    Uploads(store.folder).drop(reference, ())
    with pytest.raises(SparseDashError, match=r"mine\.jsonl"):
        plan.part("0")


@pytest.mark.parametrize(("owner", "named"), [("", ""), ("root", ""), ("bob", "bob")])
def test_a_part_names_the_visitor_whose_jobs_go_without_the_token(
    job, store, tmp_path, monkeypatch, owner, named
):
    rules = tmp_path / "serve.toml"
    rules.write_text(
        'address = "https://localhost"\nlogin = "oidc"\nadministrators = ["root"]\n'
    )
    monkeypatch.setenv("SPARSEDASH_SERVE", str(rules))
    assert ClusterPlan(replace(job, owner=owner), store).part("0").owner == named


def test_the_first_part_calibrates_for_every_kind_of_method():
    plain = MethodSettings()
    another = MethodSettings(compensation="none")
    single = MethodSettings(
        pattern="1x1", saliency="obs", compensation="none", allocation="uniform"
    )
    blind = MethodSettings(
        saliency="magnitude", compensation="none", allocation="uniform"
    )
    assert first_points(replace(ASKED, methods=(plain, another))) == (0,)
    assert first_points(replace(ASKED, methods=(plain, single))) == (0, 3)
    assert first_points(replace(ASKED, methods=(blind, plain))) == (3,)
    assert first_points(replace(ASKED, methods=(blind,))) == (0,)
    best, by_curves, sequential = map(
        method_named, ("least-squares", "obs-by-curves", "best")
    )
    methods = (replace(best, allocation="curves"), best, by_curves, sequential)
    assert first_points(replace(ASKED, methods=methods)) == (0, 3, 6), (
        "the last has the curves before it"
    )
    in_sequence, in_one_pass = map(method_named, ("sparsegpt-2:4", "wanda-2:4"))
    assert first_points(replace(ASKED, methods=(in_sequence, in_one_pass))) == (0, 1)
