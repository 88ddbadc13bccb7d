"""Keeping house: what is deleted by kind, by model and by run, and what stays. No worker is started here."""

from dataclasses import asdict, replace

import pytest
from filelock import FileLock

from sparsedash.schema import store_keys
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.export_settings import Export
from sparsedash.schema.pair_records import Continuation, ContinuationSettings, Timing, TimingSettings
from sparsedash.schema.records import Run, VerifySettings, about_artefact
from sparsedash.schema.settings import CalibrationSettings
from sparsedash.service.backend import Backend
from sparsedash.storage.model_folders import UNFINISHED_EXPORT, unpacked_models
from sparsedash.storage.verification import verify
from tests.service.test_run_removal import TIMING, kept
from tests.storage.upkeep.every_kind import LARGE, fill, harm_entry, harm_file, take_away, unpack
from tests.ui import specimens
from tests.ui.models.test_models_page import ASKED

MODEL = specimens.run()[0].model_identity


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    monkeypatch.delenv("SPARSEDASH_ARTEFACT_GB", raising=False)
    opened = Backend(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def house(backend):
    return backend.housekeeping


def artefacts(backend):
    return {entry.name for entry in backend._store.entries("artefacts")}


def live(backend, settings=specimens.SETTINGS, key="other"):
    """A waiting run of these settings."""
    return backend._table.submit("run", key, asdict(settings))


def test_deleting_a_kind_takes_all_of_it_and_nothing_else(backend, house):
    fill(backend._store)
    kept(backend, "one")
    before = house.holdings().kinds
    for kind in ("statistics", "written", "models", "uploads", "exports", "texts", "timings"):
        done = house.remove_kind(kind)
        assert len(done.items) == before[kind].n and done.stays == ()
        assert kind not in house.holdings().kinds or house.holdings().kinds[kind].n == 0
    assert house.holdings().kinds["runs"].n == before["runs"].n
    house.remove_kind("runs")
    assert backend.runs() == []


@pytest.mark.parametrize("kind", ["jobs", "notes"])
def test_the_list_of_jobs_and_short_notes_are_not_deleted(house, kind):
    assert not house.plan_kind(kind).deletes


def test_pinned_runs_and_what_belongs_to_them_stay(backend, house):
    one, _ = kept(backend, "one"), kept(backend, "other")
    backend._store.put("timing", replace(TIMING, dense=one.dense, sparse=one.sparse[0]))
    written = ContinuationSettings(left=one.dense, right=one.sparse[0], prompt="Once")
    job = backend._table.submit("continuation", written.key(), asdict(written))
    backend._table.finish(backend._table.claim(job.id, "slot-0", 1))
    backend._store.put(written.key(), Continuation(key=written.key(), prompt="Once", left="a", right="b"))
    take_away(
        backend._store,
        backend.data_dir / "exports" / "a",
        settings=replace(ASKED, dense=one.dense, sparse=one.sparse[0]),
    )
    backend.user_data.pin_runs(["one"], True)
    for kind in ("runs", "timings", "texts", "exports"):
        done = house.remove_kind(kind)
        assert {stay.why for stay in done.stays} <= {"a pinned run uses {them}"}
    assert [run.key for run in backend.runs()] == ["one"]
    assert backend.timing("timing") and backend.continuation(written.key())
    assert len(backend.exports.listed()) == 1


def test_deleting_a_model_takes_its_runs_what_calibration_left_and_its_files(backend, house):
    kept(backend, "one")
    kept(backend, "other", model_identity="another")
    backend._store.put_artefact("mine", b"x", about_artefact("statistics", MODEL))
    backend._store.put_artefact("yours", b"x", about_artefact("statistics", "another"))
    take_away(backend._store, backend.data_dir / "exports" / "a")
    unpack(backend._store, "tiny-0123")
    done = house.remove_model(MODEL)
    assert [run.key for run in done.removal.runs] == ["one"]
    assert [run.key for run in backend.runs()] == ["other"]
    assert artefacts(backend) == {"yours"}
    assert backend.exports.listed() == [] and len(unpacked_models(backend._store)) == 1
    house.remove_model(unpacked_models(backend._store)[0].identity)
    assert unpacked_models(backend._store) == []


def test_what_a_job_may_need_stays_and_is_told(backend, house):
    backend._store.remember(store_keys.model_identity_note(specimens.SETTINGS.model, ""), MODEL)
    backend._store.put_artefact("mine", b"x", about_artefact("gradients", MODEL))
    backend._store.put_artefact("yours", b"x", about_artefact("gradients", "another"))
    live(backend)
    plan = house.plan_kind("gradients")
    assert [item.name for item in plan.items] == ["yours"]
    assert [(stay.n, stay.why) for stay in plan.stays] == [(1, "a job that waits or runs may need {them}")]


def test_where_nobody_knows_which_model_a_job_needs_none_goes(backend, house):
    backend._store.put_artefact("yours", b"x", about_artefact("gradients", "another"))
    unpack(backend._store, "tiny-0123")
    live(backend, replace(specimens.SETTINGS, model="/nobody/knows.gguf"))
    assert not house.plan_kind("gradients").deletes and not house.plan_kind("models").deletes
    assert not house.plan_model("another").deletes


def test_a_job_about_two_models_protects_them_as_well(backend, house):
    run = kept(backend, "one")
    backend._store.put_artefact("mine", b"x", about_artefact("statistics", MODEL))
    timed = TimingSettings(dense=run.dense, sparse=run.sparse[0])
    backend._table.submit("timing", timed.key(), asdict(timed))
    assert not house.plan_kind("statistics").deletes


def test_texts_that_runs_or_jobs_read_stay(backend, house):
    read, waited_for, free = (backend.uploads.keep(f"{name}.txt", name.encode()) for name in ("a", "b", "c"))
    calibrated = replace(specimens.SETTINGS, calibration=CalibrationSettings(corpus=read))
    kept(backend, "one", settings=calibrated)
    live(backend, replace(specimens.SETTINGS, calibration=CalibrationSettings(corpus=f"{waited_for}[:9]")))
    done = house.remove_kind("uploads")
    assert [item.name for item in done.items] == [free]
    assert {stay.why.split(" ")[0] for stay in done.stays} == {"a", "runs"}
    assert set(backend.uploads.kept()) == {read, waited_for}


def test_logs_of_jobs_that_ended_go_and_those_of_workers_and_live_jobs_stay(backend, house):
    logs = backend.data_dir / "logs"
    logs.mkdir(exist_ok=True)
    running = live(backend)
    for name in ("99.log", f"{running.id}.log", "slot-0.log", "notes.txt"):
        (logs / name).write_text("x")
    assert [item.name for item in house.remove_kind("logs").items] == ["99.log"]
    assert {file.name for file in logs.iterdir()} == {f"{running.id}.log", "slot-0.log", "notes.txt"}


def test_what_cannot_be_deleted_after_all_is_told_with_the_reason_and_the_rest_goes(backend, house):
    logs = backend.data_dir / "logs"
    (logs / "7.log").mkdir(parents=True)
    (logs / "8.log").write_text("x")
    done = house.remove_kind("logs")
    assert [item.name for item in done.items] == ["8.log"]
    assert [stay.n for stay in done.stays] == [1] and "could not be deleted" in done.stays[0].why


def test_what_lies_out_of_the_data_folder_is_neither_counted_nor_deleted(backend, house, tmp_path):
    folder = take_away(backend._store, tmp_path / "elsewhere")
    assert house.holdings().kinds.get("exports", None) is None or house.holdings().kinds["exports"].n == 0
    house.remove_kind("exports")
    assert folder.exists()


def test_the_page_frees_what_killed_exports_and_lost_records_have_left(backend, house):
    exports = backend.data_dir / "exports"
    take_away(backend._store, exports / "whole")
    take_away(backend._store, exports / "lost", "lost")
    (exports / "lost" / "recipe.json").write_text("{}")
    backend._store.drop(Export, "lost")
    killed, living = exports / f"{UNFINISHED_EXPORT}killed", exports / f"{UNFINISHED_EXPORT}living"
    for folder in (killed, living):
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "model.safetensors").write_bytes(b"x" * 500)
        (folder / "lock").touch()
    with FileLock(living / "lock"):
        done = house.remove_kind("exports")
        assert [path.name for path in exports.iterdir()] == [living.name]
        assert [(stay.n, stay.why) for stay in done.stays] == [(1, "a job that waits or runs may need {them}")]
        assert done.n_bytes == 2 * len(LARGE) + 2 + 500
    house.remove_kind("exports")
    assert "exports" not in house.holdings().kinds


def test_an_export_whose_record_cannot_be_read_stays(backend, house):
    folder = take_away(backend._store, backend.data_dir / "exports" / "newer")
    (folder / "recipe.json").write_text("{}")
    unknown = b'{"key": "taken", "settings": "of another form"}'
    backend._store._write(backend._store._records, "export/taken", unknown)
    house.remove_kind("exports")
    assert folder.exists()


def test_names_of_runs_that_go_are_counted(backend, house):
    kept(backend, "one")
    kept(backend, "other")
    backend.user_data.name_run("one", "The first")
    assert house.plan_kind("runs").n_named == 1


def test_bytes_that_become_free_are_those_of_what_goes(backend, house):
    kept(backend, "one")
    kept(backend, "other")
    own = {each.run.key: each.n_bytes for each in house.holdings().runs}
    assert house.plan_runs(["one"]).n_bytes == own["one"]
    assert house.plan_kind("runs").n_bytes == house.holdings().kinds["runs"].n_bytes


def test_the_room_can_be_chosen_unless_the_environment_says_it(backend, house, monkeypatch):
    assert not house.room().fixed
    house.allow(2.5)
    assert house.room().n_bytes == 2.5 * 2**30
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "7")
    assert house.room().fixed and house.room().n_bytes == 7 * 2**30
    with pytest.raises(SettingsError, match="SPARSEDASH_ARTEFACT_GB"):
        house.allow(3.0)
    monkeypatch.delenv("SPARSEDASH_ARTEFACT_GB")
    with pytest.raises(SettingsError, match="limit"):
        house.allow(0.0)


def test_a_lower_room_deletes_at_once_but_not_under_a_job(backend, house):
    for number in range(3):
        backend._store.put_artefact(str(number), bytes(60_000_000))
    running = live(backend)
    house.allow(0.1)
    assert artefacts(backend) == {"0", "1", "2"}
    backend.cancel(running.id)
    house.allow(0.1)
    assert artefacts(backend) == {"2"}


def test_what_verification_found_damaged_can_be_deleted_and_then_nothing_is_damaged(backend, house):
    store = backend._store
    names = fill(store)
    for shelf, name in (("records", "timing/timing"), ("records", "note/family/m"), ("artefacts", "large")):
        harm_entry(store, shelf, name)
    for file in (names["export"][0], backend.data_dir / "models" / names["unpacked model"][0]):
        harm_file(file)
    store.put(VerifySettings().key(), verify(store, lambda step: None))
    assert house.verification().n_damaged == 5
    done = house.remove_damaged()
    assert len(done.items) == 5 and done.stays == ()
    assert house.verification() is None
    assert verify(store, lambda step: None).damaged == ()
    assert list(store.keys(Timing)) == []


def test_a_live_verification_is_given_back_and_an_ended_one_is_asked_for_again(backend):
    first = backend.submit_verification()
    assert backend.submit_verification().id == first.id
    backend._table.finish(backend._table.claim(first.id, "slot-0", 1))
    assert backend.submit_verification().id != first.id
    assert first.key == VerifySettings().key()


def test_an_unreadable_record_of_a_job_protects_everything(backend, house):
    backend._store.put_artefact("mine", b"x", about_artefact("statistics", MODEL))
    timed = TimingSettings(dense="gone", sparse="gone too")
    backend._table.submit("timing", timed.key(), asdict(timed))
    assert not house.plan_kind("statistics").deletes


def test_runs_of_another_version_are_left(backend, house):
    kept(backend, "one")
    backend._store._write(backend._store._records, "run/newer", b'{"key": "newer", "settings": "of another form"}')
    assert house.remove_kind("runs").removal.unknown
    assert list(backend._store.keys(Run)) == ["newer"]
