"""`python -m sparsedash run`: the document it writes, and what it says to bad arguments."""

import contextlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from sparsedash.catalog import choices, presets
from sparsedash.schema.errors import StoreError
from sparsedash.shell import run_commands
from sparsedash.shell.commands import main
from sparsedash.shell.run_commands import all_within
from sparsedash.shell.terminal import EXIT_BEYOND
from tests.engine.conftest import model_folder, passage_file  # noqa: F401 - fixtures

PASSAGE_FIELDS = {"index", "target", "last_word_right", "last_token_right", "log_likelihood", "answer"}
ANSWERS = {"last_word", "last_token", "word_perplexity", "passages"}
SPARSE = {"sparsity_percent", "mlp_sparsity", "matmul_ratio", "widths", "paired", "method"}


@pytest.fixture
def arguments(model_folder, passage_file, tmp_path, monkeypatch):  # noqa: F811
    # The command says so by a variable, before transformers is imported; these tests have imported it.
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)
    return [
        "run",
        *("--model", str(model_folder)),
        *("--calibration", f"file:{passage_file}"),
        *("--calibration-samples", "40"),
        *("--calibration-length", "32"),
        *("--evaluation", f"file:{passage_file}"),
        *("--passages", "12"),
        *("--method", "least-squares"),
        *("--sparsity", "50,12.5"),
        *("--width-multiple", "4"),
        *("--data-dir", str(tmp_path / "data")),
    ]


def test_the_document_holds_every_promised_field(arguments, tmp_path, capsys):
    file = tmp_path / "out.json"
    assert main([*arguments, "--json", str(file)]) == 0
    document = json.loads(file.read_text())
    assert {"dense", "sparse", "seconds", "model", "corpora", "versions", "seed"} <= set(document)
    assert set(document["dense"]) >= ANSWERS
    assert [s["sparsity_percent"] for s in document["sparse"]] == [50.0, 12.5]
    for answers in (document["dense"], *document["sparse"]):
        assert answers["last_word"].keys() == answers["last_token"].keys() == {"right", "total"}
        assert [p["index"] for p in answers["passages"]] == list(range(12))
        assert all(set(p) == PASSAGE_FIELDS for p in answers["passages"])
    for sparse in document["sparse"]:
        assert set(sparse) >= SPARSE | ANSWERS
        assert set(sparse["paired"]) == {"broke", "mended", "p_value", "p_adjusted", "difference", "interval"}
    assert document["sparse"][0]["widths"] == [48, 48, 48]
    assert document["settings"]["calibration"]["token_weights"] == "equal"
    assert set(document["seconds"]) >= {"load", "calibrate", "prune", "evaluate"}
    assert set(document["versions"]) >= {"torch", "transformers", "python", "sparsedash"}
    printed = capsys.readouterr().out
    assert "dense" in printed and "12.5 %" in printed


def test_every_sparse_model_has_a_verdict_and_one_beyond_can_fail_the_command(arguments, tmp_path, capsys, monkeypatch):
    file = tmp_path / "out.json"
    lax = [*arguments, "--sparsity", "50", "--json", str(file), "--fail-beyond"]
    assert main(lax) == 0
    (sparse,) = json.loads(file.read_text())["sparse"]
    verdict = sparse["verdict"]
    # Twelve passages, of which the random model has next to nothing right.
    assert (verdict["verdict"], verdict["tolerance"]) == ("undecided", {"ratio": 1.1, "points": 2.0})
    assert verdict["points"] is None
    assert verdict["ratio"]["low"] < verdict["ratio"]["value"] < verdict["ratio"]["high"]
    assert "undecided" in capsys.readouterr().out
    document = json.loads(file.read_text())
    document["sparse"][0]["verdict"]["verdict"] = "beyond"
    monkeypatch.setattr("sparsedash.shell.run_commands.stored_run_document", lambda *_: document)
    assert main(lax) == 3
    assert main(lax[:-1]) == 0


@pytest.mark.parametrize(
    ("perplexity", "accuracy", "code"),
    [
        ("within", "within", 0),
        ("within", None, 0),
        ("within", "undecided", 3),
        ("undecided", "within", 3),
        ("undecided", None, 3),
        ("within", "beyond", 3),
    ],
)
def test_a_strict_gate_is_passed_by_no_measure_that_is_undecided(perplexity, accuracy, code):
    verdict = {"ratio": {"verdict": perplexity}, "points": accuracy and {"verdict": accuracy}}
    document = {"sparse": [{"verdict": verdict | {"verdict": "within"}}]}
    assert (EXIT_BEYOND if not all_within(document, 1) else 0) == code
    assert not all_within(document, 2), "a model whose answers are gone was not shown to be within"


def test_a_strict_gate_fails_the_command_where_a_lax_one_does_not(arguments):
    # Twelve passages decide nothing.
    assert main([*arguments, "--sparsity", "50", "--fail-beyond"]) == 0
    assert main([*arguments, "--sparsity", "50", "--fail-unless-within"]) == 3


def test_a_document_on_standard_output_is_all_that_stands_there(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--sparsity", "50", "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["format"] == "sparsedash.run/1"
    assert "word ppl" in printed.err and not (tmp_path / "-").exists()
    assert main([*arguments, "--sparsity", "50", "--json", "-", "--quiet"]) == 0
    assert all(line.startswith("sparsedash: warning: ") for line in capsys.readouterr().err.splitlines())


def test_without_a_terminal_every_stage_is_one_line(arguments, capsys):
    assert main(arguments) == 0
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert "\r" not in said and len(lines) == len(set(lines))
    assert {"Loading the model", "Evaluating, dense: 12 passages", "Evaluating, 12.5 %: 12 passages"} <= set(lines)


def test_what_the_pages_warn_of_goes_to_standard_error(arguments, capsys, monkeypatch):
    real = run_commands.complete_run
    monkeypatch.setattr(
        run_commands, "complete_run", lambda *asked: replace(real(*asked), warnings=("Read\x1b no .bin file.",))
    )
    assert main([*arguments, "--sparsity", "50", "--quiet"]) == 0
    assert capsys.readouterr().err == "sparsedash: warning: Read\\x1b no .bin file.\n"


def test_several_methods_race_in_one_run(arguments, capsys):
    assert main([*arguments, "--method", "wanda-channels, magnitude", "--sparsity", "50"]) == 0
    names = ["dense", "wanda-channels (multiples of 4), 50 %", "magnitude (multiples of 4), 50 %"]
    printed = capsys.readouterr()
    assert all(f"Evaluating, {name}: " in printed.err for name in names)
    assert [line.split("  ")[0] for line in printed.out.splitlines()[1:4]] == names


def test_tokens_can_be_weighted_and_documents_packed(arguments, tmp_path):
    file = tmp_path / "out.json"
    chosen = ["--token-weights", "residual", "--packed", "--sparsity", "50", "--json", str(file)]
    assert main([*arguments, *chosen]) == 0
    settings = json.loads(file.read_text())["settings"]
    assert settings["calibration"]["token_weights"] == "residual"
    assert settings["calibration"]["packed"] is True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--sparsity", "10,120"], "sparsity: '120' is not possible"),
        (["--sparsity", "10.55"], "in tenths at the finest"),
        (["--sparsity", "10,10"], "each one once"),
        (["--method", "wishful"], "method: 'wishful' is not possible; allowed: "),
        (["--method", "obs,wishful"], "method: 'wishful' is not possible; allowed: "),
        (["--method", "obs,obs"], "methods: "),
        (["--dtype", "float8"], "allowed: float32, bfloat16"),
        (["--token-weights", "mine"], "token weights: 'mine' is not possible; allowed: equal, residual"),
        (["--passages", "0"], "passages: 0 is not possible"),
        (["--passages", "many"], "invalid int value"),
        (["--wishes", "3"], "unrecognized arguments"),
        (["--within", "1"], "allowed word perplexity: 1.0 is not possible"),
        (["--within-points", "nan"], "allowed points of accuracy: nan is not possible"),
        (["--json", "/nowhere/at/all.json"], "a file in a folder that exists"),
        (["--json", "/dev/null"], "not a folder, a pipe or a device"),
        (["--json", ""], "a name is needed"),
        (["--sparsity=--"], "argument --sparsity: expected one argument"),
        (["--method=--"], "argument --method: expected one argument"),
        (["--sparsity", "nan"], "sparsity: 'nan' is not possible"),
        (["--sparsity", "9" * 5000], "allowed: 0 to 90 percent"),
        (["--seed", "9" * 5000], "invalid int value"),
        (["--seed", "9" * 40], "a whole number from 0 to"),
        (["--wishes\n\x1b[31m"], "unrecognized arguments: --wishes\\n\\x1b[31m"),
        (["--model", "m" * 300], "Model: there is no mmm"),
        (["--model", "~nosuchuser/x"], "Model: there is no ~nosuchuser/x on this machine."),
        (["--model", "a\0b"], "printable characters"),
        (["--evaluation", "file:~nosuchuser/x.txt"], "there is no file ~nosuchuser/x.txt"),
        (["--data-dir", ""], "a name is needed"),
        (["--data-dir", "/"], "holds other things"),
        (["--data-dir", "/dev/null"], "The data folder /dev/null cannot be used"),
        (["--data-dir", "~nosuchuser/x"], "nobody here is called 'nosuchuser'"),
        (["--data-dir", "d" * 300], "cannot be used"),
        (["--data-dir", "a\0b"], "cannot be used"),
    ],
)
def test_bad_arguments_give_one_clear_line_and_code_2(arguments, change, said, capsys):
    try:
        code = main([*arguments, *change])
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr().err
    assert code == 2
    assert said in printed
    assert printed.count("\n") == 1
    assert len(printed) < 2000


@pytest.mark.parametrize("room", ["nan", "inf", "-1", "x", " "])
def test_a_bad_variable_gives_one_clear_line_and_code_2(arguments, room, capsys, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", room)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sparsedash: SPARSEDASH_ARTEFACT_GB: ")


def test_a_document_that_cannot_be_written_after_all_is_said(arguments, capsys, monkeypatch, tmp_path):
    def fill(*_):
        raise StoreError("out.json could not be written: no space.")

    monkeypatch.setattr("sparsedash.shell.terminal.write_whole", fill)
    assert main([*arguments, "--json", str(tmp_path / "out.json")]) == 1
    printed = capsys.readouterr()
    assert "dense" in printed.out
    assert printed.err.splitlines()[-1] == "sparsedash: out.json could not be written: no space."


@pytest.mark.parametrize("said", [("--token", "hf_" + "aB3" * 11), ("--calibration", "https://me:hf_1@127.0.0.1/x")])
def test_a_secret_that_is_typed_by_mistake_is_not_repeated(arguments, capsys, said):
    # argparse raises, after its own line; what SparseDash refuses itself comes back as a code.
    with contextlib.suppress(SystemExit):
        main([*arguments, *said])
    shown = capsys.readouterr()
    assert said[1] not in shown.out + shown.err
    assert "[hidden]" in shown.err


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--model", "/nowhere", "Model: there is no /nowhere on this machine."),
        ("--calibration", "nosuch", "Calibration text: there is no nosuch; possible: "),
        ("--evaluation", "nosuch", "Evaluation text: there is no nosuch; possible: "),
    ],
)
def test_what_is_not_there_gives_one_line_and_code_2_at_once(arguments, capsys, monkeypatch, flag, value, said):
    monkeypatch.setattr("sparsedash.shell.run_commands.complete_run", lambda *_: pytest.fail("it was started"))
    assert main([*arguments, flag, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sparsedash: {said}")
    assert ("self" in line) == (flag == "--calibration")


def test_a_model_that_cannot_be_pruned_gives_one_line_and_code_2_at_once(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsedash.shell.run_commands.complete_run", lambda *_: pytest.fail("it was started"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert main([*arguments, "--model", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "models of type 'bert' cannot be pruned yet" in line


def test_a_model_without_weights_gives_one_line_and_code_2(arguments, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    assert main([*arguments, "--model", str(tmp_path)]) == 2
    printed = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert printed.startswith(f"sparsedash: {tmp_path} could not be read: ") or "describes" in printed


def test_help_answers_without_loading_torch():
    code = (
        "import sys; from sparsedash.shell.commands import main\ntry: main(['run', '--help'])\nexcept SystemExit: "
        "pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_its_own_help_names_every_method_and_text_and_how_to_begin(capsys):
    said = {}
    for command in ([], ["run"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
        said[len(command)] = "".join(capsys.readouterr().out.split())
    assert f"sparsedashrun--model{choices.BUILTIN_MODEL}" in said[0]
    ends = (
        "3beyondwhatmaybelost(run--fail-beyond),notshowntobewithinit(run--fail-unless-within)ornothingwithinit(find),"
        "4somethingistobemended(clustercheck),130stopped"
    )
    assert f"Exitcodes:0done,1failed,2refusedbeforeanythingwascomputed,{ends}" in said[0]
    offered = (*presets.METHODS, *choices.CALIBRATION_CORPORA, *choices.EVALUATION_CORPORA)
    assert not [each.name for each in offered if each.name.replace(" ", "") not in said[1]]


def test_a_result_in_the_data_folder_is_refused_before_the_run(arguments, capsys, tmp_path):
    folder = tmp_path / "fresh"
    folder.mkdir()
    asked = [*arguments, "--data-dir", str(folder), "--json", str(folder / "out.json")]
    assert main(asked) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"allowed: a file outside the data folder {folder}." in line


def test_a_file_that_is_no_result_is_refused_before_the_run_and_left_alone(arguments, capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("written by hand")
    assert main([*arguments, "--json", str(tmp_path / "thesis.txt")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "allowed: a new file, an empty one, or an earlier result of this program." in line
    assert (tmp_path / "thesis.txt").read_text() == "written by hand"
