"""`sparsedash pack` and `unpack`: a run goes to another data folder; what is asked wrongly changes nothing."""

from dataclasses import replace

import pytest

from sparsedash.schema.records import Run
from sparsedash.shell.commands import main
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData
from tests.storage.test_run_files import named
from tests.ui import specimens


@pytest.fixture
def run(tmp_path):
    store = Store(tmp_path / "here")
    run, records, passages = named(*specimens.run(), specimens.passages())
    for part in (*records, passages, run):
        store.put(part.key, part)
    store.close()
    return run


def test_a_run_goes_to_another_data_folder_by_the_beginning_of_its_key(run, tmp_path, capsys):
    file, folders = str(tmp_path / "a.sparsedash-run"), [str(tmp_path / name) for name in ("here", "there")]
    assert main(["pack", run.key[:8], file, "--data-dir", folders[0]]) == 0
    assert main(["unpack", file, "--data-dir", folders[1]]) == 0
    assert f"/?run={run.key}" in capsys.readouterr().out
    store = Store(tmp_path / "there")
    assert store.get(Run, run.key) == run
    store.close()


def test_every_run_is_listed_with_the_key_that_pack_takes(run, tmp_path, capsys):
    folder = ["--data-dir", str(tmp_path / "here")]
    store = Store(tmp_path / "here")
    UserData(store).name_run(run.key, "with \x1b[31m stories")
    store.put("f" * 64, replace(run, key="f" * 64, started_at=run.started_at - 1, finished=False))
    store.close()
    assert main(["runs", *folder]) == 0
    head, newest, oldest = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "started", "state", "about"]
    assert newest.startswith(run.key[:16]) and "with \\x1b[31m stories: SmolLM2 135M" in newest and " done " in newest
    assert "at 10, 20, 30 % · " in newest
    assert oldest.startswith("f" * 16) and "not finished" in oldest
    assert main(["pack", newest.split()[0], str(tmp_path / "a"), *folder]) == 0


def test_a_folder_without_runs_says_so(tmp_path, capsys):
    assert main(["runs", "--data-dir", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == "No runs.\n"


@pytest.mark.parametrize("asked", ["", "0", "zzzzzzzz", "../../etc"])
def test_a_run_that_is_none_is_refused(run, tmp_path, capsys, asked):
    assert main(["pack", asked, str(tmp_path / "out"), "--data-dir", str(tmp_path / "here")]) == 2
    assert "6 digits of it at least;" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_something_else_stays_as_it_is(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter one")
    assert main(["pack", run.key, str(tmp_path / "thesis.txt"), "--data-dir", str(tmp_path / "here")]) == 2
    assert (tmp_path / "thesis.txt").read_text() == "chapter one"


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"x"), lambda path: path.mkdir(), lambda path: None])
def test_what_is_no_file_of_a_run_is_asked_wrongly(tmp_path, capsys, make):
    make(tmp_path / "file")
    assert main(["unpack", str(tmp_path / "file"), "--data-dir", str(tmp_path / "there")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "there").exists()
