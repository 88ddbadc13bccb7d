"""What is said before a run: what is stored, and how long it may take; of a model that never ran
here as well.
"""

from dataclasses import replace

import msgspec
import pytest
from huggingface_hub import constants

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.cost_model import LeastMemory, Speeds, least_memory
from sparsedash.catalog.model_sizes import CONFIGS, listed_shape
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
from sparsedash.schema.store_keys import (
    answers_key,
    outcomes_key,
    statistics_key,
    text_key,
)
from sparsedash.service.estimates import Cached
from sparsedash.service.hub_revisions import NotedCommit
from sparsedash.service.preflight import (
    Memory,
    expected_room,
    stored_parts,
)
from sparsedash.storage.file_hashes import fingerprint
from tests.factories import answered
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
        methods=(
            *SETTINGS.methods,
            method_named("shortgpt"),
            method_named("sparsegpt-2:4"),
        ),
    )
    assert stored_parts(beside, store).calibration, "these need no statistics"
    alone = replace(SETTINGS, methods=(method_named("shortgpt"),))
    assert not stored_parts(alone, store).calibration
    store.put_artefact(
        text_key("id", "float32", calibration), b"", about_artefact("text", "id")
    )
    assert stored_parts(alone, store).calibration, "the model has written its text"

    store.remember(store_keys.text_identity_note("builtin:cloze", ""), "texts")
    for spec, read in ((DENSE, ""), (SparseSpec(MethodSettings(), 200), statistics)):
        key = outcomes_key("id", "float32", "texts", SETTINGS.evaluation, spec, read)
        store.put(key, record(key))
    known = Cached(calibration=True, dense=True, points=(1,), n_sparse=2)
    assert stored_parts(replace(SETTINGS, residency="streamed"), store) == known
    assert stored_parts(SETTINGS, store) == replace(NOTHING, calibration=True)
    for key in store.keys(Record):
        request = ContinuationSettings(left=key, right=key, prompt="Once")
        store.put(
            request.key(),
            Continuation(key=request.key(), prompt="Once", left="upon", right="upon"),
        )
    assert stored_parts(replace(SETTINGS, prompts=("Once",)), store) == known
    assert not stored_parts(replace(SETTINGS, prompts=("Once", "Twice")), store).dense
    tasks = replace(SETTINGS.evaluation, tasks=("builtin:copying",), task_limit=9)
    assert not stored_parts(
        replace(SETTINGS, prompts=(), evaluation=tasks), store
    ).dense
    identity = BUILTIN_TASKS["builtin:copying"].identity(9)
    store.put(
        key := answers_key("id", "float32", identity, DENSE, ""),
        replace(verdicts(both=9)[0], key=key),
    )
    assert stored_parts(
        replace(SETTINGS, prompts=(), evaluation=tasks), store
    ) == replace(known, points=())


def test_a_changed_text_file_is_not_taken_for_the_stored_one_though_its_path_has_brackets(
    store, tmp_path
):
    file = tmp_path / "try[1]" / "a.txt"
    file.parent.mkdir()
    file.write_text("before")
    mark = fingerprint(f"file:{file}")
    settings = with_texts(evaluation=f"file:{file}[3:]")
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
    store.remember(
        store_keys.text_identity_note(settings.evaluation.corpus, ""), "texts"
    )
    key = outcomes_key(earlier, "float32", "texts", settings.evaluation, DENSE, "")
    store.put(key, record(key))
    assert stored_parts(settings, store).dense
    note = NotedCommit(commit="2" * 40, asked_at=0.0)
    store.remember(
        store_keys.hub_commit_note("owner/model"), msgspec.json.encode(note).decode()
    )
    assert not stored_parts(settings, store).dense
    assert stored_parts(
        replace(settings, revisions=(("owner/model", "1" * 40),)), store
    ).dense


def test_memory_is_what_an_earlier_run_took_beside_what_is_known_by_arithmetic(store):
    known = replace(
        SETTINGS,
        model="facebook/opt-1.3b",
        methods=(method_named("retrain-free (published)"),),
    )
    room, _ = expected_room(known, store, listed_shape(known.model))
    assert room.measured_bytes is None and room.backward
    assert room.least == least_memory(listed_shape("facebook/opt-1.3b"), known)
    store.remember(store_keys.peak_memory_note("owner/model", "float32"), "1500000000")
    assert expected_room(SETTINGS, store, None)[0].measured_bytes == 1_500_000_000
    store.remember(store_keys.peak_memory_note("owner/model", "float32"), "no number")
    unknown, disk = expected_room(SETTINGS, store, None)
    assert disk is None and (
        unknown.measured_bytes,
        unknown.least,
        unknown.too_little,
    ) == (
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
    **{
        method.name: (lambda folder: BUILTIN_MODEL, method.settings)
        for method in METHODS
        if not method.settings.prunes_experts
    },
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
    monkeypatch.setattr(
        backend._speed, "known", lambda: Speeds(float32=1e11, bfloat16=2e11)
    )
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    request = RunSettings(
        model=model(folder),
        methods=(method,),
        evaluation=EvaluationSettings(n_passages=100),
    )
    backend.inspect_config(request.model)
    before = backend.preflight(request)
    parts = dict(before.duration.parts)
    assert (
        before.duration.unknown == ()
        and {"loading", "evaluating", "pruning"} <= parts.keys()
    )
    assert before.duration.total_s == pytest.approx(sum(parts.values()))
    assert (
        min(
            before.memory.least.n_bytes,
            before.disk.takes.stays_bytes,
            before.disk.free_bytes,
        )
        > 0
    )
    half, resident = (
        backend.preflight(replace(request, dtype="bfloat16", residency=way))
        for way in ("streamed", "resident")
    )
    assert half.memory.least.n_bytes < resident.memory.least.n_bytes
