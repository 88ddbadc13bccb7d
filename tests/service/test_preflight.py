"""What is said before a run: what is stored, and how long it may take."""

from dataclasses import replace

import pytest

from sparsedash.catalog.model_shape import listed_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.resources import LeastMemory, least_memory
from sparsedash.schema import store_keys
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Run
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.schema.store_keys import outcomes_key, statistics_key, text_key
from sparsedash.service import preflight
from sparsedash.service.preflight import Cached, Memory, expected_duration, stored_parts
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import fingerprint
from tests.factories import answered

SETTINGS = RunSettings(model="owner/model", sparsities_permille=(100, 200))
NOTHING = Cached(calibration=False, dense=False, sparse=0, n_sparse=2)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    yield store
    store.close()


def with_texts(calibration="self", evaluation="builtin:cloze", **changes):
    return replace(
        SETTINGS,
        calibration=CalibrationSettings(corpus=calibration),
        evaluation=EvaluationSettings(corpus=evaluation),
        **changes,
    )


def record(key="dense", n=10, took=5.0):
    return answered(key, n, corpus="builtin:cloze", seconds=took)


def finished_run(settings=SETTINGS, cached=(), **took):
    took = took or {"load": 3.0, "text": 64.0, "calibrate": 32.0, "prune": 4.0, "evaluate": 15.0}
    return Run(
        key="k",
        settings=settings,
        model_identity="m",
        corpora={},
        dense="dense",
        sparse=("s1", "s2"),
        finished=True,
        started_at=0.0,
        finished_at=1.0,
        seconds=took,
        cached=cached,
        warnings=(),
        versions={},
    )


def estimate(settings, *runs, stored=NOTHING, start_s=0.0):
    return expected_duration(settings, stored, runs, lambda key: record(key), start_s=start_s).total_s


def test_nothing_is_stored_of_a_model_that_was_never_met(store):
    assert stored_parts(SETTINGS, store) == NOTHING


def test_what_is_stored_is_found_under_the_engines_keys(store):
    calibration = SETTINGS.calibration
    text = f"self:{text_key('id', 'float32', calibration)}"
    statistics = statistics_key("id", "float32", text, calibration)
    store.remember(store_keys.model_identity_note("owner/model", ""), "id")
    assert stored_parts(SETTINGS, store) == NOTHING
    store.remember(store_keys.calibrated_note(statistics), "30")
    assert stored_parts(SETTINGS, store) == replace(NOTHING, calibration=True)

    store.remember(store_keys.text_identity_note("builtin:cloze", ""), "texts")
    for made in (None, (statistics, MethodSettings(), 200)):
        key = outcomes_key("id", "float32", "texts", SETTINGS.evaluation, made)
        store.put(key, record(key))
    assert stored_parts(SETTINGS, store) == Cached(calibration=True, dense=True, sparse=1, n_sparse=2)


def test_a_file_whose_path_has_brackets_is_stamped_as_any_other(tmp_path):
    folder = tmp_path / "try[1]"
    folder.mkdir()
    (folder / "a.txt").write_text("a text")
    whole = fingerprint(f"file:{folder}/a.txt")
    assert whole.startswith("a.txt:6:")
    assert fingerprint(f"file:{folder}/a.txt[3:]") == whole
    assert fingerprint(str(folder)) == whole


def test_a_changed_text_file_is_not_taken_for_the_stored_one(store, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    settings = with_texts(evaluation=f"file:{file}")
    store.remember(store_keys.model_identity_note("owner/model", ""), "id")
    store.remember(store_keys.text_identity_note(f"file:{file}", fingerprint(str(file))), "texts")
    key = outcomes_key("id", "float32", "texts", settings.evaluation, None)
    store.put(key, record(key))
    assert stored_parts(settings, store).dense
    file.write_text("and after")
    assert not stored_parts(settings, store).dense


def test_starting_the_engine_is_a_part_of_the_time_unless_all_is_stored():
    everything = Cached(calibration=True, dense=True, sparse=2, n_sparse=2)
    assert estimate(SETTINGS, finished_run(), start_s=7.0) == estimate(SETTINGS, finished_run()) + 7.0
    assert estimate(SETTINGS, finished_run(), stored=everything, start_s=7.0) == 0.0


def test_loading_takes_as_long_as_it_did_where_the_model_was_not_in_memory_still():
    warm = finished_run(**(finished_run().seconds | {"load": 0.0}))
    assert estimate(SETTINGS, warm, finished_run()) == estimate(SETTINGS, finished_run())


def test_each_text_that_the_methods_read_is_calibrated_on():
    names = ("best", "least-squares")
    both, one = (with_texts("c4", methods=tuple(map(method_named, wanted))) for wanted in (names, names[1:]))
    before = finished_run(one)
    alone = expected_duration(one, NOTHING, [before], record, start_s=0.0)
    together = expected_duration(both, NOTHING, [before], record, start_s=0.0)
    assert together.seconds - alone.seconds == pytest.approx(before.seconds["calibrate"])


def test_time_is_unknown_before_the_model_has_run():
    assert estimate(SETTINGS) is None
    assert estimate(SETTINGS, finished_run(replace(SETTINGS, dtype="bfloat16"))) is None
    assert estimate(SETTINGS, replace(finished_run(), finished=False)) is None


def test_time_is_the_sum_of_what_the_parts_took_before():
    # load 3, calibration 32 + 64, two prunings of 2, three evaluations of 5.
    assert estimate(SETTINGS, finished_run()) == pytest.approx(3 + 96 + 4 + 15)


def test_what_is_stored_takes_no_time():
    whole = Cached(calibration=True, dense=True, sparse=2, n_sparse=2)
    assert estimate(SETTINGS, finished_run(), stored=whole) == 0
    half = Cached(calibration=True, dense=True, sparse=1, n_sparse=2)
    assert estimate(SETTINGS, finished_run(), stored=half) == pytest.approx(3 + 2 + 5)


def test_time_grows_with_the_calibration_text_and_the_passages():
    calibration = CalibrationSettings(n_samples=256)
    assert estimate(replace(SETTINGS, calibration=calibration), finished_run()) == pytest.approx(3 + 192 + 4 + 15)
    evaluation = EvaluationSettings(n_passages=100)
    assert estimate(replace(SETTINGS, evaluation=evaluation), finished_run()) == pytest.approx(3 + 96 + 4 + 150)


def test_a_part_that_was_only_read_from_the_store_measures_nothing():
    later = finished_run(cached=("calibration", "evaluation, 10 % sparse"), load=1.0, prune=7.0)
    assert estimate(SETTINGS, later) is None
    assert estimate(SETTINGS, later, finished_run()) == pytest.approx(3 + 96 + 14 + 15)


def test_pruning_takes_what_it_took_by_the_same_methods():
    other = replace(SETTINGS, methods=(method_named("obs"),))
    took = {"load": 3.0, "text": 64.0, "calibrate": 32.0, "prune": 400.0, "evaluate": 15.0}
    later = finished_run(other, **took)
    assert estimate(SETTINGS, later, finished_run()) == pytest.approx(3 + 96 + 4 + 15)
    assert estimate(SETTINGS, later) == pytest.approx(3 + 96 + 400 + 15)


@pytest.mark.parametrize("name", ["retrain-free (published)", "obs-sequential", "wanda"])
def test_a_method_that_reads_the_text_again_takes_as_long_as_the_text_is(name):
    asked = replace(SETTINGS, methods=(method_named(name),))
    twice = replace(asked, calibration=CalibrationSettings(n_samples=256))
    before = finished_run(asked)
    assert estimate(asked, before) == pytest.approx(3 + 96 + 4 + 15)
    assert estimate(twice, before) == pytest.approx(3 + 192 + 8 + 15)
    stored = finished_run(asked, **(before.seconds | {"prune": 0.1}))
    assert estimate(asked, stored, before) == estimate(asked, before)
    # Neither tells of methods that do not, nor they of it.
    assert estimate(asked, finished_run()) is None
    assert estimate(SETTINGS, before) is None


@pytest.mark.parametrize("name", ["random", "magnitude", "magnitude-2:4"])
def test_no_time_is_told_for_a_calibration_that_nothing_needs(name):
    asked = replace(SETTINGS, methods=(method_named(name),))
    assert estimate(asked, finished_run()) == pytest.approx(3 + 4 + 15)
    assert estimate(replace(asked, methods=(*asked.methods, MethodSettings())), finished_run()) == pytest.approx(
        3 + 96 + 4 + 15
    )


def test_writing_calibration_text_is_not_guessed_from_a_file():
    before = finished_run(with_texts(calibration="pile-10k"))
    assert estimate(SETTINGS, before) is None
    assert estimate(with_texts(calibration="pile-10k"), before) == pytest.approx(3 + 32 + 4 + 15)


def test_the_length_of_another_whole_text_set_is_not_guessed():
    assert estimate(with_texts(evaluation="lambada"), finished_run()) is None


def test_a_run_whose_record_is_lost_is_passed_over():
    found = expected_duration(SETTINGS, NOTHING, [finished_run()], lambda key: None)
    assert found.unknown == ("answering",)
    assert found.total_s is None and found.seconds > 0


def test_memory_is_what_an_earlier_run_took_beside_what_is_known_by_arithmetic(store):
    known = replace(SETTINGS, model="facebook/opt-1.3b", methods=(method_named("best"),))
    found = preflight.expected_memory(known, store, listed_shape(known.model))
    assert found.measured_bytes is None and found.backward
    assert found.least == least_memory(listed_shape("facebook/opt-1.3b"), known)
    store.remember(store_keys.peak_memory_note("owner/model", "float32"), "1500000000")
    assert preflight.expected_memory(SETTINGS, store, None).measured_bytes == 1_500_000_000
    store.remember(store_keys.peak_memory_note("owner/model", "float32"), "no number")
    unknown = preflight.expected_memory(SETTINGS, store, None)
    assert (unknown.measured_bytes, unknown.least, unknown.too_little) == (None, None, False)


def test_a_run_that_takes_more_memory_than_there_is_is_told_apart():
    least = LeastMemory(n_bytes=10**10, beside_bytes=0, purpose="calibration")
    assert Memory(least=least, there_bytes=10**9).too_little
    assert not Memory(least=least, there_bytes=10**11).too_little
    assert not Memory(least=least).too_little
    assert not Memory(there_bytes=1).too_little
