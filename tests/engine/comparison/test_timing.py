"""Two tiny models timed in turn, and rounds by a clock that a test moves."""

import itertools
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sparsedash.engine.comparison.model_pair import RecordModel, both_resident
from sparsedash.engine.comparison.timing import MAX_ROUNDS, timed_rounds
from sparsedash.engine.comparison.torch_timing import LoadFiles, time_models
from sparsedash.schema.errors import Cancelled, JobError, SettingsError
from sparsedash.schema.pair_records import Timing, TimingSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record


def request(house, **changes):
    usual = {
        "dense": house.dense,
        "sparse": house.sparse[1],
        "n_prompt": 8,
        "n_decode": 2,
        "batches": (1, 2),
    }
    return TimingSettings(**usual | {"least_rounds": 3, "most_s": 1} | changes)


def timed(house, on_step=ignore_steps, **changes):
    # A second goes by with every look at the clock.
    return time_models(
        request(house, **changes),
        house.store,
        house.cache,
        on_step,
        itertools.count().__next__,
    )


def widths_of(house):
    return list(house.store.get(Record, house.sparse[1]).pruned.widths)


def test_every_phase_is_timed_at_every_batch_and_kept_with_all_its_rounds(house):
    before = torch.get_num_threads()
    timing = timed(house, n_threads=1)
    phases = [("prefill", 1), ("decode", 1), ("prefill", 2), ("decode", 2), ("load", 1)]
    assert [(p.phase, p.batch) for p in timing.phases] == phases
    assert all(
        len(p.dense_s) == len(p.sparse_s) == len(p.dense_first) >= 3
        for p in timing.phases
    )
    assert all(
        p.ratio.low <= p.ratio.value <= p.ratio.high and p.ceiling > 1
        for p in timing.phases
    )
    assert (timing.dtype, timing.n_prompt, timing.n_decode, timing.n_threads) == (
        "float32",
        8,
        2,
        1,
    )
    assert torch.get_num_threads() == before
    assert timing.machine
    assert (
        house.store.get(Timing, request(house, n_threads=1).key())
        == timing
        == timed(house, n_threads=1)
    )


def test_the_bytes_are_those_of_the_narrowed_model(house):
    single = timed(house, seed=1)
    half = timed(house, seed=1, dtype="bfloat16")
    # 3 matrices of 32 weights a channel and, in this tiny model, a bias in two of them; 4 bytes
    # each.
    assert single.dense_bytes - single.sparse_bytes == 4 * (
        3 * 96 - sum(widths_of(house))
    ) * (3 * 32 + 2)
    assert half.dtype == "bfloat16"
    assert (2 * half.dense_bytes, 2 * half.sparse_bytes) == (
        single.dense_bytes,
        single.sparse_bytes,
    )


def test_a_resident_model_is_narrow_not_masked_and_answers_as_the_record_model_does(
    house,
):
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with (
        house.models(house.dense, house.sparse[1]) as (dense, sparse),
        torch.inference_mode(),
    ):
        model = dense.loaded.model
        wanted = []
        for record_model in (dense, sparse):
            with record_model.active():
                wanted.append(model(input_ids=ids).logits)
        before = [id(parameter) for parameter in model.parameters()]
        with both_resident(dense, sparse, torch.float32) as pair:
            logits = []
            widths = []
            for resident in pair:
                resident.enter_()
                logits.append(model(input_ids=ids).logits)
                widths.append([mlp.width for mlp in dense.loaded.mlps])
        assert [id(parameter) for parameter in model.parameters()] == before
    assert all(torch.equal(a, b) for a, b in zip(wanted, logits, strict=True))
    assert widths == [[96, 96, 96], widths_of(house)]


def test_weights_that_both_have_are_in_memory_once_and_the_others_are_copied_for_both(
    house,
):
    with house.models(house.dense, house.sparse[1]) as (dense, sparse):
        dense_weights = {id(weight) for weight in dense.loaded.model.parameters()}
        with both_resident(dense, sparse, torch.float32) as pair:
            ours, theirs = (set(map(id, resident.weights)) for resident in pair)
            # Of each block three weights and three biases.
            assert len(ours & theirs) == len(ours) - 3 * (3 + 3)
            assert ours & dense_weights == ours & theirs
        with both_resident(dense, RecordModel(dense.loaded), torch.float32) as (
            first,
            second,
        ):
            assert first.n_bytes == second.n_bytes


def test_what_cannot_be_timed_is_refused_in_words(house):
    nothing = "no sparse model to time"
    for sparse, why in (
        (house.masked.sparse[0], "no speed-up"),
        (house.dense, nothing),
        ("gone", nothing),
    ):
        with pytest.raises(JobError, match=why):
            timed(house, sparse=sparse)


@pytest.mark.parametrize("number", [5, 30])
def test_stopped_at_any_sample_nothing_is_kept_and_the_model_is_dense_again(
    number, house
):
    steps = itertools.count()

    def stop(step):
        if step.stage == "time" and next(steps) == number:
            raise Cancelled

    with pytest.raises(Cancelled):
        timed(house, stop, seed=2)
    assert not house.store.has(Timing, request(house, seed=2).key())
    with house.models(house.dense, house.sparse[1]) as (dense, _):
        assert [mlp.width for mlp in dense.loaded.mlps] == [96, 96, 96]


def test_the_memory_that_weights_take_is_measured_and_their_files_have_no_name(
    tmp_path,
):
    pair = tuple(
        SimpleNamespace(weights=[torch.ones(n_megabytes, 250_000)])
        for n_megabytes in (80, 60)
    )
    with closing(LoadFiles(pair, tmp_path)) as files:
        assert files.resident_bytes(True) == pytest.approx(80e6, rel=0.05)
        assert files.resident_bytes(False) == pytest.approx(60e6, rel=0.05)
        assert files.sample(True) > 0 and files.sample(False) > 0
        assert list(tmp_path.iterdir()) == []


def test_settings_that_make_no_sense_are_refused():
    for changes in (
        {"batches": ()},
        {"batches": (1, 1)},
        {"dtype": "int8"},
        {"most_s": 0},
    ):
        with pytest.raises(SettingsError):
            TimingSettings(dense="a", sparse="b", **changes)


STOP = TimingSettings(dense="a", sparse="b")


class Bench:
    """Dense takes 1.2 s and sparse 1 s, each times what `slow` says of that call; remembers who
    went when.
    """

    def __init__(self, slow=lambda n: 1.0):
        self.now = 0.0
        self.went = []
        self._slow = slow

    def clock(self):
        return self.now

    def sample(self, is_dense):
        seconds = (1.2 if is_dense else 1.0) * self._slow(len(self.went))
        self.went.append(is_dense)
        self.now += seconds
        return seconds


def ran(bench, seed=0, **more):
    return timed_rounds(
        bench.sample,
        replace(STOP, seed=seed),
        bench.clock,
        **more,
    )


def test_both_models_go_once_in_every_round_in_an_order_that_changes():
    bench = Bench()
    timing = ran(bench)
    assert all(sum(bench.went[i : i + 2]) == 1 for i in range(0, len(bench.went), 2))
    assert tuple(bench.went[4::2]) == timing.dense_first
    assert 3 <= sum(timing.dense_first) <= len(timing.dense_s) - 3
    assert (
        timing.dense_first
        == ran(Bench()).dense_first
        != ran(Bench(), seed=2).dense_first
    )


def test_warm_up_rounds_do_not_count_and_do_not_use_up_the_time():
    for n_warmup, slow_s in ((2, 5.0), (1, 100.0)):
        bench = Bench(
            lambda n, n_warmup=n_warmup, slow_s=slow_s: (
                slow_s if n < 2 * n_warmup else 1.0
            )
        )
        timing = ran(bench)
        assert len(bench.went) == 2 * (len(timing.dense_s) + n_warmup), (
            "slow work is warm after one round"
        )
        assert max(timing.dense_s) == 1.2
    loaded_now_and_then = ran(Bench(lambda n: 3.0 if n // 2 % 3 else 1.0))
    assert timing.ratio.value == pytest.approx(1.2) == loaded_now_and_then.ratio.value


WIDE = (0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    ("slow", "clock", "n_rounds"),
    [
        (lambda n: 1.0, None, 15),
        (lambda n: 500.0, None, 3),
        (lambda n: WIDE[n % 3], lambda: 0.0, MAX_ROUNDS),
    ],
    ids=["narrow by then", "long work", "a clock that stands still"],
)
def test_it_ends_at_the_least_and_the_largest_number_of_rounds(slow, clock, n_rounds):
    bench = Bench(slow)
    assert (
        len(timed_rounds(bench.sample, STOP, clock or bench.clock).dense_s) == n_rounds
    )


def test_it_goes_on_while_the_interval_is_wide_and_ends_when_the_time_is_over():
    bench = Bench(lambda n: WIDE[n % 3])
    assert len(ran(bench).dense_s) > 15
    assert 120.0 <= bench.now <= 120.0 + 2 * (2.4 + 2.0) + 2 * (1.2 + 1.0) * 2


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
