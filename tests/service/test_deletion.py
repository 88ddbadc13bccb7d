"""What the data folder holds, each byte once, and deletion: what goes, what stays and why. No
worker is started.
"""

from dataclasses import asdict, replace

import pytest
from filelock import FileLock

from sparsedash.schema import store_keys
from sparsedash.schema.errors import AccessError, SettingsError
from sparsedash.schema.export_settings import Export
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    DivergenceSettings,
    Place,
    Prompts,
    Timing,
    TimingSettings,
)
from sparsedash.schema.records import Healed, Passages, Record, Run, VerifySettings, about_artefact
from sparsedash.schema.settings import CalibrationSettings
from sparsedash.schema.store_keys import healed_part
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.deletion import Selection
from sparsedash.storage.model_folders import UNFINISHED_EXPORT, unpacked_models
from sparsedash.storage.users import UserData
from sparsedash.storage.verification import verify
from tests.service.made import SETTINGS, TIMING, finish, records, stored_run
from tests.storage.every_kind import LARGE, fill, harm_entry, harm_file, take_away, unpack
from tests.ui import specimens
from tests.ui.test_models_exports import ASKED

MODEL = specimens.run()[0].model_identity
NEEDED = "a job that waits or runs may need {them}"


@pytest.fixture
def keeper(backend):
    return backend.housekeeping


def delete_runs(backend, keys):
    return backend.housekeeping.delete(Selection(runs=tuple(keys)))


def artefacts(backend):
    return {entry.name for entry in backend._store.entries("artefacts")}


def live(backend, settings=specimens.SETTINGS, key="other", kind="run"):
    """A waiting job of these settings."""
    return backend._table.submit(kind, key, asdict(settings))


def write_pair(backend, left, right, *others):
    """A continuation and a divergence of these records, as jobs leave them; the keys of both."""
    compared = DivergenceSettings(left=left, right=right, text="Once upon")
    written = ContinuationSettings(left=left, right=right, prompt="Once", others=others)
    for kind, settings in (("divergence", compared), ("continuation", written)):
        finish(backend, live(backend, settings, settings.key(), kind))
    places = (Place(text="upon", nats=0.1, left="a", right="b"),)
    backend._store.put(
        compared.key(), Divergence(key=compared.key(), opening="Once", places=places)
    )
    backend._store.put(
        written.key(), Continuation(key=written.key(), prompt="Once", left="a", right="b")
    )
    return compared.key(), written.key()


def test_a_run_goes_with_all_that_only_it_uses(backend):
    run, keeper = stored_run(backend, "one"), backend.housekeeping
    backend._store.put("one", replace(specimens.search()[2], key="one"))
    backend._store.put("timing", replace(TIMING, dense=run.dense, sparse=run.sparse[0]))
    backend.user_data.name_run("one", "The first")
    backend.costs.verdicts([run], Tolerance())
    held, plan = keeper.holdings(), keeper.plan(Selection(kind="runs"))
    assert (plan.n_bytes, plan.n_named) == (held.kinds["runs"].n_bytes, 1)
    assert plan.n_bytes == held.runs[0].n_bytes
    gone = delete_runs(backend, ["one", "example", "nowhere"])
    assert gone.n_records == len({run.dense, *run.sparse})
    assert (gone.n_shared, dict(gone.refused)) == (0, {})
    assert (
        backend.run("example") is not None and not keeper.plan(Selection(runs=("example",))).deletes
    )
    left = [
        key
        for kind in (Run, FindResult, Record, Passages, Timing)
        for key in backend._store.keys(kind)
    ]
    assert left == []
    assert backend.user_data.marks() == {}
    assert backend._store.recall(store_keys.losses_note(run.dense, run.sparse[0])) is None
    assert backend.runs() == [] and backend.run("one") is None


def test_healed_weights_stay_while_a_run_has_them_and_go_with_the_last_one(backend):
    done = Healed(steps=4, kept_step=4, before=0.2, after=0.1, n_tokens=60, weights="one")
    settings = replace(specimens.SETTINGS, methods=(MethodSettings(heal_steps=4),))
    for name in ("one", "other"):
        run = stored_run(backend, name, settings=settings)
        record = backend._store.get(Record, run.sparse[0])
        backend._store.put(record.key, replace(record, pruned=replace(record.pruned, healed=done)))
    for name in (healed_part("one", "0"), healed_part("two", "0"), "refit/0"):
        backend._store.put_artefact(name, bytes(10**6), about_artefact("healed", MODEL))
    (stays,) = backend.housekeeping.delete(Selection(kind="healed")).stays
    assert artefacts(backend) == {healed_part("one", "0")} and "delete the runs" in stays.why
    n_bytes, held = 10**6 + 32, backend.housekeeping.holdings()
    assert held.kinds["healed"].n_bytes == held.models[MODEL].parts["healed"] == n_bytes
    assert {each.shared_bytes > n_bytes for each in held.runs} == {True}
    assert delete_runs(backend, ["one"]).n_bytes < n_bytes
    assert artefacts(backend) == {healed_part("one", "0")}
    held = backend.housekeeping.holdings()
    plan = backend.housekeeping.plan(Selection(runs=("other",)))
    assert plan.n_bytes == held.runs[0].n_bytes == held.kinds["runs"].n_bytes + n_bytes
    of_model = backend.housekeeping.plan(Selection(model=MODEL))
    assert (of_model.n_bytes, of_model.stays, of_model.items) == (plan.n_bytes, (), ()), (
        "it goes with the run"
    )
    delete_runs(backend, ["other"])
    assert artefacts(backend) == set()


def test_what_another_run_uses_stays_until_both_go_together(backend):
    one, other = stored_run(backend, "one"), stored_run(backend, "other")
    assert backend.housekeeping.plan(Selection(runs=("one", "other"))).n_shared == 0
    gone = delete_runs(backend, ["one"])
    assert (gone.n_records, gone.n_shared) == (len(one.sparse), 1)
    assert records(backend) == {other.dense, *other.sparse}
    assert len(list(backend._store.keys(Passages))) == 1
    assert [run.key for run in backend.runs()] == ["other"]


def test_comparisons_prompts_and_choices_go_with_their_models_whether_or_not_a_list_of_prompts_names_them(
    backend,
):
    one, other = stored_run(backend, "one"), stored_run(backend, "other")
    gone = [
        *write_pair(backend, one.dense, one.sparse[0]),
        *write_pair(backend, "x", "y", one.sparse[1])[1:],
    ]
    compared, written = write_pair(backend, other.dense, other.sparse[0])
    asked = ContinuationSettings(left=one.dense, right=one.sparse[0], prompt="Twice")
    for settings in (asked, replace(asked, left="x", right="y")):
        backend.user_data.keep_prompt(settings)
        backend._store.put(
            settings.key(), Continuation(key=settings.key(), prompt="Twice", left="a", right="b")
        )
    backend.user_data.choose(one.dense, one.sparse[0], "3", one.sparse[0])
    assert backend.result(Divergence, gone[0]) and backend.result(Continuation, gone[1])
    delete_runs(backend, ["one"])
    assert compared in backend._store.keys(Divergence) and gone[0] not in backend._store.keys(
        Divergence
    )
    assert list(backend._store.keys(Continuation)) == [written, settings.key()]
    assert backend.result(Divergence, gone[0]) is None, "nor is it cached in memory"
    assert len(list(backend._store.keys(Prompts))) == 1
    assert backend.user_data.choices(one.dense, one.sparse[0]) == {}


def test_what_its_models_wrote_goes_with_a_run_unless_another_asks_the_same(backend):
    one, other = stored_run(backend, "one"), stored_run(backend, "other")
    for key in {**one.continuations, **other.continuations}:
        backend._store.put(key, Continuation(key=key, prompt="Once", left="a", right="a"))
    delete_runs(backend, ["one"])
    assert set(backend._store.keys(Continuation)) == set(other.continuations)
    plan = backend.housekeeping.plan(Selection(kind="texts"))
    assert not plan.items and not plan.stays, "they go with their run alone"


def test_a_run_stays_while_jobs_need_it(backend):
    run = stored_run(backend, "one")

    def refusal():
        assert records(backend) == {run.dense, *run.sparse}
        return delete_runs(backend, ["one"]).refused["one"]

    own = live(backend, key="one")
    assert "under way" in refusal()
    backend.cancel(own.id)
    other = live(backend)
    # A waiting run looks at the store when it starts.
    assert backend.housekeeping.plan(Selection(runs=("one",))).refused == {}
    backend._table.claim(other.id, "slot-0", 1)
    assert "same model" in refusal()
    backend._table.end(backend._table.get(other.id), "done")
    for kind, settings in (
        ("timing", TimingSettings(dense=run.dense, sparse=run.sparse[0])),
        (
            "continuation",
            ContinuationSettings(left="x", right="y", prompt="Once", others=("z", run.sparse[-1])),
        ),
    ):
        job = live(backend, settings, settings.key(), kind)
        assert "uses its models" in refusal()
        backend.cancel(job.id)
    backend.user_data.pin_runs(["one"], True)
    assert "unpin it first" in refusal()
    backend.user_data.pin_runs(["one"], False)
    assert delete_runs(backend, ["one"]).refused == {}


def test_a_run_of_others_stays_and_a_shared_one_stays_theirs(house):
    ada, bob = house.of("ada"), house.of("bob")
    job = house.done(ada)
    ada.user_data.name_run(job.key, "the first one")
    refused = delete_runs(bob, [job.key])
    assert (refused.runs, list(refused.refused)) == ((), [job.key])
    bob.submit(SETTINGS)
    shared = delete_runs(ada, [job.key])
    assert ([each.key for each in shared.runs], shared.n_records, shared.n_shared) == (
        [job.key],
        0,
        2,
    )
    assert ada.run(job.key) is None and bob.run(job.key) is not None
    bob.user_data.pin_runs([job.key], True)
    assert list(delete_runs(bob, [job.key]).refused) == [job.key], "pins are each user's own"
    bob.user_data.pin_runs([job.key], False)
    delete_runs(bob, [job.key])
    assert house.backend.runs() == [] and records(house.backend) == set()
    assert ada.user_data.marks() == {}


def test_an_administrator_deletes_whatever_there_is_and_alone_keeps_house(house):
    job = house.done(house.of("ada"))
    house.of("bob").submit(SETTINGS)
    delete_runs(house.of("root"), [job.key])
    assert house.backend.runs() == []
    assert house.backend._table.owners.of(job.key) == frozenset()
    with pytest.raises(AccessError, match="Only an administrator looks into the data folder"):
        house.of("ada").housekeeping.delete(Selection(kind="logs"))
    with pytest.raises(AccessError):
        house.of("ada").submit(VerifySettings())
    assert (house.of("ada").administers, house.of("root").administers) == (False, True)
    assert house.of("root").housekeeping.holdings() is not None
    assert house.of("root").submit(VerifySettings()).state == "queued"


def test_deleting_a_kind_takes_all_of_it_and_nothing_else(backend, keeper):
    fill(backend._store)
    stored_run(backend, "one")
    before = keeper.holdings().kinds
    for kind in ("statistics", "written", "models", "uploads", "exports", "texts", "timings"):
        done = keeper.delete(Selection(kind=kind))
        assert len(done.items) == before[kind].n and done.stays == ()
        assert kind not in keeper.holdings().kinds or keeper.holdings().kinds[kind].n == 0
    assert keeper.holdings().kinds["runs"].n == before["runs"].n
    for kind in ("jobs", "notes"):
        assert not keeper.plan(Selection(kind=kind)).deletes
    keeper.delete(Selection(kind="runs"))
    assert backend.runs() == []


def test_pinned_runs_and_what_belongs_to_them_stay(backend, keeper):
    one, other = stored_run(backend, "one"), stored_run(backend, "other")
    kept = {}
    for run in (other, one):
        timing = replace(TIMING, key=f"timing-{run.key}", dense=run.dense, sparse=run.sparse[0])
        backend._store.put(timing.key, timing)
        kept["texts"] = write_pair(backend, run.dense, run.sparse[0])
        settings = replace(ASKED, dense=run.dense, sparse=run.sparse[0])
        take_away(
            backend._store, backend.data_dir / "exports" / run.key, run.key, settings=settings
        )
    backend.user_data.pin_runs(["one"], True)
    for kind in ("timings", "texts", "exports", "runs"):
        done = keeper.delete(Selection(kind=kind))
        assert {stay.why for stay in done.stays} <= {"a pinned run uses {them}"}
    assert [run.key for run in backend.runs()] == ["one"]
    assert list(backend._store.keys(Timing)) == ["timing-one"]
    assert backend.result(Divergence, kept["texts"][0]) and backend.result(
        Continuation, kept["texts"][1]
    )
    assert [export.key for export in backend.exports.listed()] == ["one"]


def test_deleting_a_model_takes_its_runs_its_artefacts_and_its_files(backend, keeper):
    stored_run(backend, "one")
    stored_run(backend, "other", model_identity="another")
    backend._store.put_artefact("mine", b"x", about_artefact("statistics", MODEL))
    backend._store.put_artefact("yours", b"x", about_artefact("statistics", "another"))
    take_away(backend._store, backend.data_dir / "exports" / "a")
    unpack(backend._store, "tiny-0123")
    done = keeper.delete(Selection(model=MODEL))
    assert [run.key for run in done.runs] == ["one"]
    assert [run.key for run in backend.runs()] == ["other"]
    assert artefacts(backend) == {"yours"}
    assert backend.exports.listed() == [] and len(unpacked_models(backend._store)) == 1
    keeper.delete(Selection(model=unpacked_models(backend._store)[0].identity))
    assert unpacked_models(backend._store) == []


@pytest.mark.parametrize(
    ("what", "protects"),
    [("known model", "mine"), ("timed model", "mine"), ("unknown model", ""), ("lost record", "")],
)
def test_a_job_protects_what_it_may_need_and_everything_where_its_model_is_not_known(
    backend, keeper, what, protects
):
    run = stored_run(backend, "one")
    for name, model in (("mine", MODEL), ("yours", "another")):
        backend._store.put_artefact(name, b"x", about_artefact("gradients", model))
    unpack(backend._store, "tiny-0123")
    if what == "known model":
        backend._store.remember(store_keys.model_identity_note(specimens.SETTINGS.model, ""), MODEL)
    if what.endswith("model") and what != "timed model":
        live(backend)
    else:
        timed = TimingSettings(dense=run.dense if protects else "gone", sparse=run.sparse[0])
        live(backend, timed, timed.key(), "timing")
    plan = keeper.plan(Selection(kind="gradients"))
    assert [item.name for item in plan.items] == (["yours"] if protects else [])
    assert [(stay.n, stay.why) for stay in plan.stays] == [(1 if protects else 2, NEEDED)]
    assert keeper.plan(Selection(kind="models")).deletes == bool(protects)
    assert len(keeper.plan(Selection(model="another")).items) == bool(protects)


def test_texts_that_runs_or_jobs_read_stay(backend, keeper):
    read, waited_for, free = (
        backend.uploads.keep(f"{name}.txt", name.encode()) for name in ("a", "b", "c")
    )
    texts = [
        replace(specimens.SETTINGS, calibration=CalibrationSettings(corpus=f"{name}[:9]"))
        for name in (read, waited_for)
    ]
    stored_run(backend, "one", settings=texts[0])
    live(backend, texts[1])
    done = keeper.delete(Selection(kind="uploads"))
    assert [item.name for item in done.items] == [free]
    assert {stay.why.split(" ")[0] for stay in done.stays} == {"a", "runs"}
    assert set(backend.uploads.kept()) == {read, waited_for}


def test_logs_of_workers_and_live_jobs_stay_and_what_cannot_be_deleted_is_told(backend, keeper):
    logs, running = backend.data_dir / "logs", live(backend)
    (logs / "7.log").mkdir(parents=True)
    left = {"7.log", f"{running.id}.log", "slot-0.log", "notes.txt"}
    for name in ("99.log", *left - {"7.log"}):
        (logs / name).write_text("x")
    done = keeper.delete(Selection(kind="logs"))
    assert [item.name for item in done.items] == ["99.log"]
    assert [stay.n for stay in done.stays] == [1, 1]
    assert done.stays[0].why == NEEDED and "could not be deleted" in done.stays[1].why
    assert {file.name for file in logs.iterdir()} == left


def test_folders_of_killed_exports_and_lost_records_go_and_those_elsewhere_stay(
    backend, keeper, tmp_path
):
    exports = backend.data_dir / "exports"
    elsewhere = take_away(backend._store, tmp_path / "elsewhere", "elsewhere")
    take_away(backend._store, exports / "whole")
    take_away(backend._store, exports / "lost", "lost")
    (exports / "lost" / "recipe.json").write_text("{}")
    backend._store.drop(Export, "lost")
    killed, living = (exports / f"{UNFINISHED_EXPORT}{name}" for name in ("killed", "living"))
    for folder in (killed, living):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * 500)
        (folder / "lock").touch()
    with FileLock(living / "lock"):
        done = keeper.delete(Selection(kind="exports"))
        assert [path.name for path in exports.iterdir()] == [living.name]
        assert [(stay.n, stay.why) for stay in done.stays] == [(1, NEEDED)]
        assert done.n_bytes == 2 * len(LARGE) + 2 + 500
    keeper.delete(Selection(kind="exports"))
    assert [export.key for export in backend.exports.listed()] == [
        "elsewhere"
    ] and elsewhere.exists()
    assert keeper.holdings().kinds["exports"].n == 0


def test_a_lower_limit_of_artefacts_deletes_but_not_under_a_job_unless_the_environment_sets_it(
    backend, keeper, monkeypatch
):
    for number in range(3):
        backend._store.put_artefact(str(number), bytes(50_000_000))
    running = live(backend)
    for left in ({"0", "1", "2"}, {"1", "2"}):
        keeper.allow(0.125)
        held = keeper.holdings()
        assert (artefacts(backend), held.room_bytes, held.room_fixed) == (left, 125_000_000, False)
        backend.cancel(running.id)
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "7")
    assert keeper.holdings().room_fixed and keeper.holdings().room_bytes == 7 * 10**9
    with pytest.raises(SettingsError, match="SPARSEDASH_ARTEFACT_GB"):
        keeper.allow(3.0)


def test_what_verification_found_damaged_can_be_deleted_and_then_nothing_is_damaged(
    backend, keeper
):
    store = backend._store
    names = fill(store)
    for shelf, name in (("records", "timing/timing"), ("artefacts", "large")):
        harm_entry(store, shelf, name)
    for file in (names["export"][0], backend.data_dir / "models" / names["unpacked model"][0]):
        harm_file(file)
    store.put(VerifySettings().key(), verify(store, lambda step: None))
    assert keeper.verification().n_damaged == 4
    timed = TimingSettings(dense="gone", sparse="gone too")
    job = live(backend, timed, timed.key(), "timing")
    assert [stay.why for stay in keeper.plan(Selection(damaged=True)).stays] == [NEEDED]
    backend.cancel(job.id)
    done = keeper.delete(Selection(damaged=True))
    assert len(done.items) == 4 and done.stays == ()
    assert keeper.verification() is None
    assert verify(store, lambda step: None).damaged == ()
    assert list(store.keys(Timing)) == []


def test_an_empty_folder_holds_nothing_but_its_tables(backend):
    held = backend.housekeeping.holdings()
    assert held.is_empty and held.models == {} and held.runs == ()
    assert held.free_bytes > 0


def test_every_kind_is_counted_and_its_bytes_are_those_of_the_entries_and_files(backend):
    fill(backend._store)
    held = backend.housekeeping.holdings()
    kinds = held.kinds
    counted = {kind: kinds[kind].n for kind in kinds}
    # A verification, names of runs, own prompts, a model's family and the files of an unpacked
    # model. Three parts of no run.
    expected = {
        "runs": 1,
        "texts": 4,
        "timings": 1,
        "statistics": 1,
        "written": 1,
        "models": 1,
        "uploads": 1,
    }
    assert counted == {**expected, "unfinished": 3, "exports": 1, "jobs": 0, "notes": 5}
    assert kinds["statistics"].n_bytes == len(LARGE) + 32
    assert kinds["models"].n_bytes == len(LARGE) + 2
    assert kinds["statistics"].used_at > 1e9
    backend._store._caches["artefacts"]._sql("UPDATE Cache SET access_time = 5, store_time = 5")
    assert backend.housekeeping.holdings().kinds["statistics"].used_at == 5
    backend._store.get_artefact("large")
    assert backend.housekeeping.holdings().kinds["statistics"].used_at > 1e9, "when it was read"
    entries = [*backend._store.entries("records"), *backend._store.entries("artefacts")]
    files = [
        file
        for name in ("models", "uploads", "exports")
        for file in (backend.data_dir / name).rglob("*")
    ]
    expected = sum(entry.n_bytes for entry in entries) + sum(
        f.stat().st_size for f in files if f.is_file()
    )
    assert held.bytes_of(*kinds) - kinds["jobs"].n_bytes == expected


def test_a_run_takes_what_only_it_uses_and_shares_the_rest(backend):
    one, other = stored_run(backend, "one"), stored_run(backend, "other")
    held = backend.housekeeping.holdings()
    bytes_of = {entry.name: entry.n_bytes for entry in backend._store.entries("records")}
    own = {each.run.key: each.n_bytes for each in held.runs}
    assert own["one"] == bytes_of["run/one"] + sum(bytes_of[f"record/{key}"] for key in one.sparse)
    assert {each.shared_bytes for each in held.runs} == {
        bytes_of[f"record/{other.dense}"]
        + sum(n for name, n in bytes_of.items() if name.startswith("passages/"))
    }


def test_a_model_takes_its_answers_once_what_calibration_left_and_its_files(backend):
    stored_run(backend, "one")
    stored_run(backend, "other")
    stored_run(
        backend,
        "third",
        model_identity="another",
        settings=replace(specimens.SETTINGS, model="owner/model"),
    )
    backend._store.put_artefact("mine", b"x" * 100, about_artefact("statistics", MODEL))
    take_away(backend._store, backend.data_dir / "exports" / "a")
    unpack(backend._store, "tiny-0123")
    models = backend.housekeeping.holdings().models
    mine = models[MODEL]
    assert (mine.n, mine.parts["calibration"], mine.parts["exported"]) == (2, 132, len(LARGE))
    assert mine.names == (specimens.SETTINGS.model,)
    assert models["another"].names == ("owner/model",)
    (unpacked,) = (model for model in models.values() if model.parts["unpacked"])
    assert unpacked.parts["unpacked"] == len(LARGE) + 2 and unpacked.names == ()
    total = sum(model.parts["answers"] for model in models.values())
    assert total == backend.housekeeping.holdings().kinds["runs"].n_bytes


def test_an_administrator_s_cleanup_leaves_the_runs_that_others_have_pinned(backend, keeper):
    stored_run(backend, "one"), stored_run(backend, "other")
    UserData(backend._store, "bob").pin_runs(["one"], True)
    keeper.delete(Selection(kind="runs"))
    assert [run.key for run in backend.runs()] == ["one"]


def test_answers_of_a_run_that_was_lost_count_as_unfinished_and_can_be_deleted(backend, keeper):
    run = stored_run(backend, "one")
    assert "unfinished" not in keeper.holdings().kinds
    backend._store.drop(Run, run.key)
    assert keeper.holdings().kinds["unfinished"].n == len(run.records) + 1
    job = backend.submit(SETTINGS)
    assert not keeper.plan(Selection(kind="unfinished")).items, "it may be under way"
    backend.cancel(job.id)
    keeper.delete(Selection(kind="unfinished"))
    assert records(backend) == set() and "unfinished" not in keeper.holdings().kinds
