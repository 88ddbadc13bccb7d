"""The published rows: what follows from them, what does not, and the request that repeats each."""

from dataclasses import replace

import pytest

from sparsedash.catalog import published_results
from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA, MODELS
from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.published_results import (
    LAST_TOKEN,
    LAST_WORD,
    PUBLISHED_ROWS,
    RUNS_AT_SIZE,
    published_model,
    row_notes,
)
from sparsedash.catalog.resources import RUNTIME_BYTES
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import RunSettings
from sparsedash.service.reproduction import (
    measured_row,
    published_interval,
    published_run_cost,
    published_run_settings,
    removed_ratio,
)
from sparsedash.stats.significance import unpaired_interval
from tests.factories import PRUNED, RECORD, RUN, outcome


@pytest.mark.parametrize("config", RUNS_AT_SIZE)
def test_what_was_run_at_its_real_size_is_a_published_model(config):
    run = RUNS_AT_SIZE[config]
    assert config in {
        model.config for model in published_results.PUBLISHED_MODELS
    } and method_named(run.method)
    # Less than the weights, which stayed in their files, and what the engine takes itself.
    assert (
        RUNTIME_BYTES / 2
        < run.peak_bytes
        < RUNTIME_BYTES + 2 * shipped_shape(config).n_parameters
    )


def test_published_ratios_follow_from_the_config_alone_but_one_that_divides_by_all_parameters():
    for row in LAST_TOKEN[1:]:
        ratio = removed_ratio(row)
        assert ratio.reproduced and abs(ratio.of_matmul - row.matmul_ratio) <= 0.0005, (
            row.name
        )
    ratio = removed_ratio(LAST_TOKEN[0])
    assert not ratio.reproduced and ratio.explained
    assert (ratio.of_matmul, ratio.of_parameters) == pytest.approx(
        (0.1286, 0.1242), abs=5e-5
    )
    assert "all parameters" in row_notes(LAST_TOKEN[0])[1]


def test_three_stated_drops_do_not_follow_from_their_accuracies_and_say_so():
    wrong = [row for row in PUBLISHED_ROWS if not row.drop_follows]
    assert [(row.model, row.dtype, row.drop_percent) for row in wrong] == [
        ("EleutherAI/gpt-j-6b", "float32", 1.50),
        ("facebook/opt-1.3b", "float32", -1.73),
        ("facebook/opt-1.3b", "bfloat16", -1.78),
    ]
    assert all("does not follow" in row_notes(row)[0] for row in wrong)


def test_the_drop_of_one_bf16_row_is_that_of_its_fp32_row():
    single, half = (row for row in LAST_WORD if row.model == "facebook/opt-1.3b")
    low, high = single.drop_range
    assert low <= half.drop_percent <= high
    assert "FP32" in row_notes(half)[1]


def test_intervals_hold_what_was_published_and_not_even_the_largest_drop_shows_a_difference():
    assert (
        len(LAST_TOKEN),
        len(LAST_WORD),
        len({row.name for row in PUBLISHED_ROWS}),
    ) == (
        8,
        12,
        20,
    )
    assert LAST_TOKEN[0].name == "gpt-j-6b-lambada-20-last-token-float32"
    for row in PUBLISHED_ROWS:
        interval = published_interval(row)
        assert interval.sparse[0] < row.sparse < interval.sparse[1]
        assert (
            interval.interval[0] < interval.difference < interval.interval[1]
            and not interval.shown
        )
    largest = min(PUBLISHED_ROWS, key=lambda row: row.sparse - row.dense)
    assert published_interval(largest).interval == pytest.approx(
        (-0.0319, 0.0063), abs=1e-3
    )


def test_an_unpaired_interval_is_that_of_newcombes_own_example():
    # Newcombe 1998, part two, example (a), method 10: 56/70 - 48/80 gives 0.0524 to 0.3339.
    assert unpaired_interval((48, 80), (56, 70)) == pytest.approx(
        (0.0524, 0.3339), abs=1e-4
    )


@pytest.mark.parametrize("row", PUBLISHED_ROWS, ids=lambda row: row.name)
def test_a_row_is_repeated_by_a_request_that_the_catalog_knows(row):
    settings = published_run_settings(row)
    assert settings.model in {model.name for model in MODELS}
    assert settings.calibration.corpus in {
        corpus.name for corpus in CALIBRATION_CORPORA
    }
    assert settings.evaluation.corpus in {corpus.name for corpus in EVALUATION_CORPORA}
    assert settings.dtype == row.dtype
    assert settings.evaluation.rule == ("published" if row in LAST_TOKEN else "plain")
    assert settings.sparsities_permille == (row.sparsity_permille,)
    n_samples = published_model(row.model).n_samples
    rounds = 5 if row.model.startswith(("decapoda-research/", "bigscience/")) else 6
    assert settings.methods == (
        replace(method_named("retrain-free (published)"), rounds=rounds),
    )
    assert settings.calibration.packed
    # The form and the estimate count what there is: LAMBADA's training split has 2,662 texts.
    assert settings.calibration.n_samples == (
        2_662 if row.calibration == "lambada" else n_samples
    )


def test_what_a_run_takes_follows_from_the_config_and_the_format():
    single, half = (published_run_cost(row) for row in LAST_WORD[:2])
    weights = [
        row.memory.n_bytes - row.memory.beside_bytes - RUNTIME_BYTES
        for row in (single, half)
    ]
    assert weights == [4 * 6_050_882_784, 2 * 6_050_882_784]
    assert single.download_bytes == half.download_bytes == 4 * 6_050_882_784
    kept = 6_004 * 28 * 16384 * 4
    assert single.kept_bytes == half.kept_bytes == 28 * 16384 * 16384 * 2 + kept
    # The hidden states of all tokens on their way are more than the backward pass takes.
    streams = 6_004 * 512 * 4096
    moments = 8 * 16384 * 16384
    assert single.memory.beside_bytes == 4 * streams + moments
    assert half.memory.beside_bytes == 2 * streams + moments
    assert single.memory.purpose == half.memory.purpose == "calibration"


def test_what_a_row_takes_for_granted_about_its_calibration_is_said():
    assumed = {
        row.calibration: "assumed" in " ".join(row_notes(row)) for row in PUBLISHED_ROWS
    }
    assert assumed == {"lambada": True, "the_pile": True, "pile_10k": False}


def _found(row, **changes):
    """What is found for a row when one run with its settings, changed like this, is there."""
    settings = replace(published_run_settings(row), **changes)
    run = replace(
        RUN,
        settings=settings,
        dense="d",
        sparse=("k",),
        finished=True,
    )
    dense = replace(
        RECORD,
        key="d",
        pruned=None,
        outcomes=(outcome(0), outcome(1)),
    )
    pruned = replace(PRUNED, spec=replace(PRUNED.spec, permille=row.sparsity_permille))
    records = {"d": dense, "k": replace(RECORD, pruned=pruned)}
    return measured_row(row, [run], records.get)


def test_a_result_for_the_same_model_texts_and_sparsity_stands_beside_its_row():
    result = _found(LAST_WORD[0])
    assert (result.dense.right, result.sparse.right, result.sparse.total) == (2, 1, 2)
    assert (result.difference, _found(LAST_TOKEN[2]).difference) == (-0.5, 0)
    assert _found(LAST_WORD[0], methods=(MethodSettings(),)) is not None


def test_a_result_for_anything_else_does_not():
    usual = RunSettings()
    others = {
        "model": "gpt2",
        "dtype": "bfloat16",
        "calibration": usual.calibration,
        "evaluation": usual.evaluation,
    }
    for name, value in others.items():
        assert _found(LAST_WORD[0], **{name: value}) is None
    assert measured_row(LAST_WORD[0], [], {}.get) is None
