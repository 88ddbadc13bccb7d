"""What each layer lost: the empty, running, failed and done states, the alarms, and the links there
and back.
"""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Healed, Quantised
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import model_shape_note
from sparsedash.ui.compare_layers import hidden_losses, layers_sentence
from tests.factories import MIXTURE
from tests.factories import THREE_LAYERS as LAYERS
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, markup, words
from tests.ui.filled_backend import job
from tests.ui.test_loss_charts import SHAPE

SETTINGS = specimens.SETTINGS


def add(backend, spec=None, **changes):
    """A run whose layers were measured in every way, but for these changes."""
    run, (dense, *sparse) = specimens.run()
    pruned = [
        replace(
            LAYERS,
            spec=replace(spec or LAYERS.spec, permille=record.sparsity_permille),
            **changes,
        )
        for record in sparse
    ]
    return backend.add_run(
        (
            run,
            [
                dense,
                *map(lambda each, made: replace(each, pruned=made), sparse, pruned),
            ],
        )
    )


def test_without_a_pruned_layer_the_page_invites_or_shows_the_job(open_page, backend):
    assert "the loss of each layer" in words(open_page("compare", view="layers"))
    backend.set_jobs(job(SETTINGS, "failed", **FAILED))
    app = open_page("compare", view="layers", run=SETTINGS.key())
    assert "The model cannot be reached. Name a local folder." in words(app) and button(
        app, "Resume"
    )
    backend.add_run(specimens.run(finished=False, n_sparse=0))
    backend.set_jobs(job(SETTINGS))
    text = words(open_page("compare", view="layers"))
    assert text.startswith("No answers to compare yet.") and "Evaluating" in text


def test_the_answer_comes_first_then_three_numbers_a_chart_and_a_table(
    open_page, backend
):
    add(backend)
    app = open_page("compare", view="layers", right="20 %")
    text = words(app)
    assert text.startswith(
        "Half of the 2 layers that were cut (3 in all) lost at most 25.0 % of their output; "
        "layer 3 lost the most, 40.0 %."
    )
    assert markup(app).count('class="sd-figure"') == 3
    assert "compensation recovered 35 % of it; median of each layer's own" in text
    assert "1.10 × that on calibration text; median of each layer's own" in text
    assert "1.17 × as much on held-out text; median of each layer's own" in text
    assert app.get("plotly_chart")[0].proto.alt.startswith(
        "Half of the 2 layers that were cut (3 in all) lost at most"
    )
    assert "3 32 of 64 50.0 % 40.0 % 50.0 % 40.0 % 50.0 % 20 % 0.0400" in text
    addresses = links(app)
    assert addresses["Back to the chart"].endswith(f"run={SETTINGS.key()}")


def test_of_a_quantised_model_the_types_are_counted_and_its_layers_are_those_before(
    open_page, backend
):
    sizes = {"n_bytes": 50, "full_bytes": 90, "dense_bytes": 100}
    quantised = Quantised(
        **sizes,
        tensors={"F32": 7, "Q8_0": 9, "Q4_K": 20},
        fell_back={"Q8_0": 9},
    )
    add(
        backend,
        SparseSpec(MethodSettings(), 100, quantise="q4_k_m"),
        quantised=quantised,
    )
    text = words(open_page("compare", view="layers", right="20 %"))
    assert (
        text.startswith(
            "Before quantising, half of the 2 layers that were cut (3 in all) lost"
        )
        and "· least-squares 20 %, Q4_K_M ·" in text
    )
    assert (
        "Tensors: 7 in F32, 20 in Q4_K; fallback for the length of their rows: 9 to Q8_0. All losses"
        in text
    )
    assert layers_sentence(
        replace(LAYERS, spec=SparseSpec(quantise="q4_k_m"), quantised=quantised)
    ).startswith("No channel was")


def test_of_a_healed_model_it_is_said_that_its_layers_are_those_before(
    open_page, backend
):
    add(
        backend,
        healed=Healed(
            steps=24,
            kept_step=16,
            before=0.27,
            after=0.231,
            n_tokens=1920,
            weights="w",
        ),
    )
    text = words(open_page("compare", view="layers", right="20 %"))
    assert (
        "best after step 16; KL divergence from dense on 1,920 held-out tokens 0.231, 0.270 before."
        in text
    )
    assert (
        text.startswith(
            "Before healing, half of the 2 layers that were cut (3 in all) lost"
        )
        and "those before it" in text
    )


def test_a_model_is_chosen_by_the_address_and_the_one_that_the_answer_names_otherwise(
    open_page, finished
):
    assert "least-squares 20 % · " in words(
        open_page("compare", view="layers", right="20 %")
    )
    app = open_page("compare", view="layers", right="<b>nonsense")
    assert "“<b>nonsense” is no model here. Showing 10 %." in words(app)
    assert "least-squares 10 % · " in words(app)
    app.selectbox(key="chosen-right").set_value("30 %").run()
    assert app.query_params["right"] == "30 %" and "is no model here" not in words(app)


UNLIKE = {"passage_errors": (0.3, 0.05, 0.9), "held_out_errors": (0.12, 0.02, 0.36)}
UNMEASURED = {"layer_errors": (), "held_out_errors": ()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            UNLIKE,
            "The calibration text is unlike the passages: half of the layers lose at least 2.5 times",
        ),
        (
            UNLIKE | {"held_out_errors": ()},
            "The calibration text is too short, or unlike the passages: half of the layers lose at least",
        ),
        (
            {"held_out_errors": (0.3, 0.06, 0.9)},
            "Overfitted to the calibration text: half of the layers lose at least 2.6",
        ),
        (
            {"held_out_errors": (), "passage_errors": ()},
            "Half of the 2 layers that were cut (3 in all)",
        ),
        (
            UNMEASURED | {"passage_errors": ()},
            "The loss of the layers was not measured.",
        ),
    ],
    ids=["unlike", "none-held-out", "overfitted", "no-other-text", "unmeasured"],
)
def test_a_fit_to_the_wrong_text_is_said_first_of_all_and_what_was_not_measured_raises_no_alarm(
    changes, expected
):
    assert layers_sentence(replace(LAYERS, **changes)).startswith(expected)


@pytest.mark.parametrize(
    ("method", "changes", "why"),
    [
        ("random", {}, "so no loss on it was measured"),
        (
            "wanda-channels",
            {"held_out_errors": LAYERS.held_out_errors},
            "too little to measure the layers' loss on it",
        ),
    ],
    ids=["reads-no-text", "short-text"],
)
def test_a_model_without_calibration_losses_says_why_and_what_is_known(
    method, changes, why, open_page, backend
):
    add(
        backend,
        SparseSpec(method_named(method), 100),
        **UNMEASURED | {"uncompensated_errors": ()} | changes,
    )
    text = words(open_page("compare", view="layers"))
    assert text.startswith(
        "Half of the 2 layers that were cut (3 in all) lost at most 26.0 % of their output on the passages; layer 3"
    )
    assert why in text and ("Lost on held-out text" in text) == bool(changes)


def test_a_loss_near_zero_beside_divergence_is_explained():
    assert hidden_losses(replace(LAYERS, layer_errors=(0.2, 0.1, 0.3))) == ""
    sparse = replace(
        LAYERS,
        layer_errors=(0.2, 0.1, 0.00001),
        alone=(0.01, 0.0, 0.02),
    )
    sentence = hidden_losses(sparse)
    assert sentence.startswith(
        "Layer 3 loses nearly nothing, yet the model diverges by up to 0.02 nats: "
    )
    assert hidden_losses(replace(sparse, alone=(0.01, 0.0, 0.0))) == ""


def test_of_a_mixture_the_grid_and_its_table_say_which_experts_are_gone(
    open_page, backend
):
    fields = (
        "widths",
        "dense_widths",
        "experts",
        "expert_use",
        "few_tokens",
        "passage_errors",
    )
    errors = ("layer_errors", "held_out_errors", "uncompensated_errors", "alone")
    changes = {name: getattr(MIXTURE, name) for name in (*fields, *errors)}
    add(backend, MIXTURE.spec, **changes)
    app = open_page("compare", view="layers", right="20 %")
    text = words(app)
    assert text.startswith(
        "Half of the 2 layers that were cut (3 in all) lost at most 15.0 % of their experts' output; "
        "layer 2 lost the most, 20.0 %."
    )
    assert "hannel" not in text.partition("Which experts were removed")[0]
    assert (
        "Choices of the removed experts 30.0 % of the dense router; 4 of 8 experts"
        in text
    )
    charts = app.get("plotly_chart")
    assert charts[1].proto.alt.startswith("Removed experts got 30.0")
    assert "1 of 4 kept experts was not refitted" in text
    assert "1 no experts 0.0 %" in text and "2 2 of 4 50.0 %" in text
    assert "3 kept 40.00 % 1.60 × 4 ✕ removed 10.00 %" in text
    app.selectbox(key="experts-of").set_value(2).run()
    assert "1 ✕ removed 30.00 % 1.20 × 2 kept" in words(app)


def test_shapes_and_bytes_are_shown_before_and_after_with_a_file(open_page, backend):
    run, records = specimens.run(replace(specimens.SETTINGS, model="owner/other"))
    backend.add_run((run, [replace(record, model="owner/other") for record in records]))
    assert "known once a run or a prompt has loaded" in words(
        open_page("compare", view="layers")
    )
    backend._store.remember(model_shape_note(records[0].model_identity), SHAPE.plain())
    app = open_page("compare", view="layers", right="30 %")
    text = words(app)
    # At 30 % 448 of 1,536 channels are gone from each of 30 blocks, each of 3 * 576 weights of 4
    # bytes.
    assert (
        "1,536 × 576 → 1,088 × 576" in text
        and "Whole model 538.1 MB 445.2 MB 17.3 %" in text
    )
    assert [drawn.proto.label for drawn in app.get("download_button")] == ["CSV", "CSV"]
