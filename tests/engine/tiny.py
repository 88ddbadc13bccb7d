"""Tiny random models of every family, and a tokenizer that knows the words of the tests' own
passages.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.decoders import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from sparsedash.engine.models.checkpoint_reading import read_config
from sparsedash.engine.models.loading import LoadedModel, load_model
from sparsedash.engine.models.locating import Source, locate_model
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.storage.store import Store

WIDTH = 96
VOCABULARY = 400
IDS = torch.randint(
    1,
    VOCABULARY,
    (2, 12),
    generator=torch.Generator().manual_seed(1),
)
"""Two short texts."""

_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": WIDTH,
    "n_positions": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GROUPED = _SMALL | {"num_key_value_heads": 2, "head_dim": 8}

CONFIGS: dict[str, dict[str, Any]] = {
    # BLOOM's inner width is four times the hidden one, whatever the config says.
    "bloom": {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "n_layer": 3,
        "n_head": 4,
    },
    "falcon": _SMALL | {"ffn_hidden_size": WIDTH, "bias": True},
    "gemma": _GROUPED,
    "gemma2": _GROUPED | {"sliding_window": 48},
    "gemma3_text": _GROUPED | {"sliding_window": 48},
    "gpt2": _GPT,
    "gpt_neo": _SMALL
    | {
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global", "local", "global"], 1]],
    },
    "gpt_neox": _SMALL,
    "gptj": _GPT | {"rotary_dim": 4},
    "granite": _GROUPED
    | {
        "mlp_bias": True,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
    "llama": _GROUPED | {"mlp_bias": True},
    "mistral": _GROUPED,
    "olmo2": _GROUPED,
    "opt": _SMALL | {"ffn_dim": WIDTH, "word_embed_proj_dim": 32},
    "phi": _SMALL,
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "smollm3": _GROUPED,
    "starcoder2": _GROUPED,
}

MIXTURES: dict[str, dict[str, Any]] = {
    # llama.cpp reads its norms of keys as wide as the model.
    "olmoe": _GROUPED
    | {"num_key_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": _GROUPED
    | {
        "moe_intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
    },
}

WIDTHS_BY_BLOCK: dict[str, dict[str, Any]] = {
    "gemma4_text": _GROUPED
    | {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "per_layer_config": {"3": {"head_dim": 16}},
        "sliding_window": 48,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "final_logit_softcapping": 30.0,
    },
    "nemotron_h": _GROUPED
    | {
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
}
"""Types whose own graph in llama.cpp reads a width for each block."""

_ALL = CONFIGS | MIXTURES | WIDTHS_BY_BLOCK


def tiny_model(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of this family, in FP32, with biases that are not zero. changes: to its row
    above.
    """
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **_ALL[model_type] | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.dim() > 1:
            # Larger than the families' own beginnings, so that a wrong channel shows in the logits.
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def source_of(folder: Path) -> Source:
    shape = inspect_model(read_config(folder, "tiny"), "tiny")
    return Source(reference=str(folder), folder=folder, identity="tiny", shape=shape)


def load_folder(folder: Path | str, store: Store) -> LoadedModel:
    """The model of a folder or file, in float32."""
    return load_model(locate_model(str(folder), store), "float32")


def tiny_loaded(model_type: str, seed: int = 0, **changes: Any) -> LoadedModel:
    """The same with its tokenizer, as the engine works on it."""
    return as_loaded(tiny_model(model_type, seed, **changes))


def as_loaded(model: Any) -> LoadedModel:
    """A model with a tokenizer, as the engine works on it."""
    return LoadedModel(
        identity="tiny",
        dtype="float32",
        model=model,
        tokenizer=tiny_tokenizer(),
        shape=inspect_model(model.config, "tiny"),
    )


def tiny_tokenizer(template: str = "$A") -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the built-in openings; it can encode anything. template: with
    special tokens or not.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["the lamp and the boat and the letter went home"] * 4, trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        special_tokens=[("<|end|>", 0)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        bos_token="<|end|>",
        pad_token="<|end|>",
    )


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """BPE over words that begin with a space sign, with a token for each byte, as the converters of
    SentencePiece make.

    It was trained on the built-in openings.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[
            "<|end|>",
            "<unk>",
            *(f"<0x{byte:02X}>" for byte in range(256)),
        ],
        show_progress=False,
    )
    # Before training: words would be merged across spaces.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    tokenizer.train_from_iterator(
        ["the lamp and the boat and the letter went home"] * 4, trainer
    )
    tokenizer.pre_tokenizer = None
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [
        token
        for token in description["added_tokens"]
        if not token["content"].startswith("<0x")
    ]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        bos_token="<|end|>",
        unk_token="<unk>",
        pad_token="<|end|>",
    )


def save_tiny(
    folder: Path,
    model_type: str = "llama",
    seed: int = 0,
    template: str = "$A",
    **changes: Any,
) -> Path:
    """A tiny model and its tokenizer as a local folder. template: of the tokenizer. changes: to its
    row above.
    """
    tiny_model(model_type, seed, **changes).save_pretrained(folder)
    tiny_tokenizer(template).save_pretrained(folder)
    return folder


def small_run(
    model: Path | str,
    text: str,
    calibration: str = "",
    n_passages: int = 10,
    **changes: Any,
) -> RunSettings:
    """One method at 25 %, evaluated on this text and calibrated on it or another. changes: to the
    settings.
    """
    usual = {
        "methods": (MethodSettings(width_multiple=8),),
        "sparsities_permille": (250,),
    }
    return RunSettings(
        model=str(model),
        calibration=CalibrationSettings(
            corpus=calibration or text,
            n_samples=40,
            length=32,
        ),
        evaluation=EvaluationSettings(corpus=text, n_passages=n_passages),
        **usual | changes,
    )
