"""A .gguf file gives the logits of the model that it was written from, and llama.cpp's."""

import json
import random
from itertools import product

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from sparsedash.catalog.gguf_names import PRE_TOKENIZERS, WHOLE_WORDS
from sparsedash.engine.models.locating import locate_model
from sparsedash.schema.errors import ModelError
from tests.engine.tiny import load_folder
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
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}
YARN_KEYS = {
    SCALING + "type": "yarn",
    SCALING + "factor": 8.0,
    SCALING + "original_context_length": 32,
}
LINEAR_KEYS = {SCALING + "type": "linear", SCALING + "factor": 8.0}
LOUDER = {SCALING + "attn_factor": 1.3}
BASE = {"#.rope.freq_base": 1e6}
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
    return rope(
        rope_type="longrope",
        attention_factor=louder,
        **same,
    )


def longrope(family, original):
    keys = {
        SCALING + "type": "longrope",
        SCALING + "original_context_length": original,
        SCALING + "attn_factor": 1.2,
    }
    entry = {"original_max_position_embeddings": original}
    changes = rope(**LONGROPE, attention_factor=1.2, **entry)
    if family == "phi3":
        changes |= entry
    return family, keys, LONG_AND_SHORT, changes


def slides(*kinds):
    return {
        "layer_types": [
            "sliding_attention" if kind else "full_attention" for kind in kinds
        ]
    }


def groups(n_norms):
    return {
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": n_norms,
    }


LINEAR = {"rope_type": "linear", "factor": 8.0}
PATTERN = "#.attention.sliding_window_pattern"
LINEAR_FAMILIES = ("llama", "qwen2", "qwen3", "starcoder2", "falcon", "gemma2")
PHI3 = {"original_max_position_embeddings": 256}
THREE = {"num_hidden_layers": 3}
MAPPED = {
    **{f"plain {family}": (family, {}, {}, {}) for family in FAMILIES},
    **{
        f"linear {family}": (family, LINEAR_KEYS, {}, rope(**LINEAR))
        for family in LINEAR_FAMILIES
    },
    "linear gemma3": ("gemma3", LINEAR_KEYS | BASE, {}, gemma_rope(**LINEAR)),
    "linear phi3": ("phi3", LINEAR_KEYS, {}, every_factor([8.0] * 4) | PHI3),
    "a factor without a type": ("llama", {SCALING + "factor": 8.0}, {}, rope(**LINEAR)),
    "a factor of no type": (
        "llama",
        {SCALING + "type": "none", SCALING + "factor": 8.0},
        {},
        {},
    ),
    "louder": ("llama", LINEAR_KEYS | LOUDER, {}, every_factor([8.0] * 4, 1.3)),
    "yarn llama": ("llama", YARN_KEYS, {}, rope(**YARN)),
    "yarn qwen2": ("qwen2", YARN_KEYS, {}, rope(**YARN)),
    "yarn gemma3": ("gemma3", YARN_KEYS | BASE, {}, gemma_rope(**YARN)),
    "yarn louder": (
        "llama",
        YARN_KEYS | LOUDER,
        {},
        rope(
            **YARN,
            attention_factor=1.3 * (1 + 0.1 * np.log(8)),
        ),
    ),
    "yarn betas": (
        "llama",
        YARN_KEYS | BETAS,
        {},
        rope(**YARN, beta_fast=16.0, beta_slow=2.0),
    ),
    "frequencies": ("llama", {}, EACH, every_factor(FREQUENCIES.tolist())),
    "frequencies and linear": (
        "llama",
        LINEAR_KEYS,
        EACH,
        every_factor((8 * FREQUENCIES).tolist()),
    ),
    **{f"longrope llama from {n}": longrope("llama", n) for n in (32, 256)},
    **{f"longrope phi3 from {n}": longrope("phi3", n) for n in (32, 256)},
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
    "local base": (
        "gemma3",
        BASE | {"#.rope.freq_base_swa": 500.0},
        {},
        gemma_rope(local=500.0),
    ),
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


def logits_of(model):
    return model(torch.tensor([IDS])).logits[0].numpy()


def is_near(logits, expected, tolerance=1e-5):
    return np.abs(logits - expected).max() < tolerance


def loaded_from(file, store):
    return load_folder(file, store)


def llama_cpp(file):
    pytest.importorskip("llama_cpp_py_sync")
    from sparsedash.engine.export.reloaded import LlamaCppModel

    return LlamaCppModel(str(file), 64, 1)


@pytest.mark.parametrize("case", MAPPED)
def test_the_keys_of_a_file_are_computed(case, store, tmp_path):
    family, keys, tensors, changes = MAPPED[case]
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf",
        family=family,
        keys=keys,
        tensors=tensors,
        **changes,
    )
    logits = logits_of(loaded_from(file, store).model)
    assert is_near(logits, logits_of(tiny_gguf_model(family, **changes)))
    # llama.cpp rounds its context up to 256, and uses the long factors from there on.
    if "phi3 from 256" not in case:
        # It looks GELU up in half precision.
        assert is_near(logits, llama_cpp(file).logits(IDS, len(IDS)), 0.01)
    if (keys or tensors) and case != "a factor of no type":
        n_layers = {
            name: n for name, n in changes.items() if name == "num_hidden_layers"
        }
        plain = logits_of(tiny_gguf_model(family, **n_layers))
        assert not is_near(logits, plain, 0.01), "the key changes something"


def test_a_missing_bias_is_zero(store, tmp_path):
    gone = tuple(f"blk.{i}.attn_output.bias" for i in range(3))
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf",
        without=(*gone, "llama.attention.head_count_kv"),
        attention_bias=True,
        num_key_value_heads=4,
    )
    model = tiny_gguf_model(
        "llama",
        attention_bias=True,
        num_key_value_heads=4,
    )
    for block in model.model.layers:
        block.self_attn.o_proj.bias.zero_()
    assert is_near(logits_of(loaded_from(file, store).model), logits_of(model))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"rope_factors_long.weight": FREQUENCIES}, "for short or long texts alone"),
        ({"rope_freqs.weight": FREQUENCIES}, "one of both is possible"),
    ],
)
def test_factors_that_contradict_each_other_are_refused(
    tensors, message, store, tmp_path
):
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf",
        tensors=tensors,
        keys=YARN_KEYS,
    )
    with pytest.raises(ModelError, match=message):
        locate_model(str(file), store)


TEXT = (
    "In 2019 the  3 boats   12345 cost $1,234.56!\n\n1. It's John's; they'RE here: http://x.y/z?a=b&c=d\n\n\n  2 tabs\t"
    "\t7\r\nÜber naïve Straße ÀÉ Ω≈ç 中文字符 12月 한국어 مرحبا ١٢٣ x²½ ™ 😀😀 DON'T CamelCase \u00a0nbsp ... --- "
    "`code` a+b ~^| 100% "
)


@pytest.fixture(scope="module")
def merged():
    """Tokens and merges of a vocabulary that merges across every place where some rule cuts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False,
        use_regex=False,
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    parts = [TEXT[i : i + n] for i, n in product(range(len(TEXT)), (2, 3, 4, 6))]
    tokenizer.train_from_iterator(parts * 3, trainer)
    vocabulary = tokenizer.get_vocab()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "ĠWhole"]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokens, [" ".join(pair) for pair in merges]


def samples():
    rng = random.Random(0)
    drawn = ["".join(rng.choices(TEXT, k=60)) for _ in range(20)]
    return [
        TEXT,
        " a Whole word",
        *(TEXT[i : i + 40] for i in range(0, len(TEXT), 9)),
        *drawn,
    ]


def tokenizer_equal_to_llama_cpp(file, store):
    """The file's tokenizer, which cuts all samples as llama.cpp does."""
    tokenizer = loaded_from(file, store).tokenizer
    llama = llama_cpp(file).llama
    for text in samples():
        assert tokenizer(text).input_ids == llama.tokenize(text, True, True), text
    return tokenizer


@pytest.mark.parametrize(
    "cut",
    [
        "smollm",
        "falcon",
        "bloom",
        "viking",
        "default",
        *WHOLE_WORDS[:3],
        "gpt-2",
        "gpt-4o",
    ],
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
        tmp_path / "tiny.gguf",
        keys=keys,
        without="tokenizer.ggml.add_bos_token",
        **size,
    )
    assert cut in PRE_TOKENIZERS
    tokenizer_equal_to_llama_cpp(file, store)


@pytest.mark.parametrize("family", ["llama", "gemma3", "starcoder2"])
@pytest.mark.parametrize("prefix", [True, False, None])
def test_sentences_begin_with_a_space_where_the_file_says_so(
    family, prefix, store, tmp_path
):
    spaced = TEXT.replace(" ", "\u2581")
    letters = sorted(set(spaced) - {"\n", "\r", "\t"})
    pieces = sorted(
        {spaced[i : i + n] for i, n in product(range(len(spaced)), (2, 3, 4))}
    )
    pieces = [piece for piece in pieces if not set(piece) & {"\n", "\r", "\t"}]
    tokens = list(
        dict.fromkeys(
            [
                "<unk>",
                "<s>",
                "</s>",
                *(f"<0x{i:02X}>" for i in range(256)),
                *letters,
                *pieces,
            ]
        )
    )
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259
        + [-float(i) for i in range(len(tokens) - 259)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    keys |= {} if prefix is None else {"tokenizer.ggml.add_space_prefix": prefix}
    without = ("tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token")
    size = {"vocab_size": len(tokens), "num_hidden_layers": 1}
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf",
        family=family,
        keys=keys,
        without=without,
        **size,
    )
    tokenizer = tokenizer_equal_to_llama_cpp(file, store)
    ids = tokenizer("the boats", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == "the boats"
