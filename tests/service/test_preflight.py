"""What is said before a run: what is stored, and how long it may take; of a model that never ran
here as well.
"""

from dataclasses import replace

import msgspec
import pytest
from huggingface_hub import constants

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.cost_model import LeastMemory, Speeds, least_memory
from sparsedash.catalog.model_shape import CONFIGS, listed_shape
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.catalog.published_results import PUBLISHED_MODELS
from sparsedash.schema import store_keys
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.records import Record, about_artefact
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.sparse_spec import DENSE, SparseSpec
from sparsedash.schema.store_keys import answers_key, outcomes_key, statistics_key, text_key
from sparsedash.service.hub_revisions import NotedCommit
from sparsedash.service.preflight import (
    Cached,
    Memory,
    expected_duration,
    expected_room,
    stored_parts,
)
from sparsedash.service.time_forecast import expected_seconds
from sparsedash.storage.file_hashes import fingerprint
from tests.factories import RUN, answered
from tests.question_sets import verdicts

SETTINGS = RunSettings(model="owner/model", sparsities_permille=(100, 200))
NOTHING = Cached(calibration=False, dense=False, points=(), n_sparse=2)


def with_texts(calibration="self", evaluation="builtin:cloze", **changes):
    return replace(
        SETTINGS,
        calibration=CalibrationSettings(corpus=calibration),
        evaluation=EvaluationSettings(corpus=evaluation),
        **changes,
    )


def record(key):
    return answered(key, 10, corpus="builtin:cloze", seconds=5.0)


def finished_run(settings=SETTINGS, cached=(), **took):
    took = took or {"load": 3.0, "text": 64.0, "calibrate": 32.0, "prune": 4.0, "evaluate": 15.0}
    return replace(
        RUN,
        settings=settings,
        dense="dense",
        sparse=("s1", "s2"),
        finished=True,
        seconds=took,
        cached=cached,
    )


def test_what_is_stored_is_found_under_the_engines_keys(store):
    calibration = SETTINGS.calibration
    text = f"self:{text_key('id', 'float32', calibration)}"
    statistics = statistics_key("id", "float32", text, calibration)
    store.remember(store_keys.model_identity_note("owner/model", ""), "id")
    assert stored_parts(SETTINGS, store) == NOTHING
    store.remember(store_keys.calibrated_note(statistics), "30")
    assert stored_parts(SETTINGS, store) == replace(NOTHING, calibration=True)

    beside = replace(
        SETTINGS,
        methods=(*SETTINGS.methods, method_named("shortgpt"), method_named("sparsegpt-2:4")),
    )
    assert stored_parts(beside, store).calibration, "these need no statistics"
    alone = replace(SETTINGS, methods=(method_named("shortgpt"),))
    assert not stored_parts(alone, store).calibration
    store.put_artefact(text_key("id", "float32", calibration), b"", about_artefact("text", "id"))
    assert stored_parts(alone, store).calibration, "the model has written its text"

    store.remember(store_keys.text_identity_note("builtin:cloze", ""), "texts")
    for spec, read in ((DENSE, ""), (SparseSpec(MethodSettings(), 200), statistics)):
        key = outcomes_key("id", "float32", "texts", SETTINGS.evaluation, spec, read)
        store.put(key, record(key))
    known = Cached(calibration=True, dense=True, points=(1,), n_sparse=2)
    assert stored_parts(replace(SETTINGS, residency="streamed"), store) == known
    assert stored_parts(SETTINGS, store) == replace(NOTHING, calibration=True)
    for key in store.keys(Record):
        asked = ContinuationSettings(left=key, right=key, prompt="Once")
        store.put(
            asked.key(), Continuation(key=asked.key(), prompt="Once", left="upon", right="upon")
        )
    assert stored_parts(replace(SETTINGS, prompts=("Once",)), store) == known
    assert not stored_parts(replace(SETTINGS, prompts=("Once", "Twice")), store).dense
    tasks = replace(SETTINGS.evaluation, tasks=("builtin:copying",), task_limit=9)
    assert not stored_parts(replace(SETTINGS, prompts=(), evaluation=tasks), store).dense
    identity = BUILTIN_TASKS["builtin:copying"].identity(9)
    store.put(
        key := answers_key("id", "float32", identity, DENSE, ""),
        replace(verdicts(both=9)[0], key=key),
    )
    assert stored_parts(replace(SETTINGS, prompts=(), evaluation=tasks), store) == replace(
        known, points=()
    )


def test_a_changed_text_file_is_not_taken_for_the_stored_one_though_its_path_has_brackets(
    store, tmp_path
):
    file = tmp_path / "try[1]" / "a.txt"
    file.parent.mkdir()
    file.write_text("before")
    mark, settings = fingerprint(f"file:{file}"), with_texts(evaluation=f"file:{file}[3:]")
    assert mark.startswith("a.txt:6:") and mark == fingerprint(str(file.parent))
    store.remember(store_keys.model_identity_note("owner/model", ""), "id")
    store.remember(store_keys.text_identity_note(f"file:{file}[3:]", mark), "texts")
    key = outcomes_key("id", "float32", "texts", settings.evaluation, DENSE, "")
    store.put(key, record(key))
    settings = replace(settings, prompts=())
    assert stored_parts(settings, store).dense
    file.write_text("and after")
    assert not stored_parts(settings, store).dense


def test_what_an_earlier_commit_left_is_not_taken_for_the_newer_one_s(store):
    settings = replace(SETTINGS, prompts=())
    earlier = f"owner/model@{'1' * 40}"
    store.remember(store_keys.model_identity_note("owner/model", ""), earlier)
    store.remember(store_keys.text_identity_note(settings.evaluation.corpus, ""), "texts")
    key = outcomes_key(earlier, "float32", "texts", settings.evaluation, DENSE, "")
    store.put(key, record(key))
    assert stored_parts(settings, store).dense
    note = NotedCommit(commit="2" * 40, asked_at=0.0)
    store.remember(store_keys.hub_commit_note("owner/model"), msgspec.json.encode(note).decode())
    assert not stored_parts(settings, store).dense
    assert stored_parts(replace(settings, revisions=(("owner/model", "1" * 40),)), store).dense


def asked(name, **changes):
    return replace(SETTINGS, methods=(method_named(name),), **changes)


BEFORE = finished_run()
ALL = Cached(calibration=True, dense=True, points=(0, 1), n_sparse=2)
PILE = with_texts(calibration="pile-10k")
OBS, AGAIN, C4 = (
    asked("obs"),
    with_texts(methods=(replace(method_named("best"), mix=0.0),)),
    with_texts("c4", methods=(method_named("least-squares"),)),
)
BOTH = replace(C4, methods=(method_named("obs-by-curves"), *C4.methods))
TWICE, PASSAGES = CalibrationSettings(n_samples=256), EvaluationSettings(n_passages=100)
MANY = EvaluationSettings(n_passages=100_000)
WARM, SLOW, LITTLE = (
    finished_run(of, **(BEFORE.seconds | took))
    for of, took in ((SETTINGS, {"load": 0.0}), (OBS, {"prune": 400.0}), (AGAIN, {"prune": 0.1}))
)
STORED = finished_run(cached=("calibration", "evaluation, 10 % sparse"), load=1.0, prune=7.0)


# load 3, calibration 32 + 64, two prunings of 2, three evaluations of 5.
TIMES = {
    "the sum of what the parts took before": (SETTINGS, [BEFORE], NOTHING, 3 + 96 + 4 + 15),
    "never run": (SETTINGS, [], NOTHING, None),
    "in another type": (replace(SETTINGS, dtype="bfloat16"), [BEFORE], NOTHING, None),
    "unfinished": (SETTINGS, [replace(BEFORE, finished=False)], NOTHING, None),
    "its record is lost": (SETTINGS, [replace(BEFORE, dense="lost")], NOTHING, None),
    "texts after prompts": (
        SETTINGS,
        [finished_run(**BEFORE.seconds, **{"continue": 6.0})],
        NOTHING,
        3 + 96 + 10 + 15,
    ),
    "all is stored": (SETTINGS, [BEFORE], ALL, 0),
    "half is stored": (SETTINGS, [BEFORE], replace(ALL, points=(0,)), 3 + 2 + 5),
    "more text": (replace(SETTINGS, calibration=TWICE), [BEFORE], NOTHING, 3 + 192 + 4 + 15),
    "more passages": (replace(SETTINGS, evaluation=PASSAGES), [BEFORE], NOTHING, 3 + 96 + 4 + 150),
    "the model was in memory still": (SETTINGS, [WARM, BEFORE], NOTHING, 3 + 96 + 4 + 15),
    "what was read from the store measures nothing": (SETTINGS, [STORED], NOTHING, None),
    "and an earlier run does": (SETTINGS, [STORED, BEFORE], NOTHING, 3 + 96 + 14 + 15),
    "other methods, where none are the same": (OBS, [BEFORE], NOTHING, 3 + 96 + 4 + 15),
    "the same methods first": (SETTINGS, [SLOW, BEFORE], NOTHING, 3 + 96 + 4 + 15),
    "one that reads the text again": (
        asked("wanda", calibration=TWICE),
        [finished_run(asked("wanda"))],
        NOTHING,
        218,
    ),
    "of those the longest": (AGAIN, [LITTLE, finished_run(AGAIN)], NOTHING, 3 + 96 + 4 + 15),
    "which tell nothing of others": (SETTINGS, [finished_run(AGAIN)], NOTHING, None),
    "nor others of them": (AGAIN, [BEFORE], NOTHING, None),
    "each text that the methods read": (BOTH, [finished_run(C4)], NOTHING, 3 + 32 + 32 + 8 + 25),
    "writing text is not guessed from a file": (SETTINGS, [finished_run(PILE)], NOTHING, None),
    "the text of a file": (PILE, [finished_run(PILE)], NOTHING, 3 + 32 + 4 + 15),
    "another whole text set": (
        with_texts(evaluation="lambada"),
        [BEFORE],
        NOTHING,
        3 + 96 + 4 + 3 * 5151 * 0.5,
    ),
    "more than there are": (
        replace(SETTINGS, evaluation=MANY),
        [BEFORE],
        NOTHING,
        3 + 96 + 4 + 3 * 132 * 0.5,
    ),
    "no text is read": (asked("magnitude"), [BEFORE], NOTHING, 3 + 4 + 15),
}


@pytest.mark.parametrize(("settings", "runs", "stored", "seconds"), TIMES.values(), ids=TIMES)
def test_time_is_what_the_parts_took_in_earlier_runs(settings, runs, stored, seconds):
    expected = expected_seconds(settings, runs, lambda key: None if key == "lost" else record(key))
    for start_s in (0.0, 7.0):
        found = expected_duration(settings, stored, *expected, start_s).total_s
        assert (
            found is None
            if seconds is None
            else found == pytest.approx(seconds + (start_s if seconds else 0))
        )


def test_a_method_that_never_ran_is_counted_rather_than_taken_for_another():
    of_others, counted = (
        expected_seconds(OBS, [BEFORE], record, speeds, listed_shape(BUILTIN_MODEL))
        for speeds in (None, Speeds(float32=1e11, bfloat16=2e11))
    )
    assert (of_others[0]["prune"], "prune" in of_others[1]) == (2.0, False)
    assert counted[0]["prune"] > 2.0 and "prune" in counted[1]


def test_memory_is_what_an_earlier_run_took_beside_what_is_known_by_arithmetic(store):
    known = replace(
        SETTINGS, model="facebook/opt-1.3b", methods=(method_named("retrain-free (published)"),)
    )
    found, _ = expected_room(known, store, listed_shape(known.model))
    assert found.measured_bytes is None and found.backward
    assert found.least == least_memory(listed_shape("facebook/opt-1.3b"), known)
    store.remember(store_keys.peak_memory_note("owner/model", "float32"), "1500000000")
    assert expected_room(SETTINGS, store, None)[0].measured_bytes == 1_500_000_000
    store.remember(store_keys.peak_memory_note("owner/model", "float32"), "no number")
    unknown, disk = expected_room(SETTINGS, store, None)
    assert disk is None and (unknown.measured_bytes, unknown.least, unknown.too_little) == (
        None,
        None,
        False,
    )
    least = LeastMemory(n_bytes=10**10, beside_bytes=0, purpose="calibration")
    for there, too_little in ((10**9, True), (10**11, False), (None, False)):
        assert Memory(least=least, there_bytes=there).too_little == too_little


def fetched(folder):
    snapshot = folder / "models--owner--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text((CONFIGS / "llama-7b.json").read_text())
    (folder / "models--owner--model" / "refs").mkdir()
    (folder / "models--owner--model" / "refs" / "main").write_text("a" * 40)
    return "owner/model"


BEST = METHODS[0].settings
KNOWN = {
    **{method.name: (lambda folder: BUILTIN_MODEL, method.settings) for method in METHODS},
    **{
        model.name: (lambda folder, model=model: model.reference, BEST)
        for model in PUBLISHED_MODELS
    },
    "a config from the hub": (fetched, BEST),
}


@pytest.mark.parametrize(("model", "method"), KNOWN.values(), ids=KNOWN)
def test_before_the_first_run_all_is_known_of_every_model_whose_config_is(
    model, method, backend, tmp_path, monkeypatch
):
    monkeypatch.setattr(backend._speed, "known", lambda: Speeds(float32=1e11, bfloat16=2e11))
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    asked = RunSettings(
        model=model(folder), methods=(method,), evaluation=EvaluationSettings(n_passages=100)
    )
    before = backend.preflight(asked)
    parts = dict(before.duration.parts)
    assert before.duration.unknown == () and {"loading", "evaluating", "pruning"} <= parts.keys()
    assert before.duration.total_s == pytest.approx(sum(parts.values()))
    assert (
        min(before.memory.least.n_bytes, before.disk.takes.stays_bytes, before.disk.free_bytes) > 0
    )
    half, resident = (
        backend.preflight(replace(asked, dtype="bfloat16", residency=way))
        for way in ("streamed", "resident")
    )
    assert half.memory.least.n_bytes < resident.memory.least.n_bytes


def test_a_quantised_run_prunes_every_model_once_and_quantises_dense_as_well(store):
    quantised = replace(SETTINGS, methods=(method_named("best"),), quantise=("q8_0", "q6_k"))
    stored = stored_parts(quantised, store)
    assert stored == replace(NOTHING, n_sparse=8)
    known = dict.fromkeys(("load", "text", "calibrate", "evaluate"), 1.0) | {
        "prune": 10.0,
        "quantise": 100.0,
    }
    parts = dict(expected_duration(quantised, stored, known, ()).parts)
    assert (parts["pruning"], parts["quantising"], parts["evaluating"]) == (20.0, 600.0, 9.0)
    # What is there unquantised, healed included, is neither pruned nor healed for itself again.
    healed = replace(
        SETTINGS, methods=(method_named("best"),), heal_steps=(0, 8), quantise=("q8_0",)
    )
    plain = tuple(at for at, spec in enumerate(healed.points) if not spec.quantise)
    parts = dict(
        expected_duration(
            healed, replace(stored, dense=True, points=plain), known | {"heal": 5.0}, ()
        ).parts
    )
    assert (parts["quantising"], "healing" in parts, parts["evaluating"]) == (500.0, False, 5.0)
