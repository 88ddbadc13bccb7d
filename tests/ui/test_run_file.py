"""A run exported as a file: in another data folder it opens with the same pages. Two backends, no worker."""

from io import BytesIO

import pytest

from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.records import Record, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.tolerance import Tolerance
from sparsedash.ui import frame, runs_toolbar
from tests.storage.every_kind import flip
from tests.storage.test_run_files import named
from tests.ui import specimens
from tests.ui.conftest import words

PAGES = ("overview", "runs", "compare", "layers")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A backend with a run, and one with nothing."""
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    both = Backend(tmp_path / "here"), Backend(tmp_path / "there")
    run, records, passages = named(*specimens.run(), specimens.passages())
    for part in (*records, passages, run):
        both[0]._store.put(part.key, part)
    yield both
    for opened in both:
        opened.close()


@pytest.mark.parametrize("page", PAGES)
def test_an_exported_run_opens_elsewhere_with_the_same_page(page, folders, open_page, monkeypatch):
    here, there = folders
    (run,) = here.runs()
    there.open_run(here.pack_run(run.key))
    shown = []
    for backend in (here, there):
        backend.costs.verdicts(backend.runs(), Tolerance())
        opened = open_page(page, run=run.key)
        monkeypatch.setattr(frame, "backend", lambda backend=backend: backend)
        assert not opened.run().exception
        shown.append(words(opened))
    assert shown[0] == shown[1] and ("SmolLM2" in shown[0] or "10 %" in shown[0])


def test_a_file_that_was_changed_is_refused_and_nothing_of_it_is_kept(folders):
    here, there = folders
    data = here.pack_run(here.runs()[0].key)
    for share in (0.0, 0.2, 0.5, 0.9):
        with pytest.raises(StoreError):
            there.open_run(flip(data, share))
    assert not list(there._store.keys(Run)) and not list(there._store.keys(Record))
    with pytest.raises(JobError, match="has not finished"):
        here.pack_run("nowhere")


def test_a_finished_run_that_is_ticked_can_be_exported_unless_parts_of_it_are_gone(open_page, folders, monkeypatch):
    here, _ = folders
    (run,) = here.runs()
    app = open_page("runs", chosen=run.key[:16])
    monkeypatch.setattr(frame, "backend", lambda: here)
    app.session_state["run-along"] = True
    assert "Names, prompts and blind choices stay here." in words(app.run())
    (download,) = (each for each in app.get("download_button") if each.proto.label.startswith("Download,"))
    assert download.proto.label.endswith("kB")
    here._store.drop(Record, run.sparse[0])
    assert "Some records of this run are not in the data folder any more. Run it again." in words(app.run())


def test_the_run_of_an_opened_file_is_ticked_and_a_refusal_stays_until_the_next_file(folders, monkeypatch):
    here, there = folders
    state, ticked = {}, []
    monkeypatch.setattr(runs_toolbar.st, "session_state", state)
    monkeypatch.setattr(runs_toolbar.st, "toast", lambda *_, **__: None)
    monkeypatch.setattr(runs_toolbar.runs_table, "tick_rows", ticked.append)
    data = here.pack_run(here.runs()[0].key)
    state[runs_toolbar._FIELD] = BytesIO(flip(data))
    runs_toolbar._open_file(there)
    assert "changed" in state[runs_toolbar._REFUSED] or "damaged" in state[runs_toolbar._REFUSED]
    assert (there.runs(), ticked) == ([], [])
    state[runs_toolbar._FIELD] = BytesIO(data)
    runs_toolbar._open_file(there)
    assert state[runs_toolbar._REFUSED] == ""
    assert ticked == [[here.runs()[0].key[:16]]] and len(there.runs()) == 1
