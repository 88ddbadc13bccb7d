"""Numbers, settings and names in words."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import log

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from sparsedash.schema.settings import (
    DATA_SET,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.sparse_spec import SparseSpec
from tests.factories import RUN, plain
from tests.ui import specimens

MAGNITUDE = method_named("magnitude")
ZEROS = method_named("magnitude-weights")


@pytest.mark.parametrize(
    ("words", "cases"),
    [
        (wording.percent, {0.34: "34.0 %"}),
        (
            wording.probability,
            {
                0.123: "12.3 %",
                0.0004: "under 0.1 %",
                0.0: "0.0 %",
                1.0: "100.0 %",
            },
        ),
        (
            wording.likelihood,
            {
                1e300: "100.0 %",
                -1e300: "0.0 %",
                -9: "under 0.1 %",
            },
        ),
        (
            wording.perplexity,
            {
                1.0: "1.00",
                12.341: "12.34",
                999.99: "999.99",
                999.999: "1,000",
                1234.4: "1,234",
                999_999.6: "1.0 × 10⁶",
                14_544_758_273.0: "1.5 × 10¹⁰",
                1e308: "1.0 × 10³⁰⁸",
                math.inf: "beyond 10³⁰⁸",
            },
        ),
        (
            wording.nats_as_factor,
            {
                0: "1.00 ×",
                0.0953: "1.10 ×",
                log(20): "20 ×",
                1000: "over 1,000,000 ×",
            }
            | {
                log(9.999): "10 ×",
                -log(3): "0.33 ×",
                -1000: "under 0.01 ×",
            },
        ),
        (
            wording.signed_points,
            {
                -0.03: "−3.0",
                0.007: "+0.7",
                0.0: "0.0",
                -0.0001: "0.0",
            },
        ),
        (wording.signed_interval, {(-0.065, 0.004): "−6.5 to +0.4"}),
        (wording.interval, {(0.278, 0.408): "27.8 to 40.8 %"}),
        (
            wording.p_value,
            {
                0.146: "p = 0.15",
                0.00001: "p < 0.001",
                1.0: "p = 1",
                0.0351: "p = 0.035",
            },
        ),
        (
            wording.duration_words,
            {
                0.2: "0 s",
                8: "8 s",
                59.6: "1 min",
                245: "4 min",
                4800: "1 h 20 min",
            },
        ),
        (
            wording.time_left,
            {
                0.0: "almost done",
                1.9: "almost done",
                3.4: "about 3 s left",
                47.0: "about 45 s left",
            }
            | {86.0: "about 85 s left", 130.0: "about 2 min left"},
        ),
        (
            wording.size,
            {
                12: "1 kB",
                12_400: "12 kB",
                999_600: "1 MB",
                640e6: "640 MB",
                999.6e6: "1.0 GB",
                1.24e9: "1.2 GB",
            },
        ),
        (
            wording.round_up,
            {
                7: 7,
                99: 99,
                201: 210,
                1234: 1300,
            },
        ),
        (
            wording.and_join,
            {
                ("a",): "a",
                ("a", "b"): "a and b",
                ("a", "b", "c"): "a, b and c",
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_numbers_have_as_many_digits_as_say_something(words, cases):
    text = {value: words(value) for value in cases}
    assert {
        value: plain(shown) if isinstance(shown, str) else shown
        for value, shown in text.items()
    } == cases


def test_moments_are_told_by_day_and_with_the_year_where_it_is_another():
    noon = datetime.now(UTC).replace(hour=12, minute=5)
    assert wording.moment(noon.timestamp(), UTC) == "today 12:05"
    assert (
        wording.moment((noon - timedelta(days=1)).timestamp(), UTC) == "yesterday 12:05"
    )
    assert (
        wording.moment(
            datetime(
                2020,
                6,
                3,
                14,
                5,
                tzinfo=UTC,
            ).timestamp(),
            UTC,
        )
        == "3 June 2020 14:05"
    )
    assert wording.moment(math.inf, UTC) == "at an unknown time"


def test_runs_and_references_are_named_by_the_catalog_s_titles_or_as_they_are():
    few = RunSettings(sparsities_permille=(100, 125))
    assert (
        plain(wording.run_title(few))
        == "SmolLM2 135M, least-squares 10, 12.5 % on Cloze passages"
    )
    many = RunSettings(
        sparsities_permille=(20, 50, 100, 200),
        methods=tuple(map(method_named, ("best", "obs", "flap"))),
        quantise=("q8_0",),
        evaluation=EvaluationSettings(corpus="lambada_openai"),
    )
    assert plain(wording.run_name(many)) == (
        "best and 2 others 2 to 20 % and Q8_0 on LAMBADA, OpenAI variant"
    )
    assert wording.reference_title("some/model@main") == "some/model@main"


def test_a_method_says_what_is_unusual_about_it_and_its_width_multiple_once_for_all():
    assert (
        wording.method_title(replace(method_named("obs"), damping=0.5))
        == "obs (damping 0.5)"
    )
    changed = replace(MAGNITUDE, width_multiple=64)
    assert wording.method_title(changed) == "magnitude"
    assert (
        wording.method_titles(RunSettings(methods=(changed,)))
        == "magnitude, widths in multiples of 64"
    )
    assert wording.method_titles(RunSettings(methods=(MAGNITUDE,))) == "magnitude"
    layers = method_named("layers")
    masks = method_named("wanda")
    both = RunSettings(methods=(changed, layers, masks))
    assert (
        wording.method_titles(both)
        == "magnitude, layers, wanda, widths in multiples of 64"
    )
    assert wording.method_titles(RunSettings(methods=(layers,))) == "layers"


def test_a_calibration_says_how_its_tokens_count_and_are_cut_where_that_is_not_as_usual():
    usual = CalibrationSettings(corpus="wikitext-2", n_samples=1000)
    assert (
        wording.calibration_words(usual)
        == "calibration: WikiText-2, 1,000 × 256 tokens"
    )
    assert wording.calibration_words(replace(usual, packed=True)).endswith(
        "256 tokens, packed"
    )
    assert wording.calibration_words(replace(usual, token_weights="residual")).endswith(
        "256 tokens, tokens weighted by the residual stream"
    )


def test_a_run_says_the_type_of_the_quantised_file_that_its_model_is_unpacked_from():
    run = replace(RUN, model_identity="sha256:0")
    quantised = replace(run, source_type="Q4_1")
    assert (
        wording.stored_run_details(quantised)
        == f"{wording.stored_run_details(run)}, unpacked from Q4_1"
    )
    assert "come from a Q4_1 GGUF file" in wording.source_note("Q4_1")
    assert wording.source_note(RUN.source_type) == ""


def test_a_run_names_the_revisions_that_it_read_and_the_hub_s_newer_ones():
    read = tuple(
        (f"{DATA_SET}a/{name}", commit * 40)
        for name, commit in zip("pqr", "123", strict=True)
    )
    identity = f"owner/model@0123abc{'0' * 33}"
    run = replace(
        RUN,
        model_identity=identity,
        settings=replace(RUN.settings, revisions=read[:1]),
    )
    assert wording.revision_words(run) == "revision 0123abc, data set a/p 1111111"
    assert wording.stored_run_details(run).endswith(f" · {wording.revision_words(run)}")
    more = replace(run, settings=replace(run.settings, revisions=read))
    assert wording.revision_words(more).endswith(
        "a/p 1111111, data set a/q 2222222, and 1 more data set"
    )
    assert (
        wording.revision_words(replace(RUN, model_identity="sha256:0"))
        == wording.newer_words({})
        == ""
    )
    assert (
        wording.newer_words(dict(read[:1]))
        == "The hub has a newer revision of a/p: 1111111."
    )
    assert (
        wording.newer_words(dict(read[:2]))
        == "The hub has newer revisions of a/p and a/q."
    )


def test_a_run_names_the_records_that_are_there_dense_first_and_by_the_method_where_it_has_several():
    run, records = specimens.run()
    assert list(wording.record_names(run).items()) == [
        (record.key, name)
        for record, name in zip(
            records,
            ("dense", "10 %", "20 %", "30 %"),
            strict=True,
        )
    ]
    settings = replace(
        specimens.SETTINGS,
        methods=(*specimens.SETTINGS.methods, MAGNITUDE),
        sparsities_permille=(125,),
    )
    run, _ = specimens.run(settings)
    assert list(wording.record_names(run).values()) == [
        "dense",
        "least-squares 12.5 %",
        "magnitude 12.5 %",
    ]
    part, _ = specimens.run(settings, finished=False, n_sparse=1)
    assert len(wording.record_names(part)) == 2


def test_names_say_what_was_taken_and_of_what():
    assert (
        plain(wording.model_words(SparseSpec(MAGNITUDE, 125)))
        == "magnitude, 12.5 % of the MLP channels removed"
    )
    assert plain(wording.model_words(SparseSpec(ZEROS, 500))).endswith(
        "weights set to zero"
    )
    assert (
        wording.sparsity_axis_title([])
        == wording.sparsity_axis_title([MAGNITUDE])
        == "MLP channels removed"
    )
    assert (
        wording.sparsity_axis_title([MAGNITUDE, ZEROS])
        == "MLP channels removed, or MLP weights set to zero"
    )
