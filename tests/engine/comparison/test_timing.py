"""Two tiny models timed in turn, and rounds by a clock that a test moves."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.comparison.model_pair import ModelPairCache, RecordModel, both_resident
from sparsedash.engine.comparison.timing import MOST_ROUNDS, load_sample, time_models, timed_rounds
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
def runs(tmp_path_factory):
    """A store with a run of one tiny model by a method that removes channels, and by one that sets weights to zero."""
    folder = tmp_path_factory.mktemp("runs")
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


class House:
    """The run, and the models that are in memory."""

    def __init__(self, store, run):
        self.store, self.dense, self.sparse = store, run.dense, run.sparse
        self.cache = ModelPairCache(ModelShelf())

    def asked(self, **changes):
        usual = {"dense": self.dense, "sparse": self.sparse[0], "n_prompt": 8, "n_decode": 2, "batches": (1, 2)}
        return TimingSettings(**usual | {"least_rounds": 3, "most_s": 1} | changes)

    def timed(self, on_step=ignore_steps, **changes):
        # A second goes by with every look at the clock.
        return time_models(self.asked(**changes), self.store, self.cache, on_step, itertools.count().__next__)

    def models(self):
        return self.cache.models((self.dense, self.sparse[0]), self.store, ignore_steps)

    @property
    def widths(self):
        return list(self.store.get(Record, self.sparse[0]).pruned.widths)


@pytest.fixture
def house(runs):
    return House(*runs)


def test_every_phase_is_timed_at_every_batch_and_kept_with_all_its_rounds(house):
    before = torch.get_num_threads()
    found = house.timed(n_threads=1)
    phases = [("prefill", 1), ("decode", 1), ("prefill", 2), ("decode", 2), ("load", 1)]
    assert [(p.phase, p.batch) for p in found.phases] == phases
    assert all(len(p.dense_s) == len(p.sparse_s) == len(p.dense_first) >= 3 for p in found.phases)
    assert all(p.ratio.low <= p.ratio.value <= p.ratio.high and p.ceiling > 1 for p in found.phases)
    assert (found.dtype, found.n_prompt, found.n_decode, found.n_threads) == ("float32", 8, 2, 1)
    assert torch.get_num_threads() == before
    assert found.machine
    assert house.store.get(Timing, house.asked(n_threads=1).key()) == found == house.timed(n_threads=1)


def test_the_bytes_are_those_of_the_narrowed_model(house):
    found, half = house.timed(seed=1), house.timed(seed=1, dtype="bfloat16")
    # 3 matrices of 32 weights a channel and, in this tiny model, a bias in two of them; 4 bytes each.
    assert found.dense_bytes - found.sparse_bytes == 4 * (3 * 96 - sum(house.widths)) * (3 * 32 + 2)
    assert half.dtype == "bfloat16"
    assert (2 * half.dense_bytes, 2 * half.sparse_bytes) == (found.dense_bytes, found.sparse_bytes)


def test_a_resident_model_is_narrow_not_masked_and_answers_as_the_record_model_does(house):
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with house.models() as (dense, sparse), torch.inference_mode():
        model, wanted = dense.loaded.model, []
        for each in (dense, sparse):
            with each.active():
                wanted.append(model(input_ids=ids).logits)
        before = [id(parameter) for parameter in model.parameters()]
        with both_resident(dense, sparse, torch.float32) as pair:
            logits, widths = [], []
            for resident in pair:
                resident.enter_()
                logits.append(model(input_ids=ids).logits)
                widths.append([mlp.width for mlp in dense.loaded.mlps])
        assert [id(parameter) for parameter in model.parameters()] == before
    assert all(torch.equal(a, b) for a, b in zip(wanted, logits, strict=True))
    assert widths == [[96, 96, 96], house.widths]


def test_weights_that_both_have_are_in_memory_once_and_the_others_are_copied_for_both(house):
    with house.models() as (dense, sparse):
        own = {id(weight) for weight in dense.loaded.model.parameters()}
        with both_resident(dense, sparse, torch.float32) as pair:
            ours, theirs = ({id(weight) for weight in each.weights} for each in pair)
            # Of each block three weights and three biases.
            assert len(ours & theirs) == len(ours) - 3 * (3 + 3)
            assert ours & own == ours & theirs
        with both_resident(dense, RecordModel(dense.loaded), torch.float32) as (first, second):
            assert first.n_bytes == second.n_bytes


def test_what_cannot_be_timed_is_refused_in_words(house):
    for sparse, why in ((house.sparse[1], "no speed-up is expected"), (house.dense, "not timed beside itself")):
        with pytest.raises(JobError, match=why):
            house.timed(sparse=sparse)
    with pytest.raises(JobError, match="not in the store"):
        house.timed(sparse="gone")


@pytest.mark.parametrize("number", [0, 5, 40])
def test_stopped_at_any_sample_nothing_is_kept_and_the_model_is_dense_again(number, house):
    steps = itertools.count()

    def stop(step):
        if step.stage == "time" and next(steps) == number:
            raise Cancelled

    with pytest.raises(Cancelled):
        house.timed(stop, seed=2)
    assert not house.store.has(Timing, house.asked(seed=2).key())
    with house.models() as (dense, _):
        assert [mlp.width for mlp in dense.loaded.mlps] == [96, 96, 96]


def test_the_memory_that_weights_take_is_measured_and_their_files_have_no_name(tmp_path):
    pair = tuple(SimpleNamespace(weights=[torch.ones(n_megabytes, 250_000)]) for n_megabytes in (80, 60))
    with load_sample(pair, tmp_path) as (loading, resident):
        assert resident(True) == pytest.approx(80e6, rel=0.05)
        assert resident(False) == pytest.approx(60e6, rel=0.05)
        assert loading(True) > 0 and loading(False) > 0
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes", [{"n_threads": 0}, {"batches": ()}, {"batches": (1, 1)}, {"dtype": "int8"}, {"most_s": 0}]
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(SettingsError):
        TimingSettings(dense="a", sparse="b", **changes)


def test_the_key_depends_on_every_setting():
    plain = TimingSettings(dense="a", sparse="b")
    others = ({"dense": "c"}, {"sparse": "c"}, {"dtype": "bfloat16"}, {"n_threads": 1}, {"batches": (1,)}, {"seed": 1})
    assert len({plain.key(), *(replace(plain, **change).key() for change in others)}) == 1 + len(others)


STOP = TimingSettings(dense="a", sparse="b")


class Bench:
    """Dense takes 1.2 s and sparse 1 s, each times what `slow` says of that call; remembers who went when."""

    def __init__(self, slow=lambda n: 1.0):
        self.now, self.went, self._slow = 0.0, [], slow

    def clock(self):
        return self.now

    def sample(self, is_dense):
        seconds = (1.2 if is_dense else 1.0) * self._slow(len(self.went))
        self.went.append(is_dense)
        self.now += seconds
        return seconds


def ran(bench, stop=STOP, seed=0, on_round=lambda n, s: None):
    return timed_rounds(bench.sample, replace(stop, seed=seed), bench.clock, on_round)


def test_both_models_go_once_in_every_round_in_an_order_that_changes():
    bench = Bench()
    found = ran(bench)
    assert all(sum(bench.went[i : i + 2]) == 1 for i in range(0, len(bench.went), 2))
    assert bench.went[4::2] == found.dense_first
    assert 3 <= sum(found.dense_first) <= found.n - 3


def test_the_order_follows_from_the_seed():
    orders = [ran(Bench(), seed=seed).dense_first for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_warm_up_rounds_do_not_count_and_do_not_use_up_the_time():
    bench = Bench(lambda n: 100.0 if n < 4 else 1.0)
    found = ran(bench)
    assert len(bench.went) == 2 * (found.n + 2)
    assert max(found.dense_s) == 1.2
    assert found.ratio.value == pytest.approx(1.2)


def test_it_ends_at_the_least_number_of_rounds_where_the_interval_is_narrow_by_then():
    assert ran(Bench()).n == 15


def test_it_goes_on_while_the_interval_is_wide_and_ends_when_the_time_is_over():
    bench = Bench(lambda n: (0.5, 1.0, 2.0)[n % 3])
    found = ran(bench)
    assert found.n > 15
    assert bench.now >= 120.0
    assert bench.now - 120.0 <= 2 * (2.4 + 2.0) + sum((1.2 + 1.0) * 2 for _ in range(2))


def test_work_that_takes_long_gets_three_rounds_whatever_the_time():
    assert ran(Bench(lambda n: 500.0)).n == 3


def test_it_ends_at_the_largest_number_of_rounds_where_a_clock_stands_still():
    bench = Bench(lambda n: (0.5, 1.0, 2.0)[n % 3])
    assert timed_rounds(bench.sample, STOP, lambda: 0.0, lambda n, s: None).n == MOST_ROUNDS


def test_a_load_that_comes_and_goes_by_rounds_does_not_move_the_ratio():
    found = ran(Bench(lambda n: 3.0 if n // 2 % 3 else 1.0))
    assert found.ratio.value == pytest.approx(1.2)
    assert found.n == 15


def test_it_can_be_stopped_before_every_sample():
    heard = []

    def stop_at_the_seventh(n, spent_s):
        heard.append(n)
        if len(heard) == 7:
            raise Cancelled

    bench = Bench()
    with pytest.raises(Cancelled):
        ran(bench, on_round=stop_at_the_seventh)
    assert len(bench.went) == 6
    assert heard == [0, 0, 0, 0, 0, 0, 1]
