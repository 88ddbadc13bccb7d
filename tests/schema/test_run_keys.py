"""Keys of what one run stores, and of which texts they depend."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.schema.run_keys import RunKeys
from sparsedash.schema.settings import BUILTIN_MIXED, CalibrationSettings, RunSettings
from sparsedash.schema.sparse_spec import DENSE, SparseSpec
from sparsedash.schema.store_keys import answers_key, outcomes_key

FITTED = SparseSpec(method_named("obs"), 100)
RANDOM = SparseSpec(method_named("random"), 100)
SETTINGS = RunSettings(methods=(FITTED.method, RANDOM.method))


def keys(calibration="own text", *known):
    """Keys of a run whose passages are known, and these texts."""
    names = {
        reference: f"id of {reference}"
        for reference in (*known, SETTINGS.evaluation.corpus)
    }
    return RunKeys(
        settings=replace(SETTINGS, calibration=CalibrationSettings(corpus=calibration)),
        model="m",
        text_identity=names.__getitem__,
        mix_identity="mix",
    )


def test_the_calibration_text_is_named_by_what_is_read_of_it():
    assert keys("wiki", "wiki").calibration_text() == "id of wiki"
    assert keys("wiki", "wiki").calibration_text(0.5) == "id of wiki+0.5 of mix"
    assert keys(BUILTIN_MIXED).calibration_text() == "mix"
    assert keys("self").calibration_text() == f"self:{keys('self').generated_text}"


def test_only_keys_that_depend_on_a_text_need_it():
    unread = keys("wiki")
    for spec in (DENSE, RANDOM):
        assert unread.record(spec) == keys("wiki", "wiki").record(spec)
    with pytest.raises(LookupError):
        unread.record(FITTED)
    with pytest.raises(LookupError):
        unread.calibration_text()


def test_a_model_is_named_by_its_statistics_its_method_and_its_sparsity():
    known = keys("wiki", "wiki")
    passages = f"id of {SETTINGS.evaluation.corpus}"
    usual = "m", SETTINGS.dtype, passages, SETTINGS.evaluation
    statistics = known.calibration(FITTED).statistics
    of_fitted = outcomes_key(*usual, FITTED, statistics, n_sparse=SETTINGS.n_sparse)
    assert known.record(FITTED) == of_fitted
    assert known.record(RANDOM) == outcomes_key(*usual, RANDOM, "")
    assert known.record(DENSE) == outcomes_key(*usual, DENSE, "")
    answers = answers_key("m", SETTINGS.dtype, "sums", FITTED, statistics)
    assert known.answers(FITTED, "sums") == answers
