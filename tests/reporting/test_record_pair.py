"""Two records side by side, where their texts part, and the files of both."""

import csv
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
    unique_names,
    view_file,
)
from tests.factories import STOPPED
from tests.ui import specimens


def test_only_passages_that_both_answered_are_compared_beside_their_own_texts(backend):
    run, (dense, *_, sparse) = specimens.run()
    answered = tuple(outcome for outcome in sparse.outcomes if outcome.index % 3 == 1)
    backend.add_run(
        (
            run,
            [
                dense,
                replace(
                    sparse,
                    outcomes=answered,
                    stopping=STOPPED,
                ),
            ],
        )
    )
    pair = load_pair(
        backend,
        *(
            RecordChoice(
                key=record.key,
                name="x",
                address="x",
            )
            for record in (dense, sparse)
        ),
    )
    indices = [outcome.index for outcome in pair.left.outcomes]
    assert (
        indices
        == [outcome.index for outcome in pair.right.outcomes]
        == [i for i in range(120) if i % 3 == 1]
    )
    kinds = pair.kinds(range(40))
    right = sum(o.last_word_right for o in dense.outcomes if o.index % 3 == 1)
    assert len(kinds["both-right"]) + len(kinds["broke"]) == right
    whole = specimens.passages()
    texts = pair.texts(whole)
    assert list(texts.indices) == indices and texts.targets == tuple(
        whole.targets[i] for i in indices
    )
    assert pair.texts(None) is None


def shown(drawn: str) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]+>", "", drawn))


@pytest.mark.parametrize(
    ("left", "right", "marked"),
    [
        (
            "the harbour was quiet",
            "the harbour and the sea",
            ("the harbour ❘was quiet", "the harbour ❘and the sea"),
        ),
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
    assert all(
        (DIVERGENCE_SIGN in text) == ('role="img" aria-label="parts"' in text)
        for text in drawn
    )


@given(*[st.text(max_size=60).filter(lambda t: DIVERGENCE_SIGN not in t)] * 2)
def test_nothing_is_lost_or_let_through(left, right):
    for text, drawn in zip(
        (left, right),
        mark_divergence(left, right),
        strict=True,
    ):
        assert shown(drawn).replace(DIVERGENCE_SIGN, "") == visible(text)


def test_an_endless_text_is_cut():
    first, right = mark_divergence("w" * 100_000, "one word")
    assert len(first) < 2 * SHOWN_CHARACTERS
    assert "…" in first
    assert "one word" in right


PAIR = Pair(
    left_name="dense",
    left=specimens.record([True, False, True]),
    right_name="30 %",
    right=specimens.record([True, True, False], 300),
)
PASSAGES = specimens.passages(3)


def with_text(text: str):
    record = replace(
        PAIR.left,
        outcomes=tuple(
            replace(o, target=text, answer=text) for o in PAIR.left.outcomes
        ),
    )
    return replace(PAIR, left=record, right=record), replace(
        PASSAGES, contexts=(text,) * 3, targets=(text,) * 3
    )


def read_csv(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def read_parquet(data: bytes) -> list[dict[str, object]]:
    return pq.read_table(io.BytesIO(data)).to_pylist()


def test_csv_and_parquet_hold_the_same_passages_in_the_order_of_the_view():
    rows = read_csv(
        view_file(
            PAIR,
            [2, 0],
            PASSAGES,
            "csv",
        )
    )
    table = read_parquet(
        view_file(
            PAIR,
            [2, 0],
            PASSAGES,
            "parquet",
        )
    )
    assert (
        [int(row["passage"]) for row in rows]
        == [row["passage"] for row in table]
        == [3, 1]
    )
    assert [row["right_correct"] for row in table] == [False, True]
    assert [row["right_correct"] for row in rows] == ["false", "true"]
    assert (
        float(rows[0]["left_log_likelihood_nats"])
        == table[0]["left_log_likelihood_nats"]
        < 0
    )
    assert list(rows[0]) == list(table[0])
    (row,) = read_csv(
        view_file(
            PAIR,
            [0],
            None,
            "csv",
        )
    )
    assert row["context"] == "" and row["target"] == PAIR.left.outcomes[0].target
    assert pq.read_schema(
        io.BytesIO(
            view_file(
                PAIR,
                [],
                PASSAGES,
                "parquet",
            )
        )
    ).names == list(table[0])


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+cmd", "-2", "@SUM(A1)", " =1"],
)
def test_no_cell_begins_like_a_formula(text):
    pair, passages = with_text(text)
    (row,) = read_csv(
        view_file(
            pair,
            [0],
            passages,
            "csv",
        )
    )
    assert {
        row["context"],
        row["target"],
        row["left_answer"],
    } == {f"'{text}"}
    assert (
        read_parquet(
            view_file(
                pair,
                [0],
                passages,
                "parquet",
            )
        )[0]["target"]
        == text
    )


@pytest.mark.parametrize(
    "text", ['quo"te, comma\nline', "half \ud83d"], ids=["quotes", "surrogate"]
)
def test_any_text_comes_back_as_it_was(text):
    pair, passages = with_text(text)
    sent = text.encode("utf-8", "replace").decode()
    (kept,) = read_parquet(
        view_file(
            pair,
            [0],
            passages,
            "parquet",
        )
    )
    sample = json.loads(harness_samples(pair.left, passages).splitlines()[0])
    assert (
        kept["context"]
        == kept["left_answer"]
        == sample["arguments"]["gen_args_0"]["arg_0"]
        == sent
    )
    assert (
        read_csv(
            view_file(
                pair,
                [0],
                passages,
                "csv",
            )
        )[0]["context"]
        == sent
    )


REAL = {
    "doc_id": 2,
    "doc": {
        "text": "Zo\xeb said \u201cthe boat\u201d\nand the lamp went home \U0001f469\u200d\U0001f680"
    },
    "target": " \U0001f469\u200d\U0001f680",
    "arguments": {
        "gen_args_0": {
            "arg_0": "Zo\xeb said \u201cthe boat\u201d\nand the lamp went home",
            "arg_1": " \U0001f469\u200d\U0001f680",
        }
    },
    "resps": [[["-82.546875", "False"]]],
    "filtered_resps": [["-82.546875", "False"]],
    "filter": "none",
    "metrics": ["perplexity", "acc"],
    "doc_hash": "574a0646ea96d2343c02fcb50db3cf22c9970b32e61a589b44c30176e4fa0398",
    "prompt_hash": "9c9972f84595262429533352b89b718dd0f52e89cb4c33071e701430f0aba42a",
    "target_hash": "23057baf3a35e812e39a5c0b6b7ae638b6f384a8ddc6b5bf1d35ff46e79366eb",
    "perplexity": -82.546875,
    "acc": 0,
}
"""One line of a samples file of lm_eval 0.4.13: `lambada_openai`'s template over a local file, a
tiny model, log_samples.
"""


def test_a_sample_equals_the_line_that_the_harness_wrote_of_the_same_passage():
    context, target = REAL["arguments"]["gen_args_0"].values()
    outcome = replace(
        PAIR.left.outcomes[0],
        index=2,
        target=target.strip(),
        last_word_right=False,
        log_likelihood=REAL["perplexity"],
    )
    record = replace(PAIR.left, outcomes=(outcome,))
    passages = replace(
        PASSAGES,
        indices=(2,),
        contexts=(context,),
        targets=(target,),
    )
    ours = json.loads(harness_samples(record, passages))
    assert ours == REAL and list(ours) == list(REAL)
    right = replace(
        record,
        outcomes=(replace(outcome, last_word_right=True),),
    )
    sample = json.loads(harness_samples(right, passages))
    assert (sample["acc"], sample["resps"][0][0][1]) == (1, "True")


def test_a_number_behind_a_name_is_no_other_s_name():
    names = dict(
        zip(
            "abcd",
            ("base", "base", "base (2)", "base"),
            strict=True,
        )
    )
    assert list(unique_names(names).values()) == [
        "base",
        "base (2)",
        "base (2) (2)",
        "base (3)",
    ]
