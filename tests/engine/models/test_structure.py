"""MLPs found from a config, and what is refused because it could not be proven."""

from dataclasses import replace

import pytest
from transformers import AutoConfig

from sparsedash.catalog.presets import method_named
from sparsedash.catalog.run_rules import removal_error
from sparsedash.catalog.usual_settings import usual_method
from sparsedash.engine.models import structure_proof as proof
from sparsedash.engine.models.model_inspection import inspect_model, no_causal_type
from sparsedash.engine.models.structure import find_structure, meta_model
from sparsedash.engine.models.tiny_config import tiny_config
from sparsedash.schema.errors import ModelError, SettingsError

GATED = ("mlp.gate_proj", "mlp.up_proj")


def tiny_of(model_type):
    return tiny_config(AutoConfig.for_model(model_type))


@pytest.mark.parametrize(
    ("model_type", "blocks", "inner", "fused", "key", "value", "width"),
    [
        ("olmo3", "model.layers", GATED, 1, "intermediate_size", 64, 64),
        ("glm4", "model.layers", ("mlp.gate_up_proj",), 2, "intermediate_size", 64, 64),
        # Half of what the config says.
        ("moshi", "model.layers", ("mlp.fc1",), 2, "ffn_dim", 64, 32),
        (
            "gemma3",
            "model.language_model.layers",
            GATED,
            1,
            "text_config.intermediate_size",
            64,
            64,
        ),
        ("bart", "model.decoder.layers", ("fc1",), 1, "decoder_ffn_dim", 64, 64),
        ("mpt", "transformer.blocks", ("ffn.up_proj",), 1, "", 0, 128),
    ],
)
def test_the_mlps_and_the_key_of_their_width_are_found(
    model_type, blocks, inner, fused, key, value, width
):
    config = tiny_of(model_type)
    structure = find_structure(config, meta_model(config))
    assert structure.blocks == blocks and len(structure.mlps) == 4
    for layout in structure.mlps:
        assert (layout.inner, layout.fused) == (inner, fused)
        assert (layout.key, layout.value, layout.width) == (key, value, width)
    changes = structure.width_values([width // 2] * 4)
    assert changes == ({key: value // 2} if key else None)
    assert structure.width_values([width // 2, *[width] * 3]) is None


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bert", "it sees what it is to predict"),
        ("hrm_text", "its blocks cannot be run one by one"),
        ("gemma3n_text", "differs .*, and without a layer .* has other tensors"),
    ],
)
def test_what_is_not_proven_is_refused_with_what_failed(model_type, reason):
    with pytest.raises(ModelError, match=f"The model cannot be pruned: .*{reason}"):
        inspect_model(tiny_of(model_type), "The model")


def test_a_type_without_a_causal_model_is_refused_with_those_that_come_nearest():
    with pytest.raises(
        ModelError, match="has no causal language model of the type t5;"
    ):
        inspect_model(AutoConfig.for_model("t5"), "The model")
    unknown = no_causal_type("qwen4_moe")
    assert "does not know the type qwen4_moe; nearest: qwen3_moe, " in unknown


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mamba", "no MLP was found in it"),
        # A norm over the channels.
        ("bitnet", "more than its projections has the width of its MLPs"),
    ],
)
def test_a_model_without_channels_to_remove_can_lose_whole_layers(model_type, reason):
    shape = inspect_model(tiny_of(model_type), "The model")
    assert not any(shape.widths) and not shape.structure.layers_problem
    with pytest.raises(SettingsError, match=reason):
        raise removal_error(method_named("best"), shape)
    with pytest.raises(SettingsError, match="no MLP whose weights can be removed"):
        raise removal_error(replace(method_named("wanda"), scope="mlp"), shape)
    assert removal_error(method_named("layers"), shape) is None
    assert usual_method(shape) == "layers"


def test_blocks_that_text_alone_does_not_reach_are_left_alone():
    # Of every two blocks of this one the second looks at an image.
    shape = inspect_model(tiny_of("mllama"), "The model")
    assert [width > 0 for width in shape.widths] == [True, False, True, False]
    assert not shape.structure.plain_cache


def test_a_router_may_have_rows_of_shared_experts():
    structure = inspect_model(tiny_of("inkling_text"), "The model").structure
    assert structure.experts[0].n == 8 and not structure.experts_problem


def test_a_width_that_the_code_derives_is_said_outright():
    # Two thirds of 12,288, rounded up to a multiple of 256.
    structure = inspect_model(AutoConfig.for_model("lfm2"), "The model").structure
    assert structure.mlps[0].width == 8192
    assert structure.width_values([4096] * len(structure.mlps)) == {
        "intermediate_size": 4096,
        "block_ff_dim": 4096,
        "block_auto_adjust_ff_dim": False,
    }


def test_two_shared_experts_are_one_that_is_twice_as_wide():
    config = AutoConfig.for_model(
        "deepseek_v2",
        num_hidden_layers=2,
        num_experts_per_tok=6,
        n_shared_experts=2,
        first_k_dense_replace=1,
    )
    structure = inspect_model(config, "The model").structure
    assert structure.mlps[0].out == "mlp.down_proj" and structure.mlps[1] is None
    assert structure.experts[1].shared.width == 2 * structure.experts[1].width


def test_what_stock_code_cannot_load_and_what_the_cache_lacks_is_noted():
    without_key = inspect_model(tiny_of("bloom"), "m").structure
    assert (
        "no key for the width" in without_key.width_problem and without_key.plain_cache
    )
    by_depth = inspect_model(tiny_of("diffllama"), "m").structure
    assert "it differs" in by_depth.layers_problem and not by_depth.width_problem
    hybrid = inspect_model(tiny_of("qwen3_5_text"), "m").structure
    assert not hybrid.plain_cache and not hybrid.width_problem + hybrid.layers_problem


def test_a_wrong_structure_fails_its_proof():
    config = tiny_of("glm4")
    model = proof.tiny_random_model(config)
    structure = find_structure(config, model)
    ids = proof.some_ids()
    assert proof.problem_of(proof.require_narrowing, model, structure, ids) == ""
    attention = replace(
        structure.mlps[0],
        inner=("self_attn.v_proj",),
        out="self_attn.o_proj",
        width=16,
        fused=1,
    )
    wrong = replace(structure, mlps=(attention,) * 4)
    assert proof.mixing_blocks(model, wrong, ids) == [0, 1, 2, 3]
    assert proof.mixing_blocks(model, structure, ids) == []
    swapped = replace(structure, mlps=(replace(structure.mlps[0], fused=1),) * 4)
    assert proof.problem_of(proof.require_narrowing, model, swapped, ids)


def test_stock_code_still_makes_every_layer_equally_wide():
    # Configs may say a width for each layer (`per_layer_config`), which no code of a model reads
    # yet. Once this fails, exports can say it, and nothing needs to be padded.
    config = tiny_of("llama")
    config.per_layer_config = {0: {"intermediate_size": 32}}
    config.allow_global_per_layer_attribute_access = True
    layers = meta_model(config).model.layers
    assert len({block.mlp.down_proj.in_features for block in layers}) == 1


@pytest.mark.parametrize(
    ("model_type", "n_mixtures", "n_groups"),
    [("qwen3_moe", 4, 1), ("deepseek_v3", 3, 2)],
)
def test_experts_and_what_follows_their_number_are_found(
    model_type, n_mixtures, n_groups
):
    structure = inspect_model(tiny_of(model_type), "m").structure
    assert len(structure.mixtures) == n_mixtures
    layout = structure.mixtures[3]
    assert (layout.path, layout.router) == ("mlp.experts", "mlp.gate")
    assert (layout.n, layout.width, layout.n_chosen, layout.n_groups) == (
        8,
        32,
        2,
        n_groups,
    )
    assert (
        layout.tensors["mlp.experts.down_proj"]
        == layout.tensors["mlp.gate.weight"]
        == 0
    )
    assert not structure.experts_problem + structure.expert_width_problem
    # One key says the widths of DeepSeek's routed and shared experts.
    assert (layout.shared is not None) == (model_type == "deepseek_v3")
