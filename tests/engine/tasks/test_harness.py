"""Tasks of lm-evaluation-harness: answered as its own HFLM answers them, and refused where they
would run code.
"""

import json
import random
from contextlib import nullcontext
from types import SimpleNamespace

import datasets
import numpy
import pyarrow.parquet
import pytest
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from sparsedash.catalog.harness_tasks import harness_tasks
from sparsedash.engine.tasks import harness
from sparsedash.engine.tasks.harness import load_tasks
from sparsedash.engine.tasks.harness_model import HarnessModel, Nobody
from sparsedash.engine.tasks.shared_answers import SharedAnswers
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.settings import DATA_SET
from tests.engine.conftest import passages
from tests.engine.tasks.conftest import load_written
from tests.engine.tasks.task_folder import (
    LAST_WORD,
    MULTIPLE_CHOICE,
    ROLLING,
    WRITTEN,
    write_task,
)

KINDS = {
    "choice": MULTIPLE_CHOICE,
    "word": LAST_WORD,
    "rolling": ROLLING,
    "written": WRITTEN,
}


def close(found):
    return pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_harness_s_own_model(kind, loaded, tmp_path):
    (task,) = load_written(tmp_path, kind, 12, limit=10, **KINDS[kind])
    lm = HarnessModel(SharedAnswers(loaded, [nullcontext], lambda n: None), 0)
    ours = task.answer_with(lm)
    theirs = task.answer_with(
        HFLM(
            pretrained=loaded.model,
            tokenizer=loaded.tokenizer,
            batch_size=4,
        )
    )
    assert task.n_questions == len(ours.questions) == 10
    for one, two in zip(
        ours.questions,
        theirs.questions,
        strict=True,
    ):
        assert (one.right, one.chosen, one.text, one.prompt_hash) == (
            two.right,
            two.chosen,
            two.text,
            two.prompt_hash,
        )
        assert one.log_likelihood == (two.log_likelihood and close(two.log_likelihood))
        assert [choice.log_likelihood for choice in one.choices] == close(
            [choice.log_likelihood for choice in two.choices]
        )


def test_a_folder_is_all_its_tasks_and_an_identity_changes_with_what_is_asked_alone(
    tmp_path,
):
    write_task(
        tmp_path,
        "first",
        passages(4),
        **MULTIPLE_CHOICE,
    )
    write_task(
        tmp_path,
        "second",
        passages(4),
        **WRITTEN,
    )
    tasks = load_tasks(
        [f"file:{tmp_path}"],
        limit=None,
        n_shots=None,
    )
    assert [task.name for task in tasks] == ["first", "second"]
    again, _ = load_tasks(
        [f"file:{tmp_path}"],
        limit=None,
        n_shots=None,
    )
    fewer, _ = load_tasks(
        [f"file:{tmp_path}"],
        limit=3,
        n_shots=None,
    )
    rows = [
        json.loads(line) | {"subject": "sums"}
        for line in (tmp_path / "first.jsonl").read_text().splitlines()
    ]
    (tmp_path / "first.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sliced, _ = load_tasks(
        [f"file:{tmp_path}"],
        limit=None,
        n_shots=None,
    )
    assert again.identity == tasks[0].identity
    assert len({tasks[0].identity, fewer.identity, sliced.identity}) == 3


def test_what_a_task_draws_is_alike_for_all_models(tmp_path):
    (task,) = load_written(tmp_path, "drawn", 4, **MULTIPLE_CHOICE)
    task.task.config.doc_to_text = lambda doc: str(
        (random.random(), numpy.random.rand())
    )
    one, two = (task.answer_with(Nobody(str)).questions for _ in range(2))
    assert one == two and len({question.context for question in one}) == 4


def test_a_visitor_s_questions_stay_out_of_the_shared_cache(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    load_written(tmp_path, "own", 4, **MULTIPLE_CHOICE)
    assert not cache.exists()


def test_what_fails_while_a_task_is_answered_is_a_sentence(tmp_path, monkeypatch):
    (task,) = load_written(tmp_path, "own", 4, **MULTIPLE_CHOICE)
    monkeypatch.setattr(Nobody, "loglikelihood", lambda *_: [][0])
    with pytest.raises(CorpusError, match="The task own cannot be used: list index"):
        task.answer_with(Nobody(str))


def test_parts_that_cannot_be_judged_together_are_refused_before_any_work(tmp_path):
    parts = [
        write_task(
            tmp_path,
            "mmlu_one",
            passages(4),
            **MULTIPLE_CHOICE,
        )
    ]
    parts += [
        write_task(
            tmp_path,
            "mmlu_two",
            passages(4),
            **WRITTEN,
        )
    ]
    with pytest.raises(
        CorpusError, match="parts of mmlu are judged by different measures"
    ):
        load_tasks(parts, None, None)


def test_a_tokenizer_without_ends_is_refused(loaded, monkeypatch):
    lm = HarnessModel(SharedAnswers(loaded, [nullcontext], lambda n: None), 0)
    lm.tokenizer = SimpleNamespace(bos_token_id=None, eos_token_id=None)
    with pytest.raises(CorpusError, match="no token for the end"):
        lm.prefix_token_id  # noqa: B018 - it raises


BESIDE = {"data_files": {"test": "../secret.jsonl"}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"process_docs": "utils.f"}, "could run code: process_docs"),
        ({"include": "other.yaml"}, "could run code: include"),
        ({"class": "os.system"}, "could run code: class"),
        ({"unsafe_code": True}, "could run code: unsafe_code"),
        ({"dataset_path": "somebody/set"}, "names no data in its folder"),
        ({"dataset_kwargs": BESIDE}, "no file in its folder"),
        (
            {"metric_list": [{"metric": "exact_match", "hf_evaluate": True}]},
            "downloaded as code",
        ),
        ({"metric_list": [{"metric": "no_such_metric"}]}, "downloaded as code"),
        ({"doc_to_text": "{{ question.__class__.__mro__ }}"}, "unsafe"),
        ({"doc_to_text": "{{ missing }}"}, "missing"),
        (
            {
                "generation_kwargs": {
                    "do_sample": True,
                    "temperature": 1.0,
                    "until": [],
                }
            },
            "at random",
        ),
        ({"generation_kwargs": {"temperature": 1.0, "until": []}}, "at random"),
        ({"generation_kwargs": {"num_beams": 4, "until": []}}, "num_beams, which"),
    ],
)
def test_a_task_that_would_run_code_or_cannot_be_had_is_refused_in_a_sentence(
    change, why, tmp_path
):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "secret.jsonl").write_text("{}")
    with pytest.raises(CorpusError, match=why):
        load_tasks(
            [
                write_task(
                    folder,
                    "bad",
                    passages(3),
                    **WRITTEN | change,
                )
            ],
            None,
            None,
        )


def test_a_measure_of_shares_is_refused_where_it_is_neither_right_nor_wrong(
    tmp_path, monkeypatch
):
    def share(self, doc, results):
        words = set(results[0].split())
        return {"share": len(words & {doc["choices"][0]}) / max(1, len(words))}

    monkeypatch.setattr(ConfigurableTask, "process_results", share)
    with pytest.raises(
        CorpusError, match="no measure by which every answer is right or wrong"
    ):
        load_written(tmp_path, "shares", 3, **WRITTEN)


def test_pictures_in_a_parquet_file_are_refused_before_they_are_opened(tmp_path):
    schema = datasets.Features({"question": datasets.Image()}).arrow_schema
    rows = pyarrow.table(
        {"question": [{"bytes": None, "path": "http://localhost:1/x.png"}]},
        schema=schema,
    )
    pyarrow.parquet.write_table(rows, tmp_path / "own.parquet")
    data = {
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": "own.parquet"}},
    }
    with pytest.raises(CorpusError, match=r"own\.parquet, which holds pictures"):
        load_tasks([write_task(tmp_path, "own", **WRITTEN | data)], None, None)


def test_prompts_that_lose_their_beginning_are_counted(loaded):
    answers = SharedAnswers(loaded, [nullcontext], lambda n: None)
    answers.scores([([7] * (loaded.max_length + n), [5]) for n in (0, 1)], 2)
    assert answers.n_cut == 1


def test_after_a_prompt_without_tokens_the_model_writes_as_after_its_first_token(
    loaded,
):
    answers = SharedAnswers(loaded, [nullcontext], lambda n: None)
    front = loaded.tokenizer.decode([5])
    together, alone, named = (
        answers.texts(prompts, 4, [], 5)
        for prompts in (["", "the lamp"], [""], [front])
    )
    assert together[0][0] == alone[0][0] == named[0][0]


def test_data_whose_names_are_copied_into_their_place_are_refused_since_a_change_of_them_would_go_unseen(
    tmp_path,
):
    write_task(
        tmp_path,
        "own",
        passages(4),
        **MULTIPLE_CHOICE,
    )
    lines = [
        "task: copied",
        "dataset_path: json",
        "dataset_kwargs: {<<: {data_files: own.jsonl}}",
    ]
    (tmp_path / "copied.yaml").write_text("\n".join(lines))
    with pytest.raises(CorpusError, match="names its data files indirectly"):
        load_tasks([f"file:{tmp_path}/copied.yaml"], None, None)


@pytest.mark.parametrize(("here", "refused"), [("a" * 40, False), ("b" * 40, True)])
def test_a_data_set_that_is_pinned_is_loaded_in_its_revision_or_refused(
    here, refused, monkeypatch
):
    loaded = []

    def load(path, **options):
        loaded.append((path, options))
        return {
            "test": SimpleNamespace(
                cache_files=[{"filename": f"/cache/{path}/0.0.0/{here}/test.arrow"}]
            )
        }

    monkeypatch.setattr(datasets, "load_dataset", load)
    pinned = "a" * 40
    with harness._pinned({f"{DATA_SET}owner/set": pinned}):
        datasets.load_dataset(path="owner/other", name="x")
        with (
            pytest.raises(CorpusError, match="Revision aaaaaaa of owner/set is not")
            if refused
            else nullcontext()
        ):
            datasets.load_dataset(path="owner/set", name="x")
    assert loaded == [
        ("owner/other", {"name": "x"}),
        ("owner/set", {"name": "x", "revision": pinned}),
    ]
    assert datasets.load_dataset is load


def test_a_function_in_yaml_is_refused_and_never_imported(tmp_path):
    (tmp_path / "bad.yaml").write_text("task: bad\ndoc_to_text: !function evil.f\n")
    (tmp_path / "evil.py").write_text("raise SystemExit")
    with pytest.raises(CorpusError, match="it runs code"):
        load_tasks([f"file:{tmp_path}/bad.yaml"], None, None)


def test_a_task_of_the_harness_whose_questions_are_not_here_says_so_and_an_unknown_one_too():
    for name in ("piqa", "arithmetic"):
        # The second is a list of tags.
        with pytest.raises(CorpusError, match=f"{name} are not in the local cache"):
            load_tasks([name], None, None)
    with pytest.raises(CorpusError, match="has no task nonsense"):
        load_tasks(["nonsense"], None, None)


def test_every_name_in_the_harness_s_own_index_is_found_in_its_files():
    assert TaskManager().task_index.keys() <= harness_tasks().keys()


def test_without_the_library_the_error_names_the_file_to_install(monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(
        CorpusError, match=r"need lm-evaluation-harness.*requirements-tasks\.txt"
    ):
        load_tasks(["piqa"], None, None)


def test_two_tasks_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        write_task(
            tmp_path,
            name,
            passages(3),
            **LAST_WORD | {"task": "same"},
        )
    with pytest.raises(CorpusError, match="holds two tasks named same"):
        load_tasks([f"file:{tmp_path}"], None, None)
