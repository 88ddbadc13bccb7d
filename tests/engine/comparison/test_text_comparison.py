"""Continuations token by token: the same as by one model alone, by the store's own settings and
widths; divergences.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from sparsedash.engine.comparison import text_comparison
from sparsedash.engine.comparison.model_pair import RecordModel
from sparsedash.engine.comparison.text_comparison import ContinuationWriter
from sparsedash.schema.errors import Cancelled, JobError
from sparsedash.schema.pair_records import Continuation, DivergenceSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from tests.engine.comparison.conftest import PROMPT, House, continuation_request
from tests.engine.tiny import CONFIGS, tiny_loaded, tiny_tokenizer


def writer_of(loaded, **settings):
    return ContinuationWriter(RecordModel(loaded), continuation_request(**settings))


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
    output = loaded.model.generate(
        ids,
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=0,
    )
    assert writer.text == loaded.tokenizer.decode(
        output[0, ids.shape[1] :], skip_special_tokens=True
    ).rstrip("\ufffd")


def test_a_long_prompt_is_read_in_parts_with_the_same_outcome_and_a_longer_one_keeps_its_end(
    monkeypatch,
):
    whole, parted, long = (
        writer_of(tiny_loaded("llama"), prompt=text)
        for text in (PROMPT, PROMPT, "boat " * 400)
    )
    whole.read(ignore_steps)
    monkeypatch.setattr("sparsedash.engine.texts.next_logits.CHUNK_TOKENS", 3)
    parted.read(ignore_steps)
    assert torch.allclose(
        whole._logits,
        parted._logits,
        atol=1e-4,
    )
    seen = []
    long.read(lambda step: seen.append(step.total))
    assert set(seen) == {256 - 6}
    assert (
        whole.n_unread
        == 0
        < long.n_unread
        == len(long._record_model.loaded.tokens("boat " * 400)) - (256 - 6)
    )


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_text_ends_where_the_model_s_context_does(model_type):
    loaded = tiny_loaded(model_type)
    loaded.model.generation_config.eos_token_id = None
    writer = writer_of(
        loaded,
        prompt="boat " * 400,
        n_tokens=400,
    )
    writer.read(ignore_steps)
    for _ in range(400):
        writer.write()
    assert (
        writer.finished
        and len(writer._written) == 256 - 128 + 1
        and writer.n_unread > 0
    )


def test_all_models_of_a_run_write_as_in_pairs_and_the_two_do_not_wait_for_the_others(
    house,
):
    texts = []
    steps = []
    again = []
    dense = house.dense
    (first, second) = house.sparse

    def three(prompt, texts, steps):
        return house.write(
            dense,
            second,
            steps.append,
            lambda *written: texts.append(written),
            prompt=prompt,
            others=(first,),
        )

    together = three("the letter", texts, steps)
    alone, two = (
        house.write(dense, right, prompt="the letter") for right in (first, second)
    )
    assert (together.left, together.right, together.others) == (
        two.left,
        two.right,
        (alone.right,),
    )
    assert texts[5] == (two.left, two.right, "")
    assert texts[-1] == (two.left, two.right, alone.right)
    assert [step.message for step in steps if step.stage == "continue"] == [
        "2 of 3 models"
    ] * 6 + ["model 3 of 3"] * 6
    three("a boat", again, [])
    assert len(again) == 6, "all three are in memory by now, and write in turn"


def test_the_loaded_model_is_the_dense_one_again_also_after_an_interrupted_exchange(
    house,
):
    def widths(loaded):
        return {mlp.width for mlp in loaded.mlps}

    with house.models(house.dense, house.sparse[1]) as (left_model, right):
        ids = torch.tensor([[5, 6, 7]])
        before = left_model.loaded.model(ids).logits
        with right.active() as loaded:
            assert not torch.equal(loaded.model(ids).logits, before)
            assert (
                widths(loaded)
                == set(house.store.get(Record, house.sparse[1]).pruned.widths)
                == {48}
            )
        assert torch.equal(left_model.loaded.model(ids).logits, before)
        interrupted = right.active()
        interrupted.__enter__()
        assert widths(left_model.loaded) == {48}
    assert widths(left_model.loaded) == {96}


def test_two_models_of_other_families_and_number_formats_write_side_by_side(house):
    keys = house.sparse[0], house.other.sparse[1]
    both = house.write(*keys)
    swapped = house.write(*reversed(keys))
    assert (swapped.left, swapped.right) == (both.right, both.left)
    with house.models(*keys) as (left_model, right):
        assert (left_model.loaded.dtype, right.loaded.dtype) == ("float32", "bfloat16")


def held(house, *keys):
    with house.models(*keys):
        pass


def test_models_in_memory_are_neither_rebuilt_nor_read_again(house, monkeypatch):
    held(house, house.dense, house.other.dense)
    held(house, house.sparse[0], house.other.sparse[0])
    assert house.cache._model_cache.n_loaded == 2
    house.write(
        house.dense,
        house.sparse[1],
        prompt="the lamp",
    )
    monkeypatch.setattr("sparsedash.engine.comparison.model_pair.rebuild_model", None)
    house.write(
        house.dense,
        house.sparse[1],
        prompt="the boat",
    )


@pytest.mark.parametrize(("room", "n_kept"), [(0, 2), (2**30, 3)])
def test_only_so_much_memory_is_kept_for_models_that_are_not_in_use(room, n_kept, runs):
    house = House(runs, room_bytes=room)
    held(house, house.dense, house.sparse[0])
    held(house, house.dense, house.sparse[1])
    assert [
        house.cache.holds(key)
        for key in (house.dense, house.sparse[1], house.sparse[0])
    ] == [
        True,
        True,
        n_kept > 2,
    ]
    house.cache.clear()
    assert not house.cache.holds(house.dense)


def test_a_stopped_continuation_is_kept_and_written_anew_on_the_next_request(house):
    pair = (house.dense, house.sparse[0])
    more = {"prompt": "the letter went", "n_tokens": 9}
    texts = []
    with pytest.raises(Cancelled):
        house.write(*pair, stop_at("read", 0), **more)
    assert (
        house.store.get(Continuation, continuation_request(*pair, **more).key()) is None
    )
    with pytest.raises(Cancelled):
        house.write(
            *pair,
            stop_at("continue", 4),
            **more,
        )
    kept = house.store.get(Continuation, continuation_request(*pair, **more).key())
    whole = house.write(
        *pair,
        on_text=lambda *written: texts.append(written),
        **more,
    )
    assert kept.stopped and not whole.stopped
    assert texts[-1] == (whole.left, whole.right) and len(texts) == 9
    for early, late in itertools.pairwise(texts):
        assert all(
            after.startswith(before) for before, after in zip(early, late, strict=True)
        )
    assert whole.left.startswith(kept.left) and whole.right.startswith(kept.right)
    assert len(whole.left + whole.right) > len(kept.left + kept.right) > 0
    assert (
        house.store.get(Continuation, whole.key) == whole == house.write(*pair, **more)
    )
    with pytest.raises(JobError, match="no longer stored"):
        house.write(house.dense, "gone")


def test_the_same_seed_draws_the_same_and_equal_models_draw_alike(house):
    def drawn(right=house.dense, temperature_percent=150, seed=3):
        return house.write(
            house.dense,
            right,
            temperature_percent=temperature_percent,
            seed=seed,
        )

    both = drawn()
    assert both.left == both.right == drawn(house.sparse[0]).left
    assert len({both.left, drawn(seed=4).left, drawn(temperature_percent=0).left}) == 3


def test_draws_follow_the_distribution_of_the_model():
    writer = writer_of(
        tiny_loaded("llama"),
        temperature_percent=100,
        seed=1,
    )
    shares = torch.tensor([0.6, 0.3, 0.1])
    writer._logits = shares.log()
    counts = torch.bincount(
        torch.tensor([writer._next_token() for _ in range(4000)]), minlength=3
    )
    assert torch.allclose(counts / 4000, shares, atol=0.03)


def test_writing_ends_where_the_model_ends():
    writer = writer_of(tiny_loaded("llama"))
    writer.read(ignore_steps)
    writer._logits = torch.zeros(400)
    writer._logits[0] = 1.0
    for _ in range(2):
        writer.write()
        assert writer.finished and writer.text == ""


def test_equal_models_do_not_diverge_and_others_do(house):
    text = f"{PROMPT} the letter went home"
    same, divergence = (
        house.diverge(right, text) for right in (house.dense, house.sparse[1])
    )
    assert all(place.nats < 1e-6 and place.left == place.right for place in same.places)
    assert max(place.nats for place in divergence.places) > 1e-3
    assert (
        divergence.opening + "".join(place.text for place in divergence.places) == text
    )
    assert house.diverge(house.dense, text) == same


def test_it_is_the_divergence_of_the_right_distribution_from_the_left_one(
    house, monkeypatch
):
    monkeypatch.setattr(
        "sparsedash.engine.comparison.text_comparison.CHUNK_LOGITS", 3 * 400
    )
    divergence = house.diverge(house.sparse[1], PROMPT)
    logs = []
    with house.models(house.dense, house.sparse[1]) as models:
        for record_model in models:
            with record_model.active() as loaded:
                ids = torch.tensor([loaded.tokenizer(PROMPT).input_ids])
                logs.append(loaded.model(ids).logits[0].log_softmax(-1))
    expected = torch.nn.functional.kl_div(
        logs[1],
        logs[0],
        log_target=True,
        reduction="none",
    )
    assert [place.nats for place in divergence.places] == pytest.approx(
        expected.sum(-1)[:-1].tolist(), abs=1e-5
    )


@pytest.mark.parametrize(
    ("text", "n_places"), [("the 👩‍🚀 boat", None), (" ".join(["boat"] * 400), 255)]
)
def test_the_places_are_the_text_again_of_a_long_one_only_the_end_and_characters_of_many_tokens_once(
    text, n_places, house
):
    divergence = house.diverge(house.sparse[0], text)
    assert (
        divergence.opening + "".join(place.text for place in divergence.places) == text
    )
    assert (
        len(divergence.places) == n_places
        if n_places
        else any(place.text == "" for place in divergence.places)
    )


def test_of_a_long_text_a_model_reads_its_end_after_what_begins_every_text():
    loaded = replace(tiny_loaded("llama"), tokenizer=tiny_tokenizer("<|end|> $A"))
    text = " ".join(f"boat{i}" for i in range(300))
    read = []

    def hook(_, no, given):
        read.extend(*given["input_ids"].tolist())

    loaded.model.register_forward_pre_hook(hook, with_kwargs=True)
    settings = DivergenceSettings(
        left="l",
        right="r",
        text=text,
    )
    divergence = text_comparison._measured(
        (RecordModel(loaded),) * 2, settings, ignore_steps
    )
    front, ids = loaded.prefix_and_ids(text)
    assert read == [*front, *ids[-255:-1]] * 2
    assert (
        divergence.opening + "".join(place.text for place in divergence.places) == text
    )


def test_models_with_other_tokens_are_refused_in_words():
    loaded = tiny_loaded("llama")
    models = (
        RecordModel(loaded),
        RecordModel(replace(loaded, tokenizer=tiny_tokenizer("<|end|> $A"))),
    )
    with pytest.raises(JobError, match="tokenise this text differently"):
        text_comparison._measured(
            models,
            DivergenceSettings(
                left="l",
                right="r",
                text=PROMPT,
            ),
            ignore_steps,
        )
