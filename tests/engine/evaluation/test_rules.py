"""The two rules by which a last token is judged, and which passages they disagree on."""

from dataclasses import asdict, replace

import pytest

from sparsedash.engine.evaluation.evaluate import evaluate
from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.engine.run import pipeline
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.plain_values import digest, stage_key
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import PUBLISHED_LONGEST, EvaluationSettings, RunSettings
from sparsedash.schema.store_keys import outcomes_key
from sparsedash.storage.store import Store
from tests.engine.conftest import write_jsonl
from tests.engine.tiny import tiny_model, tiny_tokenizer

LENGTHS = {"short": 40, "read whole": 196, "just fits": 197, "one too long": 198, "far too long": 230}
NAMED = {name: " the" * length for name, length in LENGTHS.items()}
"""Passages of so many tokens, all of the word that the model of these tests always says."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("models") / "says-the", tiny_tokenizer()
    model = tiny_model("gptj")
    model.lm_head.bias[tokenizer(" the").input_ids[-1]] = 1e4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder, tmp_path_factory):
    opened = Store(tmp_path_factory.mktemp("data"))
    yield load_model(locate_model(str(folder), opened), "float32")
    opened.close()


def test_the_named_passages_have_the_lengths_they_are_named_for(loaded):
    found = {name: len(loaded.tokenizer(text).input_ids) for name, text in NAMED.items()}
    assert found == LENGTHS


def _answers(loaded, rule):
    chosen = choose_passages(Texts(texts=tuple(NAMED.values()), identity="t"), EvaluationSettings(corpus="t"))
    return evaluate(loaded, chosen, ignore_steps, rule=rule).outcomes


def test_the_published_place_of_an_answer_is_that_of_the_last_prediction_up_to_the_longest():
    """As the published script computes it: the passage padded or cut to 196, and an index from the end or the
    beginning.
    """

    def looked_for(n_tokens):
        index = -2 - (196 - n_tokens)
        return index if index >= 0 else 196 + index

    belongs = [n for n in range(2, 400) if looked_for(n) == n - 2]
    assert belongs == list(range(2, PUBLISHED_LONGEST + 1))


def test_the_rules_differ_on_passages_longer_than_the_published_run_could_judge(loaded):
    plain, published = (_answers(loaded, rule) for rule in ("plain", "published"))
    assert [outcome.last_token_right for outcome in plain] == [True] * 5
    judged = dict(zip(NAMED, (outcome.last_token_right for outcome in published), strict=True))
    assert judged == {
        "short": True,
        "read whole": True,
        "just fits": True,
        "one too long": False,
        "far too long": False,
    }


def test_nothing_but_the_verdict_on_the_last_token_differs(loaded):
    plain, published = (_answers(loaded, rule) for rule in ("plain", "published"))
    for one, other in zip(plain, published, strict=True):
        assert replace(other, last_token_right=one.last_token_right) == one


def test_a_record_tells_the_rule_and_each_rule_has_its_own(folder, store, tmp_path):
    file = write_jsonl(tmp_path / "named.jsonl", NAMED.values())
    settings = RunSettings(
        model=str(folder),
        sparsities_permille=(0,),
        evaluation=EvaluationSettings(corpus=f"file:{file}"),
        calibration=replace(RunSettings().calibration, corpus=f"file:{file}"),
    )
    records = {}
    for rule in ("plain", "published"):
        asked = replace(settings, evaluation=replace(settings.evaluation, rule=rule))
        records[rule] = store.get(Record, pipeline.run(asked, store).dense)
    assert {rule: record.rule for rule, record in records.items()} == {"plain": "plain", "published": "published"}
    assert records["plain"].last_token.right == 5
    assert records["published"].last_token.right == 3
    assert records["published"].last_word == records["plain"].last_word


def test_keys_made_before_there_were_rules_are_those_of_the_plain_one():
    plain, published = EvaluationSettings(), EvaluationSettings(rule="published")
    known_then = {"corpus", "n_passages", "shuffle_seed"}
    without_rule = {name: value for name, value in asdict(plain).items() if name in known_then}
    (method,) = asdict(RunSettings())["methods"]
    for name in ("scope", "rounds", "schedule", "floor", "ceiling", "blend", "plain_text"):
        del method[name]
    values = asdict(RunSettings()) | {"evaluation": without_rule, "methods": [method]}
    for name in ("token_weights", "packed"):
        del values["calibration"][name]
    del values["residency"]
    assert RunSettings().key() == digest({"settings": values, "stamps": {}})
    key = outcomes_key("m", "float32", "c", plain, None)
    old = stage_key("outcomes", model="m", dtype="float32", evaluation=without_rule | {"corpus": "c"}, sparse=None)
    assert key == old
    assert outcomes_key("m", "float32", "c", published, None) != key
