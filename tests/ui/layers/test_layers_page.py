"""What each layer lost: the empty, running, failed and done states, the alarms, and the links there and back."""

from dataclasses import replace

import pytest

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.catalog.presets import method_named
from sparsedash.ui.layers_losses import layers_sentence, times_more
from tests.factories import THREE_LAYERS as LAYERS
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, markup, words
from tests.ui.fake_backend import job
from tests.ui.overview.test_gain_axis import SHAPE

SETTINGS = specimens.SETTINGS


@pytest.fixture
def measured(backend):
    """A backend with a run whose layers were measured in every way."""
    run, records = specimens.run()
    sparse = [replace(r, pruned=replace(LAYERS, sparsity_permille=r.sparsity_permille)) for r in records[1:]]
    backend.add_run((run, [records[0], *sparse]))
    return backend


def test_without_runs_the_page_invites(open_page):
    app = open_page("layers")
    assert "No layer has been pruned yet." in words(app)
    assert "Prune a model" in links(app)


def test_a_run_that_has_pruned_nothing_yet_shows_its_job(open_page, backend):
    backend.add_run(specimens.run(finished=False, n_sparse=0))
    backend.stored_jobs = [job(SETTINGS)]
    said = words(open_page("layers"))
    assert said.startswith("No layer has been pruned yet.")
    assert "Evaluating" in said


def test_a_run_that_failed_says_why(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "failed", **FAILED)]
    app = open_page("layers", run=SETTINGS.key())
    assert "The model cannot be reached. Name a local folder." in words(app)
    assert button(app, "Try again")


def test_an_address_of_no_run_says_so(open_page, finished):
    assert "There is nothing about layers at this address." in words(open_page("layers", run="gone"))


def test_the_answer_comes_first_then_three_numbers_a_chart_and_a_table(open_page, measured):
    app = open_page("layers")
    said = words(app)
    assert said.startswith("Half of the layers lost at most 10.0 % of their output; layer 3 lost the most, 40.0 %.")
    assert markup(app).count('class="sd-figure"') == 3
    assert "compensation bought back 50 % of it; median of the layers' shares" in said
    assert "1.20 × that on calibration text; median of the layers' ratios" in said
    assert "1.10 × as much on held-out text; median of the layers' ratios" in said
    assert app.get("plotly_chart")[0].proto.alt.startswith("Share of the MLP output that each of 3")
    assert "3 32 of 64 50.0 % 40.0 % 50.0 % 40.0 % 50.0 % 20 % 2.00 ×" in said


def test_a_model_is_chosen_by_the_address_and_the_last_one_otherwise(open_page, finished):
    assert "least-squares 20 % · " in words(open_page("layers", record="20 %"))
    app = open_page("layers")
    assert "least-squares 30 % · " in words(app)
    app.selectbox(key="chosen-record").set_value("10 %").run()
    assert app.query_params["record"] == "10 %"


def test_an_address_of_no_model_says_so_and_what_is_shown_instead(open_page, finished):
    app = open_page("layers", record="<b>nonsense")
    assert "“<b>nonsense”; there is no such model here." in words(app)
    assert "Shown instead is 30 %." in words(app)
    app.selectbox(key="chosen-record").set_value("10 %").run()
    assert "no such model" not in words(app)


def test_a_record_of_before_is_shown_with_what_it_has(open_page, finished):
    app = open_page("layers")
    said = words(app)
    assert markup(app).count('class="sd-figure"') == 1
    assert "made before the loss on the passages was measured" in said
    assert "Sensitivity, times" not in app.get("plotly_chart")[0].proto.spec


def test_links_lead_to_the_chart_and_to_the_answers(open_page, measured):
    found = links(open_page("layers", record="20 %"))
    assert found["Back to the chart"].endswith(f"run={SETTINGS.key()}")
    assert "right=20" in found["Compare its answers with the dense model's"]


def test_text_unlike_the_passages_is_said_first_of_all():
    said = layers_sentence(replace(LAYERS, passage_errors=(0.3, 0.05, 0.9), held_out_errors=(0.12, 0.02, 0.36)))
    assert said.startswith("The calibration text is unlike the passages: half of the layers lose at least 2.5 times")


def test_a_fit_that_holds_for_its_own_text_only_is_said():
    said = layers_sentence(replace(LAYERS, held_out_errors=(0.3, 0.06, 0.9)))
    assert said.startswith("The fit holds for its own text only: half of the layers lose at least 3.0 times as much")


def test_a_model_that_no_calibration_text_was_read_for_is_shown_by_its_passages(open_page, measured):
    for key, record in measured.stored_records.items():
        if record.pruned:
            none = {"layer_errors": (), "held_out_errors": (), "uncompensated_errors": ()}
            blind = replace(record.pruned, method=method_named("random"), **none)
            measured.stored_records[key] = replace(record, key=key, pruned=blind)
    measured.stored_runs[0] = replace(measured.stored_runs[0], key="blind")
    app = open_page("layers", run="blind")
    said = words(app)
    assert said.startswith("Half of the layers lost at most 12.0 % of their output on the passages; layer 3")
    assert "needs no calibration text" in said
    assert "none was read, and what the layers lose on it was not measured" in said
    assert markup(app).count('class="sd-figure"') == 1
    assert layers_sentence(replace(LAYERS, layer_errors=(), held_out_errors=(), passage_errors=())).endswith(
        "not measured."
    )


def test_a_model_of_too_little_text_for_moments_says_what_is_known(open_page, measured):
    for key, record in measured.stored_records.items():
        if record.pruned:
            few = {"layer_errors": (), "uncompensated_errors": ()}
            ranked = replace(record.pruned, method=method_named("wanda-channels"), **few)
            measured.stored_records[key] = replace(record, key=key, pruned=ranked)
    measured.stored_runs[0] = replace(measured.stored_runs[0], key="few")
    app = open_page("layers", run="few")
    said = words(app)
    assert "too little to measure what the layers lose on it" in said
    assert "depends on no calibration text" not in said
    assert "needs no calibration text" not in said
    assert "Lost on held-out text" in markup(app)


def test_what_was_not_measured_raises_no_alarm():
    assert times_more(LAYERS, ()) is None
    assert layers_sentence(replace(LAYERS, held_out_errors=(), passage_errors=())).startswith("Half of the layers")


def test_the_example_is_marked(open_page, example):
    assert "Example: this run ships with SparseDash" in words(open_page("layers", run=EXAMPLE))


def test_shapes_and_bytes_are_shown_before_and_after_with_a_file_to_take_along(open_page, finished):
    identity = specimens.run()[1][0].model_identity
    finished.shapes[identity] = SHAPE
    app = open_page("layers")
    said = words(app)
    # At 30 % 448 of 1,536 channels are gone from each of 30 blocks, each of 3 * 576 weights of 4 bytes.
    assert "1,536 × 576 → 1,088 × 576" in said
    assert "Whole model 538.1 MB 445.2 MB 17.3 %" in said
    assert [button.proto.label for button in app.get("download_button")] == ["CSV", "Shapes and bytes, CSV"]


def test_a_model_whose_sizes_are_not_noted_yet_says_when_they_will_be(open_page, finished):
    assert "noted when it is loaded the next time" in words(open_page("layers"))
