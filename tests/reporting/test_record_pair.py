"""Two records side by side, where their texts part, and the files of both."""

import csv
import hashlib
import html
import io
import json
import re
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.reporting.html import visible
from sparsedash.reporting.record_pair import (
    DIVERGENCE_SIGN,
    SHOWN_CHARACTERS,
    Pair,
    RecordChoice,
    harness_samples,
    load_pair,
    mark_divergence,
    view_csv,
    view_parquet,
)
from tests.factories import STOPPED
from tests.ui import specimens
from tests.ui.fake_backend import FakeBackend


def stopped_beside_dense() -> tuple[Pair, FakeBackend]:
    backend = FakeBackend()
    run, (dense, *_, sparse) = specimens.run()
    answered = tuple(outcome for outcome in sparse.outcomes if outcome.index % 3 == 1)
    backend.add_run((run, [dense, replace(sparse, outcomes=answered, stopping=STOPPED)]))
    offers = [RecordChoice(key=record.key, name="x", address="x") for record in (dense, sparse)]
    found = load_pair(backend, *offers)
    assert found is not None
    return found, backend


def test_only_the_passages_that_both_answered_are_shown_whichever_side_they_are_on():
    found, _ = stopped_beside_dense()
    assert len(found.left.outcomes) == len(found.right.outcomes) == 40
    for position in range(40):
        left, right = found.outcomes(position)
        assert left.index == right.index
        assert left.index % 3 == 1


def test_no_passage_is_of_a_kind_because_it_was_not_answered():
    found, backend = stopped_beside_dense()
    kinds = found.kinds(range(len(found.left.outcomes)))
    dense = backend.record(found.left.key)
    assert dense is not None
    right = sum(o.last_word_right for o in dense.outcomes if o.index % 3 == 1)
    assert len(kinds["both-right"]) + len(kinds["broke"]) == right


def test_the_texts_stand_beside_their_own_answers():
    found, backend = stopped_beside_dense()
    whole = backend.passages("passages")
    texts = found.texts(whole)
    assert whole is not None and texts is not None
    assert [o.index for o in found.left.outcomes] == list(texts.indices)
    for position, index in enumerate(texts.indices):
        at = whole.indices.index(index)
        assert texts.targets[position] == whole.targets[at]
    assert found.texts(None) is None


def shown(drawn: str) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]+>", "", drawn))


@pytest.mark.parametrize(
    ("left", "right", "marked"),
    [
        ("the harbour was quiet", "the harbour and the sea", ("the harbour ❘was quiet", "the harbour ❘and the sea")),
        ("old", "new", ("❘old", "❘new")),
        ("so it", "so it was", ("so it❘", "so it ❘was")),
        ("so it was", "so it was", ("so it was", "so it was")),
        ("so it was\n", "so it was ", ("so it was\n", "so it was ")),
        ("", "", ("", "")),
    ],
)
def test_the_mark_stands_behind_the_words_that_both_begin_with(left, right, marked):
    drawn = mark_divergence(left, right)
    assert tuple(map(shown, drawn)) == marked
    assert all((DIVERGENCE_SIGN in each) == ('role="img" aria-label="parts"' in each) for each in drawn)


@given(
    st.text(max_size=60).filter(lambda t: DIVERGENCE_SIGN not in t),
    st.text(max_size=60).filter(lambda t: DIVERGENCE_SIGN not in t),
)
def test_nothing_is_lost_or_let_through(left, right):
    for text, drawn in zip((left, right), mark_divergence(left, right), strict=True):
        assert shown(drawn).replace(DIVERGENCE_SIGN, "") == visible(text)


def test_an_endless_text_is_cut():
    left, right = mark_divergence("w" * 100_000, "one word")
    assert len(left) < 2 * SHOWN_CHARACTERS
    assert "…" in left
    assert "one word" in right


LEFT = specimens.record([True, False, True])
RIGHT = specimens.record([True, True, False], 300)
PASSAGES = specimens.passages(3)
HOSTILE = (
    "<script>alert(1)</script>",
    'quo"te, comma\nline',
    "**bold**",
    "\u202egnp",
    "👩‍🚀",
    "half \ud83d",
    "x" * 100_000,
)


def with_text(text: str):
    record = replace(LEFT, outcomes=tuple(replace(o, target=text, answer=text) for o in LEFT.outcomes))
    return record, replace(PASSAGES, contexts=(text,) * 3, targets=(text,) * 3)


def read_csv(data: bytes) -> list[dict[str, str]]:
    csv.field_size_limit(1_000_000)
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_csv_and_parquet_hold_the_same_passages_in_the_order_of_the_view():
    rows = read_csv(view_csv(LEFT, RIGHT, [2, 0], PASSAGES))
    table = pq.read_table(io.BytesIO(view_parquet(LEFT, RIGHT, [2, 0], PASSAGES))).to_pylist()
    assert [int(row["index"]) for row in rows] == [row["index"] for row in table] == [2, 0]
    assert [row["right_correct"] for row in table] == [False, True]
    assert float(rows[0]["left_log_likelihood"]) == table[0]["left_log_likelihood"] < 0
    assert list(rows[0]) == list(table[0])


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\t=1"])
def test_no_cell_begins_like_a_formula(text):
    record, passages = with_text(text)
    (row,) = read_csv(view_csv(record, record, [0], passages))
    assert {row["context"], row["target"], row["left_answer"]} == {f"'{text}"}
    (kept,) = pq.read_table(io.BytesIO(view_parquet(record, record, [0], passages))).to_pylist()
    assert kept["target"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_comes_back_as_it_was(text):
    record, passages = with_text(text)
    sent = text.encode("utf-8", "replace").decode()
    (row,) = read_csv(view_csv(record, record, [0], passages))
    (kept,) = pq.read_table(io.BytesIO(view_parquet(record, record, [0], passages))).to_pylist()
    sample = json.loads(harness_samples(record, passages).splitlines()[0])
    assert row["context"] == kept["context"] == sample["arguments"]["gen_args_0"]["arg_0"] == sent


def test_a_null_byte_is_kept():
    record, passages = with_text("nul\x00byte")
    assert b'"nul\x00byte"' in view_csv(record, record, [0], passages)
    (kept,) = pq.read_table(io.BytesIO(view_parquet(record, record, [0], passages))).to_pylist()
    assert kept["target"] == "nul\x00byte"


def test_without_the_texts_the_answers_can_still_be_taken():
    (row,) = read_csv(view_csv(LEFT, RIGHT, [0], None))
    assert row["context"] == ""
    assert row["target"] == LEFT.outcomes[0].target


def test_samples_are_those_of_the_harness():
    lines = harness_samples(RIGHT, PASSAGES).decode().splitlines()
    sample, outcome = json.loads(lines[1]), RIGHT.outcomes[1]
    assert len(lines) == 3
    assert sample["doc"] == {"text": f"{PASSAGES.contexts[1]} {outcome.target}"}
    assert sample["target"] == sample["arguments"]["gen_args_0"]["arg_1"] == f" {outcome.target}"
    assert sample["resps"] == [[[str(outcome.log_likelihood), "True"]]]
    assert sample["filtered_resps"] == [[str(outcome.log_likelihood), "True"]]
    assert (sample["acc"], sample["perplexity"]) == (1, outcome.log_likelihood)
    written = json.dumps(sample["doc"], indent=2, ensure_ascii=False)
    assert sample["doc_hash"] == hashlib.sha256(written.encode()).hexdigest()


REAL = json.loads(
    """
{
  "doc_id": 2,
  "doc": {
    "text": "Zo\\u00eb said \\u201cthe boat\\u201d\\nand the lamp went home \\ud83d\\udc69\\u200d\\ud83d\\ude80"
  },
  "target": " \\ud83d\\udc69\\u200d\\ud83d\\ude80",
  "arguments": {
    "gen_args_0": {
      "arg_0": "Zo\\u00eb said \\u201cthe boat\\u201d\\nand the lamp went home",
      "arg_1": " \\ud83d\\udc69\\u200d\\ud83d\\ude80"
    }
  },
  "resps": [
    [
      [
        "-82.546875",
        "False"
      ]
    ]
  ],
  "filtered_resps": [
    [
      "-82.546875",
      "False"
    ]
  ],
  "filter": "none",
  "metrics": [
    "perplexity",
    "acc"
  ],
  "doc_hash": "574a0646ea96d2343c02fcb50db3cf22c9970b32e61a589b44c30176e4fa0398",
  "prompt_hash": "9c9972f84595262429533352b89b718dd0f52e89cb4c33071e701430f0aba42a",
  "target_hash": "23057baf3a35e812e39a5c0b6b7ae638b6f384a8ddc6b5bf1d35ff46e79366eb",
  "perplexity": -82.546875,
  "acc": 0
}
"""
)
"""One line of a samples file of lm_eval 0.4.13: `lambada_openai`'s template over a local file, a tiny model,
log_samples.
"""


def test_a_sample_equals_the_line_that_the_harness_wrote_of_the_same_passage():
    context, target = REAL["arguments"]["gen_args_0"].values()
    outcome = replace(
        LEFT.outcomes[0], index=2, target=target.strip(), last_word_right=False, log_likelihood=REAL["perplexity"]
    )
    record = replace(LEFT, outcomes=(outcome,))
    passages = replace(PASSAGES, indices=(2,), contexts=(context,), targets=(target,))
    ours = json.loads(harness_samples(record, passages))
    assert ours == REAL
    assert list(ours) == list(REAL)
