"""A .gguf file computes what the model computes that it was made from, and what llama.cpp
computes.
"""

import json
import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from sparsedash.catalog.gguf_names import ARCHITECTURES, PRE_TOKENIZERS, WHOLE_WORDS
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.schema.errors import ModelError
from tests.engine.tiny_gguf import FAMILIES, tiny_gguf_model, write_tiny_gguf

IDS = [(7 * i) % 300 + 1 for i in range(60)]
SCALING = "#.rope.scaling."
FREQUENCIES = np.array([1.0, 2.5, 4.0, 8.0], np.float32)
LONG_AND_SHORT = {
    "rope_factors_long.weight": 2 * FREQUENCIES,
    "rope_factors_short.weight": FREQUENCIES,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": FREQUENCIES.tolist(),
    "long_factor": (2 * FREQUENCIES).tolist(),
}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}
YARN_KEYS = {
    SCALING + "type": "yarn",
    SCALING + "factor": 8.0,
    SCALING + "original_context_length": 32,
}
LINEAR_KEYS = {SCALING + "type": "linear", SCALING + "factor": 8.0}
LOUDER, BASE = {SCALING + "attn_factor": 1.3}, {"#.rope.freq_base": 1e6}
BETAS = {SCALING + "yarn_beta_fast": 16.0, SCALING + "yarn_beta_slow": 2.0}
EACH = {"rope_freqs.weight": FREQUENCIES}


def rope(**parameters):
    return {"rope_parameters": {"rope_theta": 10_000.0} | parameters}


def gemma_rope(local=10_000.0, **parameters):
    whole = {"rope_type": "default", "rope_theta": 1e6} | parameters
    both = {
        "full_attention": whole,
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    return {"num_hidden_layers": 7, "rope_parameters": both}


def every_factor(factors, louder=1.0):
    same = {
        "short_factor": [*factors],
        "long_factor": [*factors],
        "original_max_position_embeddings": 256,
    }
    return rope(rope_type="longrope", attention_factor=louder, **same)


def longrope(family, original):
    keys = {
        SCALING + "type": "longrope",
        SCALING + "original_context_length": original,
        SCALING + "attn_factor": 1.2,
    }
    said = {"original_max_position_embeddings": original}
    return (
        family,
        keys,
        LONG_AND_SHORT,
        rope(**LONGROPE, attention_factor=1.2, **said) | (said if family == "phi3" else {}),
    )


def slides(*kinds):
    return {"layer_types": ["sliding_attention" if each else "full_attention" for each in kinds]}


def groups(n_norms):
    return {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": n_norms}


LINEAR = {"rope_type": "linear", "factor": 8.0}
PATTERN = "#.attention.sliding_window_pattern"
LINEAR_FAMILIES = ("llama", "qwen2", "qwen3", "starcoder2", "falcon", "gemma2")
PHI3 = {"original_max_position_embeddings": 256}
THREE = {"num_hidden_layers": 3}
MAPPED = {
    **{f"plain {family}": (family, {}, {}, {}) for family in FAMILIES},
    **{f"linear {family}": (family, LINEAR_KEYS, {}, rope(**LINEAR)) for family in LINEAR_FAMILIES},
    "linear gemma3": ("gemma3", LINEAR_KEYS | BASE, {}, gemma_rope(**LINEAR)),
    "linear phi3": ("phi3", LINEAR_KEYS, {}, every_factor([8.0] * 4) | PHI3),
    "a factor without a type": ("llama", {SCALING + "factor": 8.0}, {}, rope(**LINEAR)),
    "a factor of no type": ("llama", {SCALING + "type": "none", SCALING + "factor": 8.0}, {}, {}),
    "louder": ("llama", LINEAR_KEYS | LOUDER, {}, every_factor([8.0] * 4, 1.3)),
    "yarn llama": ("llama", YARN_KEYS, {}, rope(**YARN)),
    "yarn qwen2": ("qwen2", YARN_KEYS, {}, rope(**YARN)),
    "yarn gemma3": ("gemma3", YARN_KEYS | BASE, {}, gemma_rope(**YARN)),
    "yarn louder": (
        "llama",
        YARN_KEYS | LOUDER,
        {},
        rope(**YARN, attention_factor=1.3 * (1 + 0.1 * np.log(8))),
    ),
    "yarn betas": ("llama", YARN_KEYS | BETAS, {}, rope(**YARN, beta_fast=16.0, beta_slow=2.0)),
    "frequencies": ("llama", {}, EACH, every_factor(FREQUENCIES.tolist())),
    "frequencies and linear": (
        "llama",
        LINEAR_KEYS,
        EACH,
        every_factor((8 * FREQUENCIES).tolist()),
    ),
    **{
        f"longrope {name} from {n}": longrope(name, n)
        for name in ("llama", "phi3")
        for n in (32, 256)
    },
    "part of a head": (
        "phi3",
        {"#.rope.dimension_count": 4},
        {},
        rope(rope_type="default", partial_rotary_factor=0.5),
    ),
    "another base": (
        "starcoder2",
        {"#.rope.freq_base": 500.0},
        {},
        rope(rope_theta=500.0, rope_type="default"),
    ),
    "local base": ("gemma3", BASE | {"#.rope.freq_base_swa": 500.0}, {}, gemma_rope(local=500.0)),
    "a pattern": ("gemma2", {PATTERN: 3}, {}, slides(True, True, False)),
    "patterns": (
        "gemma3",
        BASE | {PATTERN: [False, True, True]},
        {},
        gemma_rope() | THREE | slides(False, True, True),
    ),
    "soft caps": (
        "gemma2",
        {},
        {},
        {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0},
    ),
    "a soft cap": (
        "gemma3",
        {"#.final_logit_softcapping": 2.0},
        {},
        {"final_logit_softcapping": 2.0},
    ),
    "biases of attention": ("llama", {}, {}, {"attention_bias": True}),
    "biases of MLPs": ("llama", {}, {}, {"mlp_bias": True}),
    "heads of another size": ("llama", {}, {}, {"head_dim": 16}),
    "two norms": ("falcon", {}, {}, groups(2)),
    "groups": ("falcon", {}, {}, groups(1)),
    "tied": ("llama", {}, {}, {"tie_word_embeddings": True}),
    "untied": ("gemma3", {}, {}, {"tie_word_embeddings": False}),
    "another width": ("gpt2", {}, {}, {"n_inner": 64, "n_positions": 128}),
}


def logits_of(file, store):
    return (
        load_model(locate_model(str(file), store), "float32")
        .model(torch.tensor([IDS]))
        .logits[0]
        .numpy()
    )


def llama_cpp(file):
    pytest.importorskip("llama_cpp_py_sync")
    from sparsedash.engine.export.reloaded import LlamaCppModel

    return LlamaCppModel(str(file), 64, 1)


@pytest.mark.parametrize("said", MAPPED)
def test_what_a_key_says_is_computed(said, store, tmp_path):
    family, keys, tensors, changes = MAPPED[said]
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf", family=family, keys=keys, tensors=tensors, **changes
    )
    meant = tiny_gguf_model(family, **changes)(torch.tensor([IDS])).logits[0].numpy()
    found = logits_of(file, store)
    assert np.abs(found - meant).max() < 1e-5
    if (
        "phi3 from 256" not in said
    ):  # llama.cpp rounds its context up to 256, and takes the long factors from there on
        # GELU is looked up in half precision there.
        assert np.abs(found - llama_cpp(file).logits(IDS, len(IDS))).max() < 0.01
    if keys or tensors:
        size = {name: changes[name] for name in ("num_hidden_layers",) if name in changes}
        plain = tiny_gguf_model(family, **size)(torch.tensor([IDS])).logits[0].numpy()
        assert np.abs(found - plain).max() > 0.01 or said == "a factor of no type", (
            "the key changes something"
        )


def test_what_a_file_has_not_is_none(store, tmp_path):
    gone = tuple(f"blk.{i}.attn_output.bias" for i in range(3))
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf",
        without=(*gone, "llama.attention.head_count_kv"),
        attention_bias=True,
        num_key_value_heads=4,
    )
    model = tiny_gguf_model("llama", attention_bias=True, num_key_value_heads=4)
    for block in model.model.layers:
        block.self_attn.o_proj.bias.zero_()
    assert (
        np.abs(logits_of(file, store) - model(torch.tensor([IDS])).logits[0].numpy()).max() < 1e-5
    )


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"rope_factors_long.weight": FREQUENCIES}, "for short or long texts alone"),
        ({"rope_freqs.weight": FREQUENCIES}, "one of both is possible"),
    ],
)
def test_factors_that_contradict_each_other_are_refused(tensors, said, store, tmp_path):
    file = write_tiny_gguf(tmp_path / "tiny.gguf", tensors=tensors, keys=YARN_KEYS)
    with pytest.raises(ModelError, match=said):
        locate_model(str(file), store)


TEXT = (
    "In 2019 the  3 boats   12345 cost $1,234.56!\n\n1. It's John's; they'RE here: http://x.y/z?a=b&c=d\n\n\n  2 tabs\t"
    "\t7\r\nÜber naïve Straße ÀÉ Ω≈ç 中文字符 12月 한국어 مرحبا ١٢٣ x²½ ™ 😀😀 DON'T CamelCase \u00a0nbsp ... --- "
    "`code` a+b ~^| 100% "
)


@pytest.fixture(scope="module")
def merged():
    """A vocabulary whose merges go across every place where some rule cuts: its tokens and
    merges.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    parts = [TEXT[i : i + n] for i in range(len(TEXT)) for n in (2, 3, 4, 6)]
    tokenizer.train_from_iterator(parts * 3, trainer)
    vocabulary = tokenizer.get_vocab()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [*sorted(vocabulary, key=vocabulary.__getitem__), "ĠWhole"], [
        " ".join(pair) for pair in merges
    ]


def samples():
    rng = random.Random(0)
    drawn = ["".join(rng.choice(TEXT) for _ in range(60)) for _ in range(20)]
    return [TEXT, " a Whole word", *(TEXT[i : i + 40] for i in range(0, len(TEXT), 9)), *drawn]


@pytest.mark.parametrize(
    "cut", ["smollm", "falcon", "bloom", "viking", "default", *WHOLE_WORDS[:3], "gpt-2", "gpt-4o"]
)
def test_words_are_cut_as_llama_cpp_cuts_them(cut, merged, store, tmp_path):
    tokens, merges = merged
    keys = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
        "tokenizer.ggml.pre": cut,
    }
    size = {"vocab_size": len(tokens), "num_hidden_layers": 1}
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf", keys=keys, without="tokenizer.ggml.add_bos_token", **size
    )
    ours, theirs = load_model(locate_model(str(file), store), "float32").tokenizer, llama_cpp(file)
    assert cut in PRE_TOKENIZERS
    assert [ours(text).input_ids for text in samples()] == [
        theirs.llama.tokenize(text, True, True) for text in samples()
    ]


@pytest.mark.parametrize("family", ["llama", "gemma3", "starcoder2"])
@pytest.mark.parametrize("prefix", [True, False, None])
def test_sentences_begin_with_a_space_where_the_file_says_so(family, prefix, store, tmp_path):
    spaced = TEXT.replace(" ", "\u2581")
    letters = sorted(set(spaced) - {"\n", "\r", "\t"})
    pieces = sorted({spaced[i : i + n] for i in range(len(spaced)) for n in (2, 3, 4)})
    pieces = [piece for piece in pieces if not set(piece) & {"\n", "\r", "\t"}]
    tokens = list(
        dict.fromkeys(
            ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters, *pieces]
        )
    )
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    keys |= {} if prefix is None else {"tokenizer.ggml.add_space_prefix": prefix}
    without = ("tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token")
    size = {"vocab_size": len(tokens), "num_hidden_layers": 1}
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf", family=family, keys=keys, without=without, **size
    )
    ours, theirs = load_model(locate_model(str(file), store), "float32").tokenizer, llama_cpp(file)
    assert [ours(text).input_ids for text in samples()] == [
        theirs.llama.tokenize(text, True, True) for text in samples()
    ]
    assert ours.decode(ours("the boats", add_special_tokens=False).input_ids) == "the boats"


def drawn_change(rng, family):
    """A key or tensor more, less, or of another value, as `write_tiny_gguf` takes it."""
    known = ARCHITECTURES[family]
    without = rng.choice(
        [f"{family}.{key}" for key in known.keys]
        + [name.replace("#", "1") for name in known.tensors]
    )
    value = rng.choice([0, 1, 2, 8, 0.5, 8.0, True, False, "linear", "yarn", "odd", [1, 2], [0.5]])
    key = rng.choice(
        [
            *known.keys,
            "odd",
            "attention.scale",
            "rope.scaling.finetuned",
            "attention.causal",
            "pooling_type",
        ]
    )
    if key.startswith("rope.scaling.") and type(value) is int:
        value = float(value)  # llama.cpp refuses some of them in another type
    kind, size = rng.choice(["weight", "bias", "scale"]), rng.choice([(4,), (32,), (32, 32), (96,)])
    place = rng.choice(
        ["blk.0.attn_q", "blk.1.ffn_up", "blk.0.odd", "rope_freqs", "outputs", "blk.2.ffn_gate_inp"]
    )
    values = np.random.default_rng(rng.randrange(1000)).uniform(0.5, 2.0, size).astype(np.float32)
    return rng.choice(
        [
            {"without": without},
            {"keys": {f"#.{key}": value}},
            {"tensors": {f"{place}.{kind}": values}},
        ]
    )


def test_a_changed_file_is_refused_or_computes_what_llama_cpp_computes(store, tmp_path):
    n_compared = 0
    for seed in range(40):
        family = FAMILIES[seed % len(FAMILIES)]
        name = f"{seed}.gguf"
        file = write_tiny_gguf(
            tmp_path / name, family=family, **drawn_change(random.Random(seed), family)
        )
        try:
            found = logits_of(file, store)
        except ModelError:
            continue
        try:
            theirs = llama_cpp(file)
        except RuntimeError:
            # It refuses some harmless keys in another type.
            continue
        n_compared += 1
        assert np.abs(found - theirs.logits(IDS, len(IDS))).max() < 0.02, seed
    assert n_compared >= 8
