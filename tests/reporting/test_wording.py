"""Numbers, settings and names in words."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from sparsedash.schema.settings import CalibrationSettings, RunSettings
from sparsedash.stats.significance import accuracy_interval
from tests.factories import RECORD, RUN, outcome
from tests.ui import specimens


def plain(text: str) -> str:
    return text.replace(wording.NBSP, " ")


def test_time_left_comes_in_steps_and_is_never_nothing():
    shown = {0.0: "almost done", 1.9: "almost done", 3.4: "3 s", 47.0: "45 s", 86.0: "85 s", 130.0: "2 min"}
    for seconds, words in shown.items():
        assert words in wording.time_left(seconds).replace(wording.NBSP, " ")


def test_accuracies_have_one_decimal_and_their_interval():
    assert plain(wording.percent(0.34)) == "34.0 %"
    sixty_eight = replace(RECORD, outcomes=tuple(outcome(i, i < 68) for i in range(200)))
    assert plain(wording.interval(accuracy_interval(sixty_eight))) == "27.8 to 40.8 %"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123, "12.3 %"), (0.0004, "under 0.1 %"), (0.0, "0.0 %"), (1.0, "100.0 %")]
)
def test_a_small_probability_is_not_shown_as_none(value, shown):
    assert plain(wording.probability(value)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1.00"),
        (12.341, "12.34"),
        (999.99, "999.99"),
        (999.999, "1,000"),
        (1234.4, "1,234"),
        (999_999.6, "1.0 × 10⁶"),
        (14_544_758_273.0, "1.5 × 10¹⁰"),
        (1e308, "1.0 × 10³⁰⁸"),
        (math.inf, "beyond 10³⁰⁸"),
    ],
)
def test_a_perplexity_has_as_many_digits_as_say_something(value, shown):
    assert plain(wording.perplexity(value)) == shown


@pytest.mark.parametrize(("nats", "shown"), [(1e300, "100.0 %"), (-1e300, "0.0 %"), (-9, "under 0.1 %")])
def test_a_likelihood_is_a_probability_whatever_is_stored(nats, shown):
    assert plain(wording.likelihood(nats)) == shown


@pytest.mark.parametrize("timestamp", [1e300, -1e300, math.inf, math.nan])
def test_a_moment_that_no_calendar_has_is_said_not_to_be_known(timestamp):
    assert wording.moment(timestamp, UTC) == "at a time that is not known"


def test_an_interval_of_changes_has_a_sign_at_both_ends():
    assert wording.signed_interval((-0.065, 0.004)) == "−6.5 to +0.4"


@pytest.mark.parametrize(("value", "shown"), [(-0.03, "−3.0"), (0.007, "+0.7"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_changes_carry_their_sign(value, shown):
    assert wording.signed_points(value) == shown


@pytest.mark.parametrize(
    ("p", "shown"), [(0.146, "p = 0.15"), (0.00001, "p < 0.001"), (1.0, "p = 1"), (0.0351, "p = 0.035")]
)
def test_p_values_stay_readable(p, shown):
    assert plain(wording.p_value(p)) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0 s"), (8, "8 s"), (59.6, "1 min"), (245, "4 min"), (4800, "1 h 20 min")]
)
def test_durations_use_the_unit_a_person_would(seconds, shown):
    assert plain(wording.duration_words(seconds)) == shown


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(12, "1 kB"), (12_400, "12 kB"), (999_600, "1 MB"), (640e6, "640 MB"), (999.6e6, "1.0 GB"), (1.24e9, "1.2 GB")],
)
def test_sizes_use_decimal_units(n_bytes, shown):
    assert plain(wording.size(n_bytes)) == shown


def test_moments_of_today_and_yesterday_are_called_so():
    now = datetime.now(UTC).replace(hour=12, minute=5)
    assert wording.moment(now.timestamp(), UTC) == "today 12:05"
    assert wording.moment((now - timedelta(days=1)).timestamp(), UTC) == "yesterday 12:05"


def test_older_moments_carry_their_date():
    assert wording.moment(datetime(2020, 6, 3, 14, 5, tzinfo=UTC).timestamp(), UTC) == "3 June 2020 14:05"


def test_a_run_is_named_by_model_and_sparsities():
    settings = RunSettings(sparsities_permille=(100, 125))
    assert plain(wording.run_title(settings)) == "SmolLM2 135M (built in) at 10, 12.5 %"


def test_a_reference_without_a_title_is_shown_as_it_is():
    assert wording.reference_title("some/model@main") == "some/model@main"


def test_the_width_multiple_is_said_once_for_all_methods():
    changed = replace(method_named("magnitude"), width_multiple=64)
    assert wording.method_title(changed) == "magnitude"
    assert wording.method_titles(RunSettings(methods=(changed,))) == "magnitude, widths in multiples of 64"
    assert wording.method_titles(RunSettings(methods=(method_named("magnitude"),))) == "magnitude"


def test_a_method_says_what_is_unusual_about_it():
    assert wording.method_title(replace(method_named("obs"), damping=0.5)) == "obs (damping 0.5)"


def test_choices_without_a_name_are_named_themselves():
    unnamed = replace(method_named("random"), compensation="least-squares")
    assert wording.method_title(unnamed) == "random + least-squares + uniform"


@pytest.mark.parametrize(("count", "rounded"), [(7, 7), (99, 99), (201, 210), (1234, 1300)])
def test_passages_needed_are_rounded_up_to_two_digits(count, rounded):
    assert wording.round_up(count) == rounded


def test_a_calibration_says_how_its_tokens_count_and_are_cut_where_that_is_not_as_usual():
    usual = CalibrationSettings(corpus="wikitext-2", n_samples=1000)
    assert wording.calibration_words(usual) == "calibration: WikiText-2, 1,000 × 256 tokens"
    assert wording.calibration_words(replace(usual, packed=True)).endswith("256 tokens, packed")
    assert wording.calibration_words(replace(usual, token_weights="residual")).endswith(
        "256 tokens, those with a large residual stream counting little"
    )


def test_a_run_says_the_type_of_the_quantised_file_that_its_model_is_unpacked_from():
    plain_run, quantised = RUN, replace(RUN, source_type="Q4_1")
    assert wording.stored_run_details(quantised) == f"{wording.stored_run_details(plain_run)}, unpacked from Q4_1"
    assert "a Q4_1 GGUF file, unpacked" in wording.source_note("Q4_1")
    assert wording.source_note(plain_run.source_type) == ""


MAGNITUDE = method_named("magnitude")
ZEROS = method_named("magnitude-weights")


def test_records_of_several_methods_are_told_apart():
    sparse = specimens.record([True], 125, MAGNITUDE)
    assert wording.record_name(sparse, several_methods=True) == "magnitude 12.5 %"
    assert wording.record_name(sparse, several_methods=False) == "12.5 %"
    assert wording.record_name(specimens.record([True]), several_methods=True) == "dense"


def test_a_run_names_its_records_as_they_name_themselves():
    settings = replace(specimens.SETTINGS, methods=(*specimens.SETTINGS.methods, MAGNITUDE))
    for asked in (specimens.SETTINGS, settings):
        run, records = specimens.run(asked)
        several = wording.has_several_methods(asked)
        assert wording.record_names(run) == [(r.key, wording.record_name(r, several)) for r in records]


def test_a_run_names_only_the_records_that_are_there():
    run, _ = specimens.run(finished=False, n_sparse=1)
    assert [name for _, name in wording.record_names(run)] == ["dense", "10 %"]


def test_a_line_is_named_by_its_method_where_there_are_several():
    assert wording.line_name(MAGNITUDE, several_methods=True) == "magnitude"
    assert wording.line_name(MAGNITUDE, several_methods=False) == "sparse"


def test_a_card_says_what_was_taken_and_of_what():
    assert plain(wording.card_name(MAGNITUDE, 200, several_methods=False)) == "20 % of the MLP removed"
    assert plain(wording.card_name(MAGNITUDE, 200, several_methods=True)) == "magnitude, 20 % of the MLP removed"
    assert plain(wording.card_name(ZEROS, 500, several_methods=False)).endswith("weights set to zero")


def test_a_model_in_the_making_says_method_and_sparsity():
    assert plain(wording.name_in_progress(MAGNITUDE, 125)) == "magnitude, 12.5 % removed"
    assert plain(wording.name_in_progress(ZEROS, 500)).endswith(", 50 % set to zero")


def test_an_axis_names_weights_only_where_a_method_sets_them_to_zero():
    assert wording.sparsity_axis_title([]) == wording.sparsity_axis_title([MAGNITUDE]) == "MLP channels removed"
    assert wording.sparsity_axis_title([MAGNITUDE, ZEROS]) == "MLP channels removed, or MLP weights set to zero"
