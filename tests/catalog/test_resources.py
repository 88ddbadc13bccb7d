"""The memory and the disk that a run needs, in proportion to what is asked for."""

from dataclasses import replace

import pytest

from sparsedash.catalog.cost_model import Workload, _curve_bytes, least_memory
from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.resources import (
    ANSWER_BYTES,
    BATCH_TOKENS,
    CURVE_TOKENS,
    FISHER_BATCH_TOKENS,
    JUDGED_VALUES,
    KEPT_BYTES,
    MAX_TEXTS,
    MIN_TEXTS,
    RUNTIME_BYTES,
    gradient_bytes,
    kept_bytes,
    run_disk,
)
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_TEXT,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from tests.catalog.test_model_sizes import SHAPE

SMALL = replace(
    SHAPE,
    hidden=10,
    vocabulary=100,
    widths=(20, 30),
    per_channel=30,
    n_matmul=5_000,
    n_head=1_000,
    n_parameters=6_000,
    attention=10,
    cache_per_token=4,
    other_weights=(220, 220),
    stored_bytes=2,
)
WIDE = replace(SMALL, widths=(200, 300))
N_TOKENS = 7 * 64
A_TOKEN = 4
"""Numbers in the cache of a token: keys and values of one number in each of two blocks."""
OF_FILE = EvaluationSettings(corpus="file:/x.txt")


def settings(*names, **changes):
    calibration = CalibrationSettings(
        corpus=BUILTIN_TEXT,
        n_samples=7,
        length=64,
    )
    methods = tuple(map(method_named, names)) or RunSettings().methods
    run_settings = RunSettings(
        methods=methods,
        calibration=calibration,
        evaluation=EvaluationSettings(n_passages=1),
    )
    return replace(run_settings, **changes)


def test_without_a_backward_pass_it_is_the_text_on_its_way_and_the_widest_layers_moments_twice():
    memory = least_memory(SMALL, settings("wanda-channels", "flap"))
    assert (memory.beside_bytes, memory.purpose) == (
        2 * 4 * 30 * 30 + N_TOKENS * 10 * 4,
        "calibration",
    )
    assert memory.n_bytes == RUNTIME_BYTES + 4 * 6_000 + memory.beside_bytes


@pytest.mark.parametrize("name", ["least-squares", "obs", "sparsegpt"])
def test_solving_takes_several_matrices_in_single_precision(name):
    memory = least_memory(WIDE, settings(name))
    # The weights with zeros besides, where single ones go.
    masked = 4 * WIDE.n_block_weights if name == "sparsegpt" else 0
    assert (memory.beside_bytes, memory.purpose) == (
        4 * 4 * 300 * 300 + masked,
        "pruning",
    )


@pytest.mark.parametrize(("scope", "n_weights"), [("mlp", 1_500), ("decoder", 1_940)])
def test_single_weights_are_all_there_twice(scope, n_weights):
    # Eight tokens are too few for whole moments.
    little = CalibrationSettings(corpus=BUILTIN_TEXT, n_samples=1, length=8)
    methods = (MethodSettings(pattern="2:4", scope=scope, compensation="none"),)
    memory = least_memory(
        SMALL,
        settings(
            calibration=little,
            dtype="bfloat16",
            methods=methods,
        ),
    )
    assert (memory.beside_bytes, memory.purpose) == (
        2 * (115 * A_TOKEN + n_weights),
        "the evaluation",
    )


def test_where_layers_go_only_the_out_projections_of_the_others_are_new():
    requested = settings("layers", sparsities_permille=(500,), dtype="bfloat16")
    plain = replace(requested, sparsities_permille=(0,))
    shape = replace(SMALL, widths=(2_000, 3_000), cache_per_token=4 * 2_500_000)
    memory, without = (least_memory(shape, run) for run in (requested, plain))
    assert memory.purpose == without.purpose == "the evaluation"
    assert memory.n_bytes - without.n_bytes == 2 * 10 * 5_000 // 2


def test_the_store_keeps_the_inputs_of_all_projections_where_single_weights_go():
    moments = 2 * (20 * 20 + 30 * 30)
    assert kept_bytes(SMALL.widths, 10, settings("obs"), 7) == moments
    assert (
        kept_bytes(SMALL.widths, 10, settings("wanda"), 7)
        == moments + 2 * 2 * 2 * 10 * 10
    )


@pytest.mark.parametrize("name", ["random", "magnitude-weights"])
def test_a_run_that_depends_on_no_calibration_text_needs_no_room_for_any(name):
    assert kept_bytes(SMALL.widths, 10, settings(name), 7) == 0
    # The narrowed MLPs stand beside the dense ones, at a tenth less.
    own_values = 1_350 if method_named(name).is_structured else 1_940
    assert least_memory(SMALL, settings(name)).beside_bytes == 4 * (
        115 * A_TOKEN + own_values
    )
    assert least_memory(SMALL, settings(name, "best")) == least_memory(
        SMALL, settings("best")
    )


def test_a_sequential_refit_holds_three_streams_and_the_activations_of_one_block():
    memory = least_memory(
        SMALL, settings(methods=(MethodSettings(compensation="sequential"),))
    )
    assert memory.beside_bytes == 2 * 4 * 30 * 30 + N_TOKENS * (3 * 10 + 30) * 4
    assert memory.purpose == "the sequential refit"
    weights = least_memory(SMALL, settings("sparsegpt"))
    assert (weights.purpose, weights.beside_bytes) == (
        "the sequential refit",
        2 * 4 * 30 * 30 + N_TOKENS * 2 * 10 * 4,
    )


@pytest.mark.parametrize("length", [64, 2 * FISHER_BATCH_TOKENS])
def test_fisher_information_keeps_a_derivative_of_each_channel_for_each_sample(length):
    """A long sequence is a batch of its own."""
    text = CalibrationSettings(corpus=BUILTIN_TEXT, n_samples=7, length=length)
    requested = settings("retrain-free (published)", calibration=text)
    assert gradient_bytes(SMALL.widths, requested, 7) == 4 * 7 * 50
    n_tokens = max(FISHER_BATCH_TOKENS, length)
    a_block = 30 + 10
    for streamed, vectors in (
        (False, 2 * 4 * a_block),
        (True, 4 * a_block + 2 * a_block),
    ):
        memory = least_memory(SMALL, requested, streamed=streamed)
        assert memory.beside_bytes == 4 * 7 * 50 + n_tokens * (16 * 100 + 4 * vectors)


def test_curves_keep_all_versions_of_an_mlp_and_the_scores_of_two_models():
    requested = settings("obs-by-curves", dtype="bfloat16")
    assert (
        _curve_bytes(Workload(shape=SMALL, settings=requested))
        == 5 * CURVE_TOKENS * 4 * 2 * (30 + 10) + 16 * 100 * CURVE_TOKENS
    )
    assert _curve_bytes(Workload(shape=SMALL, settings=settings("flap"))) == 0


def test_healing_takes_ten_numbers_for_every_weight_that_it_trains_and_leaves_the_weights():
    plain = settings(sparsities_permille=(200,))
    memory = least_memory(SMALL, plain.healed(8))
    healed = plain.healed(8)
    passes = 512 * 2 * (20 * 10 + 6 * 30) * 4 + 24 * 2**23
    assert memory.purpose == "healing"
    assert (
        memory.beside_bytes == 40 * (SMALL.n_mlp * 4 // 5) + passes + 8 * 2048 * 10 * 4
    )
    with_it, without = (
        run_disk(SMALL, run, 1, ROOM, streamed=False).stays_bytes
        for run in (healed, plain)
    )
    assert with_it - without == 4 * (SMALL.n_mlp * 4 // 5) + ANSWER_BYTES


def test_quantising_takes_all_weights_twice_with_two_predictions_and_a_file_in_single_precision():
    plain = settings(sparsities_permille=(200,))
    changed = replace(plain, quantise=("q8_0",))
    copy = 4 * SMALL.n_parameters
    scores = 4 * 1600 * (JUDGED_VALUES // 1600)
    memory = least_memory(SMALL, changed)
    assert (memory.purpose, memory.beside_bytes) == ("quantising", 2 * (copy + scores))
    assert (
        run_disk(SMALL, changed, 1, ROOM, streamed=False).passing_bytes
        >= 5 * SMALL.n_parameters
    )
    file, folder = (
        run_disk(SMALL, replace(changed, model=model), 1, ROOM, streamed=False)
        for model in ("a.gguf", "owner/name")
    )
    assert (
        folder.stays_bytes - file.stays_bytes == SMALL.n_parameters * SMALL.stored_bytes
    )


def test_text_that_the_model_writes_takes_the_caches_of_as_many_texts_as_are_written_at_once():
    def beside(n_samples, keys=2_500, **changes):
        requested = settings(
            calibration=CalibrationSettings(
                n_samples=n_samples,
                length=100,
            ),
            **changes,
        )
        memory = least_memory(replace(SMALL, cache_per_token=4 * keys), requested)
        assert memory.purpose == "the text that the model writes"
        return memory.beside_bytes

    a_text = 100 * 10_000 * 4
    drawing = 3 * 4 * 100
    assert beside(7) == 7 * (a_text + drawing)
    assert beside(1000) == MAX_TEXTS * (a_text + drawing)
    assert beside(7, dtype="bfloat16") == 7 * (a_text // 2 + drawing)
    # Of what takes much room, fewer are written at once, but not ever fewer.
    assert beside(100, keys=250_000) == MIN_TEXTS * (100 * a_text + drawing)
    unread = least_memory(SMALL, settings("random", calibration=CalibrationSettings()))
    assert unread.purpose != "the text that the model writes"


def test_answers_that_go_on_keep_their_passages_up_to_a_limit():
    def beside(shape, n_passages, **streamed):
        requested = settings(
            "random",
            evaluation=replace(OF_FILE, n_passages=n_passages),
            sparsities_permille=(0,),
        )
        memory = least_memory(shape, requested, **streamed)
        assert memory.purpose == "the evaluation"
        return memory.beside_bytes

    usual = replace(SMALL, cache_per_token=4 * 2_500)
    large = replace(usual, n_parameters=10**9)
    batch = BATCH_TOKENS * 10_000 * 4
    assert beside(usual, 5) == 5 * 115 * 10_000 * 4
    assert beside(usual, 5_000) == beside(usual, None) == KEPT_BYTES + batch
    assert beside(large, None) == 10**9 * 4 // 8 + batch
    # In files there is room for more, and one block's are in memory.
    assert beside(large, None, streamed=True) == (10**9 * 4 // 2 + batch) // 2


@pytest.mark.parametrize(
    ("names", "waits"),
    [(["least-squares"], True), (["least-squares", "flap"], True), (["flap"], False)],
    ids=str,
)
def test_in_one_walk_passages_wait_at_every_block(names, waits):
    requested = settings(*names, evaluation=replace(OF_FILE, n_passages=5))
    apart = replace(
        requested, evaluation=replace(requested.evaluation, stop_early=True)
    )
    memory, usual = (
        least_memory(WIDE, run, streamed=True) for run in (requested, apart)
    )
    assert memory.purpose == usual.purpose
    assert (
        memory.beside_bytes - usual.beside_bytes == waits * 5 * 115 * A_TOKEN * 4 // 2
    )


BUILTIN = shipped_shape("smollm2-135m")
D = 576
M = 1536
N_BLOCKS = 30
ROOM = 10**12
MUCH = {"calibration": CalibrationSettings(n_samples=2048, length=128)}
HALF = {"sparsities_permille": (500,)}
SETTINGS = RunSettings(
    sparsities_permille=(250, 500),
    calibration=CalibrationSettings(
        n_samples=64,
        length=128,
    ),
)


def takes(
    name="least-squares", *, streamed=False, n_passages=100, room=ROOM, **changed
):
    return run_disk(
        BUILTIN,
        replace(SETTINGS, methods=(method_named(name),), **changed),
        n_passages,
        room,
        streamed=streamed,
    )


def test_half_of_every_second_moment_a_sample_of_tokens_and_the_answers_stay():
    kept_out = 64 * 128 // 16
    of_passages = 8 * 115
    sample = N_BLOCKS * M * (4 * kept_out + 2 * of_passages)
    assert takes().stays_bytes == 2 * N_BLOCKS * M * M + sample + 3 * 100 * ANSWER_BYTES


def test_what_can_be_evicted_takes_no_more_than_its_limit_and_a_method_without_text_leaves_a_sample_of_passages():
    assert takes(room=10**6).stays_bytes == 10**6 + 3 * 100 * ANSWER_BYTES
    assert (
        takes("random").stays_bytes
        == N_BLOCKS * M * 2 * 8 * 115 + 3 * 100 * ANSWER_BYTES
    )


def test_of_much_text_a_sample_of_about_512_tokens_is_kept_and_of_few_passages_all():
    def sample(n_samples, n_passages=100):
        calibration = CalibrationSettings(n_samples=n_samples, length=128)
        stays = takes(calibration=calibration, n_passages=n_passages).stays_bytes
        return stays - 2 * N_BLOCKS * M * M - 3 * n_passages * ANSWER_BYTES

    assert sample(64) == sample(128 * 64) == sample(128 * 64, 8)
    assert sample(64) - sample(64, 1) == N_BLOCKS * M * 2 * 7 * 115


@pytest.mark.parametrize(
    ("name", "changed", "passing"),
    [
        ("least-squares", {}, 4 * N_BLOCKS * D * M * 3 // 4),
        ("least-squares", MUCH, 2048 * 128 * D * 4),
        ("best", MUCH, 2 * 2048 * 128 * D * 4),
        ("wanda", HALF, max(BUILTIN.n_block_weights // 8, 64 * 128 * D * 4)),
        (
            "sparsegpt",
            HALF,
            BUILTIN.n_block_weights // 8 + BUILTIN.n_block_weights * 4 // 2,
        ),
    ],
)
def test_the_sparsest_model_passes_masks_as_bits_or_hidden_states_where_there_is_much_text(
    name, changed, passing
):
    assert takes(name, **changed).passing_bytes == passing


def test_streamed_models_that_are_evaluated_side_by_side_are_put_aside_together():
    every = 4 * N_BLOCKS * D * M
    of_a_passage = 115 * BUILTIN.cache_per_token * 4
    text = 64 * 128 * D * 4
    assert (
        takes(streamed=True, n_passages=7).passing_bytes
        == 2 * every * 1250 // 1000 + 3 * 7 * of_a_passage + text
    )
    # A method that looks back has done with its text before models are evaluated.
    back = takes("flap", streamed=True, n_passages=7)
    assert back.passing_bytes == 2 * every * 1250 // 1000 + 3 * 7 * of_a_passage
    many = tuple(range(100, 700, 100))
    assert (
        takes(streamed=True).stays_bytes - takes().stays_bytes
        == BUILTIN.n_parameters * 4
    ), "a copy in FP32"
    halved = takes(streamed=True, n_passages=7, dtype="bfloat16")
    assert (
        halved.passing_bytes
        == (every + every // 2) * 1250 // 1000 + (3 * 7 * of_a_passage + text) // 2
    )
    disk = takes(streamed=True, n_passages=10_000, sparsities_permille=many)
    assert (
        disk.passing_bytes
        == 2 * every * 3000 // 1000 + BUILTIN.n_parameters * 4 // 2 + text
    )
