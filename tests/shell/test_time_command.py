"""`sparsedash time`: the table that it prints, the document that it writes, and what it refuses."""

import json

import pytest

from sparsedash.shell import run_commands
from sparsedash.shell.commands import main
from tests.engine.conftest import model_folder, passage_file  # noqa: F401 - fixtures


@pytest.fixture
def arguments(model_folder, passage_file, tmp_path, monkeypatch):  # noqa: F811
    def quick(**asked):
        return real(**{**asked, "n_prompt": 8, "n_decode": 2, "batches": (1,), "least_rounds": 3, "most_s": 1})

    real = run_commands.TimingSettings
    monkeypatch.setattr(run_commands, "TimingSettings", quick)
    return [
        "time",
        *("--model", str(model_folder)),
        *("--calibration", f"file:{passage_file}"),
        *("--calibration-samples", "40"),
        *("--calibration-length", "32"),
        *("--evaluation", f"file:{passage_file}"),
        *("--passages", "5"),
        *("--sparsity", "50"),
        *("--width-multiple", "4"),
        *("--data-dir", str(tmp_path / "data")),
    ]


def test_what_is_not_known_is_run_first_then_timed_printed_and_written(arguments, tmp_path, capsys):
    file = tmp_path / "speed.json"
    assert main([*arguments, "--threads", "1", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["What", "Dense", "Sparse", "Ratio"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "prefill, 1 × 8 tokens",
        "decode, 1 × 2 after 8",
        "load",
        "weights on disk",
    ]
    timing = json.loads(file.read_text())["timing"]
    assert timing["n_threads"] == 1
    assert [phase["phase"] for phase in timing["phases"]] == ["prefill", "decode", "load"]
    assert all(len(p["dense_s"]) == len(p["sparse_s"]) >= 3 for p in timing["phases"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sparsity", "10,20"], "One model is timed at once"),
        (["--method", "wanda"], "no speed-up is expected"),
        (["--threads", "0"], "threads"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_anything_is_computed(arguments, capsys, tmp_path, more, said):
    refused = [word for word in arguments if word not in ("--width-multiple", "4")] if "wanda" in more else arguments
    assert main([*refused, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "data" / "records").exists()
