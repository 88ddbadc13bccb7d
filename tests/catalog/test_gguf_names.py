"""What is mapped or harmless in a GGUF file is a name that llama.cpp's writers write; all else is
refused by name.
"""

import pytest
from gguf import constants

from sparsedash.catalog.gguf_names import (
    ARCHITECTURES,
    HARMLESS,
    NEUTRAL,
    class_of_key,
    general_name,
    gguf_problem,
)


def known_keys(group=constants.Keys):
    """All keys of the library, those of classes in it too."""
    for name, value in vars(group).items():
        if isinstance(value, type):
            yield from known_keys(value)
        elif not name.startswith("_"):
            yield value


def spelled(key, architecture):
    return key.format(arch=architecture, id=0, name="tool_use", dense="dense_2")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_mapped_or_harmless_is_a_key_or_tensor_of_the_writers(architecture):
    known = ARCHITECTURES[architecture]
    keys = {
        general_name(spelled(key, architecture).removeprefix(f"{architecture}."))
        for key in known_keys()
    }
    assert (known.keys.keys() | known.harmless) - keys == set()
    (kind,) = (
        arch
        for arch, name in constants.MODEL_ARCH_NAMES.items()
        if name == architecture
    )
    names = {
        constants.TENSOR_NAMES[tensor].format(bid="#")
        for tensor in constants.MODEL_TENSORS[kind]
    }
    ours = {name.rpartition(".")[0] for name in known.tensors}
    assert ours - names <= {"rope_factors_long", "rope_factors_short", "output"}
    assert not (HARMLESS | known.harmless) & known.keys.keys()


def test_neutral_values_are_of_refused_keys():
    for key in NEUTRAL:
        assert any(class_of_key(key, name) == "refused" for name in ARCHITECTURES), key


PLAIN = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [b"a", b"b"],
}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("llama.expert_count", 8, "'llama.expert_count' = 8"),
        ("llama.expert_count", 0, ""),
        ("llama.logit_scale", 2.0, "'llama.logit_scale' = 2.0"),
        ("llama.logit_scale", 1.0, ""),
        (
            "llama.rope.scaling.type",
            "dynamic",
            "possible: none, linear, yarn, longrope",
        ),
        ("llama.rope.scaling.type", "yarn", ""),
        (
            "llama.rope.scaling.yarn_attn_factor",
            1.3,
            "'llama.rope.scaling.yarn_attn_factor' = 1.3",
        ),
        ("llama.no_such_key", 1, "'llama.no_such_key' = 1"),
        ("qwen2.context_length", 64, "'qwen2.context_length' = 64"),
        ("llama.context_length", [64], "possible: one whole number above 0"),
        ("llama.block_count", -1, "possible: 1 to 2,000"),
        ("llama.block_count", 2**32 - 1, "possible: 1 to 2,000"),
        ("llama.rope.freq_base", float("nan"), "possible: one number above 0"),
        ("llama.attention.key_length", 16, ""),
        ("llama.rope.dimension_count", 4, "have 4, 8 numbers"),
        ("general.architecture", "stablelm", "possible: bloom, falcon"),
        ("general.architecture", "x" * 50, f"its architecture is '{'x' * 40}';"),
        ("general.type", "adapter", "it holds no model"),
        ("split.count", 3, "it is one of 3 parts"),
        ("general.author", "somebody", ""),
        ("llama.vocab_size", 3, "it has 2 tokens, and its vocab_size is 3"),
        ("tokenizer.ggml.model", "bert", "possible: gpt2, llama"),
        ("tokenizer.ggml.pre", "chatglm-bpe", "tokenizer.ggml.pre is 'chatglm-bpe'"),
        ("tokenizer.ggml.add_bos_token", 0.5, "possible: true, false"),
        ("tokenizer.ggml.add_sep_token", True, "'tokenizer.ggml.add_sep_token' = True"),
    ],
)
def test_a_key_that_cannot_be_mapped_is_refused_by_name(key, value, said):
    problem = gguf_problem(PLAIN | {key: value}, ["token_embd.weight"])
    assert said in problem if said else problem == ""


@pytest.mark.parametrize(
    "name",
    [
        "outputs.weight",
        "blk.2.attn_q.weight",
        "blk.0.attn_rot_embd.weight",
        "blk.0.attn_q.scale",
        "blk.x.attn_q.weight",
    ],
)
def test_a_tensor_that_cannot_be_mapped_is_refused_by_name(name):
    assert f"tensor '{name}'" in gguf_problem(PLAIN, ["token_embd.weight", name])


def test_a_file_without_a_size_is_refused():
    assert (
        gguf_problem({k: v for k, v in PLAIN.items() if "block" not in k}, [])
        == "it lacks llama.block_count"
    )
