"""What was forgotten, by kind of text: estimates, the sentence, the chart and the JSON values."""

from dataclasses import replace

import pytest

from sparsedash.reporting.charts.kind_chart import kind_chart, kinds_words
from sparsedash.reporting.kind_words import (
    forgotten_sentence,
    kinds_document,
    kinds_table,
)
from sparsedash.schema.records import KindLoss
from sparsedash.stats.kind_estimates import kind_estimates
from tests.factories import answered

NOTHING = answered("sparse", 3)


def forgot(**blocks):
    return replace(
        NOTHING,
        by_kind=tuple(
            KindLoss(kind=kind, blocks=values) for kind, values in blocks.items()
        ),
    )


SUMS_MOST = forgot(
    prose=(0.1, 0.3),
    sums=(0.5, 0.9),
    code=(0.2, 0.2),
)


def test_the_kinds_stand_by_what_was_forgotten_with_the_interval_of_their_pieces():
    estimates = kind_estimates(SUMS_MOST.by_kind)
    assert [(estimate.kind, estimate.value) for estimate in estimates] == [
        ("sums", pytest.approx(0.7)),
        ("prose", pytest.approx(0.2)),
        ("code", pytest.approx(0.2)),
    ]
    assert all(
        0 <= estimate.low <= estimate.value <= estimate.high for estimate in estimates
    )
    # Pieces that are all alike have no spread.
    assert estimates[2].low == estimates[2].high == pytest.approx(0.2)


def test_a_kind_is_named_only_from_three_times_the_median_on():
    assert (
        forgotten_sentence(SUMS_MOST)
        == "Sums and counting suffered most: 3.5\u00a0× the median kind of text."
    )
    assert (
        forgotten_sentence(
            forgot(
                prose=(0.2, 0.2),
                sums=(0.5, 0.68),
                code=(0.2, 0.2),
            )
        )
        == ""
    )
    assert (
        forgotten_sentence(forgot(prose=(0.0, 0.0), sums=(0.0, 0.0)))
        == forgotten_sentence(NOTHING)
        == ""
    )


def test_chart_table_words_and_values_show_the_same_numbers():
    estimates = kind_estimates(SUMS_MOST.by_kind)
    chart = kind_chart(estimates)
    assert list(chart.data[0].x) == [estimate.value for estimate in estimates]
    assert list(chart.layout.yaxis.ticktext) == [
        "Sums and counting",
        "Plain prose",
        "Code",
    ]
    assert [row[:2] for row in kinds_table(SUMS_MOST).rows] == [
        ["Sums and counting", "0.700"],
        ["Plain prose", "0.200"],
        ["Code", "0.200"],
    ]
    assert kinds_words(estimates).startswith(
        "What was forgotten: KL from dense, nats a token: Sums and counting 0.700,"
    )
    assert [value["kind"] for value in kinds_document(SUMS_MOST)] == [
        "sums",
        "prose",
        "code",
    ]


def test_a_kind_measured_on_a_single_piece_is_not_shown():
    assert not kind_estimates(forgot(prose=(0.2,)).by_kind)


def test_a_kind_that_is_no_longer_in_the_mix_keeps_its_name():
    assert kinds_table(forgot(poems=(0.1, 0.2))).rows[0][0] == "poems"
