"""What a run takes in memory at least: the weights, and beside them the moments of a layer or the backward pass."""

from dataclasses import replace
from typing import get_args

import pytest

from sparsedash.catalog.choices import MODELS
from sparsedash.catalog.engine_limits import (
    BATCH_TOKENS,
    FEWEST_TEXTS,
    FISHER_BATCH_TOKENS,
    KEPT_BYTES,
    MOST_TEXTS,
    SENSITIVITY_BATCH_TOKENS,
)
from sparsedash.catalog.model_shape import Dimensions
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.resources import (
    _SMALLER,
    RUNTIME_BYTES,
    Purpose,
    dimensions_of,
    gradient_bytes,
    kept_bytes,
    least_memory,
)
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import BUILTIN_MODEL, BUILTIN_TEXT, CalibrationSettings, EvaluationSettings, RunSettings

SMALL = Dimensions(
    hidden=10,
    vocabulary=100,
    widths=(20, 30),
    per_channel=30,
    n_matmul=5_000,
    n_parameters=6_000,
    stored_bytes=2,
    kept_of_a_token=1,
)
OF_BLOCKS = 4 * 4 * (20 + 30 + 2 * 10)
CHANGES = 4 * 10 * 50
N_TOKENS = 7 * 64


def settings(*names, **changes):
    calibration = CalibrationSettings(corpus=BUILTIN_TEXT, n_samples=7, length=64)
    methods = tuple(map(method_named, names)) or RunSettings().methods
    made = RunSettings(methods=methods, calibration=calibration, evaluation=EvaluationSettings(n_passages=1))
    return replace(made, **changes)


def test_without_a_backward_pass_it_is_the_text_on_its_way_and_the_widest_layers_moments_twice():
    found = least_memory(SMALL, settings("wanda-channels", "flap"))
    assert found.beside_bytes == 2 * 4 * 30 * 30 + N_TOKENS * 10 * 4
    assert found.n_bytes == RUNTIME_BYTES + 4 * 6_000 + found.beside_bytes
    assert found.purpose == "calibration"


@pytest.mark.parametrize(("name", "n_matrices"), [("least-squares", 3.5), ("obs", 3.5), ("sparsegpt", 4.2)])
def test_solving_takes_several_matrices_in_single_precision(name, n_matrices):
    wide = replace(SMALL, widths=(200, 300))
    found = least_memory(wide, settings(name))
    masked = found.beside_bytes - n_matrices * 4 * 300 * 300
    # The weights with zeros besides, where single ones go.
    assert masked == 0 if name != "sparsegpt" else 0 < masked <= 4 * SMALL.n_parameters
    assert found.purpose == "pruning"


def test_single_weights_are_all_there_twice():
    assert SMALL.n_mlp == 1_500 and SMALL.n_matmul - 10 * 100 == 4_000
    little = CalibrationSettings(corpus=BUILTIN_TEXT, n_samples=1, length=8)
    found = {
        scope: least_memory(
            SMALL,
            settings(
                calibration=little,
                dtype="bfloat16",
                methods=(MethodSettings(pattern="2:4", scope=scope, compensation="none"),),
            ),
        )
        for scope in ("mlp", "decoder")
    }
    # Eight tokens are too few for whole moments.
    assert (found["mlp"].beside_bytes, found["mlp"].purpose) == (2 * 1_500, "pruning")
    assert (found["decoder"].beside_bytes, found["decoder"].purpose) == (2 * 4_000, "pruning")


def test_the_store_keeps_the_inputs_of_all_projections_where_single_weights_go():
    moments = 2 * (20 * 20 + 30 * 30)
    assert kept_bytes(SMALL.widths, 10, settings("best"), 7) == moments
    assert kept_bytes(SMALL.widths, 10, settings("wanda"), 7) == moments + 2 * 2 * 2 * 10 * 10


@pytest.mark.parametrize("name", ["random", "magnitude", "magnitude-weights", "magnitude-2:4"])
def test_a_run_that_depends_on_no_calibration_text_needs_no_room_for_any(name):
    assert kept_bytes(SMALL.widths, 10, settings(name), 7) == 0
    one_passage = 115 * 1 * 4
    weights = {"magnitude-weights": 4 * 4_000, "magnitude-2:4": 4 * 4_000}.get(name, one_passage)
    assert least_memory(SMALL, settings(name)).beside_bytes == weights
    assert least_memory(SMALL, settings(name, "best")) == least_memory(SMALL, settings("best"))


def test_a_sequential_refit_walks_the_text_three_times():
    found = least_memory(SMALL, settings(methods=(MethodSettings(compensation="sequential"),)))
    assert found.beside_bytes == 2 * 4 * 30 * 30 + 3 * N_TOKENS * 10 * 4
    assert found.purpose == "the sequential refit"


def test_much_text_takes_more_than_the_backward_pass():
    much = CalibrationSettings(corpus=BUILTIN_TEXT, n_samples=7, length=8192)
    found = least_memory(SMALL, settings("best", calibration=much))
    assert found.purpose == "calibration"


def test_fisher_information_keeps_a_derivative_of_each_channel_for_each_sample():
    asked = settings("retrain-free (published)")
    found = least_memory(SMALL, asked)
    assert gradient_bytes(SMALL.widths, asked, 7) == 4 * 7 * 50
    assert found.beside_bytes == 4 * 7 * 50 + FISHER_BATCH_TOKENS * (OF_BLOCKS + 16 * 100)
    assert found.n_bytes == RUNTIME_BYTES + 4 * 6_000 + found.beside_bytes


def test_a_long_sequence_is_a_batch_of_its_own():
    asked = settings("retrain-free (published)")
    long = replace(
        asked, calibration=CalibrationSettings(corpus=BUILTIN_TEXT, n_samples=7, length=2 * FISHER_BATCH_TOKENS)
    )
    found = least_memory(SMALL, long)
    assert found.beside_bytes == 4 * 7 * 50 + 2 * FISHER_BATCH_TOKENS * (OF_BLOCKS + 16 * 100)


def test_sensitivities_keep_a_change_of_each_out_projection_and_leave_nothing():
    asked = settings("best")
    assert gradient_bytes(SMALL.widths, asked, 7) == 0
    a_token = (4 + 4) * 2 * 10 + 4 * 4 * (30 + 10)
    found = least_memory(SMALL, asked)
    assert found.purpose == "the backward pass"
    assert found.beside_bytes == CHANGES + SENSITIVITY_BATCH_TOKENS * a_token


def test_two_methods_take_their_passes_one_after_the_other():
    both = least_memory(SMALL, settings("best", "retrain-free (published)", "magnitude"))
    assert both == least_memory(SMALL, settings("retrain-free (published)"))


def test_half_the_format_takes_half_the_weights_and_of_the_blocks_vectors():
    found = least_memory(SMALL, settings("best", dtype="bfloat16"))
    a_token = (4 + 2) * 2 * 10 + 4 * 2 * (30 + 10)
    assert found.beside_bytes == CHANGES + SENSITIVITY_BATCH_TOKENS * a_token
    assert found.n_bytes == RUNTIME_BYTES + 2 * 6_000 + found.beside_bytes


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_model_of_the_list_is_known_and_no_other(model):
    assert dimensions_of(model.name) is not None
    assert dimensions_of(f"{model.name}-other") is None


def test_the_built_in_model_is_the_one_of_135_million_parameters():
    assert round(dimensions_of(BUILTIN_MODEL).n_parameters / 1e6) == 135


def test_text_that_the_model_writes_itself_takes_what_is_kept_of_as_many_texts_as_are_written_at_once():
    def beside(n_samples, kept=10_000, **changes):
        asked = settings(calibration=CalibrationSettings(n_samples=n_samples, length=100), **changes)
        found = least_memory(replace(SMALL, kept_of_a_token=kept), asked)
        assert found.purpose == "the text that the model writes"
        return found.beside_bytes

    a_text, drawing = 100 * 10_000 * 4, 3 * 4 * 100
    assert beside(7) == 7 * (a_text + drawing)
    assert beside(1000) == MOST_TEXTS * (a_text + drawing)
    assert beside(7, dtype="bfloat16") == 7 * (a_text // 2 + drawing)
    # Of what takes much room, fewer are written at once, but not ever fewer.
    assert beside(100, kept=1_000_000) == FEWEST_TEXTS * (100 * a_text + drawing)
    assert least_memory(SMALL, settings("random", calibration=CalibrationSettings())).purpose != (
        "the text that the model writes"
    )


def test_answers_that_go_on_keep_their_passages_up_to_a_limit():
    def beside(n_passages, kept=10_000):
        asked = settings("random", evaluation=EvaluationSettings(corpus="file:/x.txt", n_passages=n_passages))
        found = least_memory(replace(SMALL, kept_of_a_token=kept), asked)
        assert found.purpose == "answering"
        return found.beside_bytes

    assert beside(5) == 5 * 115 * 10_000 * 4
    batch = BATCH_TOKENS * 10_000 * 4
    assert beside(5_000) == beside(None) == KEPT_BYTES + batch
    large = replace(SMALL, kept_of_a_token=10_000, n_parameters=10**9)
    asked = settings("random", evaluation=EvaluationSettings())
    assert least_memory(large, asked).beside_bytes == 10**9 * 4 // 8 + batch
    # In files there is room for more, and one block's are in memory.
    n_blocks = len(SMALL.widths)
    much = settings("random", evaluation=EvaluationSettings(corpus="file:/x.txt"))
    assert least_memory(large, much, streamed=True).beside_bytes == (10**9 * 4 // 2 + batch) // n_blocks


def test_in_one_walk_passages_wait_at_every_block():
    def more(*names):
        """Than the same methods take where one thing is done after another."""
        passages = EvaluationSettings(corpus="file:/x.txt", n_passages=5)
        asked = settings(*names, evaluation=passages)
        apart = replace(asked, evaluation=replace(passages, stop_early=True))
        found, usual = (least_memory(wide, each, streamed=True) for each in (asked, apart))
        assert found.purpose == usual.purpose
        return found.beside_bytes - usual.beside_bytes

    wide = replace(SMALL, widths=(200, 300))
    of_passages = 5 * 115 * wide.kept_of_a_token * 4 // 2
    assert of_passages
    assert more("least-squares") == more("least-squares", "flap") == of_passages
    assert more("flap") == 0


def test_whatever_took_most_of_the_memory_can_be_made_smaller():
    assert set(_SMALLER) == set(get_args(Purpose))
