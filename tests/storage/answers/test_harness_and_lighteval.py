"""Files of answers that lm-evaluation-harness and lighteval write, as question sets."""

import hashlib
import json
from dataclasses import replace

import pyarrow
import pytest
from pyarrow import parquet

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import ScoredChoice, pool_parts
from sparsedash.storage.answers import answer_files, lighteval_details, parsed_answers
from sparsedash.storage.answers.answer_files import read_answers
from sparsedash.storage.answers.harness_samples import samples_set
from tests.question_sets import CHOICE, ROLLING, WRITTEN, samples


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_choices_are_read_with_the_one_that_the_measure_takes(tmp_path):
    with_nan = CHOICE | {"acc": float("nan"), "doc_hash": "e"}
    (answers,) = read_answers(samples(tmp_path / "gpt", CHOICE, with_nan))
    assert (answers.model, answers.task, answers.kind) == ("gpt", "colours", "choice")
    assert answers.measure == "acc_norm"
    question, _ = answers.questions
    assert question.choices[1] == ScoredChoice(text=" rust", log_likelihood=-6.0)
    # By characters the longer one is likelier, and it is wrong.
    assert (question.chosen, question.right, question.target) == (0, False, "1")
    assert (question.doc_hash, question.context) == ("d", "What is red?")
    assert question.fields == {"subject": "colours"}
    # As the compare page names its own.
    file = samples(tmp_path, CHOICE).rename(
        tmp_path / "gpt-2-left-samples_passages.jsonl"
    )
    assert read_answers(file)[0].task == "passages"


def test_a_model_asked_from_a_folder_is_named_after_that_alone(tmp_path):
    """The harness names its folder after the whole path, with __ for each /."""
    (answers,) = read_answers(samples(tmp_path / "__root__models__smol-20", CHOICE))
    assert answers.model == "smol-20"
    (answers,) = read_answers(samples(tmp_path / "EleutherAI__pythia-160m", CHOICE))
    assert answers.model == "EleutherAI__pythia-160m"


def test_what_was_written_is_read_by_the_first_filter_of_the_file(tmp_path):
    second = WRITTEN | {"filter": "flexible-extract", "exact_match": 0.0}
    (answers,) = read_answers(samples(tmp_path, WRITTEN, second, task="sums"))
    assert (answers.kind, answers.measure) == ("generation", "exact_match")
    assert answers.filter == "strict-match"
    (question,) = answers.questions
    assert (question.text, question.answer, question.right) == (" It is 2", "2", True)


def test_a_rolling_document_has_its_length(tmp_path):
    (answers,) = read_answers(samples(tmp_path, ROLLING))
    assert answers.measure == "bits a byte"
    (question,) = answers.questions
    assert (question.right, question.log_likelihood) == (None, -20.5)
    assert (question.n_bytes, question.n_words) == (13, 3)


def test_a_file_of_an_old_version_gets_the_hashes_that_newer_ones_write(tmp_path):
    old = {name: CHOICE[name] for name in ("doc_id", "doc", "target", "acc")}
    old |= {
        "arguments": [["What is red?", " grass"], ["What is red?", " rust"]],
        "resps": [[[-9, False]], [[-6, False]]],
    }
    (question,) = read_answers(samples(tmp_path, old))[0].questions
    assert question.doc_hash == sha(json.dumps(CHOICE["doc"], indent=2))
    assert question.prompt_hash == sha("What is red?")
    assert (question.target_hash, question.right) == (sha("1"), True)


def test_samples_in_memory_give_the_same_set_as_their_file(tmp_path):
    choice = CHOICE | {
        "arguments": [
            ("What is red?", " a field of long grass"),
            ("What is red?", " rust"),
        ],
        "resps": [((-12.0, False),), ((-6.0, False),)],
        "filtered_resps": [(-12.0, False), (-6.0, False)],
    }
    rolling = ROLLING | {
        "arguments": [("A short text.",)],
        "resps": [[-20.5]],
        "filtered_resps": [-20.5],
        "bits_per_byte": (-20.5, 13),
        "word_perplexity": (-20.5, 3),
    }
    for sample, line in ((choice, CHOICE), (rolling, ROLLING)):
        from_file = read_answers(samples(tmp_path / "gpt", line))
        assert [samples_set("gpt", "colours", [sample], {})] == from_file


def test_a_folder_gives_the_newest_file_of_each_task_and_pools_the_parts_of_one(
    tmp_path,
):
    samples(tmp_path / "gpt", CHOICE, task="mmlu_law")
    samples(
        tmp_path / "gpt",
        CHOICE,
        CHOICE,
        task="mmlu_law",
        date="2026-02-02T00-00-00.0",
    )
    samples(tmp_path / "gpt", CHOICE | {"doc_hash": "e"}, task="mmlu_art")
    samples(tmp_path / "gpt", WRITTEN, task="sums")
    (tmp_path / "gpt" / "results_2026-01-02T03-04-05.6.json").write_text(
        '{"versions": {"sums": 3.0}, "loss": NaN}'
    )
    mmlu, sums = read_answers(tmp_path)
    assert [question.fields["part"] for question in mmlu.questions] == [
        "art",
        "law",
        "law",
    ]
    assert (mmlu.task, sums.task, sums.version) == ("mmlu", "sums", "3.0")


@pytest.mark.parametrize(
    ("name", "task", "part"),
    [
        ("mmlu_law", "mmlu", "law"),
        ("mmlu_law_continuation", "mmlu_continuation", "law"),
        ("bbh_cot_fewshot_snarks", "bbh_cot_fewshot", "snarks"),
        ("mmlu_pro", "mmlu_pro", ""),
        ("glue:cola", "glue:cola", ""),
    ],
)
def test_only_parts_of_one_form_of_a_task_are_pooled(tmp_path, name, task, part):
    (answers,) = read_answers(samples(tmp_path, CHOICE, task=name))
    assert (answers.task, answers.questions[0].part) == (task, part)


def test_tasks_named_after_a_group_with_a_score_are_its_parts_where_they_are_judged_alike(
    tmp_path,
):
    samples(tmp_path / "gpt", CHOICE, task="ask_law")
    art = CHOICE | {"doc_hash": "e"}
    samples(tmp_path / "gpt", art, task="ask_art")
    results = {
        "group_subtasks": {"ask": ["ask_law", "ask_art"], "all": ["ask", "sums"]},
        "groups": {"ask": {"acc,none": 1.0}},
    }
    file = tmp_path / "gpt" / "results_2026-01-02T03-04-05.6.json"
    file.write_text(json.dumps(results))
    (answers,) = read_answers(tmp_path)
    assert (answers.task, [question.part for question in answers.questions]) == (
        "ask",
        ["art", "law"],
    )
    file.write_text(
        json.dumps(results | {"groups": {"all": {}}, "versions": {"ask_law": 2}})
    )
    assert [answers.task for answers in read_answers(tmp_path)] == [
        "ask_art",
        "ask_law",
    ]
    # Different tasks: a verdict on one may not hide behind another's.
    file.write_text(json.dumps(results | {"groups": {"all": {}}}))
    assert [answers.task for answers in read_answers(tmp_path)] == [
        "ask_art",
        "ask_law",
    ]
    file.write_text(json.dumps(results))
    samples(tmp_path / "gpt", CHOICE, task="ask_art", date="2026-01-02T03-04-05.6")
    assert [answers.task for answers in read_answers(tmp_path)] == [
        "ask_art",
        "ask_law",
    ]


def test_parts_with_the_same_documents_or_judged_differently_are_refused(tmp_path):
    law = samples(tmp_path, CHOICE, task="mmlu_law")
    odd = CHOICE | {"doc_hash": "e", "filter": "odd"}
    (answers,) = read_answers(law)
    other_filter = read_answers(samples(tmp_path, odd, task="mmlu_art"))
    versions = [replace(answers, version=version) for version in "12"]
    for parts, reason in (
        ([answers, answers], "1 of 1 documents of mmlu are in two files"),
        ([answers, *other_filter], "different filters: none, odd"),
        (versions, "different versions: 1, 2"),
    ):
        with pytest.raises(CorpusError, match=reason):
            pool_parts(parts)


STEREOTYPE = {
    **{name: CHOICE[name] for name in CHOICE if not name.startswith("acc")},
    "target": "0",
    "metrics": ["likelihood_diff", "pct_stereotype"],
    "likelihood_diff": 6.0,
    "pct_stereotype": 0.0,
}
"""As crows_pairs has it: 1 where the first choice, the stereotype, is likelier."""


def results(file, **values):
    """What the harness writes beside a file of samples."""
    file.with_name(
        file.name.replace("samples_colours", "results").replace(".jsonl", ".json")
    ).write_text(json.dumps(values))


def test_where_lower_is_better_an_answer_is_right_where_the_measure_is_0(tmp_path):
    file = samples(
        tmp_path, STEREOTYPE, STEREOTYPE | {"doc_hash": "e", "pct_stereotype": 1.0}
    )
    results(
        file,
        higher_is_better={
            "colours": {"likelihood_diff": False, "pct_stereotype": False}
        },
    )
    (answers,) = read_answers(file)
    assert [question.right for question in answers.questions] == [True, False]
    assert (answers.measure, answers.higher_is_better) == ("pct_stereotype", False)
    assert answers.measure_label == "pct_stereotype (lower is better, inverted)"
    assert [question.target for question in answers.questions] == [
        "not a field of long grass"
    ] * 2
    results(file, higher_is_better={"colours": {"pct_stereotype": True}})
    (upward,) = read_answers(file)
    assert [question.right for question in upward.questions] == [False, True]
    assert (upward.measure_label, upward.questions[0].target) == ("pct_stereotype", "0")


@pytest.mark.parametrize(
    "directions", [{}, 7, {"colours": 7}, {"colours": {"pct_stereotype": None}}]
)
def test_a_measure_whose_direction_is_unknown_is_refused_by_name(directions, tmp_path):
    file = samples(tmp_path, STEREOTYPE)
    results(file, higher_is_better=directions)
    with pytest.raises(
        CorpusError,
        match="higher or lower is better of pct_stereotype, by which colours is judged",
    ):
        read_answers(file)


@pytest.mark.parametrize("measure", ["acc", "acc_norm", "acc_bytes", "exact_match"])
def test_more_of_the_usual_measures_is_better_where_nothing_says_so(measure, tmp_path):
    line = {
        name: value for name, value in STEREOTYPE.items() if name != "pct_stereotype"
    }
    file = samples(tmp_path, line | {"metrics": [measure], measure: 1.0})
    (answers,) = read_answers(file)
    assert (answers.measure, answers.higher_is_better) == (measure, True)
    assert answers.questions[0].right is True
    # A task may say otherwise, as lingoly_nocontext does of exact_match.
    results(file, higher_is_better={"colours": {measure: False}})
    assert read_answers(file)[0].questions[0].right is False


def test_a_folder_of_several_models_is_refused_by_their_names(tmp_path):
    samples(tmp_path / "a", CHOICE)
    samples(tmp_path / "b", CHOICE)
    with pytest.raises(
        CorpusError, match=r"several models: a, b\. Name the folder of one"
    ):
        read_answers(tmp_path)
    details(tmp_path / "c")
    samples(tmp_path / "c", CHOICE)
    with pytest.raises(CorpusError, match="of several programs: lighteval, lm-eval"):
        read_answers(tmp_path / "c")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("[1]", "no JSON object"),
        ("{", "Expecting property name"),
        (CHOICE | {"resps": [[["nan", "False"]], [["-6", "False"]]]}, "<= 0.0"),
        (CHOICE | {"resps": [[["-inf", "False"]], [["-6", "False"]]]}, "infinite"),
        (
            CHOICE | {"resps": [[[-2e9, "False"]], [["-6", "False"]]]},
            "below -1,000,000,000",
        ),
        (CHOICE | {"resps": [[[-(10**400), "False"]], [["-6", "False"]]]}, "too large"),
        (
            ROLLING | {"bits_per_byte": [-20.5, 10**30]},
            "Expected `int` <= 9007199254740992",
        ),
        (CHOICE | {"resps": []}, "read: resps is empty"),
        (ROLLING | {"resps": [[]]}, "read: resps is empty"),
        (CHOICE | {"resps": 5}, "read: resps is no list"),
        (CHOICE | {"arguments": {"gen_args_0": {}}}, "read: arguments is empty"),
        (CHOICE | {"doc_hash": 7}, "Expected `str`"),
        (ROLLING | {"bits_per_byte": [-20.5, 0], "target": ""}, "its length"),
        ('{"doc": ' + "[" * 1990, "recursion"),
        ({"doc": {}}, "'target' is missing"),
        ("x" * 3000, "longer than"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_by_its_number(
    tmp_path, monkeypatch, bad, reason
):
    monkeypatch.setattr(parsed_answers, "MAX_LINE_BYTES", 2000)
    with pytest.raises(
        CorpusError, match=r"Line 3 of samples_colours.* is no answer that can be read"
    ) as refused:
        read_answers(samples(tmp_path, CHOICE, "", bad))
    assert reason in str(refused.value)


def test_what_is_too_large_or_nothing_is_refused(tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match="holds no files of answers"):
        read_answers(tmp_path)
    with pytest.raises(CorpusError, match="nowhere does not exist"):
        read_answers(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="holds no answers"):
        read_answers(samples(tmp_path, ""))
    monkeypatch.setattr(answer_files, "MAX_BYTES", 100)
    with pytest.raises(CorpusError, match="GB of answers"):
        read_answers(samples(tmp_path, CHOICE))


def test_a_task_without_right_or_wrong_is_refused(tmp_path):
    with pytest.raises(
        CorpusError, match="no measure by which every answer is right or wrong"
    ):
        read_answers(samples(tmp_path, CHOICE, CHOICE | {"acc": 0.5, "acc_norm": 0.5}))


def details(folder, *rows, task="lighteval|mmlu:law|5"):
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(
        pyarrow.Table.from_pylist(list(rows)),
        folder / f"details_{task}_2026-01-02T03-04-05.parquet",
    )


def detail(**response):
    doc = {
        "query": "What is red?",
        "choices": [" grass", " rust"],
        "gold_index": [1],
        "specific": {"subject": "art"},
    }
    return {
        "doc": doc,
        "metric": {"acc": 1, "em": None},
        "model_response": {"input": "Hi. What is red?", **response},
    }


def test_details_of_lighteval_are_read(tmp_path):
    details(tmp_path / "gpt" / "2026", detail(logprobs=[-3.0, -2.0], text=[]))
    (answers,) = read_answers(tmp_path)
    assert (answers.model, answers.task, answers.measure) == ("gpt", "mmlu|5", "acc")
    (question,) = answers.questions
    assert (question.chosen, question.right, question.target) == (1, True, "1")
    assert question.context == "Hi. What is red?"
    assert question.fields == {"part": "law", "subject": "art"}


@pytest.mark.parametrize("task", ["lighteval|gsm8k|0", "lighteval|gsm8k"])
def test_lighteval_s_results_say_which_end_of_a_measure_is_better(task, tmp_path):
    row = detail(
        logprobs=None,
        text=["rust"],
    ) | {"metric": {"toxic": 1, "em": None}}
    details(
        tmp_path / "details" / "org" / "gpt" / "2026", row, task="lighteval|gsm8k|0"
    )
    with pytest.raises(CorpusError, match="higher or lower is better of toxic"):
        read_answers(tmp_path)
    folder = tmp_path / "results" / "org" / "gpt"
    folder.mkdir(parents=True)
    metrics = [
        {
            "metric_name": ["em", "toxic"],
            "higher_is_better": {"em": True, "toxic": False},
        },
        {"metric_name": "f1", "higher_is_better": True},
    ]
    written = {
        "config_tasks": {task: {"metrics": metrics}},
        "versions": {"lighteval|gsm8k|0": 3},
    }
    (folder / "results_2026-01-02T03-04-05.json").write_text(json.dumps(written))
    (answers,) = read_answers(tmp_path)
    assert (answers.measure, answers.version, answers.questions[0].right) == (
        "toxic",
        "3",
        False,
    )


def test_details_of_what_was_written_are_read_and_other_tables_refused(tmp_path):
    details(
        tmp_path / "new" / "2026",
        detail(
            logprobs=None,
            text=["rust"],
        ),
        task="gsm8k|0",
    )
    (answers,) = read_answers(tmp_path / "new")
    assert answers.task == "gsm8k|0"
    assert (answers.questions[0].text, answers.questions[0].target) == ("rust", " rust")
    details(tmp_path / "old" / "2026", {"example": "What is red?"})
    with pytest.raises(CorpusError, match="no columns doc, metric and model_response"):
        read_answers(tmp_path / "old")
    broken = next((tmp_path / "new").rglob("*.parquet"))
    whole = broken.read_bytes()
    for damaged in (whole[:100], whole[:-40] + b"\xff" * 32 + whole[-8:]):
        broken.write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"could not be read: (?!None)"):
            read_answers(broken)


def test_a_small_file_that_holds_much_is_refused(tmp_path, monkeypatch):
    row = detail(logprobs=None, text=["rust"])
    row["doc"]["query"] = "red " * 2_000
    details(tmp_path / "gpt" / "2026", *[row] * 200)
    monkeypatch.setattr(lighteval_details, "MAX_BYTES", 500_000)
    with pytest.raises(CorpusError, match="the answers so far are more than"):
        read_answers(tmp_path)
