"""Records come back as they were, and what is not a record is refused."""

import json
from dataclasses import replace
from math import exp, inf, isfinite, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.schema.errors import StoreError
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.records import Passages, Record, Run, Score, from_json, to_json
from tests.factories import PRUNED, RECORD, RUN, outcome

ALL = [
    RECORD,
    replace(RECORD, pruned=None),
    RUN,
    replace(RUN, finished=True, finished_at=2.0),
    Passages(
        key="p",
        indices=(0, 3),
        contexts=("Open the", "She\nshut the"),
        targets=("d", "é"),
    ),
    Continuation(key="c", prompt="Once", left=" upon a time", right="\x00\u2028 🙂"),
]


def test_a_record_comes_back_equal():
    for record in ALL:
        assert from_json(type(record), to_json(record)) == record
    copy = replace(RECORD)
    assert (copy.last_word, copy.last_token) == (
        Score(right=1, total=2),
        Score(right=2, total=2),
    )
    assert to_json(copy) == to_json(RECORD), "scores are not written"


@given(
    st.floats(max_value=0, allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_outcome_comes_back_equal_to_the_last_bit(number, text):
    any_outcome = replace(outcome(log_likelihood=number), target=text, answer=text)
    record = replace(RECORD, outcomes=(any_outcome,))
    assert from_json(Record, to_json(record)) == record


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_a_number_that_is_not_finite_is_refused_when_written(number):
    with pytest.raises(StoreError, match="not finite"):
        to_json(replace(RECORD, outcomes=(outcome(log_likelihood=number),)))


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "\x80",
        to_json(RECORD),
        to_json(RUN)[:-2],
        to_json(RUN).replace("[125]", "[950]"),
    ],
)
def test_damaged_json_and_another_kind_raise_a_store_error(damaged):
    with pytest.raises(StoreError, match="A stored run cannot be read"):
        from_json(Run, damaged)


def test_scores_are_those_of_the_outcomes():
    assert RECORD.word_perplexity == pytest.approx(exp(2.0))
    assert Score(right=1, total=4).accuracy == 0.25
    assert (
        replace(RECORD, pruned=None).sparsity_permille,
        RECORD.sparsity_permille,
    ) == (0, 125)
    hopeless = replace(RECORD, outcomes=(outcome(0, right=False, log_likelihood=-1e4),))
    assert hopeless.word_perplexity == inf, "beyond the largest float"
    bad = replace(RECORD, outcomes=(outcome(0, right=False, log_likelihood=-700.0),))
    assert isfinite(bad.word_perplexity)


@pytest.mark.parametrize(
    "damaged",
    [
        lambda: replace(RECORD, outcomes=()),
        lambda: replace(PRUNED, widths=()),
        lambda: replace(PRUNED, dense_widths=(0, 0)),
        lambda: replace(PRUNED, held_out_errors=(0.1,)),
        lambda: Passages(key="p", indices=(0, 1), contexts=("a",), targets=("b", "c")),
        lambda: Passages(
            key="p", indices=(1, 1), contexts=("a", "a"), targets=("b", "b")
        ),
        lambda: replace(RECORD, outcomes=RECORD.outcomes[:1] * 2),
        lambda: replace(
            PRUNED, widths=tuple(width + 1 for width in PRUNED.dense_widths)
        ),
    ],
)
def test_what_cannot_belong_together_is_no_record(damaged):
    with pytest.raises(
        StoreError,
        match=r"no answers|not belong together|a passage twice|more channels",
    ):
        damaged()


@pytest.mark.parametrize(
    ("of", "field", "value"),
    [
        ("outcome", "log_likelihood", 0.1),
        ("outcome", "index", -1),
        ("token", "log_likelihood", 1e-6),
        ("token", "rank", -5),
        ("token", "rank", 0),
        ("candidate", "probability", 7.0),
        ("candidate", "probability", -0.1),
        ("pruned", "widths", [-1, 2]),
        ("reached", "channels", 5.0),
        ("reached", "macs", -0.1),
        ("spec", "permille", 5000),
        ("pruned", "layer_errors", [-0.1, 0.1]),
        ("record", "seconds", -1.0),
    ],
)
def test_a_value_that_cannot_be_is_refused(of, field, value):
    plain = json.loads(
        to_json(replace(RECORD, outcomes=(outcome(), *RECORD.outcomes[1:])))
    )
    answer = plain["outcomes"][0]
    answer["top"] = [{"text": "a", "probability": 0.5}]
    part = {"record": plain, "pruned": plain["pruned"], "outcome": answer}
    part |= {
        "token": answer["tokens"][0],
        "candidate": answer["top"][0],
        "reached": plain["pruned"]["reached"],
        "spec": plain["pruned"]["spec"],
    }
    assert from_json(Record, json.dumps(plain))
    part[of][field] = value
    with pytest.raises(StoreError, match="cannot be read"):
        from_json(Record, json.dumps(plain))
