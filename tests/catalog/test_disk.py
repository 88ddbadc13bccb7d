"""What a run takes in the data folder, in proportion to what is asked for."""

from dataclasses import replace

import pytest

from sparsedash.catalog.model_shape import shipped_shape
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.catalog.resources import ANSWER_BYTES, run_disk
from sparsedash.schema.settings import CalibrationSettings, RunSettings

SMALL = shipped_shape("smollm2-135m")
D, M, N_BLOCKS = 576, 1536, 30
SETTINGS = RunSettings(sparsities_permille=(250, 500), calibration=CalibrationSettings(n_samples=64, length=128))


def takes(name="least-squares", *, streamed=False, n_passages=100, **changed):
    return run_disk(SMALL, replace(SETTINGS, methods=(method_named(name),), **changed), n_passages, streamed=streamed)


def test_half_of_every_second_moment_a_sample_of_tokens_and_the_answers_stay():
    kept_out, of_passages = 64 * 128 // 16, 8 * 115
    sample = N_BLOCKS * M * (4 * kept_out + 2 * of_passages)
    assert takes().stays_bytes == 2 * N_BLOCKS * M * M + sample + 3 * 100 * ANSWER_BYTES


def test_of_much_text_a_sample_of_about_512_tokens_is_kept_and_of_few_passages_all():
    def sample(n_samples, n_passages=100):
        asked = CalibrationSettings(n_samples=n_samples, length=128)
        stays = takes(calibration=asked, n_passages=n_passages).stays_bytes
        return stays - 2 * N_BLOCKS * M * M - 3 * n_passages * ANSWER_BYTES

    assert sample(64) == sample(128 * 64) == sample(128 * 64, 8)
    assert sample(64) - sample(64, 1) == N_BLOCKS * M * 2 * 7 * 115


def test_blocks_that_are_solved_pass_until_the_sparsest_model_has_answered():
    assert takes().passing_bytes == 4 * N_BLOCKS * D * M * 3 // 4


def test_hidden_states_pass_where_there_is_much_text():
    much = CalibrationSettings(n_samples=2048, length=128)
    assert takes(calibration=much).passing_bytes == 2048 * 128 * D * 4
    assert takes("obs-sequential", calibration=much).passing_bytes == 2 * 2048 * 128 * D * 4


def test_masks_pass_as_bits_and_refitted_weights_as_what_is_left_of_them():
    n = SMALL.n_matmul - SMALL.vocabulary * SMALL.hidden
    assert takes("wanda", sparsities_permille=(500,)).passing_bytes == max(n // 8, 64 * 128 * D * 4)
    assert takes("sparsegpt", sparsities_permille=(500,)).passing_bytes == n // 8 + n * 4 // 2


def test_a_copy_in_another_type_stays_of_a_model_that_is_streamed():
    more = takes(streamed=True).stays_bytes - takes().stays_bytes
    assert more == SMALL.n_parameters * 4
    assert takes(streamed=True, dtype="bfloat16").stays_bytes == takes(dtype="bfloat16").stays_bytes


def test_streamed_models_that_answer_side_by_side_are_put_aside_together():
    every, of_a_passage = 4 * N_BLOCKS * D * M, 115 * SMALL.kept_of_a_token * 4
    text = 64 * 128 * D * 4
    assert takes(streamed=True, n_passages=7).passing_bytes == 2 * every * 1250 // 1000 + 3 * 7 * of_a_passage + text
    # A method that looks back has done with its text before models answer.
    back = takes("flap", streamed=True, n_passages=7)
    assert back.passing_bytes == 2 * every * 1250 // 1000 + 3 * 7 * of_a_passage
    many = tuple(range(100, 700, 100))
    halved = takes(streamed=True, n_passages=7, dtype="bfloat16")
    assert halved.passing_bytes == (every + every // 2) * 1250 // 1000 + (3 * 7 * of_a_passage + text) // 2
    found = takes(streamed=True, n_passages=10_000, sparsities_permille=many)
    assert found.passing_bytes == 2 * every * 3000 // 1000 + SMALL.n_parameters * 4 // 2 + text


def test_a_sequential_refit_stays():
    assert takes("obs-sequential").stays_bytes == takes().stays_bytes + 4 * N_BLOCKS * D * M * (750 + 500) // 1000


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_takes_something(method):
    assert takes(method.name).stays_bytes > 0
    assert takes(method.name).passing_bytes > 0
