"""`sparsedash export` and `sparsedash verify`: exit 0 only when the proof holds."""

import json
import re

import pytest

from sparsedash.shell import file_commands
from sparsedash.shell.commands import main
from tests.engine.conftest import model_folder, passage_file  # noqa: F401 - fixtures
from tests.engine.tiny import save_tiny
from tests.shell.test_run_command import arguments as run_arguments  # noqa: F401 - a fixture


@pytest.fixture
def arguments(run_arguments, tmp_path):  # noqa: F811
    return ["export", *run_arguments[1:], "--sparsity", "50", "--to", str(tmp_path / "out")]


def test_a_model_is_run_written_proven_and_proven_again(arguments, tmp_path, capsys):
    assert main([*arguments, "--form", "uniform", "--shard-mb", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == str(tmp_path / "out")
    assert "12 of 12 passages are answered as by the model in memory, 12 as in the run." in printed
    assert json.loads((tmp_path / "out" / "config.json").read_text())["intermediate_size"] == 48
    again = ["verify", str(tmp_path / "out"), "--data-dir", str(tmp_path / "data")]
    assert main(again) == 0
    assert "Proven by transformers" in capsys.readouterr().out
    (tmp_path / "out" / "tokenizer.json").write_text("{}")
    assert main(again) == 1
    assert "is not what was written: tokenizer.json changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--sparsity", "10,20"], "one method and one sparsity"),
        (["--method", "best,magnitude"], "one method and one sparsity"),
        (["--form", "onnx"], "uniform, padded, masked, gguf"),
        (["--weights", "q8_0"], "float32, bfloat16, float16 as padded"),
        (["--form", "gguf", "--weights", "bfloat16"], "float32, float16, q8_0 as gguf"),
        (["--shard-mb", "0"], "a whole number from 1"),
        (["--to", "."], "a folder that does not exist yet"),
    ],
)
def test_what_cannot_be_asked_for_gives_one_line_and_code_2(arguments, change, said, capsys, tmp_path):
    assert main([*arguments, *change]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert said in complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--form", "uniform", "--method", "wanda-2:4"], "allowed: masked. Reason: single weights were set to zero"),
        (["--form", "uniform", "--method", "best"], "allowed: padded, masked, gguf. Reason: its blocks have different"),
        (["--form", "padded", "--method", "flap", "--model", "QWEN2"], "allowed: gguf. Reason: its blocks were given"),
        (
            ["--form", "uniform", "--model", "BLOOM"],
            "allowed: padded, masked, gguf. Reason: the code of bloom computes",
        ),
        (["--form", "gguf", "--model", "OPT"], "allowed: uniform, padded, masked. Reason: llama.cpp has no graph"),
        (["--form", "gguf"], "allowed: a GGUF file of the dense model with F32, F16 or BF16 weights"),
        (["--form", "gguf", "--dense-gguf", "nowhere.gguf"], "allowed: a GGUF file of the dense model"),
    ],
)
def test_a_form_that_cannot_hold_the_model_is_refused_before_the_run(
    arguments, change, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sparsedash.engine.run.pipeline.run", lambda *_, **__: pytest.fail("it was run"))
    if change[-1].isupper():
        change = [*change[:-1], str(save_tiny(tmp_path / "tiny", change[-1].lower()))]
    assert main([*arguments, *change]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_numbers_are_those_of_the_run_unless_the_form_has_none_such(arguments, monkeypatch):
    asked = []
    monkeypatch.setattr(file_commands, "complete_export", lambda settings, request, *_: asked.append(request) or 1 / 0)
    for form, weights in (("padded", "bfloat16"), ("gguf", "float32")):
        with pytest.raises(ZeroDivisionError):
            main([*arguments, "--dtype", "bfloat16", "--form", form])
        assert asked[-1]["weights"] == weights


@pytest.mark.parametrize("made", ["nothing", "no recipe", "no json", "another"])
def test_a_folder_that_is_no_export_of_this_data_folder_gives_one_line_and_code_2(made, tmp_path, capsys):
    folder = tmp_path / "folder"
    if made != "nothing":
        folder.mkdir()
    if made in ("no json", "another"):
        (folder / "recipe.json").write_text("{" if made == "no json" else json.dumps({"export": "abc"}))
    assert main(["verify", str(folder), "--data-dir", str(tmp_path / "data")]) == 2
    assert re.search("holds no recipe.json|the data folder that this was exported from", capsys.readouterr().err)
