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
from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration import calibration, curves
from sparsedash.engine.calibration.curves import layer_order
from sparsedash.engine.comparison.model_pair import ModelPairCache, both_resident
from sparsedash.engine.healing import healing
from sparsedash.engine.models.decoder_blocks import preallocated_cache, skipping
from sparsedash.engine.run.search import find_sparsity
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import KeptParts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.schema.tolerance_settings import Tolerance
from tests.engine.conftest import passages
from tests.engine.export.conftest import exported, proofs  # noqa: F401 - a fixture
from tests.engine.run.small_runs import (
    MODEL_CACHE,
    must_not_run,
    ran,
    records,
)
from tests.engine.tiny import (
    CONFIGS,
    IDS,
    seeded,
    tiny_loaded,
    tiny_model,
    tiny_tokenizer,
)

LAYERS, SLEB, SHORTGPT = (method_named(name) for name in ("layers", "sleb", "shortgpt"))
TEXT = torch.randint(
    1,
    400,
    (20, 24),
    generator=seeded(0),
).tolist()


def without_by_hand(loaded, gone):
    """A copy of the model whose list of blocks has no such blocks."""
    model = copy.deepcopy(loaded.model)
    owner, _, name = loaded.structure.blocks.rpartition(".")
    blocks = model.get_submodule(loaded.structure.blocks)
    kept_blocks = torch.nn.ModuleList(
        block for index, block in enumerate(blocks) if index not in gone
    )
    setattr(model.get_submodule(owner), name, kept_blocks)
    for place, block in enumerate(kept_blocks):
        for module in block.modules():
            vars(module).update(
                {key: place for key in ("layer_idx", "layer_id") if key in vars(module)}
            )
    model.config.update({"num_hidden_layers": len(kept_blocks)})
    if hasattr(model.config, "layer_types"):
        model.config.layer_types = [
            kind for i, kind in enumerate(model.config.layer_types) if i not in gone
        ]
    return model


@pytest.mark.parametrize(
    "gone",
    [(0,), (1, 2)],
    ids=str,
)
@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_a_model_without_layers_reads_and_writes_as_one_that_never_had_them(
    model_type, gone
):
    loaded = tiny_loaded(model_type)
    dense = loaded.model(IDS).logits
    by_hand = without_by_hand(loaded, gone)
    with skipping(loaded.model.base_model, loaded.blocks, gone):
        cache = preallocated_cache(16)
        read = loaded.model(IDS, cache=cache, use_cache=True).logits
        assert cache.get_seq_length() == 12
        after = loaded.model(
            IDS[:, :1],
            cache=cache,
            use_cache=True,
        ).logits
    whole = by_hand(torch.cat([IDS, IDS[:, :1]], dim=1), use_cache=False).logits
    assert torch.allclose(
        torch.cat([read, after], dim=1),
        whole,
        atol=1e-4,
    )
    assert not torch.allclose(read, dense, atol=1e-2) and torch.equal(
        loaded.model(IDS).logits, dense
    )


@torch.no_grad()
@pytest.mark.parametrize("saliency", ["divergence", "perplexity"])
def test_each_time_the_layer_goes_without_which_the_loss_is_least(
    saliency, monkeypatch
):
    monkeypatch.setattr(curves, "judged_tokens", lambda vocabulary: 10_000)
    loaded = tiny_loaded("llama", num_hidden_layers=5)
    method = replace(SLEB, saliency=saliency)
    order = list[int]()
    ids = torch.tensor(TEXT)
    removed = layer_order(
        loaded,
        lambda: TEXT,
        method,
        (),
        lambda share: None,
    )
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
            index: loss({*order[:-1], index})
            for index in range(5)
            if index not in order[:-1]
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
        1 - float(torch.cosine_similarity(before, after, dim=-1).mean())
        for before, after in pairs
    ]
    (order,) = layer_order(
        loaded,
        lambda: TEXT,
        SHORTGPT,
        (),
        lambda share: None,
    )
    assert order == sorted(range(5), key=turned.__getitem__)
    chance = method_named("random-layers")
    drawn = [
        next(
            layer_order(
                loaded,
                list,
                replace(chance, seed=seed),
                (),
                must_not_run,
            )
        )
        for seed in (1, 2)
    ]
    assert (
        sorted(drawn[0]) == sorted(drawn[1]) == list(range(5)) and drawn[0] != drawn[1]
    )


@pytest.fixture
def layer_settings(settings):
    return replace(
        settings,
        methods=(LAYERS, SLEB),
        sparsities_permille=(300, 600),
        prompts=("the lamp",),
    )


def test_a_run_says_which_layers_went_and_the_second_sparsity_finds_the_order(
    layer_settings, store, monkeypatch
):
    tried = []
    find_order = calibration.layer_order
    monkeypatch.setattr(
        calibration,
        "layer_order",
        lambda *given: (
            tried.append(record) or record for record in find_order(*given)
        ),
    )
    run = ran(layer_settings, store)
    dense, *sparse = records(store, run)
    # Two of three at most: by influence all are found at once, by what is lost each once.
    assert len(tried) == 3
    assert [record.pruned.widths.count(0) for record in sparse] == [1, 2, 1, 2]
    for one, two in (sparse[:2], sparse[2:]):
        assert all(
            b == 0
            for a, b in zip(
                one.pruned.widths,
                two.pruned.widths,
                strict=True,
            )
            if a == 0
        )
    pruned = sparse[0].pruned
    assert (
        pruned.reached.kv_cache
        == pruned.reached.channels
        == pruned.reached.weights
        == pytest.approx(1 / 3)
    )
    assert not (pruned.layer_errors or pruned.passage_errors or pruned.held_out_errors)
    assert len({record.outcomes for record in (dense, *sparse)}) == 5
    # No statistics of MLPs, which layers do not need.
    assert "calibrate" not in run.seconds
    # Taking over tells the two apart, also where they lose the same layer.
    again = ran(replace(layer_settings, prompts=()), store)
    assert records(store, again) == [dense, *sparse] and again.warnings == run.warnings
    assert "calibration tokens per channel" in " ".join(run.warnings)


def test_its_neighbours_bring_the_stream_nearer_to_dense():
    model = tiny_model("llama", num_hidden_layers=5)
    tokenizer = tiny_tokenizer()
    texts = passages(40)
    bare = replace(LAYERS, compensation="none")
    more = {
        "share": 0.4,
        "n_samples": 40,
        "length": 32,
    }
    with pytest.warns(UserWarning, match="per channel"):
        models = [
            sparsedash.prune(
                model,
                tokenizer,
                texts,
                method=method,
                **more,
            )
            for method in (LAYERS, bare)
        ]
    assert models[0].pruned.widths == models[1].pruned.widths
    ids = torch.tensor(
        [
            tokenizer(text)["input_ids"][:20]
            for text in texts
            if len(tokenizer(text)["input_ids"]) > 20
        ]
    )
    dense = model(ids).logits.log_softmax(-1)
    near, far = (
        float(
            (dense.exp() * (dense - m.model(ids).logits.log_softmax(-1))).sum(-1).mean()
        )
        for m in models
    )
    assert near < 0.8 * far


@pytest.mark.parametrize("model_type", ["gpt_neo", "gemma3_text", "opt", "smollm3"])
def test_from_python_the_model_has_fewer_layers_and_is_saved_and_loaded_as_such(
    model_type, tmp_path
):
    model = tiny_model(model_type)
    method = MethodSettings(
        pattern="layer",
        saliency="random",
        compensation="none",
    )
    sparse = sparsedash.prune(
        model,
        tiny_tokenizer(),
        passages(40),
        method=method,
        share=0.3,
        n_samples=40,
    )
    assert sorted(sparse.pruned.widths)[0] == 0 and sparse.forms == ("uniform",)
    assert sparse.model.generate(
        IDS,
        max_new_tokens=3,
        min_new_tokens=3,
    ).shape == (2, 15)
    sparse.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", trust_remote_code=False
    )
    assert again.config.num_hidden_layers == 2 and torch.equal(
        again(IDS).logits, sparse.model(IDS).logits
    )


def test_it_is_healed_exported_and_timed_as_a_model_that_is_really_smaller(
    layer_settings, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(healing, "RATE", 1e-2)
    healed = replace(
        layer_settings,
        methods=(SHORTGPT,),
        sparsities_permille=(300,),
        heal_steps=(0, 8),
    )
    run = ran(healed, store)
    _, plain, healed = (record.pruned for record in records(store, run))
    assert healed.healed.after < healed.healed.before and healed.widths == plain.widths
    for number in range(2):
        done = exported(
            (store, MODEL_CACHE, run), number, "uniform", tmp_path / str(number)
        )
        assert (
            done.proof.holds
            and done.layout == "2 of 3 layers, 96 channels in every block"
        )
    with ModelPairCache(MODEL_CACHE).models(
        [run.dense, run.sparse[0]], store, ignore_steps
    ) as (
        dense,
        sparse,
    ):
        before = dense.loaded.model(IDS).logits
        with both_resident(dense, sparse, torch.float32) as (dense_model, sparse_model):
            sparse_model.enter_()
            assert not torch.allclose(
                dense.loaded.model(IDS).logits,
                before,
                atol=1e-3,
            )
            assert sparse_model.n_bytes < 0.85 * dense_model.n_bytes
            dense_model.enter_()
            assert torch.equal(dense.loaded.model(IDS).logits, before)
        assert torch.equal(dense.loaded.model(IDS).logits, before)


def test_a_search_tries_numbers_of_layers(layer_settings, store):
    search = FindSettings(
        model=layer_settings.model,
        calibration=layer_settings.calibration,
        evaluation=replace(layer_settings.evaluation, n_passages=30),
        method=SHORTGPT,
        tolerance=Tolerance(ratio=1000.0, points=100.0),
    )
    result = find_sparsity(search, store)
    assert result.steps == (333, 667) and result.trials
    widths_of_trials = [
        store.get(Record, key).pruned.widths
        for key in store.get(Run, result.key).sparse
    ]
    assert all(0 in widths for widths in widths_of_trials)


def test_removed_layers_free_their_share_of_the_kv_cache(layer_settings, store):

    run = ran(
        replace(
            layer_settings,
            methods=(replace(SHORTGPT, budget="kv-cache"),),
            sparsities_permille=(300,),
        ),
        store,
    )
    assert store.get(Record, run.sparse[0]).pruned.reached["kv-cache"] == pytest.approx(
        1 / 3
    )


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_every_budget_counts_what_a_layer_takes(model_type):
    from sparsedash.catalog.budgets import reached

    loaded = tiny_loaded(model_type)
    shape = loaded.shape
    without_first = KeptParts(widths=(0, *shape.widths[1:]), removed_layers=(0,))
    share_reached = reached(shape, without_first)
    by_hand = without_by_hand(loaded, (0,))
    n_dense = sum(parameter.numel() for parameter in loaded.model.parameters())
    n_left = sum(parameter.numel() for parameter in by_hand.parameters())
    assert share_reached.bytes == pytest.approx(1 - n_left / n_dense)
    weights = []
    for block in loaded.projections("decoder"):
        weights.append(sum(module.weight.numel() for module in block.values()))
    assert (
        share_reached.weights
        == pytest.approx(weights[0] / sum(weights))
        == pytest.approx(1 / 3)
    )
    assert share_reached.macs == pytest.approx(weights[0] / shape.n_matmul)
    assert {budget: share_reached[budget] > 0 for budget in BUDGETS} == dict.fromkeys(
        BUDGETS, True
    )


def test_layers_of_a_model_that_counts_them_in_its_attention_are_refused():
    model = tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(
        SettingsError, match="Whole layers of this model cannot be removed"
    ):
        sparsedash.prune(
            model,
            tiny_tokenizer(),
            passages(60),
            method="random-layers",
            share=0.3,
        )
