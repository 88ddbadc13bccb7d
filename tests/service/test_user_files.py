"""Exports, uploads and files of runs: whose they are, their quotas, and where they may lie."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

import msgspec
import pytest

from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.schema import store_keys
from sparsedash.schema.errors import (
    AccessError,
    CorpusError,
    ExportError,
    JobError,
    SparseDashError,
    StoreError,
)
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.service.backend import Backend
from sparsedash.service.user_files import Exports
from sparsedash.storage.model_folders import RECIPE
from sparsedash.storage.serving import Quota
from sparsedash.storage.text_files import Uploads
from tests.catalog.test_model_sizes import SHAPE
from tests.factories import PRUNED, RECORD
from tests.service.made import SETTINGS, TEXT, finish
from tests.ui.test_models_exports import MADE

ASKED = ExportSettings(
    dense="dense-float32",
    sparse="s1-float32",
    form="masked",
)


def exported(backend, folder, key="k", made_at=1.0):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    backend._store.put(
        key,
        replace(
            MADE,
            key=key,
            folder=str(folder),
            made_at=made_at,
        ),
    )
    return folder


def remove(folder):
    (folder / "model.safetensors").unlink()
    folder.rmdir()


def test_exports_are_listed_newest_first_until_their_folder_is_gone_and_deleting_twice_is_no_fault(
    backend,
):
    folders = [
        exported(backend, backend.data_dir / "exports" / f"{n}", f"{n}", float(n))
        for n in range(3)
    ]
    remove(folders[1])
    assert [export.key for export in backend.exports.listed()] == ["2", "0"]
    for key in ("2", "2", "0"):
        backend.exports.drop(key)
    assert (
        not any(folder.exists() for folder in folders)
        and backend.exports.listed() == []
    )
    job = backend.submit(ASKED)
    finish(backend, job)
    folder = exported(backend, backend.data_dir / "exports" / "a", ASKED.key())
    assert backend.submit(ASKED).id == job.id, (
        "it is not made again while its folder is there"
    )
    remove(folder)
    assert backend.submit(ASKED).id != job.id


@pytest.mark.parametrize(
    "where", ["elsewhere", "data/exports/../../elsewhere", "data/exports/deeper/one"]
)
def test_exports_that_lie_elsewhere_are_never_deleted(where, backend, tmp_path):
    folder = exported(backend, tmp_path / where)
    with pytest.raises(ExportError, match="is outside the data folder"):
        backend.exports.drop("k")
    assert (folder / "model.safetensors").exists()


def test_an_export_that_gets_its_name_meanwhile_is_not_taken_for_one_without_a_record(
    backend, monkeypatch
):
    folder = backend.exports._folder / "model-20pct"
    listed = backend.exports._all

    def named_meanwhile():
        exports = listed()
        folder.mkdir(parents=True)
        (folder / RECIPE).write_text("{}")
        return exports

    monkeypatch.setattr(backend.exports, "_all", named_meanwhile)
    assert backend.exports.unrecorded() == []
    monkeypatch.undo()
    assert backend.exports.unrecorded() == [folder]


def test_the_forms_are_those_that_the_family_has_as_far_as_it_is_known(backend):
    even = replace(RECORD, pruned=replace(PRUNED, widths=(64, 64)))
    assert set(backend.exports.problems(even).values()) == {""}
    shape = shipped_shape("bloom-1b7").plain()
    backend._store.remember(store_keys.model_shape_note(RECORD.model_identity), shape)
    assert "makes no narrower bloom model" in backend.exports.problems(even)["uniform"]
    masks = replace(
        RECORD,
        pruned=replace(
            PRUNED,
            spec=SparseSpec(MethodSettings(pattern="1x1", allocation="uniform"), 125),
        ),
    )
    assert [
        form for form, why in backend.exports.problems(masks).items() if not why
    ] == ["masked"]


def test_an_export_goes_where_an_administrator_says_and_below_the_folders_then(house):
    house.done(house.of("ada"))
    root = house.of("root")
    inside = replace(ASKED, to=str(house.allowed / "x"))
    for user, settings, why in (
        (house.of("ada"), inside, "administrator"),
        (root, replace(ASKED, to="/tmp/x"), "only below"),
        (
            root,
            replace(
                ASKED,
                form="gguf",
                dense_gguf="/etc/hostname",
            ),
            "only below",
        ),
    ):
        with pytest.raises(AccessError, match=why):
            user.submit(settings)
    assert root.submit(inside).state == "queued"


def test_an_export_of_another_is_neither_seen_nor_deleted_and_a_shared_one_stays_theirs(
    house,
):
    ada = house.of("ada")
    bob = house.of("bob")
    folder = exported(house.backend, house.backend.data_dir / "exports" / "a")
    owners = house.backend._table.owners
    owners.add("k", "ada")
    assert bob.exports.listed() == []
    with pytest.raises(ExportError, match="another user"):
        bob.exports.drop("k")
    owners.add("k", "bob")
    ada.exports.drop("k")
    assert ada.exports.listed() == [] and folder.exists()
    assert bob.exports.may_delete(*bob.exports.listed())
    bob.exports.drop("k")
    assert not folder.exists()


def test_an_upload_is_its_user_s_and_the_same_one_by_two_users_stays_the_other_s(house):
    ada = house.of("ada")
    bob = house.of("bob")
    reference = ada.uploads.keep("mine.jsonl", TEXT)
    assert [list(user.uploads.kept()) for user in (ada, house.of("root"), bob)] == [
        [reference],
        [reference],
        [],
    ]
    assert not ada.reference_problem("evaluation text", f"{reference}[:5]")
    assert "no such upload of yours" in bob.reference_problem(
        "evaluation text", f"{reference}[:1]"
    )
    with pytest.raises(CorpusError, match="no upload"):
        bob.uploads.drop(reference)
    with pytest.raises(AccessError):
        bob.submit(replace(SETTINGS, evaluation=EvaluationSettings(corpus=reference)))
    assert bob.uploads.keep("mine.jsonl", TEXT) == reference
    settings = replace(
        SETTINGS, calibration=CalibrationSettings(corpus=f"{reference}[:1]")
    )
    job = house.backend._table.submit("run", settings.key(), asdict(settings))
    ada.uploads.drop(reference)
    assert (list(ada.uploads.kept()), list(bob.uploads.kept())) == ([], [reference])
    with pytest.raises(CorpusError, match="read by a job"):
        bob.uploads.drop(reference)
    house.backend.cancel(job.id)
    bob.uploads.drop(reference)
    assert house.backend.uploads.kept() == {}


def test_uploads_are_held_to_their_number_and_their_size(house):
    ada = house.of("ada")
    with pytest.raises(CorpusError, match="1 MB together"):
        ada.uploads.keep("large.txt", b"words " * 200_000)
    ada.uploads.keep("a.jsonl", TEXT)
    ada.uploads.keep("b.jsonl", TEXT + TEXT)
    with pytest.raises(CorpusError, match="limited to 2"):
        ada.uploads.keep("c.jsonl", TEXT * 3)
    assert ada.uploads.keep("a.jsonl", TEXT), "it is there already"
    house.of("bob").uploads.keep("c.jsonl", TEXT * 3)
    for name in "def":
        house.of("root").uploads.keep(f"{name}.jsonl", TEXT * ord(name))


EXPORTS = [
    replace(ASKED, weights=weights) for weights in ("float32", "bfloat16", "float16")
]


def of_size(house, n_parameters):
    """Have the models of ada's run that many weights; gives her backend."""
    ada = house.of("ada")
    house.done(ada)
    shape = replace(SHAPE, n_parameters=n_parameters)
    house.backend._store.remember(
        store_keys.model_shape_note(ada.record("dense-float32").model_identity),
        shape.plain(),
    )
    return ada


def test_waiting_exports_count_with_the_bytes_they_will_take(house):
    ada = of_size(house, 150_000_000)
    job = ada.submit(EXPORTS[0])
    assert ada.submit(EXPORTS[0]).id == job.id, "it counts once"
    ada.submit(EXPORTS[1])
    with pytest.raises(AccessError, match="1 GB together"):
        ada.submit(EXPORTS[2])
    with pytest.raises(CorpusError, match="kept for you may have 0 GB"):
        house.of("ada", quota=Quota(kept_gb=0)).uploads.keep("a.jsonl", TEXT)
    ada.cancel(job.id)
    ada.submit(EXPORTS[2])
    with pytest.raises(AccessError, match="1 GB together"):
        ada.retry(job.id)


@pytest.mark.parametrize("what", ["uploads", "exports"])
def test_two_servers_of_one_folder_do_not_both_give_the_last_place(
    house, monkeypatch, what
):
    of_size(house, 150_000_000)
    second_backend = Backend(house.folder / "data")
    both = threading.Barrier(2)
    rules = msgspec.structs.replace(house.rules, quota=Quota(uploads=2, kept_gb=1))
    servers = [
        server.seen_by("ada", rules) for server in (house.backend, second_backend)
    ]
    if what == "exports":
        servers[0].submit(EXPORTS[0])
        acts = [
            partial(server.submit, settings)
            for server, settings in zip(servers, EXPORTS[1:], strict=True)
        ]
    else:
        servers[0].uploads.keep("first.jsonl", TEXT)
        acts = [
            partial(server.uploads.keep, f"{n}.jsonl", TEXT)
            for n, server in enumerate(servers)
        ]
    owner, name = (Exports, "kept_bytes") if what == "exports" else (Uploads, "kept")
    looked = getattr(owner, name)

    def look(self, *settings):
        exports = looked(self, *settings)
        # Both have looked before either goes on, unless one has to wait for the other.
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return exports

    monkeypatch.setattr(owner, name, look)
    with ThreadPoolExecutor(2) as at_once:
        begun = [at_once.submit(act) for act in acts]
        ends = [future.exception() for future in begun]
    second_backend.close()
    assert sum(isinstance(end, SparseDashError) for end in ends) == 1, ends


def test_a_run_is_packed_for_who_sees_it_and_opened_by_administrators(house):
    key = house.done(house.of("ada")).key
    assert house.of("ada").pack_run(key)
    for act, error in (
        (lambda: house.of("bob").pack_run(key), JobError),
        (lambda: house.of("bob").open_run(b"any"), AccessError),
        (lambda: house.of("root").open_run(b"any"), StoreError),
    ):
        with pytest.raises(error):
            act()
