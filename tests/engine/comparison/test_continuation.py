"""Continuations token by token: the same as by one model alone, by the store's own settings and widths; divergences."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from sparsedash.engine.comparison.continuation import ContinuationWriter, continue_prompt
from sparsedash.engine.comparison.divergence import measure_divergence
from sparsedash.engine.comparison.model_pair import ModelPairCache, RecordModel
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
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


def settings_of(folder, text, **changes):
    usual = RunSettings(
        model=str(folder),
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250, 500),
        calibration=CalibrationSettings(corpus=f"file:{text}[20:]", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{text}", n_passages=3),
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A store with a run of one tiny model, and a run of another one in bfloat16, over the same passages."""
    folder = tmp_path_factory.mktemp("runs")
    text = write_jsonl(folder / "passages.jsonl", passages(60))
    store = Store(folder / "data")
    first = settings_of(save_tiny(folder / "one"), text)
    other = settings_of(save_tiny(folder / "other", "gpt2", seed=5), text, dtype="bfloat16")
    yield store, *(pipeline.run(settings, store) for settings in (first, other))
    store.close()


def asked(left="l", right="r", prompt=PROMPT, n_tokens=6, **more):
    return ContinuationSettings(left=left, right=right, prompt=prompt, n_tokens=n_tokens, **more)


class House:
    """The runs, and the models that are in memory."""

    def __init__(self, runs, **room):
        self.store, self.run, self.other = runs
        self.dense, self.sparse = self.run.dense, self.run.sparse
        self.cache = ModelPairCache(ModelShelf(), **room)

    def write(self, left, right, on_step=ignore_steps, on_text=lambda *_: None, **settings):
        return continue_prompt(asked(left, right, **settings), self.store, self.cache, on_step, on_text)

    def models(self, *keys):
        with self.cache.models(keys, self.store, ignore_steps) as models:
            return models

    def diverge(self, right, text):
        settings = DivergenceSettings(left=self.dense, right=right, text=text)
        return measure_divergence(settings, self.store, self.cache)


@pytest.fixture
def house(runs):
    return House(runs)


def writer_of(loaded, **settings):
    return ContinuationWriter(RecordModel(loaded), asked(**settings))


def stop_at(stage, done):
    def on_step(step):
        if step.stage == stage and step.done == done:
            raise Cancelled

    return on_step


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_a_writer_writes_what_its_model_writes_alone(model_type):
    loaded = tiny_loaded(model_type)
    loaded.model.generation_config.eos_token_id = None
    writer = writer_of(loaded, n_tokens=8)
    writer.read(ignore_steps)
    for _ in range(8):
        writer.write()
    ids = loaded.tokenizer(PROMPT, return_tensors="pt").input_ids
    output = loaded.model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert writer.text == loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).rstrip("\ufffd")


def test_a_long_prompt_is_read_in_parts_with_the_same_outcome_and_a_longer_one_keeps_its_end(monkeypatch):
    whole, parted, long = (writer_of(tiny_loaded("llama"), prompt=text) for text in (PROMPT, PROMPT, "boat " * 400))
    whole.read(ignore_steps)
    monkeypatch.setattr("sparsedash.engine.comparison.continuation.CHUNK_TOKENS", 3)
    parted.read(ignore_steps)
    assert torch.allclose(whole._logits, parted._logits, atol=1e-4)
    seen = []
    long.read(lambda step: seen.append(step.total))
    assert set(seen) == {256 - 6}


def test_all_models_of_a_run_write_as_in_pairs_and_the_two_do_not_wait_for_the_others(house):
    texts, steps, again = [], [], []
    dense, (first, second) = house.dense, house.sparse

    def three(prompt, texts, steps):
        return house.write(
            dense, second, steps.append, lambda *written: texts.append(written), prompt=prompt, others=(first,)
        )

    together = three("the letter", texts, steps)
    alone, two = (house.write(dense, right, prompt="the letter") for right in (first, second))
    assert (together.left, together.right, together.others) == (two.left, two.right, (alone.right,))
    assert texts[5] == (two.left, two.right, "")
    assert texts[-1] == (two.left, two.right, alone.right)
    assert [step.message for step in steps if step.stage == "continue"] == ["2 of 3 models"] * 6 + ["model 3 of 3"] * 6
    three("a boat", again, [])
    assert len(again) == 6, "all three are in memory by now, and write in turn"


def test_both_sides_grow_together_and_are_those_of_the_record_models_alone(house):
    texts = []
    both = house.write(house.dense, house.sparse[1], on_text=lambda *written: texts.append(written))
    assert both.left != both.right
    assert texts[-1] == (both.left, both.right)
    assert len(texts) == 6
    for early, late in itertools.pairwise(texts):
        assert all(after.startswith(before) for before, after in zip(early, late, strict=True))
    (right,) = house.models(house.sparse[1])
    alone = ContinuationWriter(right, asked())
    alone.read(ignore_steps)
    for _ in range(6):
        alone.write()
    assert alone.text == both.right
    assert house.store.get(Continuation, both.key) == both


def test_the_loaded_model_is_the_dense_one_again_also_after_an_interrupted_exchange(house):
    def widths(loaded):
        return {mlp.width for mlp in loaded.mlps}

    left, right = house.models(house.dense, house.sparse[1])
    ids = torch.tensor([[5, 6, 7]])
    before = left.loaded.model(ids).logits
    with right.active() as loaded:
        assert not torch.equal(loaded.model(ids).logits, before)
        assert widths(loaded) == {48}
    assert torch.equal(left.loaded.model(ids).logits, before)
    with house.cache.models((house.dense, house.sparse[1]), house.store, ignore_steps) as (left, right):
        interrupted = right.active()
        interrupted.__enter__()
        assert widths(left.loaded) == {48}
    assert widths(left.loaded) == {96}
    record = house.store.get(Record, house.sparse[1])
    assert set(record.pruned.widths) == {48}


def test_two_models_of_other_families_and_number_formats_write_side_by_side(house):
    keys = house.sparse[0], house.other.sparse[1]
    both, swapped = house.write(*keys), house.write(*reversed(keys))
    assert (swapped.left, swapped.right) == (both.right, both.left)
    left, right = house.models(*keys)
    assert (left.loaded.dtype, right.loaded.dtype) == ("float32", "bfloat16")
    assert left.loaded is not right.loaded


def test_models_in_memory_are_neither_rebuilt_nor_read_again(house, monkeypatch):
    shelf = house.cache._shelf
    house.models(house.dense, house.other.dense)
    house.models(house.sparse[0], house.other.sparse[0])
    assert shelf.n_loaded == 2
    house.write(house.dense, house.sparse[1], prompt="the lamp")
    monkeypatch.setattr("sparsedash.engine.comparison.model_pair.rebuild_model", None)
    house.write(house.dense, house.sparse[1], prompt="the boat")


@pytest.mark.parametrize(("room", "n_kept"), [(0, 2), (2**30, 3)])
def test_only_so_much_memory_is_kept_for_models_that_are_not_in_use(room, n_kept, runs):
    house = House(runs, room_bytes=room)
    house.models(house.dense, house.sparse[0])
    house.models(house.dense, house.sparse[1])
    assert set(house.cache._kept) == {house.dense, house.sparse[1], *house.sparse[: n_kept - 2]}
    house.cache.let_go()
    assert not house.cache._kept


def test_a_stopped_continuation_is_kept_and_written_anew_on_the_next_request(house):
    pair = house.dense, house.sparse[0]
    with pytest.raises(Cancelled):
        house.write(*pair, stop_at("continue", 4), prompt="the letter went", n_tokens=9)
    kept = house.store.get(Continuation, asked(*pair, prompt="the letter went", n_tokens=9).key())
    assert kept.stopped
    whole = house.write(*pair, prompt="the letter went", n_tokens=9)
    assert not whole.stopped
    assert whole.left.startswith(kept.left) and whole.right.startswith(kept.right)
    assert len(whole.left + whole.right) > len(kept.left + kept.right) > 0
    assert house.store.get(Continuation, whole.key) == whole == house.write(*pair, prompt="the letter went", n_tokens=9)


def test_of_several_models_what_was_written_is_kept_and_nothing_before_the_first_token(house):
    def stop(step):
        if step.message == "model 3 of 3":
            raise Cancelled

    three = {"prompt": "an old lamp", "others": (house.sparse[0],)}
    with pytest.raises(Cancelled):
        house.write(house.dense, house.sparse[1], stop, **three)
    kept = house.store.get(Continuation, asked(house.dense, house.sparse[1], **three).key())
    assert kept.stopped and len(kept.others) == 1 and kept.left and kept.right
    with pytest.raises(Cancelled):
        house.write(house.dense, house.sparse[0], stop_at("read", 0), prompt="the door")
    assert house.store.get(Continuation, asked(house.dense, house.sparse[0], prompt="the door").key()) is None


def test_the_same_seed_draws_the_same_and_equal_models_draw_alike(house):
    def drawn(right=house.dense, temperature_percent=150, seed=3):
        return house.write(house.dense, right, temperature_percent=temperature_percent, seed=seed, n_tokens=20)

    both = drawn()
    assert both.left == both.right == drawn(house.sparse[0]).left
    assert len({both.left, drawn(seed=4).left, drawn(temperature_percent=0).left}) == 3


def test_draws_follow_the_distribution_of_the_model():
    writer = writer_of(tiny_loaded("llama"), temperature_percent=100, seed=1)
    shares = torch.tensor([0.6, 0.3, 0.1])
    writer._logits = shares.log()
    counts = torch.bincount(torch.tensor([writer._next_token() for _ in range(4000)]), minlength=3)
    assert torch.allclose(counts / 4000, shares, atol=0.03)


def test_writing_ends_where_the_model_ends(house):
    (dense,) = house.models(house.dense)
    writer = ContinuationWriter(dense, asked())
    writer.read(ignore_steps)
    writer._logits = torch.zeros(400)
    writer._logits[0] = 1.0
    for _ in range(2):
        writer.write()
        assert writer.finished and writer.text == ""


def test_a_continuation_of_a_result_that_is_gone_or_changed_is_refused(house, tmp_path):
    with pytest.raises(JobError, match="not in the store"):
        house.write(house.dense, "gone")
    folder = save_tiny(tmp_path / "m", seed=3)
    changed = pipeline.run(settings_of(folder, write_jsonl(tmp_path / "p.jsonl", passages(60))), house.store)
    save_tiny(folder, seed=4)
    with pytest.raises(JobError, match="not what it was"):
        house.write(house.dense, changed.sparse[0])


def test_equal_models_do_not_diverge_and_others_do(house):
    text = f"{PROMPT} the letter went home"
    same, other = (house.diverge(right, text) for right in (house.dense, house.sparse[1]))
    assert all(place.nats < 1e-6 and place.left == place.right for place in same.places)
    assert max(place.nats for place in other.places) > 1e-3
    assert other.opening + "".join(place.text for place in other.places) == text
    assert house.diverge(house.dense, text) == same


def test_it_is_the_divergence_of_the_right_distribution_from_the_left_one(house, monkeypatch):
    monkeypatch.setattr("sparsedash.engine.comparison.divergence.CHUNK_LOGITS", 3 * 400)
    found = house.diverge(house.sparse[1], PROMPT)
    left, right = house.models(house.dense, house.sparse[1])
    ids, logs = torch.tensor([left.loaded.tokenizer(PROMPT).input_ids]), []
    for record_model in (left, right):
        with record_model.active() as loaded:
            logs.append(loaded.model(ids).logits[0].log_softmax(-1))
    expected = torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="none")
    assert [place.nats for place in found.places] == pytest.approx(expected.sum(-1)[:-1].tolist(), abs=1e-5)


@pytest.mark.parametrize(("text", "n_places"), [("the 👩‍🚀 boat", None), (" ".join(["boat"] * 400), 255)])
def test_the_places_are_the_text_again_of_a_long_one_only_the_end_and_characters_of_many_tokens_once(
    text, n_places, house
):
    found = house.diverge(house.sparse[0], text)
    assert found.opening + "".join(place.text for place in found.places) == text
    assert len(found.places) == n_places if n_places else any(place.text == "" for place in found.places)


def test_models_with_other_tokens_are_refused_in_words(house, tmp_path):
    folder = save_tiny(tmp_path / "m", seed=3)
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["merges"] = state["model"]["merges"][:1]
    (folder / "tokenizer.json").write_text(json.dumps(state))
    other = pipeline.run(settings_of(folder, write_jsonl(tmp_path / "p.jsonl", passages(60))), house.store)
    with pytest.raises(JobError, match="cut this text into different tokens"):
        house.diverge(other.dense, PROMPT)


@pytest.mark.parametrize("text", ["", "  ", "w" * 100_001])
def test_a_text_must_be_there(text):
    with pytest.raises(SettingsError, match="100,000"):
        DivergenceSettings(left="l", right="r", text=text)
