"""Commands with bad arguments: one line of error and exit code 2, before anything is computed; --help."""

import contextlib
import subprocess
import sys

import pytest

from sparsedash.catalog import choices, presets
from sparsedash.shell import run_commands
from sparsedash.shell.commands import main
from tests.engine.tiny import save_tiny


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--sparsity", "10,120"], "sparsity: '120' is not possible"),
        (["--sparsity=--"], "argument --sparsity: expected one argument"),
        (["--method", "obs,wishful"], "method: 'wishful' is not possible; allowed: "),
        (["--wishes\n\x1b[31m"], "unrecognized arguments: --wishes\\n\\x1b[31m"),
        (["--within", "1"], "allowed word perplexity: 1.0 is not possible"),
        (["--json", "/nowhere/at/all.json"], "a file in a folder that exists"),
        (["--json", "/dev/null"], "an earlier result of this program"),
        (["--json", ""], "a name is needed"),
        (["--json", "THESIS"], "allowed: a new file, an empty one, or an earlier result of this program."),
        (["--json", "DATA/out.json"], "allowed: a file outside the data folder "),
        (["--model", "/nowhere"], "sparsedash: Model: there is no model /nowhere on this machine"),
        (["--model", "a\0b"], "printable characters"),
        (["--model", "BERT"], "models of type 'bert' cannot be pruned yet"),
        (["--calibration", "nosuch"], "-train, self, file:PATH, or an upload."),
        (["--evaluation", "nosuch"], "Evaluation text: there is no nosuch; possible: builtin:cloze, "),
        (["--data-dir", ""], "a name is needed"),
        (["--data-dir", "/dev/null"], "The data folder /dev/null cannot be used"),
    ],
)
def test_a_run_is_refused(flags, change, said, refusal, tmp_path, monkeypatch):
    monkeypatch.setattr(run_commands, "complete_run", lambda *_: pytest.fail("it was started"))
    (tmp_path / "thesis.txt").write_text("written by hand")
    (tmp_path / "data").mkdir()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    places = {
        "BERT": tmp_path / "bert",
        "THESIS": tmp_path / "thesis.txt",
        "DATA/out.json": tmp_path / "data" / "o.json",
    }
    folder = ["--data-dir", str(tmp_path / "data")]
    assert said in refusal("run", *flags, *folder, *(str(places.get(word, word)) for word in change))
    assert (tmp_path / "thesis.txt").read_text() == "written by hand"


@pytest.mark.parametrize(
    ("command", "change", "said"),
    [
        ("find", ["--sparsity", "10"], "unrecognized arguments: --sparsity"),
        ("find", ["--stop-early"], "unrecognized arguments: --stop-early"),
        ("find", ["--method", "best,obs"], "method: 'best,obs' is not possible"),
        ("find", ["--method", "wanda-2:4"], "method: '2:4' is not possible"),
        ("time", ["--sparsity", "10,20"], "One model is timed at once"),
        ("time", ["--method", "wanda", "--width-multiple", "32"], "no speed-up is expected"),
        ("time", ["--threads", "0"], "threads"),
        ("export", ["--sparsity", "10,20"], "one method and one sparsity"),
        ("export", ["--form", "onnx"], "uniform, padded, masked, gguf"),
        ("export", ["--weights", "q8_0"], "float32, bfloat16, float16 as padded"),
        ("export", ["--shard-mb", "0"], "a whole number from 1"),
        ("export", ["--to", "."], "a folder that does not exist yet"),
        ("export", ["--form", "uniform", "--method", "wanda-2:4"], "allowed: masked. Reason: single weights were set"),
        ("export", ["--form", "uniform", "--method", "best"], "masked, gguf. Reason: its blocks have different"),
        ("export", ["--form", "gguf", "--dense-gguf", "nowhere.gguf"], "allowed: a GGUF file of the dense model"),
    ],
)
def test_another_command_is_refused(flags, command, change, said, refusal):
    where = flags.index("--sparsity")
    assert said in refusal(command, *(flags[:where] + flags[where + 2 :] if command == "find" else flags), *change)


@pytest.mark.parametrize(
    ("family", "form", "method", "said"),
    [
        ("qwen2", "padded", "flap", "allowed: gguf. Reason: its blocks were given"),
        ("bloom", "uniform", "magnitude", "allowed: padded, masked, gguf. Reason: the code of bloom computes"),
        ("opt", "gguf", "magnitude", "allowed: uniform, padded, masked. Reason: llama.cpp has no graph"),
        ("llama", "gguf", "magnitude", "allowed: a GGUF file of the dense model with F32, F16 or BF16 weights"),
    ],
)
def test_an_export_in_a_form_that_cannot_hold_the_model_is_refused_before_its_run(
    flags, family, form, method, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sparsedash.engine.run.pipeline.run", lambda *_, **__: pytest.fail("it was run"))
    model = str(save_tiny(tmp_path / "tiny", family))
    to = ["--to", str(tmp_path / "out")]
    assert main(["export", *flags, "--model", model, "--form", form, "--method", method, *to]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bad_variable_and_a_model_without_weights_are_refused(flags, refusal, capsys, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    assert main(["run", *flags, "--model", str(tmp_path)]) == 2
    printed = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert printed.startswith(f"sparsedash: {tmp_path} could not be read: ") or "describes" in printed
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "nan")
    assert refusal("run", *flags).startswith("sparsedash: SPARSEDASH_ARTEFACT_GB: ")


@pytest.mark.parametrize("said", [("--token", "hf_" + "aB3" * 11), ("--calibration", "https://me:hf_1@127.0.0.1/x")])
def test_a_secret_that_is_typed_by_mistake_is_not_repeated(flags, capsys, said):
    # argparse raises, after its own line; what SparseDash refuses itself comes back as a code.
    with contextlib.suppress(SystemExit):
        main(["run", *flags, *said])
    shown = capsys.readouterr()
    assert said[1] not in shown.out + shown.err
    assert "[hidden]" in shown.err


def test_help_answers_without_torch():
    code = (
        "import sys; from sparsedash.shell.commands import main\ntry: main(['run', '--help'])\nexcept SystemExit: "
        "pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_names_every_method_and_text_the_exit_codes_and_how_to_begin(capsys):
    said = {}
    for command in ([], ["run"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
        said[len(command)] = "".join(capsys.readouterr().out.split())
    assert f"sparsedashrun--model{choices.BUILTIN_MODEL}" in said[0]
    ends = (
        "3beyondthetolerance(run--fail-beyond),notshowntobewithinit(run--fail-unless-within)ornothingwithinit(find),"
        "4somethingtofix(clustercheck),130stopped"
    )
    assert f"Exitcodes:0done,1failed,2refusedbeforeanythingwascomputed,{ends}" in said[0]
    offered = (*presets.METHODS, *choices.CALIBRATION_CORPORA, *choices.EVALUATION_CORPORA)
    assert not [each.name for each in offered if each.name.replace(" ", "") not in said[1]]
