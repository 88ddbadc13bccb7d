"""Convert a GGUF file to safetensors, config and tokenizer, once, in the data folder.

transformers reads part of a GGUF file's keys and skips those it does not know; here every name
comes from catalog/gguf_names.py, and files with others are refused first.
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from gguf import quants
from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers import PreTrainedTokenizerBase as Tokenizer

from sparsedash.catalog.gguf_names import (
    ARCHITECTURES,
    GENERAL,
    PRE_TOKENIZERS,
    WHOLE_WORDS,
    general_name,
    gguf_problem,
)
from sparsedash.catalog.gguf_reader import GgufReader, opened_gguf, quantised_type, quick_gguf
from sparsedash.engine.models.checkpoint_reading import (
    read_model,
    refuse_impossible,
    refuse_no_numbers,
    refuse_oversized,
    refusing,
    refusing_tokenizer,
)
from sparsedash.schema import store_keys
from sparsedash.schema.errors import ModelError
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import OnPart, ignore
from sparsedash.storage.file_hashes import hash_file
from sparsedash.storage.local_machine import mode_in
from sparsedash.storage.model_folders import MODELS, delete_folder, noted_files, swept_folder
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)

_LONGEST_NAME = 200
"""Bytes; most file systems allow 255, and the lock has a longer name."""


def converted_folder(name: str, write: Callable[[Path], None], store: Store) -> Path:
    """The folder of this name among the converted models; made on the first call, or where a file
    in it has changed.

    It appears when it is complete. write: fills an empty folder; what it raises is raised.
    """
    if len(name.encode()) > _LONGEST_NAME:
        name = digest(name)
    models = store.folder / MODELS
    models.mkdir(mode=mode_in(models.parent, 0o700), exist_ok=True)
    folder = models / name
    if _is_unchanged(folder, store):
        return folder
    # One process makes it, others wait; the lock ends with its process.
    with FileLock(models / f"{name}.lock"):
        if _is_unchanged(folder, store):
            return folder
        with swept_folder(models) as made:
            write(made)
            if folder.is_dir():
                log.warning(
                    "Files of %s have changed since they were converted; they are converted again.",
                    name,
                )
                # A process that has them open goes on reading them.
                delete_folder(folder)
            # Of another user of the data folder, too, where that is shared.
            made.chmod(mode_in(models, 0o700))
            made.rename(folder)
        store.remember(store_keys.unpacked_files_note(name), json.dumps(_hashes(folder, store)))
    return folder


def _hashes(folder: Path, store: Store) -> dict[str, str]:
    return {file.name: hash_file(file, store) for file in sorted(folder.iterdir())}


def _is_unchanged(folder: Path, store: Store) -> bool:
    """Whether exactly the files that were written are there."""
    noted = noted_files(folder.name, store)
    return noted is not None and folder.is_dir() and _hashes(folder, store) == noted


Array = np.ndarray[Any, Any]

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")
_COMPUTED = ("rope_parameters", "head_dim", "layer_types", "sliding_window")
"""Entries of a config that several keys or tensors make together."""
_LARGE_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Blocks of the Gemma of 27 B, whose attention is scaled by other than the size of a head."""
_PATTERN = {"gemma2": 2, "gemma3": 6}
"""Blocks in a row of which the last attends to everything, where the file does not say."""


class GgufModel:
    """One GGUF file, whose keys and tensors are all known: see
    `catalog.gguf_names.gguf_problem`.
    """

    def __init__(self, reader: GgufReader, own: str = "") -> None:
        """own: the dense model's architecture, where the file has one that reads a width for each
        block.
        """
        self._values = reader.values
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._graph = str(self._values["general.architecture"])
        self._name = own or self._graph
        self._known = ARCHITECTURES[self._name]
        self.kinds: dict[str, str] = {}
        self._has_two_norms = "blk.0.attn_norm_2.weight" in self._tensors

    def config(self) -> PretrainedConfig:
        """Its config. Raises ValueError, or what transformers raises, for values that no model of
        the family has.
        """
        made = {
            entry: self._values.get(key)
            for key, entry in GENERAL.items()
            if entry in _SPECIAL_TOKENS
        }
        made |= {
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "vocab_size": len(self._values.get("tokenizer.ggml.tokens", ())),
            "_model_name_or_path": self._values.get("general.name", ""),
        }
        said = {
            entry: self._own(key)
            for key, entry in self._known.keys.items()
            if entry not in _COMPUTED
        }
        # 0 stands for none.
        made |= {entry: value or None for entry, value in said.items() if value is not None}
        made |= self._heads() | self._special()
        if "rope.freq_base" in self._known.keys:
            made["rope_parameters"] = self._rope()
        return AutoConfig.for_model(self._known.model_type, **made)

    def weights(
        self, config: PretrainedConfig, on_part: OnPart = ignore
    ) -> dict[str, torch.Tensor]:
        """Every tensor by its name in the model, in FP32, its rows in the order that transformers
        has.

        on_part: called before each; as many parts again are left for writing them.
        """
        found = {}
        for number, (name, tensor) in enumerate(self._tensors.items()):
            on_part(number, 2 * len(self._tensors))
            values = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for own, part in self._parts(name, values, config):
                ours = self._known.tensors[general_name(own)]
                if ours != "rope_parameters":
                    ours = ours.replace("#", own.split(".")[1])
                    if not self._has_two_norms:
                        # Falcon's norm before both parts of a block.
                        ours = ours.replace(".ln_mlp.", ".input_layernorm.")
                    self.kinds[ours] = tensor.tensor_type.name
                    found[ours] = torch.from_numpy(np.array(self._reordered(own, part, config)))
        if self._name == "llama":
            # One projection with a bias gives one to all; llama.cpp adds nothing where a file has
            # none.
            for name in [name for name in found if name.endswith("_proj.weight")]:
                if getattr(
                    config, "attention_bias" if ".self_attn." in name else "mlp_bias", False
                ):
                    found.setdefault(
                        name.removesuffix("weight") + "bias", torch.zeros(len(found[name]))
                    )
        return found

    def tokenizer(self, file: Path) -> Tokenizer:
        """The file's tokenizer."""
        family = self._name.startswith("qwen") or self._is_gemma_without_prefix()
        # A family's own class has rules of its own, which would come back when it is loaded.
        kind = AutoTokenizer if family else PreTrainedTokenizerFast
        # In a folder of its own: nothing that lies beside the file is read.
        refusing = refusing_tokenizer(
            f"The tokenizer of {file.name} could not be read", "Fetch the file again."
        )
        with tempfile.TemporaryDirectory(prefix="sparsedash-") as empty, quick_gguf(), refusing:
            (Path(empty) / file.name).symlink_to(file.resolve())
            made = kind.from_pretrained(
                empty, gguf_file=file.name, trust_remote_code=False, local_files_only=True
            )
        self._correct(made)
        return made

    def _is_gemma_without_prefix(self) -> bool:
        return self._name.startswith("gemma") and not self._values.get(
            "tokenizer.ggml.add_space_prefix", True
        )

    def _correct(self, tokenizer: Any) -> None:
        """Give the tokenizer this file's rules for where words are cut, where transformers has
        others.
        """
        backend = tokenizer.backend_tokenizer
        if self._values.get("tokenizer.ggml.model") != "gpt2":
            if not self._is_gemma_without_prefix():
                self._correct_sentencepiece(backend)
            return
        cut = str(self._values.get("tokenizer.ggml.pre", "default"))
        if rules := PRE_TOKENIZERS[cut]:
            steps = [pre_tokenizers.Split(Regex(rule), behavior="isolated") for rule in rules]
            last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, last])
        if cut in WHOLE_WORDS:
            backend.model.ignore_merges = True
            if "tokenizer.ggml.add_bos_token" not in self._values:
                tokenizer.add_bos_token = True

    def _correct_sentencepiece(self, backend: Any) -> None:
        """A space before the text, unless the file says otherwise, and no word is cut before it is
        looked up.
        """
        prefix = self._values.get("tokenizer.ggml.add_space_prefix", True)
        spaces = normalizers.Replace(" ", "\u2581")
        backend.normalizer = (
            normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prefix else spaces
        )
        backend.pre_tokenizer = None
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence(
            [*steps, decoders.Strip(" ", 1, 0)] if prefix else steps
        )

    def _own(self, key: str, otherwise: Any = None) -> Any:
        return self._values.get(f"{self._name}.{key}", otherwise)

    def _numbers(self, name: str) -> list[float] | None:
        tensor = self._tensors.get(name)
        return (
            None
            if tensor is None
            else quants.dequantize(tensor.data, tensor.tensor_type).ravel().tolist()
        )

    @cached_property
    def _usual_head(self) -> int:
        return int(self._own("embedding_length") // self._own("attention.head_count"))

    @cached_property
    def _head(self) -> int:
        turned = None if self._name == "phi3" else self._own("rope.dimension_count")
        return int(self._own("attention.key_length") or turned or self._usual_head)

    @cached_property
    def _original(self) -> int:
        return int(self._own("rope.scaling.original_context_length") or self._own("context_length"))

    def _heads(self) -> dict[str, Any]:
        """The size of a head, where it is not the usual one or the family's configs always have
        it.
        """
        if "attention.key_length" not in self._known.keys:
            return {}
        few = {
            "num_key_value_heads": self._own("attention.head_count_kv")
            or self._own("attention.head_count")
        }
        always = self._name in ("llama", "qwen3", "gemma2", "gemma3")
        return few | ({"head_dim": self._head} if always or self._head != self._usual_head else {})

    def _special(self) -> dict[str, Any]:
        """Config entries of the family that follow from several keys or tensors."""
        biased = {
            name.split(".")[2]
            for name in self._tensors
            if name.startswith("blk.") and name.endswith(".bias")
        }
        match self._name:
            case "llama":
                attention, mlp = (
                    {"attn_q", "attn_k", "attn_v", "attn_output"},
                    {"ffn_gate", "ffn_up", "ffn_down"},
                )
                return {"attention_bias": bool(biased & attention), "mlp_bias": bool(biased & mlp)}
            case "starcoder2":
                return {"use_bias": bool(biased - {"attn_norm", "ffn_norm"})}
            case "falcon":
                few, two = self._own("attention.head_count_kv", 0), self._has_two_norms
                return {
                    "new_decoder_architecture": few != 1 or two,
                    "num_ln_in_parallel_attn": 2 if two else 1,
                }
            case "phi3":
                window = self._own("attention.sliding_window") or None
                return {
                    "sliding_window": window,
                    "original_max_position_embeddings": self._original,
                }
            case "gemma2" | "gemma3":
                blocks, usual = self._own("block_count"), _PATTERN[self._name]
                pattern = self._own("attention.sliding_window_pattern", usual)
                slides = (
                    pattern
                    if isinstance(pattern, list)
                    else [(i + 1) % max(1, pattern) for i in range(blocks)]
                )
                large = blocks == _LARGE_GEMMA[self._name]
                return {
                    "query_pre_attn_scalar": self._usual_head if large else self._head,
                    "sliding_window": self._own("attention.sliding_window"),
                    "layer_types": [
                        "sliding_attention" if each else "full_attention" for each in slides
                    ],
                }
            case _:
                return {}

    def _rope(self) -> dict[str, Any]:
        """RoPE parameters; in llama.cpp a factor without a type is linear."""
        kind, factor = (
            self._own("rope.scaling.type", "linear"),
            float(self._own("rope.scaling.factor") or 1),
        )
        louder = float(self._own("rope.scaling.attn_factor", 1))
        each = self._numbers("rope_freqs.weight")
        short, long = (
            self._numbers("rope_factors_short.weight"),
            self._numbers("rope_factors_long.weight"),
        )
        turned = self._own("rope.dimension_count", self._head)
        made: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": float(self._own("rope.freq_base", 10_000.0)),
        }
        if self._name == "phi3":
            made["partial_rotary_factor"] = turned / self._head
        if (short is None) != (long is None) or (
            kind == "longrope" and short is None and each is None
        ):
            raise ValueError(
                "it has RoPE factors for short or long texts alone, or none where longrope needs them"
            )
        if kind == "yarn":
            if each or short:
                raise ValueError(
                    "it has YaRN and a factor for each RoPE frequency, and one of both is possible"
                )
            made |= {
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": self._original,
                "attention_factor": louder * (1 + 0.1 * math.log(max(1.0, factor))),
                "beta_fast": self._own("rope.scaling.yarn_beta_fast", 32.0),
                "beta_slow": self._own("rope.scaling.yarn_beta_slow", 1.0),
            }
        elif (
            each
            or short
            or louder != 1
            or (self._name == "phi3" and factor != 1 and kind == "linear")
        ):
            factor = factor if kind != "none" else 1
            plain = each or [1.0] * (turned // 2)
            made |= {
                "rope_type": "longrope",
                "short_factor": [one * factor for one in short or plain],
                "long_factor": [one * factor for one in long or plain],
                "original_max_position_embeddings": self._original,
                "attention_factor": louder,
            }
        elif factor != 1 and kind != "none":
            made |= {"rope_type": "linear", "factor": factor}
        if self._name != "gemma3":
            return made
        theta = float(self._own("rope.freq_base_swa", 10_000.0))
        return {
            "full_attention": made,
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        }

    def _parts(self, name: str, values: Array, config: PretrainedConfig) -> list[tuple[str, Array]]:
        """The tensor under its name; q, k and v where `openelm` has qwen3's one below the other."""
        if self._graph != "openelm" or ".attn_qkv." not in name:
            return [(name, values)]
        n_q, n_kv = (
            heads * config.head_dim
            for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        rows = np.split(values, [n_q, n_q + n_kv])
        return [(name.replace("qkv", part), own) for part, own in zip("qkv", rows, strict=True)]

    def _reordered(self, name: str, values: Array, config: PretrainedConfig) -> Array:
        """Undo the reordering of llama.cpp's converter."""
        part, heads = name.removeprefix("blk.").partition(".")[2], config.num_attention_heads
        match self._name:
            case "llama" | "qwen2" if self._graph in ("llama", "deci") and part.startswith(
                ("attn_q.", "attn_k.")
            ):
                n = heads if part.startswith("attn_q.") else config.num_key_value_heads
                return (
                    values.reshape(n, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
                )
            case "gemma2" | "gemma3" if name.endswith("norm.weight"):
                return values - 1
            case "gpt2" if part in (
                "attn_qkv.weight",
                "attn_output.weight",
                "ffn_up.weight",
                "ffn_down.weight",
            ):
                return values.T
            case "bloom" if part.startswith("attn_qkv."):
                return (
                    values.reshape(3, heads, -1, *values.shape[1:])
                    .swapaxes(0, 1)
                    .reshape(values.shape)
                )
            case "falcon" if part == "attn_qkv.weight" and config.new_decoder_architecture:
                few, size = config.num_kv_heads, values.shape[1] // heads
                q, k, v = np.split(values, [heads * size, (heads + few) * size])
                grouped = [each.reshape(few, -1, size, values.shape[1]) for each in (q, k, v)]
                return np.concatenate(grouped, axis=1).reshape(values.shape)
            case _:
                return values


_CONVERSION_VERSION = 2
"""Raise it where the same file is converted to other numbers or other tokens."""


def unpack_gguf(file: Path, store: Store, on_part: OnPart = ignore) -> Path:
    """The folder with this .gguf file's model in FP32 and its tokenizer; see `converted_folder`.
    Raises ModelError.
    """
    name = f"{file.stem}-{hash_file(file, store)[:16]}-{_CONVERSION_VERSION}"
    return converted_folder(name, lambda folder: _write_converted(file, folder, on_part), store)


def gguf_source_type(file: Path, store: Store) -> str:
    """The type of a quantised file, see `quantised_type`; read once, then noted."""
    name = store_keys.source_type_note(hash_file(file, store))
    known = store.recall(name)
    if known is None:
        known = quantised_type(opened_gguf(file))
        store.remember(name, known)
    return known


def _write_converted(file: Path, folder: Path, on_part: OnPart) -> None:
    reader = opened_gguf(file)
    if problem := gguf_problem(reader.values, (tensor.name for tensor in reader.tensors)):
        raise ModelError(f"{file.name} could not be read as a GGUF model: {problem}.")
    said = GgufModel(reader)
    with refusing(
        f"{file.name} could not be read as a GGUF model", "Name another file of this model."
    ):
        config = said.config()
        refuse_impossible(config.to_dict(), file.name)
        refuse_oversized(file.name, config, file.stat().st_size, "gguf")
        tokenizer, weights = said.tokenizer(file), said.weights(config, on_part)
        on_part(1, 2)
    # Its own bars would tear the shell's.
    with redirect_stderr(StringIO()):
        model = read_model(
            file.name, config, torch.float32, pretrained_model_name_or_path=None, state_dict=weights
        )
        refuse_no_numbers(file.name, model)
        with refusing(f"{file.name} could not be unpacked", "See whether the disk is full."):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
