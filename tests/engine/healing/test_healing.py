"""Healing brings a sparse model nearer to the dense one, or leaves it as it is; killed and resumed
it ends the same.
"""

from dataclasses import replace
from itertools import chain

import pytest
import torch

from sparsedash.engine.healing import healing
from sparsedash.engine.healing.healing import heal
from sparsedash.engine.healing.healing_checkpoint import HealingCheckpoint
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.pruning.surgery import (
    PrunedMlp,
    out_weight,
    pruned,
    reparametrised,
)
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.progress import ignore_steps
from sparsedash.storage.checkpoint import StageCheckpoint
from sparsedash.storage.store import Store
from tests.engine.tiny import IDS, as_loaded, seeded, tiny_loaded, tiny_model

N_STEPS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A step of a tiny model is as good as many of a large one, and every second one is looked at
    and kept.
    """
    for name, value in {
        "RATE": 1e-2,
        "WARM_STEPS": 1,
        "CHECK_EVERY": 2,
        "HEAL_BATCH_TOKENS": 256,
    }.items():
        monkeypatch.setattr(healing, name, value)
    # Logits in two parts of a pass, and sequences cut in two.
    monkeypatch.setattr(healing, "HEAL_LOGITS", 400 * 40)
    monkeypatch.setattr(healing, "HEAL_PASS_TOKENS", 64)
    monkeypatch.setattr("sparsedash.storage.checkpoint.CHECKPOINT_INTERVAL_S", 0.0)


def sequences(n=32):
    return torch.randint(
        1,
        400,
        (n, 70),
        generator=seeded(2),
    ).tolist()


def narrowed(loaded):
    """The model with every second channel of every MLP."""
    kept = torch.arange(0, loaded.mlps[0].width, 2)
    blocks = [PrunedMlp(kept, out_weight(mlp)[:, kept].clone()) for mlp in loaded.mlps]
    return PrunedChannels.dense(loaded).with_weights(blocks, {})


def healed(
    loaded,
    store,
    on_step=ignore_steps,
    texts=None,
    n_steps=N_STEPS,
    key="key",
    further=(),
):
    checkpoint = HealingCheckpoint(StageCheckpoint(store, "tiny"), key)
    more = {
        "n_steps": n_steps,
        "seed": 0,
        "on_step": on_step,
        "checkpoint": checkpoint,
    }
    return heal(
        narrowed(loaded),
        texts or sequences(),
        further,
        **more,
    )


def numbers(found):
    """All weights of a healed model, and its figures."""
    weights = list(found.norms.values())
    for block in found.blocks:
        weights += [block.out_weight, block.out_bias, *chain(*block.inner)]
    return (
        [weight.tolist() for weight in weights if weight is not None],
        found.figures.kept_step,
        found.figures.before,
        found.figures.after,
    )


def distance(loaded, blocks, norms):
    """From the dense model, on a text of its own."""
    dense = loaded.model(IDS).logits.log_softmax(-1)
    with reparametrised(loaded.model, norms), pruned(loaded.mlps, blocks):
        sparse = loaded.model(IDS).logits.log_softmax(-1)
    return float((dense.exp() * (dense - sparse)).sum())


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3", "gemma2", "bloom"])
def test_a_healed_model_is_nearer_to_the_dense_one_which_stays_as_it_was(
    model_type, store
):
    loaded = tiny_loaded(model_type)
    before = narrowed(loaded).blocks
    dense = loaded.model(IDS).logits
    healed_model = healed(loaded, store)
    assert (
        healed_model.figures.after < 0.98 * healed_model.figures.before
        and healed_model.figures.kept_step
        in (
            2,
            4,
            6,
        )
    )
    assert distance(loaded, healed_model.blocks, healed_model.norms) < distance(
        loaded, before, {}
    )
    assert torch.equal(loaded.model(IDS).logits, dense)
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    names = {
        name
        for name, weight in loaded.model.named_parameters()
        if weight.dim() == 1 and "norm" in name
    }
    assert names <= set(healed_model.norms)


def test_further_text_is_trained_on_and_none_of_it_is_held_out(store):
    loaded = tiny_loaded("llama")
    more = torch.randint(1, 400, (64, 70)).tolist()
    alone = healed(loaded, store)
    beside = healed(loaded, store, further=more, key="beside")
    assert (alone.figures.before, alone.figures.n_tokens) == (
        beside.figures.before,
        beside.figures.n_tokens,
    )
    assert alone.figures.after != beside.figures.after < beside.figures.before
    text = healing._Text.of(
        loaded,
        sequences(),
        more,
        40,
        0,
        lambda: None,
    )
    trained = text.of_numbers(list(chain(*text.batches)))
    # All of it before any comes again.
    assert {tuple(ids[:64]) for ids in more} < {
        tuple(piece) for piece in trained[: 2 * (30 + 64)]
    }
    beginnings = [ids[:64] for ids in more]
    assert all(piece[:64] not in beginnings for piece in text.of_numbers(text.judged))


def test_bfloat16_weights_are_healed_in_single_precision_and_kept_as_bfloat16(store):
    loaded = replace(as_loaded(tiny_model("llama").bfloat16()), dtype="bfloat16")
    healed_model = healed(loaded, store)
    assert healed_model.figures.after < 0.98 * healed_model.figures.before
    assert {
        healed_model.blocks[0].out_weight.dtype,
        *(norm.dtype for norm in healed_model.norms.values()),
    } == {torch.bfloat16}


@pytest.mark.parametrize(
    "rate",
    [300.0, 1e30],
    ids=["worse", "not finite"],
)
def test_weights_that_only_get_worse_are_not_kept(store, monkeypatch, rate):
    loaded = tiny_loaded("llama")
    monkeypatch.setattr(healing, "RATE", rate)
    healed_model = healed(loaded, store)
    assert (
        healed_model.figures.kept_step,
        healed_model.figures.after,
        healed_model.norms,
    ) == (
        0,
        healed_model.figures.before,
        {},
    )
    assert [block.out_weight.tolist() for block in healed_model.blocks] == [
        b.out_weight.tolist() for b in narrowed(loaded).blocks
    ]


def test_held_out_sequences_are_not_trained_on(store):
    loaded = tiny_loaded("llama")
    texts = sequences()
    changed_texts = sequences()
    for row in (15, 31):
        changed_texts[row] = [399 - token for token in texts[row]]
    healed_numbers = [
        numbers(
            healed(
                loaded,
                store,
                texts=texts_of_run,
                n_steps=1,
                key=str(texts_of_run[15]),
            )
        )
        for texts_of_run in (texts, changed_texts)
    ]
    assert (
        healed_numbers[0][0] == healed_numbers[1][0]
        and healed_numbers[0][2:] != healed_numbers[1][2:]
    )


class Killed(BaseException):
    """As a signal: nothing handles it."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_healing_that_is_killed_anywhere_resumes_to_the_same_weights(
    dtype, store, tmp_path
):
    loaded = replace(
        as_loaded(tiny_model("llama").to(getattr(torch, dtype))), dtype=dtype
    )
    whole = numbers(healed(loaded, Store(tmp_path / "whole")))
    for place in (0, 2, 3, 4, 6):
        folder = tmp_path / str(place)
        seen = []

        def on_step(step, place=place, seen=seen):
            seen.append(step.done)
            if step.worked > place or (place == N_STEPS and step.done == place):
                raise Killed

        with pytest.raises(Killed):
            healed(loaded, Store(folder), on_step)
        again = []
        opened = Store(folder)
        assert (
            numbers(
                healed(
                    loaded, opened, lambda step, again=again: again.append(step.done)
                )
            )
            == whole
        )
        assert min((done for done in again if done), default=N_STEPS) >= place // 2 * 2
        opened.close()


def test_the_best_weights_survive_a_kill_after_worse_ones(store, tmp_path, monkeypatch):
    monkeypatch.setattr(
        healing, "_rate", lambda number, n_steps: 1e-2 if number < 2 else 300.0
    )
    loaded = tiny_loaded("llama")
    whole = numbers(healed(loaded, Store(tmp_path / "whole")))
    assert whole[1] == 2

    def on_step(step):
        if step.done == 4:
            raise Killed

    with pytest.raises(Killed):
        healed(loaded, store, on_step)
    again = []
    assert numbers(healed(loaded, store, lambda step: again.append(step.done))) == whole
    assert set(again) <= {0, 4, 5, 6}


@pytest.mark.parametrize("at", ["one part", "a newer one that is not whole"])
def test_a_checkpoint_that_is_not_whole_is_not_used(at, store):
    loaded = tiny_loaded("llama")
    steps = []
    whole = numbers(healed(loaded, store))
    newest = [entry.name for entry in store.entries("artefacts")]
    assert len(newest) == 2 * (len(loaded.blocks) + 1)
    for name in (
        newest if at == "one part" else [name for name in newest if "/1/" in name]
    ):
        if name.endswith("/1"):
            store.drop_entry("artefacts", name)
    assert numbers(healed(loaded, store, lambda step: steps.append(step.done))) == whole
    assert (1 in steps) == (at == "one part") and 5 in steps


def test_a_checkpoint_that_finds_no_room_leaves_the_last_whole_one(store, monkeypatch):
    loaded = tiny_loaded("llama")
    done = []
    room = [10**9]
    monkeypatch.setattr(Store, "artefact_left", property(lambda _: room[0]))

    def on_step(step):
        # Of what comes after the first check the norms alone have room, in the second one and in
        # the third.
        room[0] = 10**9 if step.done < 3 else 8_000
        if step.done == N_STEPS:
            raise Killed

    with pytest.raises(Killed):
        healed(loaded, store, on_step)
    healed(loaded, store, lambda step: done.append(step.done))
    assert min(filter(None, done)) == 2


@pytest.mark.parametrize("n", [0, 15])
def test_too_little_text_is_refused(n, store):
    with pytest.raises(CalibrationError, match="Healing needs at least 16"):
        healed(
            tiny_loaded("llama"),
            store,
            texts=sequences(n) or [[1]],
        )
