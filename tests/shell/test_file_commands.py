"""`sparsedash export`, `verify`, `runs`, `pack` and `unpack`: sparse models and finished runs as
files.
"""

import json
import os
import re
import sys
from dataclasses import replace

import pytest

from sparsedash.schema.records import Run
from sparsedash.shell import file_commands
from sparsedash.shell.commands import main
from sparsedash.storage.store import Store
from sparsedash.storage.users import UserData
from tests.engine.export.conftest import proofs  # noqa: F401 - a fixture
from tests.storage.test_run_files import named
from tests.ui import specimens


def test_an_export_is_proven_and_proven_again(flags, data_folder, tmp_path, capsys):
    to = tmp_path / "out"
    assert (
        main(
            ["export", *flags, "--form", "uniform", "--shard-mb", "1", "--to", str(to)]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == str(to)
    assert (
        "of 12 answers 12 are as by the model in memory and 12 as in the run."
        in printed
    )
    assert json.loads((to / "config.json").read_text())["intermediate_size"] == 48
    again = ["verify", str(to), "--data-dir", data_folder]
    assert main(again) == 0
    assert "Proven by transformers" in capsys.readouterr().out
    assert main(["verify", str(to), "--data-dir", str(tmp_path / "mistyped")]) == 2
    assert (
        "must be a data folder of SparseDash" in capsys.readouterr().err
        and not (tmp_path / "mistyped").exists()
    )
    (to / "tokenizer.json").write_text("{}")
    assert main(again) == 1
    assert (
        "is not as exported: changed or new: tokenizer.json." in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("form", "weights"), [("padded", "bfloat16"), ("gguf", "float32")]
)
def test_the_weights_have_the_number_format_of_the_run_unless_the_form_has_none_such(
    flags, monkeypatch, form, weights
):
    requests = []
    monkeypatch.setattr(
        file_commands,
        "complete_export",
        lambda settings, request, *_: requests.append(request) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        main(["export", *flags, "--dtype", "bfloat16", "--form", form])
    assert requests[0].weights == weights


@pytest.mark.parametrize("made", ["nothing", "no recipe", "no json", "another"])
def test_a_folder_that_is_no_export_of_this_data_folder_is_refused(
    made, tmp_path, refusal
):
    folder = tmp_path / "folder"
    (tmp_path / "data").mkdir()
    if made != "nothing":
        folder.mkdir()
    if made in ("no json", "another"):
        (folder / "recipe.json").write_text(
            "{" if made == "no json" else json.dumps({"export": "abc"})
        )
    error = refusal("verify", str(folder), "--data-dir", str(tmp_path / "data"))
    assert re.search(
        "holds no recipe.json|the data folder that this was exported from", error
    )


@pytest.fixture
def run(tmp_path):
    store = Store(tmp_path / "here")
    run, records, passages = named(*specimens.run(), specimens.passages())
    for part in (*records, passages, run):
        store.put(part.key, part)
    store.close()
    return run


def test_every_run_is_listed_with_the_key_by_which_it_goes_to_another_data_folder(
    run, tmp_path, capsys, refusal
):
    file, here, there = (
        tmp_path / name for name in ("a.sparsedash-run", "here", "there")
    )
    store = Store(here)
    UserData(store).name_run(run.key, "with \x1b[31m stories")
    store.put(
        "f" * 64,
        replace(run, key="f" * 64, started_at=run.started_at - 1, finished=False),
    )
    store.close()
    assert main(["runs", "--data-dir", str(here)]) == 0
    head, newest, oldest = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "started", "state", "about"]
    assert (
        newest.startswith(run.key[:16])
        and "with \\x1b[31m stories: SmolLM2 135M" in newest
        and " done " in newest
    )
    assert newest.endswith("least-squares 10, 20, 30 % on Cloze passages")
    assert oldest.startswith("f" * 16) and "not finished" in oldest

    for beginning in ("", "0", "zzzzzzzz", "../../etc"):
        assert "6 digits of it at least, not" in refusal(
            "pack", beginning, str(file), "--data-dir", str(here)
        )
    (tmp_path / "thesis.txt").write_text("chapter one")
    refusal("pack", run.key, str(tmp_path / "thesis.txt"), "--data-dir", str(here))
    assert (tmp_path / "thesis.txt").read_text() == "chapter one" and not file.exists()

    assert main(["pack", newest[:8], str(file), "--data-dir", str(here)]) == 0
    assert main(["unpack", str(file), "--data-dir", str(there)]) == 0
    assert f"/?run={run.key}" in capsys.readouterr().out
    store = Store(there)
    assert store.get(Run, run.key) == run
    store.close()
    for folder, printed in (
        ("mistyped", f"No runs: there is no folder {tmp_path}/mistyped."),
        ("new", "No runs."),
    ):
        assert main(["runs", "--data-dir", str(tmp_path / folder)]) == 0
        assert (
            capsys.readouterr().out == f"{printed}\n"
            and not (tmp_path / "mistyped").exists()
        )
        (tmp_path / "new").mkdir(exist_ok=True)


def test_output_that_nobody_reads_to_its_end_is_no_error(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert main(["runs", "--data-dir", str(tmp_path)]) == 1
