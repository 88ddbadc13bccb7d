"""Whole layers that are gone: which ones, what their neighbours take over, and that nothing else of
them is left.
"""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM

import sparsedash
from sparsedash.catalog.budgets import BUDGETS
from sparsedash.catalog.families import FAMILIES
from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration import calibration, curves
from sparsedash.engine.calibration.curves import layer_order
from sparsedash.engine.comparison.model_pair import ModelPairCache, both_resident
from sparsedash.engine.healing import healing
from sparsedash.engine.models.decoder_blocks import preallocated_cache, skipping
from sparsedash.engine.run.search import find_sparsity
from sparsedash.schema.errors import ModelError, SettingsError
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.schema.tolerance_settings import Tolerance
from tests.engine.conftest import passages
from tests.engine.export.conftest import exported, proofs  # noqa: F401 - a fixture
from tests.engine.run.small_runs import (
    MODEL_CACHE,
    RANDOM,
    fresh_records,
    must_not_run,
    ran,
    records,
)
from tests.engine.tiny import IDS, tiny_loaded, tiny_model, tiny_tokenizer

LAYERS, SLEB, SHORTGPT = (method_named(name) for name in ("layers", "sleb", "shortgpt"))
TEXT = torch.randint(1, 400, (20, 24), generator=torch.Generator().manual_seed(0)).tolist()


def without_by_hand(loaded, gone):
    """A copy of the model whose list of blocks has no such blocks."""
    model = copy.deepcopy(loaded.model)
    owner, _, name = loaded.family.blocks.rpartition(".")
    blocks = model.get_submodule(loaded.family.blocks)
    left = torch.nn.ModuleList(block for index, block in enumerate(blocks) if index not in gone)
    setattr(model.get_submodule(owner), name, left)
    for place, block in enumerate(left):
        for module in block.modules():
            vars(module).update(
                {key: place for key in ("layer_idx", "layer_id") if key in vars(module)}
            )
    model.config.update({"num_hidden_layers": len(left)})
    if hasattr(model.config, "layer_types"):
        model.config.layer_types = [
            kind for i, kind in enumerate(model.config.layer_types) if i not in gone
        ]
    return model


@pytest.mark.parametrize("gone", [(0,), (1, 2)], ids=str)
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_model_without_layers_reads_and_writes_as_one_that_never_had_them(model_type, gone):
    loaded = tiny_loaded(model_type)
    dense = loaded.model(IDS).logits
    by_hand = without_by_hand(loaded, gone)
    with skipping(loaded.model.base_model, loaded.blocks, gone):
        cache = preallocated_cache(16)
        read = loaded.model(IDS, cache=cache, use_cache=True).logits
        assert cache.get_seq_length() == 12
        after = loaded.model(IDS[:, :1], cache=cache, use_cache=True).logits
    whole = by_hand(torch.cat([IDS, IDS[:, :1]], dim=1), use_cache=False).logits
    assert torch.allclose(torch.cat([read, after], dim=1), whole, atol=1e-4)
    assert not torch.allclose(read, dense, atol=1e-2) and torch.equal(
        loaded.model(IDS).logits, dense
    )


@torch.no_grad()
@pytest.mark.parametrize("saliency", ["divergence", "perplexity"])
def test_each_time_the_layer_goes_without_which_the_loss_is_least(saliency, monkeypatch):
    monkeypatch.setattr(curves, "judged_tokens", lambda vocabulary: 10_000)
    loaded = tiny_loaded("llama", num_hidden_layers=5)
    method = replace(SLEB, saliency=saliency)
    order = list[int]()
    ids = torch.tensor(TEXT)
    removed = layer_order(loaded, lambda: TEXT, method, (), lambda share: None)
    dense = loaded.model(ids).logits.log_softmax(-1)

    def loss(gone):
        with skipping(loaded.model.base_model, loaded.blocks, gone):
            scores = loaded.model(ids).logits.log_softmax(-1)
        if saliency == "perplexity":
            return -float(scores[:, :-1].gather(2, ids[:, 1:, None]).mean())
        return float((dense.exp() * (dense - scores)).sum(-1).mean())

    for _ in range(3):
        order += next(removed)
        losses = {
            index: loss({*order[:-1], index}) for index in range(5) if index not in order[:-1]
        }
        assert order[-1] == min(losses, key=losses.__getitem__)


@torch.no_grad()
def test_influence_is_how_much_a_block_turns_the_stream_and_chance_is_drawn_by_the_seed():
    loaded = tiny_loaded("llama", num_hidden_layers=5)
    states = loaded.model(torch.tensor(TEXT), output_hidden_states=True).hidden_states
    hooked = []
    handle = loaded.blocks[-1].register_forward_hook(
        lambda module, inputs, output: hooked.append(output)
    )
    loaded.model(torch.tensor(TEXT))
    handle.remove()
    # The last of them is after the final norm.
    states = [*states[:-1], hooked[0][0] if isinstance(hooked[0], tuple) else hooked[0]]
    pairs = pairwise(states)
    turned = [
        1 - float(torch.cosine_similarity(before, after, dim=-1).mean()) for before, after in pairs
    ]
    (order,) = layer_order(loaded, lambda: TEXT, SHORTGPT, (), lambda share: None)
    assert order == sorted(range(5), key=turned.__getitem__)
    chance = method_named("random-layers")
    drawn = [
        next(layer_order(loaded, list, replace(chance, seed=seed), (), must_not_run))
        for seed in (1, 2)
    ]
    assert sorted(drawn[0]) == sorted(drawn[1]) == list(range(5)) and drawn[0] != drawn[1]


@pytest.fixture
def asked(settings):
    return replace(
        settings, methods=(LAYERS, SLEB), sparsities_permille=(300, 600), prompts=("the lamp",)
    )


def test_a_run_says_which_layers_went_and_the_second_sparsity_finds_the_order(
    asked, store, monkeypatch
):
    tried = []
    found = calibration.layer_order
    monkeypatch.setattr(
        calibration,
        "layer_order",
        lambda *given: (tried.append(each) or each for each in found(*given)),
    )
    run = ran(asked, store)
    dense, *sparse = records(store, run)
    # Two of three at most: by influence all are found at once, by what is lost each once.
    assert len(tried) == 3 and [sum(w == 0 for w in each.pruned.widths) for each in sparse] == [
        1,
        2,
        1,
        2,
    ]
    for one, two in (sparse[:2], sparse[2:]):
        assert all(
            b == 0 for a, b in zip(one.pruned.widths, two.pruned.widths, strict=True) if a == 0
        )
    made = sparse[0].pruned
    assert (
        made.reached.kv_cache
        == made.reached.channels
        == made.reached.weights
        == pytest.approx(1 / 3)
    )
    assert not (made.layer_errors or made.passage_errors or made.held_out_errors)
    assert len({each.outcomes for each in (dense, *sparse)}) == 5
    # No statistics of MLPs, which layers do not need.
    assert "calibrate" not in run.seconds
    # Taking over tells the two apart, also where they lose the same layer.
    again = ran(replace(asked, prompts=()), store)
    assert records(store, again) == [dense, *sparse] and again.warnings == run.warnings
    assert "calibration tokens per channel" in " ".join(run.warnings)


def test_what_stays_takes_over_in_the_model_that_is_streamed_as_in_the_one_in_memory(
    asked, store, tmp_path
):
    streamed = records(store, ran(replace(asked, residency="streamed"), store))
    assert streamed == fresh_records(asked, tmp_path / "fresh")


def test_its_neighbours_bring_the_stream_nearer_to_dense():
    model = tiny_model("llama", num_hidden_layers=5)
    tokenizer = tiny_tokenizer()
    texts = passages(40)
    bare = replace(LAYERS, compensation="none")
    more = {"share": 0.4, "n_samples": 40, "length": 32}
    with pytest.warns(UserWarning, match="per channel"):
        made = [
            sparsedash.prune(model, tokenizer, texts, method=method, **more)
            for method in (LAYERS, bare)
        ]
    assert made[0].pruned.widths == made[1].pruned.widths
    ids = torch.tensor(
        [
            tokenizer(text)["input_ids"][:20]
            for text in texts
            if len(tokenizer(text)["input_ids"]) > 20
        ]
    )
    dense = model(ids).logits.log_softmax(-1)
    near, far = (
        float((dense.exp() * (dense - m.model(ids).logits.log_softmax(-1))).sum(-1).mean())
        for m in made
    )
    assert near < 0.8 * far


@pytest.mark.parametrize("model_type", ["gpt_neo", "gemma3_text", "opt", "smollm3"])
def test_from_python_the_model_has_fewer_layers_and_is_saved_and_loaded_as_such(
    model_type, tmp_path
):
    model = tiny_model(model_type)
    method = MethodSettings(pattern="layer", saliency="random", compensation="none")
    made = sparsedash.prune(
        model, tiny_tokenizer(), passages(40), method=method, share=0.3, n_samples=40
    )
    assert sorted(made.pruned.widths)[0] == 0 and made.forms == ("uniform",)
    assert made.model.generate(IDS, max_new_tokens=3, min_new_tokens=3).shape == (2, 15)
    made.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", trust_remote_code=False)
    assert again.config.num_hidden_layers == 2 and torch.equal(
        again(IDS).logits, made.model(IDS).logits
    )


def test_it_is_healed_exported_and_timed_as_a_model_that_is_really_smaller(
    asked, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(healing, "RATE", 1e-2)
    healed = replace(asked, methods=(SHORTGPT,), sparsities_permille=(300,), heal_steps=(0, 8))
    run = ran(healed, store)
    _, plain, healed = (record.pruned for record in records(store, run))
    assert healed.healed.after < healed.healed.before and healed.widths == plain.widths
    for number in range(2):
        done = exported((store, MODEL_CACHE, run), number, "uniform", tmp_path / str(number))
        assert done.proof.holds and done.layout == "2 of 3 layers, 96 channels in every block"
    with ModelPairCache(MODEL_CACHE).models([run.dense, run.sparse[0]], store, ignore_steps) as (
        dense,
        sparse,
    ):
        before = dense.loaded.model(IDS).logits
        with both_resident(dense, sparse, torch.float32) as (own, other):
            other.enter_()
            assert not torch.allclose(dense.loaded.model(IDS).logits, before, atol=1e-3)
            assert other.n_bytes < 0.85 * own.n_bytes
            own.enter_()
            assert torch.equal(dense.loaded.model(IDS).logits, before)
        assert torch.equal(dense.loaded.model(IDS).logits, before)


def test_a_search_tries_numbers_of_layers(asked, store):
    search = FindSettings(
        model=asked.model,
        calibration=asked.calibration,
        evaluation=replace(asked.evaluation, n_passages=30),
        method=SHORTGPT,
        tolerance=Tolerance(ratio=1000.0, points=100.0),
    )
    found = find_sparsity(search, store)
    assert found.steps == (333, 667) and found.trials
    made = [store.get(Record, key).pruned.widths for key in store.get(Run, found.key).sparse]
    assert all(0 in widths for widths in made)


def test_a_share_of_the_kv_cache_is_for_layers_alone(asked, store):
    channels = replace(RANDOM, budget="kv-cache")
    with pytest.raises(SettingsError, match="frees nothing of the KV cache") as refused:
        ran(replace(asked, methods=(channels,)), store)
    assert "a method that removes whole layers" in refused.value.advice
    run = ran(
        replace(asked, methods=(replace(SHORTGPT, budget="kv-cache"),), sparsities_permille=(300,)),
        store,
    )
    assert store.get(Record, run.sparse[0]).pruned.reached["kv-cache"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_budget_counts_what_a_layer_takes(model_type):
    from sparsedash.catalog.budgets import reached
    from sparsedash.catalog.model_shape import model_shape

    loaded = tiny_loaded(model_type)
    shape = model_shape(loaded.model.config.to_dict())
    found = reached(shape, (0, *shape.widths[1:]))
    by_hand = without_by_hand(loaded, (0,))
    n_dense, n_left = (
        sum(own.numel() for own in model.parameters()) for model in (loaded.model, by_hand)
    )
    assert found.bytes == pytest.approx(1 - n_left / n_dense)
    weights = [
        sum(p.weight.numel() for p in block.values()) for block in loaded.projections("decoder")
    ]
    assert found.weights == pytest.approx(weights[0] / sum(weights)) == pytest.approx(1 / 3)
    assert found.macs == pytest.approx(weights[0] / shape.n_matmul)
    assert {budget: found[budget] > 0 for budget in BUDGETS} == dict.fromkeys(BUDGETS, True)


def test_layers_of_a_model_that_counts_them_in_its_attention_are_refused():
    model = tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ModelError, match="divides attention by the number of the layer"):
        sparsedash.prune(model, tiny_tokenizer(), passages(60), method="random-layers", share=0.3)
