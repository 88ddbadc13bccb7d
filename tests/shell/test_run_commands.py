"""`sparsedash run`, `find` and `time`: what they print, write and end with."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.schema.errors import JobError, SettingsError, StoreError
from sparsedash.schema.pair_records import TimingSettings
from sparsedash.schema.progress import Step
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.machine_speed import MachineSpeed
from sparsedash.service.model_lookup import NamedModel
from sparsedash.shell import flags as flags_of_commands
from sparsedash.shell import run_commands
from sparsedash.shell.commands import _parser, main
from sparsedash.shell.flags import open_store_for, run_from_flags
from sparsedash.shell.run_commands import TIMING_FORMAT, all_within
from sparsedash.shell.terminal import ProgressBar, one_line, run_table
from tests.engine.run.test_experts import tiny_mixture
from tests.engine.tiny import tiny_tokenizer
from tests.factories import MIXTURE_SHAPE, RECORD, RUN, outcome, plain
from tests.reporting.held_results import document_of, results_of


@pytest.fixture
def document(tmp_path):
    """The flag of a file for the document, and a function that reads it."""
    file = tmp_path / "out.json"
    return ("--json", str(file)), lambda: json.loads(file.read_text())


@pytest.fixture
def mixture(tmp_path, capsys):
    """Flags of a tiny mixture, of whose experts channels are removed."""
    folder = tmp_path / "mixture"
    tiny_mixture("qwen3_moe").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    # A bar of transformers.
    capsys.readouterr()
    return [
        "--model",
        str(folder),
        "--method",
        "expert-channels",
        "--width-multiple",
        "8",
    ]


def test_a_run_prints_its_table_and_progress_and_writes_a_document(
    flags, document, tmp_path, capsys
):
    to, read = document
    fresh = ["--data-dir", str(tmp_path / "data"), "--sparsity", "50,12.5"]
    assert (
        main(["run", *flags, *fresh, "--token-weights", "residual", "--packed", *to])
        == 0
    )
    result = read()
    assert [sparse["sparsity_percent"] for sparse in result["sparse"]] == [50.0, 12.5]
    for answers in (result["dense"], *result["sparse"]):
        assert [passage["index"] for passage in answers["passages"]] == list(range(12))
    assert result["sparse"][0]["widths"] == [48, 48, 48]
    assert result["settings"]["calibration"]["token_weights"] == "residual"
    assert result["settings"]["calibration"]["packed"] is True
    assert set(result["seconds"]) >= {"load", "calibrate", "prune", "evaluate"}
    printed = capsys.readouterr()
    assert "dense" in printed.out and "12.5 %" in printed.out
    # Without a terminal every stage is one line.
    lines = printed.err.splitlines()
    assert "\r" not in printed.err and len(lines) == len(set(lines))
    assert {
        "Loading the model",
        "Evaluating, dense: 12 passages",
        "Evaluating, 12.5 %: 12 passages",
    } <= set(lines)


def test_every_model_continues_the_prompts_that_are_given(flags, document, capsys):
    to, read = document
    assert (
        main(["run", *flags, *to, "--prompt", "the lamp and", "--prompt", "a boat"])
        == 0
    )
    written = read()
    assert written["settings"]["prompts"] == ["the lamp and", "a boat"]
    dense = written["dense"]["continuations"]
    sparse = written["sparse"][0]["continuations"]
    assert len(dense) == len(sparse) == 2 and None not in [*dense, *sparse]
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("the lamp and")
    shown = [
        f"  dense  {one_line(dense[0].strip())}",
        f"  50 %   {one_line(sparse[0].strip())}",
    ]
    assert lines[start + 1 : start + 3] == [line.rstrip() for line in shown]


@pytest.mark.parametrize("how", [("--heal-steps", "8"), ("--heal", "0.1")])
def test_every_model_is_healed_beside_the_unhealed_one(
    how, flags, document, tmp_path, capsys, monkeypatch
):
    to, read = document
    fresh = ("--data-dir", str(tmp_path / "data"))
    monkeypatch.setattr(
        "sparsedash.shell.run_commands.healing_steps",
        lambda minutes, *_: round(80 * minutes),
    )
    monkeypatch.setattr(
        "sparsedash.service.machine_speed.MachineSpeed.measured", lambda speed: None
    )
    assert (
        main(["run", *flags, *to, "--method", "magnitude,magnitude-2:4", *how, *fresh])
        == 0
    )
    plain, healed, masked = read()["sparse"]
    assert [model["method"]["heal_steps"] for model in (plain, healed, masked)] == [
        0,
        8,
        0,
    ]
    assert (
        plain["healed"] is masked["healed"] is None and healed["healed"]["steps"] == 8
    )
    printed = capsys.readouterr()
    assert (
        "magnitude (healed 8 steps)" in printed.out
        and "Healing, magnitude" in printed.err
    )


@pytest.mark.parametrize("command", ["run", "find"])
def test_what_is_left_of_experts_is_neither_healed_nor_quantised(
    command, mixture, refusal, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        MachineSpeed, "measured", lambda _: pytest.fail("it was measured")
    )
    line = [command, *mixture, "--data-dir", str(tmp_path / "data")]
    refused = "Models with fewer or narrower experts cannot be {} here. Leave it out, or choose"
    assert refused.format("quantised") in refusal(*line, "--quantise", "q8_0")
    assert refused.format("healed") in refusal(*line, "--heal-steps", "8")
    assert main([*line, "--heal", "6"]) == 2
    assert refused.format("healed") in capsys.readouterr().err


def test_healing_is_refused_where_it_is_not_possible(flags, refusal):
    assert "0 to 1,440 minutes" in refusal("run", *flags, "--heal", "-1")
    assert "Give one of them" in refusal(
        "run", *flags, "--heal", "1", "--heal-steps", "8"
    )
    assert "no method removes channels" in refusal(
        "run", *flags, "--method", "wanda-2:4", "--heal-steps", "8"
    )
    assert "streams them from disk" in refusal(
        "run", *flags, "--residency", "streamed", "--heal-steps", "8"
    )
    assert "at least 16" in refusal(
        "find",
        *flags[:4],
        "--calibration-samples",
        "15",
        "--data-dir",
        flags[-1],
        "--heal-steps",
        "8",
    )


def test_a_run_is_judged_and_can_fail_the_command(flags, document, capsys, monkeypatch):
    to, read = document
    lax = ["run", *flags, *to, "--fail-beyond"]
    assert main(lax) == 0
    (sparse,) = read()["sparse"]
    verdict = sparse["verdict"]
    # Twelve passages, of which the random model has next to nothing right.
    assert (verdict["verdict"], verdict["tolerance"]) == (
        "undecided",
        {"ratio": 1.1, "points": 2.0, "tasks": {}},
    )
    assert verdict["points"] is None
    assert (
        verdict["ratio"]["low"] < verdict["ratio"]["value"] < verdict["ratio"]["high"]
    )
    assert "undecided" in capsys.readouterr().out
    assert main(["run", *flags, "--fail-unless-within"]) == 3
    beyond = read()
    beyond["sparse"][0]["verdict"]["verdict"] = "beyond"
    real = run_commands.stored_run_document
    monkeypatch.setattr(
        run_commands, "stored_run_document", lambda *asked: (real(*asked)[0], beyond)
    )
    assert main(lax) == 3
    assert main(lax[:-1]) == 0


@pytest.mark.parametrize(
    ("whole", "accuracy", "within"),
    [
        ("within", "within", True),
        ("within", None, True),
        ("within", "undecided", False),
        ("undecided", None, False),
    ],
)
def test_only_measures_that_are_all_within_pass_the_strict_gate(
    whole, accuracy, within
):
    document = {
        "sparse": [
            {
                "verdict": {
                    "verdict": whole,
                    "points": accuracy and {"verdict": accuracy},
                }
            }
        ]
    }
    assert all_within(document, 1) == within
    assert not all_within(document, 2), (
        "a model whose answers are gone was not shown to be within"
    )


def test_a_document_on_standard_output_is_all_that_is_printed_there(
    flags, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    real = run_commands.complete_run
    warned = lambda *asked: replace(real(*asked), warnings=("Read\x1b no .bin file.",))  # noqa: E731
    monkeypatch.setattr(run_commands, "complete_run", warned)
    assert main(["run", *flags, "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["format"] == "sparsedash.run/1"
    assert "word ppl" in printed.err and not (tmp_path / "-").exists()
    assert main(["run", *flags, "--json", "-", "--quiet"]) == 0
    assert capsys.readouterr().err == "sparsedash: warning: Read\\x1b no .bin file.\n"


def test_several_methods_race_in_one_run(flags, capsys):
    assert main(["run", *flags, "--method", "wanda-channels, magnitude"]) == 0
    names = ["dense", "wanda-channels 50 %", "magnitude 50 %"]
    printed = capsys.readouterr()
    assert all(f"Evaluating, {name}: " in printed.err for name in names[1:])
    assert [line.split("  ")[0] for line in printed.out.splitlines()[1:4]] == names


@pytest.mark.parametrize(
    ("command", "sparsities"),
    [("run", (100, 200)), ("time", (200,)), ("export", (200,))],
)
def test_flags_that_are_not_given_are_the_defaults_of_the_settings(command, sparsities):
    arguments = _parser().parse_args(
        [command, "--model", "a/b", "--method", "least-squares"]
    )
    assert run_from_flags(arguments) == RunSettings(
        model="a/b", sparsities_permille=sparsities
    )


def test_a_mixture_loses_experts_and_reads_enough_text_unless_flags_say_others(
    monkeypatch, tmp_path, capsys
):
    wide = replace(MIXTURE_SHAPE.structure.experts[1], n=128, width=768, n_chosen=8)
    structure = replace(MIXTURE_SHAPE.structure, experts=(None, wide, wide))
    named = [
        NamedModel(family="glm4_moe", shape=replace(MIXTURE_SHAPE, structure=structure))
    ]
    monkeypatch.setattr(flags_of_commands, "named_model", lambda *_: named[-1])
    monkeypatch.setattr(flags_of_commands, "inspect_config", lambda *_: None)
    monkeypatch.setattr(flags_of_commands, "require_startable", lambda *_: None)

    def requested(*more):
        line = [
            "run",
            "--model",
            str(tmp_path),
            "--data-dir",
            str(tmp_path / "data"),
            *more,
        ]
        arguments = _parser().parse_args(line)
        settings, store = open_store_for(run_from_flags(arguments), arguments)
        store.close()
        return settings

    settings = requested()
    assert settings.methods == (method_named("experts"),)
    assert settings.calibration.n_samples == 480
    assert capsys.readouterr().err.splitlines() == [
        "sparsedash: Method: experts (recommended).",
        "sparsedash: Refitting this model's experts takes about 122,880 calibration tokens: 480 "
        "samples of up to 256.",
    ]
    assert requested("--method", "reap").calibration.n_samples == 128
    assert requested("--method", "best").methods == (method_named("best"),)
    assert capsys.readouterr().err == ""
    assert requested("--calibration-samples", "9").calibration.n_samples == 9
    assert "many of them will stay as they are" in capsys.readouterr().err
    named.append(
        NamedModel(family="qwen3_moe", shape=replace(named[0].shape, widths=(0, 0, 0)))
    )
    chosen = requested("--method", "reap,best", "--width-multiple", "64").methods
    channels = replace(method_named("expert-channels"), width_multiple=64)
    assert chosen == (method_named("reap"), channels)
    assert capsys.readouterr().err.splitlines()[0] == (
        "sparsedash: Method: reap, expert-channels (best, as this model has no channels but those "
        "of its experts)."
    )
    assert requested("--method", "best,expert-channels").methods == (
        method_named("expert-channels"),
    )
    assert capsys.readouterr().err.splitlines()[0] == (
        "sparsedash: Method: expert-channels (best, as this model has no channels but those of its "
        "experts)."
    )
    with pytest.raises(
        SettingsError, match="None of these methods uses --curve-levels: expert-"
    ):
        requested("--method", "best", "--curve-levels", "3")


def test_a_document_that_cannot_be_written_after_the_run_is_an_error(
    flags, capsys, monkeypatch, tmp_path
):
    def fill(*_):
        raise StoreError("out.json could not be written: no space.")

    monkeypatch.setattr("sparsedash.shell.terminal.write_atomically", fill)
    assert main(["run", *flags, "--json", str(tmp_path / "out.json")]) == 1
    printed = capsys.readouterr()
    assert "dense" in printed.out
    assert (
        printed.err.splitlines()[-1]
        == "sparsedash: out.json could not be written: no space."
    )


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="this system has no device that is full"
)
def test_a_document_is_kept_where_the_output_fails(
    flags, capsys, monkeypatch, tmp_path
):
    file = tmp_path / "out.json"
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["run", *flags, "--json", str(file)]) == 1
        monkeypatch.undo()
    assert json.loads(file.read_text())["format"].startswith("sparsedash.run/")
    assert (
        "No output can be written: No space left on device." in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "Memory ran out. Free some memory"),
        (
            RuntimeError("[enforce fail] can't allocate memory: you tried"),
            "Memory ran out. Free some memory",
        ),
        (
            ModuleNotFoundError("No module named 'x'", name="x"),
            "The package x is not installed.",
        ),
        (
            RuntimeError("strange"),
            "RuntimeError: strange. That should not happen: please report it.",
        ),
    ],
)
def test_an_error_that_is_not_ours_ends_in_one_line_that_says_why(
    error, said, flags, capsys, monkeypatch
):
    def fail(*_):
        raise error

    monkeypatch.setattr("sparsedash.engine.run.pipeline.run", fail)
    assert main(["run", *flags]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert said in last


DENSE = replace(RECORD, key=RUN.dense, pruned=None)


def test_the_table_has_a_line_a_model_and_a_note_on_the_published_rule():
    head, dense, sparse = run_table(results_of(RUN, [DENSE, RECORD]))
    assert sparse.replace(" %", "%").split()[:5] == [
        "12.5%",
        "16.7%",
        "13.0%",
        "9.0%",
        "10.0%",
    ]
    assert dense.replace(" %", "%").split()[1:3] == ["0.0%", "0.0%"]
    assert len(head) == len(sparse) > len(dense)
    evaluation = replace(RUN.settings.evaluation, rule="published")
    run = replace(RUN, settings=replace(RUN.settings, evaluation=evaluation))
    *_, rule = run_table(results_of(run, [DENSE]))
    assert rule.startswith("last token by the published rule")


@pytest.mark.parametrize("lost", [0, 1])
def test_answers_that_are_deleted_while_the_result_is_read_are_an_error_that_says_so(
    lost, monkeypatch
):
    kept = [DENSE, RECORD]
    monkeypatch.setattr(run_commands, "run_results", lambda *_: results_of(RUN, kept))
    there = {record.key: record for i, record in enumerate(kept) if i != lost}
    store = SimpleNamespace(get=lambda _, key: there.get(key))
    with pytest.raises(JobError, match="were deleted"):
        run_commands.stored_run_document(RUN, store, Tolerance())


def test_more_of_a_budget_than_can_go_is_refused(refusal, tmp_path):
    model = ["--model", "builtin:smollm2-135m", "--data-dir", str(tmp_path)]
    line = refusal("run", *model, "--budget", "weights", "--sparsity", "73.5")
    assert "at most 73.4 % of the blocks' weights" in line


def test_a_terminal_has_a_bar_for_each_stage_and_model(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProgressBar(RUN.settings) as bar:
        for done in (0, 6, 12):
            bar(Step("evaluate", done, 12, unit="passages", point=0))
        shown = capsys.readouterr().err
        assert (
            "Starting the engine: " in shown and "\rEvaluating, 12.5 %:   0%" in shown
        )
        assert bar._bar.n == 12


def test_a_perplexity_that_no_float_holds_is_null_in_the_document_and_words_in_the_table():
    hopeless = replace(
        RECORD, outcomes=tuple(outcome(i, log_likelihood=-1000.0) for i in range(2))
    )
    document = json.loads(
        json.dumps(document_of(RUN, DENSE, hopeless), allow_nan=False)
    )
    assert document["sparse"][0]["word_perplexity"] is None
    *_, sparse = run_table(results_of(RUN, [DENSE, hopeless]))
    assert "beyond 10³⁰⁸" in plain(sparse)


@pytest.fixture
def search_flags(flags):
    return [*flags[:-8], "--width-multiple", "32", *flags[-2:]]


def test_a_search_ends_with_its_sentence_and_writes_its_trials(
    search_flags, document, capsys
):
    to, read = document
    # The random model's losses are small next to a thousand times the perplexity.
    assert (
        main(["find", *search_flags, "--passages", "40", "--within", "1000", *to]) == 0
    )
    search = read()["find"]
    assert search["answer_percent"] == 66.7 and search["finished"] is True
    assert search["steps_percent"] == [33.3, 66.7] and search["passages"] == 40
    assert [trial["verdict"] for trial in search["trials"]] == ["within", "within"]
    assert [sparse["sparsity_percent"] for sparse in read()["sparse"]] == [33.3, 66.7]
    assert [sparse["verdict"]["verdict"] for sparse in read()["sparse"]] == [
        "within",
        "within",
    ]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-2:] == [
        search["sentence"],
        f"Run {read()['key'][:16]}",
    ]
    assert search["sentence"].startswith(
        "Removing up to 66.7 % of the MLP channels stays within your limit"
    )
    assert "Evaluating, trial 2: " in printed.err


@dataclass(frozen=True, kw_only=True)
class QuickTiming(TimingSettings):
    n_prompt: int = 8
    n_decode: int = 2
    batches: tuple[int, ...] = (1,)
    least_rounds: int = 3
    most_s: int = 1


def test_a_timing_follows_its_run_and_is_printed_and_written(
    flags, document, capsys, monkeypatch
):
    to, read = document
    monkeypatch.setattr(run_commands, "TimingSettings", QuickTiming)
    assert main(["time", *flags, "--threads", "1", *to]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["What", "Dense", "Sparse", "Ratio"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "prefill, 1 × 8 tokens",
        "decode, 1 × 2 after 8",
        "load",
        "weights on disk",
    ]
    written = read()
    timing = written["timing"]
    assert written["format"] == TIMING_FORMAT and timing["n_threads"] == 1
    assert main(["time", *flags, "--threads", "1", *to]) == 0, (
        "its own file may be written over"
    )
    assert [phase["phase"] for phase in timing["phases"]] == [
        "prefill",
        "decode",
        "load",
    ]
    assert all(len(p["dense_s"]) == len(p["sparse_s"]) >= 3 for p in timing["phases"])


def test_a_mixture_is_timed_like_any_other_model(flags, capsys, monkeypatch, mixture):
    monkeypatch.setattr(run_commands, "TimingSettings", QuickTiming)
    assert main(["time", *flags, *mixture, "--threads", "1"]) == 0
    assert "weights on disk" in capsys.readouterr().out


def test_what_libraries_print_during_the_work_is_not_part_of_the_document(capsys):
    with ProgressBar(RUN.settings, quiet=True):
        print("<class 'list'>")
    print("{}")
    assert capsys.readouterr() == ("{}\n", "<class 'list'>\n")
