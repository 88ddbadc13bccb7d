"""Two tiny models timed in turn: what is put on record, that both are whole, and that nothing half-done stays."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.comparison.model_pair import ModelPairCache, RecordModel, both_resident
from sparsedash.engine.comparison.timing import load_sample, time_models
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.schema.errors import Cancelled, JobError, SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import Timing, TimingSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A store with a run of one tiny model by a method that removes channels, and by one that sets weights to zero."""
    folder = tmp_path_factory.mktemp("house")
    text = write_jsonl(folder / "passages.jsonl", passages(60))
    store = Store(folder / "data")
    settings = RunSettings(
        model=str(save_tiny(folder / "one")),
        methods=(MethodSettings(width_multiple=8), method_named("wanda")),
        sparsities_permille=(500,),
        calibration=CalibrationSettings(corpus=f"file:{text}[20:]", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{text}", n_passages=3),
    )
    yield store, pipeline.run(settings, store)
    store.close()


@pytest.fixture
def pair_cache():
    return ModelPairCache(ModelShelf())


def asked(run, sparse=0, **changes):
    usual = TimingSettings(
        dense=run.dense, sparse=run.sparse[sparse], n_prompt=8, n_decode=2, batches=(1, 2), least_rounds=3, most_s=1
    )
    return replace(usual, **changes)


def test_every_phase_is_timed_at_every_batch_and_kept_with_all_its_rounds(house, pair_cache):
    store, run = house
    found = time_models(asked(run), store, pair_cache)
    assert [(p.phase, p.batch) for p in found.phases] == [
        ("prefill", 1),
        ("decode", 1),
        ("prefill", 2),
        ("decode", 2),
        ("load", 1),
    ]
    assert all(len(p.dense_s) == len(p.sparse_s) == len(p.dense_first) >= 3 for p in found.phases)
    assert all(p.ratio.low <= p.ratio.value <= p.ratio.high and p.ceiling > 1 for p in found.phases)
    assert (found.dtype, found.n_prompt, found.n_decode) == ("float32", 8, 2)
    assert found.machine
    assert store.get(Timing, asked(run).key()) == found
    assert time_models(asked(run), store, pair_cache) is not None


def test_the_bytes_are_those_of_the_narrowed_model(house, pair_cache):
    store, run = house
    found = time_models(asked(run, seed=1), store, pair_cache)
    widths = store.get(Record, run.sparse[0]).pruned.widths
    # 3 matrices of 32 weights a channel and, in this tiny model, a bias in two of them; 4 bytes each.
    assert found.dense_bytes - found.sparse_bytes == 4 * (3 * 96 - sum(widths)) * (3 * 32 + 2)
    half = time_models(asked(run, seed=1, dtype="bfloat16"), store, pair_cache)
    assert (half.dtype, half.dense_bytes, half.sparse_bytes) == (
        "bfloat16",
        found.dense_bytes // 2,
        found.sparse_bytes // 2,
    )


def test_a_contender_is_narrow_not_masked_and_answers_as_the_record_model_does(house, pair_cache):
    store, run = house
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with pair_cache.pair((run.dense, run.sparse[0]), store, ignore_steps) as (dense, sparse), torch.inference_mode():
        model, mlps = dense.loaded.model, dense.loaded.mlps
        with dense.active():
            wanted = [model(input_ids=ids).logits]
        with sparse.active():
            wanted.append(model(input_ids=ids).logits)
        before = [id(parameter) for parameter in model.parameters()]
        with both_resident(dense, sparse, torch.float32) as pair:
            logits, widths = [], []
            for contender in pair:
                contender.enter_()
                logits.append(model(input_ids=ids).logits)
                widths.append([mlp.width for mlp in mlps])
        assert [id(parameter) for parameter in model.parameters()] == before
    assert all(torch.equal(a, b) for a, b in zip(wanted, logits, strict=True))
    assert widths == [[96, 96, 96], list(store.get(Record, run.sparse[0]).pruned.widths)]


def test_weights_that_both_have_are_in_memory_once_and_the_others_are_copied_for_both(house, pair_cache):
    store, run = house
    with pair_cache.pair((run.dense, run.sparse[0]), store, ignore_steps) as (dense, sparse):
        own = {id(weight) for weight in dense.loaded.model.parameters()}
        with both_resident(dense, sparse, torch.float32) as (first, second):
            ours, theirs = ({id(weight) for weight in each.weights} for each in (first, second))
            # Of each block three weights and three biases.
            n_changed = 3 * (3 + 3)
            assert len(ours & theirs) == len(ours) - n_changed
            assert ours & own == ours & theirs
        with both_resident(dense, RecordModel(dense.loaded), torch.float32) as (first, second):
            assert first.n_bytes == second.n_bytes


def test_single_weights_at_zero_are_not_timed_but_explained(house, pair_cache):
    store, run = house
    with pytest.raises(JobError, match="no speed-up is expected"):
        time_models(asked(run, sparse=1), store, pair_cache)


def test_a_dense_record_or_one_that_is_gone_is_refused_in_words(house, pair_cache):
    store, run = house
    with pytest.raises(JobError, match="not timed beside itself"):
        time_models(replace(asked(run), sparse=run.dense), store, pair_cache)
    with pytest.raises(JobError, match="not in the store"):
        time_models(replace(asked(run), sparse="gone"), store, pair_cache)


def test_stopped_at_any_sample_nothing_is_kept_and_the_model_is_dense_again(house, pair_cache):
    store, run = house
    wanted = asked(run, seed=2)
    for number in (0, 5, 40):
        steps = itertools.count()

        def stop(step, number=number, steps=steps):
            if step.stage == "time" and next(steps) == number:
                raise Cancelled

        with pytest.raises(Cancelled):
            time_models(wanted, store, pair_cache, stop)
        assert not store.has(Timing, wanted.key())
        with pair_cache.pair((run.dense, run.sparse[0]), store, ignore_steps) as (dense, _):
            assert [mlp.width for mlp in dense.loaded.mlps] == [96, 96, 96]


def test_the_number_of_threads_is_what_was_asked_for_and_put_back(house, pair_cache):
    store, run = house
    before = torch.get_num_threads()
    assert time_models(asked(run, n_threads=1, seed=3), store, pair_cache).n_threads == 1
    assert torch.get_num_threads() == before


def test_the_weights_that_loading_reads_leave_no_file(house, pair_cache, tmp_path):
    store, run = house
    with (
        pair_cache.pair((run.dense, run.sparse[0]), store, ignore_steps) as (dense, sparse),
        both_resident(dense, sparse, torch.float32) as pair,
        load_sample(pair, tmp_path) as loading,
    ):
        assert loading.sample(True) > 0 and loading.sample(False) > 0
        assert list(tmp_path.iterdir()) == []


def test_the_memory_that_weights_take_is_measured(tmp_path):
    pair = tuple(SimpleNamespace(weights=[torch.ones(n_megabytes, 250_000)]) for n_megabytes in (80, 60))
    with load_sample(pair, tmp_path) as loading:
        assert loading.resident(True) == pytest.approx(80e6, rel=0.05)
        assert loading.resident(False) == pytest.approx(60e6, rel=0.05)


@pytest.mark.parametrize(
    "changes", [{"n_threads": 0}, {"batches": ()}, {"batches": (1, 1)}, {"dtype": "int8"}, {"most_s": 0}]
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(SettingsError):
        TimingSettings(dense="a", sparse="b", **changes)


def test_the_key_depends_on_everything_that_is_asked_for():
    plain = TimingSettings(dense="a", sparse="b")
    others = ({"dense": "c"}, {"sparse": "c"}, {"dtype": "bfloat16"}, {"n_threads": 1}, {"batches": (1,)}, {"seed": 1})
    assert len({plain.key(), *(replace(plain, **change).key() for change in others)}) == 1 + len(others)
