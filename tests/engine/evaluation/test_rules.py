"""The two rules by which a last token is judged, and which passages they disagree on."""

from dataclasses import replace

import pytest

from sparsedash.engine.evaluation.evaluate import evaluate
from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.engine.run import pipeline
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import PUBLISHED_LONGEST, EvaluationSettings, RunSettings
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


def answers(loaded, rule):
    assert {name: len(loaded.tokenizer(text).input_ids) for name, text in NAMED.items()} == LENGTHS
    chosen = choose_passages(Texts(texts=tuple(NAMED.values()), identity="t"), EvaluationSettings(corpus="t"))
    return evaluate(loaded, chosen, ignore_steps, rule=rule).outcomes


def test_the_published_place_of_an_answer_is_that_of_the_last_prediction_up_to_the_longest():
    """In the published script: the passage padded or cut to 196, and an index from the end or the beginning."""

    def looked_for(n_tokens):
        index = -2 - (196 - n_tokens)
        return index if index >= 0 else 196 + index

    belongs = [n for n in range(2, 400) if looked_for(n) == n - 2]
    assert belongs == list(range(2, PUBLISHED_LONGEST + 1))


def test_the_rules_differ_in_the_last_token_of_passages_that_are_too_long_and_in_nothing_else(loaded):
    plain, published = (answers(loaded, rule) for rule in ("plain", "published"))
    assert [outcome.last_token_right for outcome in plain] == [True] * 5
    assert [outcome.last_token_right for outcome in published] == [True, True, True, False, False]
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
