"""Commands with bad arguments: one line of error and exit code 2, before anything is computed;
--help.
"""

import contextlib
import subprocess
import sys

import pytest

from sparsedash.catalog import choices, presets
from sparsedash.shell import run_commands
from sparsedash.shell.commands import main
from tests.engine.tiny import save_tiny


@pytest.mark.parametrize(
    ("command", "change", "said"),
    [
        ("run", ["--sparsity", "10,120"], "Sparsity must be 0–90 %"),
        ("run", ["--sparsity=--"], "argument --sparsity: expected one argument"),
        ("export", ["--to", "a" * 300], "No folder can be made at "),
        ("run", ["--method", "obs,wishful"], "Method must be "),
        ("run", ["--method", "obs,obs"], "A method is named twice."),
        ("run", ["--tasks", "piqa,piqa"], "Tasks must be named once each, not 'piqa'."),
        ("run", ["--wishes\n\x1b[31m"], "unrecognized arguments: --wishes\\n\\x1b[31m"),
        (
            "run",
            ["--within", "1"],
            "Allowed word perplexity must be more than 1, at most 1000, not 1.0",
        ),
        (
            "run",
            ["--within-task", "piqa"],
            "more than 0 and up to 100, such as piqa=3.",
        ),
        ("run", ["--json", "/nowhere/at/all.json"], "in a folder that exists"),
        (
            "run",
            ["--json", "THESIS"],
            "must be a new file, an empty one or an earlier result of this program",
        ),
        (
            "run",
            ["--model", "/nowhere"],
            "sparsedash: Model: there is no model /nowhere on this machine",
        ),
        ("run", ["--calibration", "nosuch"], "-train, self, file:PATH, or an upload."),
        (
            "run",
            ["--data-dir", "/dev/null"],
            "The data folder /dev/null cannot be used",
        ),
        ("find", ["--stop-early"], "unrecognized arguments: --stop-early"),
        ("find", ["--method", "wanda-2:4"], "invalid choice: 'wanda-2:4'"),
        ("time", ["--sparsity", "10,20"], "Only one model can be timed"),
        ("time", ["--method", "wanda", "--width-multiple", "32"], "give no speed-up"),
        ("time", ["--threads", "0"], "Threads must be"),
        ("time", ["--quantise", "q8_0"], "Add --runtime llama.cpp"),
        ("export", ["--heal", "5"], "unrecognized arguments: --heal 5"),
        ("export", ["--sparsity", "10,20"], "of one sparse model, not 2"),
        ("export", ["--form", "onnx"], "uniform, padded, masked, gguf"),
        ("run", ["--quantise", "q3_k"], "q8_0, q6_k, q4_k_m, q4_0"),
        ("export", ["--to", "."], "already exists. Name another folder"),
        (
            "export",
            ["--form", "uniform", "--method", "wanda-2:4"],
            "one of these: masked, not 'uniform'. Reason: single weights were set",
        ),
        (
            "export",
            ["--form", "gguf", "--dense-gguf", "nowhere.gguf"],
            "must be a GGUF file of the dense model",
        ),
        (
            "export",
            ["--form", "padded", "--dense-gguf", "THESIS"],
            "nothing with --form padded",
        ),
    ],
)
def test_a_command_is_refused(
    flags, command, change, said, refusal, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        run_commands, "complete_run", lambda *_: pytest.fail("it was started")
    )
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("written by hand")
    data = tmp_path / "data"
    data.mkdir()
    changed = [str(thesis) if word == "THESIS" else word for word in change]
    if command == "find":
        place = flags.index("--sparsity")
        del flags[place : place + 2]
    assert said in refusal(command, *flags, "--data-dir", str(data), *changed)
    assert thesis.read_text() == "written by hand"


@pytest.fixture
def started(model_folder, tmp_path, monkeypatch):
    """The settings of the run that a command with these flags starts."""

    class Started(Exception):
        pass

    def start(settings, *_):
        raise Started(settings)

    monkeypatch.setattr(run_commands, "complete_run", start)

    def settings_of(*flags):
        usual = ["--model", str(model_folder), "--data-dir", str(tmp_path / "data")]
        with pytest.raises(Started) as caught:
            main(["run", *usual, *flags])
        return caught.value.args[0]

    return settings_of


@pytest.mark.parametrize(
    ("method", "change", "flag"),
    [
        ("magnitude", ["--curve-levels", "4"], "--curve-levels"),
        ("wanda", ["--width-multiple", "32"], "--width-multiple"),
        ("wanda,sparsegpt", ["--budget", "channels"], "--budget"),
        ("wanda,sparsegpt", ["--heal", "1"], "--heal"),
        ("wanda-2:4", ["--sparsity", "30"], "--sparsity"),
        ("magnitude,random", ["--token-weights", "residual"], "--token-weights"),
        ("magnitude", ["--packed"], "--packed"),
        ("magnitude,random", ["--mix", "0.5"], "--mix"),
    ],
)
def test_a_flag_that_none_of_the_methods_uses_is_refused(
    method, change, flag, model_folder, refusal, tmp_path
):
    where = ["--model", str(model_folder), "--data-dir", str(tmp_path / "data")]
    line = refusal("run", *where, "--method", method, *change)
    assert f"None of these methods uses {flag}: {method.replace(',', ', ')}." in line


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("magnitude,obs-by-curves", ["--curve-levels", "8", "--width-multiple", "4"]),
        ("magnitude", ["--token-weights", "residual", "--heal-steps", "8"]),
        ("wanda-2:4", ["--sparsity", "50"]),
    ],
)
def test_a_flag_that_one_of_the_methods_uses_is_taken(method, flags, started):
    assert started("--method", method, *flags)


@pytest.mark.parametrize(
    ("flags", "shares"),
    [([], [0.5, 0.0]), (["--mix", "0"], [0.0, 0.0]), (["--mix", "0.25"], [0.25, 0.25])],
)
def test_a_flag_that_is_not_named_leaves_each_method_as_it_is(flags, shares, started):
    settings = started(
        "--method", "best,least-squares", "--width-multiple", "8", *flags
    )
    assert [method.mix for method in settings.methods] == shares


@pytest.mark.parametrize(
    ("family", "form", "method", "said"),
    [
        (
            "bloom",
            "uniform",
            "wanda-channels",
            "one of these: padded, masked, gguf, not 'uniform'. Reason: stock code makes no narrower bloom model",
        ),
        (
            "phi3",
            "gguf",
            "wanda-channels",
            "No GGUF file can be made of this model: none of phi3 can be made here",
        ),
    ],
)
def test_an_export_in_a_form_that_cannot_hold_the_model_is_refused_before_its_run(
    flags, family, form, method, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "sparsedash.engine.run.pipeline.run", lambda *_, **__: pytest.fail("it was run")
    )
    model = str(save_tiny(tmp_path / "tiny", family))
    to = ["--to", str(tmp_path / "out")]
    assert (
        main(
            [
                "export",
                *flags,
                "--model",
                model,
                "--form",
                form,
                "--method",
                method,
                *to,
            ]
        )
        == 2
    )
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bad_variable_and_a_model_without_weights_are_refused(
    flags, refusal, capsys, tmp_path, monkeypatch
):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "intermediate_size": 64}'
    )
    assert main(["run", *flags, "--model", str(tmp_path)]) == 2
    printed = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert printed.startswith(
        f"sparsedash: The weights of {tmp_path} are not on this machine."
    )
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "nan")
    assert refusal("run", *flags).startswith(
        "sparsedash: SPARSEDASH_ARTEFACT_GB must be a number "
    )


@pytest.mark.parametrize(
    "said",
    [("--token", "hf_" + "aB3" * 11), ("--calibration", "https://me:hf_1@127.0.0.1/x")],
)
def test_a_secret_that_is_typed_by_mistake_is_not_repeated(flags, capsys, said):
    # argparse raises, after its own line; what SparseDash refuses itself comes back as a code.
    with contextlib.suppress(SystemExit):
        main(["run", *flags, *said])
    shown = capsys.readouterr()
    assert said[1] not in shown.out + shown.err
    assert "[hidden]" in shown.err


def test_help_names_every_method_and_text_the_exit_codes_and_how_to_begin_without_torch():
    program = (
        "import sys; from sparsedash.shell.commands import main\n"
        "try: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    )
    pages = []
    for command in ([], ["run"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *command, "--help"],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, " torch " in done.stdout) == (0, False)
        pages.append("".join(done.stdout.split()))
    assert f"sparsedashrun--model{choices.BUILTIN_MODEL}" in pages[0]
    ends = "(runandjudge,with--fail-beyond),notshowntobewithinit(with--fail-unless-within)ornothingwithinit(find)"
    assert (
        f"Exitcodes:0done,1failed,2refusedbeforeanythingwascomputed,3beyondthetolerance{ends},"
        in pages[0]
    )
    offered = (
        *presets.METHODS,
        *choices.CALIBRATION_CORPORA,
        *choices.EVALUATION_CORPORA,
    )
    assert not [
        entry.name for entry in offered if entry.name.replace(" ", "") not in pages[1]
    ]
