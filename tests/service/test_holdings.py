"""What the data folder holds: counted by kind, by model and by run, each byte once."""

from dataclasses import replace

from sparsedash.schema.records import about_artefact
from tests.service.made import stored_run
from tests.storage.every_kind import LARGE, fill, take_away, unpack
from tests.ui import specimens

MODEL = specimens.run()[0].model_identity


def test_an_empty_folder_holds_nothing_but_its_tables(backend):
    held = backend.housekeeping.holdings()
    assert held.is_empty and held.models == {} and held.runs == ()
    assert held.free_bytes > 0


def test_every_kind_is_counted_and_its_bytes_are_those_of_the_entries_and_files(backend):
    fill(backend._store)
    held = backend.housekeeping.holdings()
    kinds = held.kinds
    counted = {kind: kinds[kind].n for kind in kinds}
    # A verification, names of runs, a model's family and the files of an unpacked model.
    expected = {"runs": 1, "texts": 4, "timings": 1, "statistics": 1, "written": 1, "models": 1, "uploads": 1}
    assert counted == {**expected, "exports": 1, "jobs": 0, "notes": 4}
    assert kinds["statistics"].n_bytes == len(LARGE) + 32
    assert kinds["models"].n_bytes == len(LARGE) + 2
    assert kinds["statistics"].used_at > 1e9
    entries = [*backend._store.entries("records"), *backend._store.entries("artefacts")]
    files = [file for name in ("models", "uploads", "exports") for file in (backend.data_dir / name).rglob("*")]
    expected = sum(entry.n_bytes for entry in entries) + sum(f.stat().st_size for f in files if f.is_file())
    assert held.bytes_of(*kinds) - kinds["jobs"].n_bytes == expected


def test_a_run_takes_what_only_it_uses_and_shares_the_rest(backend):
    one, other = stored_run(backend, "one"), stored_run(backend, "other")
    held = backend.housekeeping.holdings()
    bytes_of = {entry.name: entry.n_bytes for entry in backend._store.entries("records")}
    own = {each.run.key: each.n_bytes for each in held.runs}
    assert own["one"] == bytes_of["run/one"] + sum(bytes_of[f"record/{key}"] for key in one.sparse)
    assert {each.shared_bytes for each in held.runs} == {
        bytes_of[f"record/{other.dense}"] + sum(n for name, n in bytes_of.items() if name.startswith("passages/"))
    }


def test_a_model_takes_its_answers_once_what_calibration_left_and_its_files(backend):
    stored_run(backend, "one")
    stored_run(backend, "other")
    stored_run(backend, "third", model_identity="another", settings=replace(specimens.SETTINGS, model="owner/model"))
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


def test_last_use_of_what_calibration_left_is_when_it_was_read(backend):
    store = backend._store
    store.put_artefact("a", b"x", about_artefact("statistics", MODEL))
    store._caches["artefacts"]._sql("UPDATE Cache SET access_time = 5, store_time = 5")
    assert backend.housekeeping.holdings().kinds["statistics"].used_at == 5
    store.get_artefact("a")
    assert backend.housekeeping.holdings().kinds["statistics"].used_at > 1e9
