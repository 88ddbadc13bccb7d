"""The exports of a data folder: listed while they are there, deleted only where they are ours."""

from dataclasses import replace

import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.errors import ExportError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.service.backend import Backend
from tests.factories import PRUNED, RECORD
from tests.ui.models.test_models_page import MADE


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    opened = Backend(tmp_path / "data")
    yield opened
    opened.close()


def kept(backend, folder, key="k", made_at=1.0):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    backend._store.put(key, replace(MADE, key=key, folder=str(folder), made_at=made_at))
    return folder


def test_they_are_listed_newest_first_and_not_when_their_folder_is_gone(backend):
    exports = backend.data_dir / "exports"
    for number in range(3):
        kept(backend, exports / str(number), str(number), float(number))
    (exports / "1" / "model.safetensors").unlink()
    (exports / "1").rmdir()
    assert [export.key for export in backend.exports.listed()] == ["2", "0"]


def test_deleting_one_takes_its_folder_and_twice_is_no_fault(backend):
    folder = kept(backend, backend.data_dir / "exports" / "a")
    backend.exports.drop("k")
    backend.exports.drop("k")
    assert not folder.exists()
    assert list((backend.data_dir / "exports").iterdir()) == []
    assert backend.exports.listed() == []


@pytest.mark.parametrize("where", ["elsewhere", "data/exports/../../elsewhere", "data/exports/deeper/one"])
def test_what_lies_elsewhere_is_never_deleted(where, backend, tmp_path):
    folder = kept(backend, tmp_path / where)
    with pytest.raises(ExportError, match="lies outside of the data folder"):
        backend.exports.drop("k")
    assert (folder / "model.safetensors").exists()


def test_the_forms_are_those_that_the_family_has_as_far_as_it_is_known(backend):
    even = replace(RECORD, pruned=replace(PRUNED, widths=(64, 64)))
    assert set(backend.exports.problems(even).values()) == {""}
    backend._store.remember(store_keys.model_type_note(RECORD.model_identity), "bloom")
    assert "computes its width" in backend.exports.problems(even)["uniform"]
    masks = replace(RECORD, pruned=replace(PRUNED, method=MethodSettings(pattern="1x1", allocation="uniform")))
    assert [form for form, why in backend.exports.problems(masks).items() if not why] == ["masked"]


def test_a_request_of_an_earlier_version_keeps_its_key_and_one_of_another_run_has_its_own():
    settings = ExportSettings(dense="d", sparse="s", form="padded")
    assert settings.key() == "19905b23e2ba2e6cdd13e81c585173fd641f2f8694b494526810112c17f699df"
    assert len({settings.key(), *(replace(settings, run=run).key() for run in ("a", "b"))}) == 3


def test_a_finished_export_is_not_made_again_while_its_folder_is_there(backend):
    settings = ExportSettings(dense="d", sparse="s", form="padded")
    job = backend.submit_export(settings)
    assert (job.kind, job.state, job.key) == ("export", "queued", settings.key())
    taken = backend._table.claim(job.id, "slot-0", 1)
    backend._table.finish(taken)
    folder = kept(backend, backend.data_dir / "exports" / "a", settings.key())
    assert backend.submit_export(settings).id == job.id
    (folder / "model.safetensors").unlink()
    folder.rmdir()
    assert backend.submit_export(settings).id != job.id
