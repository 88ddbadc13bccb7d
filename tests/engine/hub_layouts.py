"""Tiny random models in the layouts of the hub, the published ones mostly with their families'
tokenizers.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer

from tests.engine.hub_stand_in import Hub
from tests.engine.hub_texts import serve_parquet, serve_pile
from tests.engine.tiny import VOCABULARY, save_tiny, tiny_model, tiny_tokenizer

SHARD = "60KB"
TEXT = [
    "the lamp and the boat and the letter went home to the harbour where Anna waited by the door"
] * 4

PUBLISHED_FAMILIES = {
    "EleutherAI/gpt-j-6b": ("gptj", "bin"),
    "facebook/opt-1.3b": ("opt", "bin"),
    "facebook/opt-2.7b": ("opt", "sharded bin"),
    "huggyllama/llama-7b": ("llama", "sharded safetensors"),
    "bigscience/bloom-1b7": ("bloom", "safetensors"),
    "bigscience/bloom-7b1": ("bloom", "sharded safetensors"),
}
"""The models of the published tables by their reference: their family, and one of the layouts that
the hub has.
"""


def save(
    folder: Path, model_type: str = "llama", layout: str = "safetensors", seed: int = 0
) -> Path:
    """A tiny random model as a repository of the hub holds one, with a tokenizer of no family."""
    save_tiny(folder, model_type, seed)
    _lay_out(folder, tiny_model(model_type, seed), layout)
    return folder


def _lay_out(folder: Path, model: torch.nn.Module, layout: str) -> None:
    if layout == "safetensors":
        return
    (folder / "model.safetensors").unlink()
    if layout == "sharded safetensors":
        model.save_pretrained(folder, max_shard_size=SHARD)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    elif layout == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        _save_bin_shards(model.state_dict(), folder)


def _save_bin_shards(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Two .bin files and their index, as repositories from before safetensors have them."""
    names = sorted(state)
    files = {
        name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin"
        for i, name in enumerate(names)
    }
    for file in sorted(set(files.values())):
        torch.save(
            {name: state[name] for name in names if files[name] == file}, folder / file
        )
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def _gptj_tokenizer(folder: Path) -> None:
    """GPT2Tokenizer: vocab.json and merges.txt, the same as tokenizer.json, and no token at the
    beginning.
    """
    trained = _byte_level(["<|endoftext|>"])
    trained.save_model(str(folder))
    trained.save(str(folder / "tokenizer.json"))
    end = {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    _describe(
        folder,
        "GPT2Tokenizer",
        end,
        add_prefix_space=False,
        model_max_length=2048,
    )


def _opt_tokenizer(folder: Path) -> None:
    """GPT2Tokenizer too, but vocab.json and merges.txt alone, and </s> before every text."""
    _byte_level(["<s>", "<pad>", "</s>", "<unk>"]).save_model(str(folder))
    special = {
        "bos_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "</s>",
        "pad_token": "<pad>",
    }
    _describe(
        folder,
        "GPT2Tokenizer",
        special,
        add_prefix_space=False,
        add_bos_token=True,
    )


def _byte_level(special: list[str]) -> ByteLevelBPETokenizer:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        TEXT,
        vocab_size=VOCABULARY,
        special_tokens=special,
        show_progress=False,
    )
    return trained


def _describe(folder: Path, name: str, special: dict[str, str], **more: object) -> None:
    described = {
        "tokenizer_class": name,
        **special,
        **more,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


TOKENIZERS: dict[str, Callable[[Path], object]] = {
    "gptj": _gptj_tokenizer,
    "opt": _opt_tokenizer,
    # Llama's puts a token before every text as well.
    "llama": lambda folder: tiny_tokenizer("<|end|> $A").save_pretrained(folder),
    "bloom": lambda folder: tiny_tokenizer().save_pretrained(folder),
}


ROW_WIDTH = 320
"""Channels of the models whose rows are run: 10 % of them are one multiple of 32, as the rows ask
for.
"""


def save_for_a_row(folder: Path, reference: str) -> Path:
    """A published model in small, with its family's tokenizer, that can be pruned with just a row's
    settings.
    """
    widths: dict[str, dict[str, object]] = {
        "gptj": {"n_inner": ROW_WIDTH},
        "opt": {"ffn_dim": ROW_WIDTH},
        "llama": {"intermediate_size": ROW_WIDTH},
        "bloom": {"hidden_size": ROW_WIDTH // 4},
    }
    model_type, layout = PUBLISHED_FAMILIES[reference]
    model = tiny_model(model_type, **widths[model_type])
    model.save_pretrained(folder)
    _lay_out(folder, model, layout)
    TOKENIZERS[model_type](folder)
    return folder


def serve_texts_of_rows(hub: Hub, folder: Path) -> None:
    """The text sets that the rows name, in small: enough to calibrate on, a dozen passages to
    answer.
    """
    documents = [" ".join((TEXT[0] + " ").split()[i % 7 :] * 3) for i in range(60)]
    passages = [" ".join(TEXT[0].split()[: 8 + i]) for i in range(12)]
    serve_parquet(
        hub,
        folder / "pile",
        "NeelNanda/pile-10k",
        "default",
        {"train": documents},
    )
    lambada = {
        "train": documents,
        "validation": passages,
        "test": passages,
    }
    serve_parquet(
        hub,
        folder / "lambada",
        "cimec/lambada",
        "plain_text",
        lambada,
    )
    serve_parquet(
        hub,
        folder / "openai",
        "EleutherAI/lambada_openai",
        "default",
        {"test": passages},
    )
    # Short ones: as many as are streamed must be there, and all of them are calibrated on.
    short = ["the lamp"] * 10_000
    serve_pile(hub, folder / "whole", "monology/pile-uncopyrighted", [short])
