"""What two models write in turn: the same as each writes alone, watched while it grows, kept when it is stopped."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from sparsedash.engine.comparison.continuation import Writer, continue_prompt
from sparsedash.engine.comparison.divergence import measure_divergence
from sparsedash.engine.comparison.model_pair import ModelPairCache, RecordModel
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.pruning.surgery import pruned
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.run.sparse_models import prune_model
from sparsedash.schema.errors import Cancelled, JobError, SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings, DivergenceSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import CONFIGS, save_tiny, tiny_loaded

PROMPT = "the lamp and the boat and"


def _settings(folder, text, **changes):
    usual = RunSettings(
        model=str(folder),
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250, 500),
        calibration=CalibrationSettings(corpus=f"file:{text}[20:]", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{text}", n_passages=3),
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A store with a run of one tiny model, and a run of another one in bfloat16, over the same passages."""
    folder = tmp_path_factory.mktemp("house")
    text = write_jsonl(folder / "passages.jsonl", passages(60))
    store = Store(folder / "data")
    first = _settings(save_tiny(folder / "one"), text)
    other = _settings(save_tiny(folder / "other", "gpt2", seed=5), text, dtype="bfloat16")
    runs = [pipeline.run(settings, store) for settings in (first, other)]
    yield store, *runs
    store.close()


@pytest.fixture
def pair_cache():
    return ModelPairCache(ModelShelf())


def asked(left, right, prompt=PROMPT, n_tokens=6, **more):
    return ContinuationSettings(left=left, right=right, prompt=prompt, n_tokens=n_tokens, **more)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_a_writer_writes_what_its_model_writes_alone(model_type):
    loaded = tiny_loaded(model_type)
    loaded.model.generation_config.eos_token_id = None
    writer = Writer(RecordModel(loaded), asked("l", "r", n_tokens=8))
    writer.read(ignore_steps)
    for _ in range(8):
        writer.write()
    ids = loaded.tokenizer(PROMPT, return_tensors="pt").input_ids
    output = loaded.model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert writer.text == loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).rstrip("\ufffd")


def test_a_long_prompt_is_read_in_parts_with_the_same_outcome(monkeypatch):
    whole, parted = (Writer(RecordModel(tiny_loaded("llama")), asked("l", "r")) for _ in range(2))
    whole.read(ignore_steps)
    monkeypatch.setattr("sparsedash.engine.comparison.continuation.CHUNK_TOKENS", 3)
    parted.read(ignore_steps)
    assert torch.allclose(whole._logits, parted._logits, atol=1e-4)


def test_a_prompt_longer_than_the_model_can_read_keeps_its_end():
    long = " ".join(["boat"] * 400)
    seen = []
    Writer(RecordModel(tiny_loaded("llama")), asked("l", "r", prompt=long)).read(lambda step: seen.append(step.total))
    assert set(seen) == {256 - 6}


def test_all_models_of_a_run_write_what_they_write_in_pairs_and_the_two_do_not_wait_for_the_others(house, pair_cache):
    store, run, _ = house
    texts, steps = [], []
    together = continue_prompt(
        asked(run.dense, run.sparse[1], prompt="the letter", others=(run.sparse[0],)),
        store,
        pair_cache,
        on_step=steps.append,
        on_text=lambda *written: texts.append(written),
    )
    alone = continue_prompt(asked(run.dense, run.sparse[0], prompt="the letter"), store, pair_cache)
    two = continue_prompt(asked(run.dense, run.sparse[1], prompt="the letter"), store, pair_cache)
    assert (together.left, together.right, together.others) == (two.left, two.right, (alone.right,))
    assert texts[5] == (two.left, two.right, "")
    assert texts[-1] == (two.left, two.right, alone.right)
    assert [step.message for step in steps if step.stage == "continue"] == ["2 of 3 models"] * 6 + ["model 3 of 3"] * 6
    again = []
    continue_prompt(
        asked(run.dense, run.sparse[1], prompt="a boat", others=(run.sparse[0],)),
        store,
        pair_cache,
        on_text=lambda *written: again.append(written),
    )
    assert len(again) == 6, "all three are in memory by now, and write in turn"


def test_what_all_had_written_when_it_was_stopped_is_kept(house, pair_cache):
    store, run, _ = house

    def stop(step):
        if step.message == "model 3 of 3":
            raise Cancelled

    request = asked(run.dense, run.sparse[1], prompt="an old lamp", others=(run.sparse[0],))
    with pytest.raises(Cancelled):
        continue_prompt(request, store, pair_cache, on_step=stop)
    kept = store.get(Continuation, request.key())
    assert kept.stopped and len(kept.others) == 1
    assert kept.left and kept.right


def test_both_sides_are_those_that_wrote_alone_and_grow_together(house, pair_cache):
    store, run, _ = house
    texts = []
    both = continue_prompt(
        asked(run.dense, run.sparse[1]), store, pair_cache, on_text=lambda left, right: texts.append((left, right))
    )
    assert both.left != both.right
    assert texts[-1] == (both.left, both.right)
    assert len(texts) == 6
    for early, late in itertools.pairwise(texts):
        assert all(after.startswith(before) for before, after in zip(early, late, strict=True))
    context = RunContext(run.settings, store, ignore_steps, ModelShelf())
    record = store.get(Record, run.sparse[1])
    made = prune_model(context, record.pruned.method, record.pruned.sparsity_permille)
    with pruned(context.loaded.mlps, made.narrowed):
        alone = Writer(RecordModel(context.loaded), asked("l", "r"))
        alone.read(ignore_steps)
        for _ in range(6):
            alone.write()
    assert alone.text == both.right
    assert store.get(Continuation, both.key) == both


def pair(pair_cache, keys, store):
    with pair_cache.pair(keys, store, ignore_steps) as both:
        return both


def test_what_was_left_half_exchanged_is_dense_again_after_the_pair(house, pair_cache):
    store, run, _ = house
    with pair_cache.pair((run.dense, run.sparse[1]), store, ignore_steps) as (left, right):
        broken_off = right.active()
        broken_off.__enter__()
        assert {mlp.width for mlp in left.loaded.mlps} == {48}
    assert {mlp.width for mlp in left.loaded.mlps} == {96}


def test_the_loaded_model_is_the_dense_one_again_afterwards(house, pair_cache):
    store, run, _ = house
    left, right = pair(pair_cache, (run.dense, run.sparse[1]), store)
    ids = torch.tensor([[5, 6, 7]])
    before = left.loaded.model(ids).logits
    with right.active() as loaded:
        assert not torch.equal(loaded.model(ids).logits, before)
        assert {mlp.width for mlp in loaded.mlps} == {48}
    assert torch.equal(left.loaded.model(ids).logits, before)
    assert {mlp.width for mlp in left.loaded.mlps} == {96}


def test_two_models_of_other_families_and_number_formats_write_side_by_side(house, pair_cache):
    store, run, other = house
    both = continue_prompt(asked(run.sparse[0], other.sparse[1]), store, pair_cache)
    swapped = continue_prompt(asked(other.sparse[1], run.sparse[0]), store, pair_cache)
    assert (swapped.left, swapped.right) == (both.right, both.left)
    left, right = pair(pair_cache, (run.sparse[0], other.sparse[1]), store)
    assert (left.loaded.dtype, right.loaded.dtype) == ("float32", "bfloat16")
    assert left.loaded is not right.loaded


def test_the_second_prompt_makes_no_model_again(house, pair_cache, monkeypatch):
    store, run, _ = house
    continue_prompt(asked(run.dense, run.sparse[1], prompt="the lamp"), store, pair_cache)
    monkeypatch.setattr("sparsedash.engine.comparison.model_pair.rebuild_model", None)
    continue_prompt(asked(run.dense, run.sparse[1], prompt="the boat"), store, pair_cache)


def test_a_model_that_is_held_is_not_read_twice(house):
    store, run, other = house
    shelf = ModelShelf()
    pair_cache = ModelPairCache(shelf)
    for keys in [(run.dense, other.dense), (run.sparse[0], other.sparse[0])]:
        pair(pair_cache, keys, store)
    assert shelf.n_loaded == 2


def test_only_so_much_memory_is_kept_for_models_that_are_not_asked_for(house):
    store, run, _ = house
    for room, kept in ((0, {run.dense, run.sparse[1]}), (2**30, {run.dense, *run.sparse})):
        pair_cache = ModelPairCache(ModelShelf(), room_bytes=room)
        pair(pair_cache, (run.dense, run.sparse[0]), store)
        pair(pair_cache, (run.dense, run.sparse[1]), store)
        assert set(pair_cache._kept) == kept
        pair_cache.let_go()
        assert not pair_cache._kept


def stop_after(n):
    def on_step(step):
        if step.stage == "continue" and step.done == n:
            raise Cancelled

    return on_step


def test_what_was_written_when_it_was_stopped_is_kept_and_written_anew_when_asked_again(house, pair_cache):
    store, run, _ = house
    prompt = asked(run.dense, run.sparse[0], prompt="the letter went", n_tokens=9)
    with pytest.raises(Cancelled):
        continue_prompt(prompt, store, pair_cache, stop_after(4))
    kept = store.get(Continuation, prompt.key())
    assert kept.stopped
    whole = continue_prompt(prompt, store, pair_cache)
    assert not whole.stopped
    assert whole.left.startswith(kept.left) and whole.right.startswith(kept.right)
    assert len(whole.left + whole.right) > len(kept.left + kept.right) > 0
    assert store.get(Continuation, prompt.key()) == whole


def test_stopped_before_the_first_token_nothing_is_kept(house, pair_cache):
    store, run, _ = house

    def stop(step):
        if step.stage == "read":
            raise Cancelled

    prompt = asked(run.dense, run.sparse[0], prompt="the door")
    with pytest.raises(Cancelled):
        continue_prompt(prompt, store, pair_cache, stop)
    assert store.get(Continuation, prompt.key()) is None


def test_the_same_seed_draws_the_same_and_equal_models_have_the_same_luck(house, pair_cache):
    store, run, _ = house
    drawn = asked(run.dense, run.dense, temperature_percent=150, seed=3, n_tokens=20)
    both = continue_prompt(drawn, store, pair_cache)
    assert both.left == both.right
    again = continue_prompt(replace(drawn, right=run.sparse[0]), store, pair_cache)
    assert again.left == both.left
    other = continue_prompt(replace(drawn, seed=4), store, pair_cache)
    greedy = continue_prompt(replace(drawn, temperature_percent=0), store, pair_cache)
    assert len({both.left, other.left, greedy.left}) == 3


def test_draws_follow_the_distribution_of_the_model():
    writer = Writer(RecordModel(tiny_loaded("llama")), asked("l", "r", temperature_percent=100, seed=1))
    shares = torch.tensor([0.6, 0.3, 0.1])
    writer._logits = shares.log()
    counts = torch.bincount(torch.tensor([writer._chosen() for _ in range(4000)]), minlength=3)
    assert torch.allclose(counts / 4000, shares, atol=0.03)


def test_writing_ends_where_the_model_ends(house, pair_cache):
    store, run, _ = house
    left, _ = pair(pair_cache, (run.dense, run.dense), store)
    writer = Writer(left, asked(run.dense, run.dense))
    writer.read(ignore_steps)
    writer._logits = torch.zeros(400)
    writer._logits[0] = 1.0
    writer.write()
    assert writer.finished and writer.text == ""
    writer.write()
    assert writer.text == ""


def test_a_continuation_of_a_result_that_is_gone_or_changed_is_refused(house, tmp_path):
    store, run, _ = house
    with pytest.raises(JobError, match="not in the store"):
        continue_prompt(asked(run.dense, "gone"), store, ModelPairCache(ModelShelf()))
    folder = save_tiny(tmp_path / "m", seed=3)
    text = write_jsonl(tmp_path / "p.jsonl", passages(60))
    changed = pipeline.run(_settings(folder, text), store)
    save_tiny(folder, seed=4)
    with pytest.raises(JobError, match="not what it was"):
        continue_prompt(asked(run.dense, changed.sparse[0]), store, ModelPairCache(ModelShelf()))


class TestDivergence:
    def test_equal_models_are_nowhere_apart_and_others_somewhere(self, house, pair_cache):
        store, run, _ = house
        text = f"{PROMPT} the letter went home"
        same, other = (
            measure_divergence(DivergenceSettings(left=run.dense, right=right, text=text), store, pair_cache)
            for right in (run.dense, run.sparse[1])
        )
        assert all(place.nats < 1e-6 and place.left == place.right for place in same.places)
        assert max(place.nats for place in other.places) > 1e-3
        assert other.opening + "".join(place.text for place in other.places) == text

    def test_it_is_the_divergence_of_the_right_distribution_from_the_left_one(self, house, pair_cache, monkeypatch):
        store, run, _ = house
        monkeypatch.setattr("sparsedash.engine.comparison.divergence.CHUNK_LOGITS", 3 * 400)
        settings = DivergenceSettings(left=run.dense, right=run.sparse[1], text=PROMPT)
        found = measure_divergence(settings, store, pair_cache)
        left, right = pair(pair_cache, (run.dense, run.sparse[1]), store)
        ids = torch.tensor([left.loaded.tokenizer(PROMPT).input_ids])
        logs = []
        for record_model in (left, right):
            with record_model.active() as loaded:
                logs.append(loaded.model(ids).logits[0].log_softmax(-1))
        expected = torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="none")
        assert [place.nats for place in found.places] == pytest.approx(expected.sum(-1)[:-1].tolist(), abs=1e-5)

    def test_a_character_of_several_tokens_stands_at_its_first_one(self, house, pair_cache):
        store, run, _ = house
        text = "the 👩‍🚀 boat"
        found = measure_divergence(
            DivergenceSettings(left=run.dense, right=run.sparse[0], text=text), store, pair_cache
        )
        assert found.opening + "".join(place.text for place in found.places) == text
        assert any(place.text == "" for place in found.places)

    def test_of_a_text_that_is_too_long_the_end_is_looked_at(self, house, pair_cache):
        store, run, _ = house
        text = " ".join(["boat"] * 400)
        found = measure_divergence(
            DivergenceSettings(left=run.dense, right=run.sparse[0], text=text), store, pair_cache
        )
        assert len(found.places) == 255
        assert found.opening + "".join(place.text for place in found.places) == text

    def test_models_with_other_tokens_are_refused_in_words(self, house, pair_cache, tmp_path):
        store, run, _ = house
        folder = save_tiny(tmp_path / "m", seed=3)
        state = json.loads((folder / "tokenizer.json").read_text())
        state["model"]["merges"] = state["model"]["merges"][:1]
        (folder / "tokenizer.json").write_text(json.dumps(state))
        text = write_jsonl(tmp_path / "p.jsonl", passages(60))
        strange = pipeline.run(_settings(folder, text), store)
        settings = DivergenceSettings(left=run.dense, right=strange.dense, text=PROMPT)
        with pytest.raises(JobError, match="different tokens"):
            measure_divergence(settings, store, pair_cache)

    @pytest.mark.parametrize("text", ["", "  ", "w" * 100_001])
    def test_a_text_must_be_there(self, text):
        with pytest.raises(SettingsError, match="100,000"):
            DivergenceSettings(left="l", right="r", text=text)
