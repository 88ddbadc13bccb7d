"""Converts a GGUF file to safetensors, config and tokenizer, once, in the data folder.

transformers reads part of a GGUF file's keys and skips unknown ones; here every name comes from
catalog/gguf_names.py, and files with others are refused first.
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
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from sparsedash.catalog.gguf_names import (
    ARCHITECTURES,
    GENERAL,
    PRE_TOKENIZERS,
    WHOLE_WORDS,
    general_name,
    gguf_problem,
)
from sparsedash.catalog.gguf_reader import (
    GgufReader,
    opened_gguf,
    quantised_type,
    quick_gguf,
)
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
from sparsedash.storage.model_folders import (
    MODELS,
    delete_folder,
    noted_files,
    swept_folder,
)
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)

_LONGEST_NAME = 200
"""Bytes; most file systems allow 255, and the lock has a longer name."""


def converted_folder(
    name: str,
    write: Callable[[Path], None],
    store: Store,
) -> Path:
    """The folder of this name among the converted models; written once, and again after a change.

    An atomic write. write: fills an empty folder; its errors are raised.
    """
    if len(name.encode()) > _LONGEST_NAME:
        name = digest(name)
    models = store.folder / MODELS
    models.mkdir(mode=mode_in(models.parent, 0o700), exist_ok=True)
    folder = models / name
    if _is_unchanged(folder, store):
        return folder
    # One process writes it, others wait; the lock ends with its process.
    with FileLock(models / f"{name}.lock"):
        if _is_unchanged(folder, store):
            return folder
        with swept_folder(models) as new:
            write(new)
            if folder.is_dir():
                log.warning(
                    "Files of %s have changed since they were converted; they are converted again.",
                    name,
                )
                # A process that has them open goes on reading them.
                delete_folder(folder)
            # In a shared data folder, for its other users too.
            new.chmod(mode_in(models, 0o700))
            new.rename(folder)
        store.remember(
            store_keys.unpacked_files_note(name), json.dumps(_hashes(folder, store))
        )
    return folder


def _hashes(folder: Path, store: Store) -> dict[str, str]:
    return {file.name: hash_file(file, store) for file in sorted(folder.iterdir())}


def _is_unchanged(folder: Path, store: Store) -> bool:
    """True if the folder holds exactly the files that were written."""
    noted = noted_files(folder.name, store)
    return noted is not None and folder.is_dir() and _hashes(folder, store) == noted


Array = np.ndarray[Any, Any]

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")
_COMPUTED = ("rope_parameters", "head_dim", "layer_types", "sliding_window")
"""Entries of a config that depend on several keys or tensors."""
_LARGE_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Blocks of Gemma 27B, whose attention is not scaled by the size of a head."""
_PATTERN = {"gemma2": 2, "gemma3": 6}
"""Every n-th block has full attention, if the file does not say otherwise."""


class GgufModel:
    """A GGUF file with known keys and tensors: see `catalog.gguf_names.gguf_problem`."""

    def __init__(
        self,
        reader: GgufReader,
        architecture: str = "",
    ) -> None:
        """architecture: the dense model's, if the file's is one that reads a width a block."""
        self._values = reader.values
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._graph = str(self._values["general.architecture"])
        self._name = architecture or self._graph
        self._known = ARCHITECTURES[self._name]
        self.kinds: dict[str, str] = {}
        self._has_two_norms = "blk.0.attn_norm_2.weight" in self._tensors

    def config(self) -> PretrainedConfig:
        """Its config. Raises ValueError, or an error of transformers, for impossible values."""
        entries: dict[str, Any] = {
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "vocab_size": len(self._values.get("tokenizer.ggml.tokens", ())),
            "_model_name_or_path": self._values.get("general.name", ""),
        }
        for key, entry in GENERAL.items():
            if entry in _SPECIAL_TOKENS:
                entries[entry] = self._values.get(key)
        for key, entry in self._known.keys.items():
            value = self._own(key)
            if entry not in _COMPUTED and value is not None:
                # 0 stands for none.
                entries[entry] = value or None
        entries |= self._heads() | self._special()
        if "rope.freq_base" in self._known.keys:
            entries["rope_parameters"] = self._rope()
        return AutoConfig.for_model(self._known.model_type, **entries)

    def weights(
        self, config: PretrainedConfig, on_part: OnPart = ignore
    ) -> dict[str, torch.Tensor]:
        """Every tensor by its name in the model, in FP32, in transformers' order of rows.

        on_part: called before each; as many parts again remain for writing them.
        """
        weights: dict[str, torch.Tensor] = {}
        for number, (name, tensor) in enumerate(self._tensors.items()):
            on_part(number, 2 * len(self._tensors))
            values = quants.dequantize(tensor.data, tensor.tensor_type).astype(
                np.float32, copy=False
            )
            for part_name, part in self._parts(name, values, config):
                own_name = self._known.tensors[general_name(part_name)]
                if own_name == "rope_parameters":
                    continue
                own_name = own_name.replace("#", part_name.split(".")[1], 1)
                if "#" in own_name:
                    for expert, matrix in enumerate(part):
                        name_of_expert = own_name.replace("#", str(expert))
                        self.kinds[name_of_expert] = tensor.tensor_type.name
                        weights[name_of_expert] = torch.from_numpy(np.array(matrix))
                    continue
                if not self._has_two_norms:
                    # Falcon's norm before both parts of a block.
                    own_name = own_name.replace(".ln_mlp.", ".input_layernorm.")
                self.kinds[own_name] = tensor.tensor_type.name
                ordered = np.array(self._reordered(part_name, part, config))
                weights[own_name] = torch.from_numpy(ordered)
        if self._name == "llama":
            # One projection with a bias gives one to all; llama.cpp adds nothing without one.
            for name, weight in list(weights.items()):
                entry = "attention_bias" if ".self_attn." in name else "mlp_bias"
                if name.endswith("_proj.weight") and getattr(config, entry, False):
                    bias_name = name.removesuffix("weight") + "bias"
                    weights.setdefault(bias_name, torch.zeros(len(weight)))
        return weights

    def tokenizer(self, file: Path) -> Tokenizer:
        """The file's tokenizer."""
        is_of_family = self._name.startswith("qwen") or self._is_gemma_without_prefix()
        # A family's class has rules of its own, which would come back when it is loaded.
        kind = AutoTokenizer if is_of_family else PreTrainedTokenizerFast
        problem = f"The tokenizer of {file.name} could not be read"
        # In a folder of its own: no file beside it is read.
        with (
            tempfile.TemporaryDirectory(prefix="sparsedash-") as empty,
            quick_gguf(),
            refusing_tokenizer(problem, "Fetch the file again."),
        ):
            (Path(empty) / file.name).symlink_to(file.resolve())
            tokenizer = kind.from_pretrained(
                empty,
                gguf_file=file.name,
                trust_remote_code=False,
                local_files_only=True,
            )
        self._correct_(tokenizer)
        return tokenizer

    def _is_gemma_without_prefix(self) -> bool:
        return self._name.startswith("gemma") and not self._values.get(
            "tokenizer.ggml.add_space_prefix", True
        )

    def _correct_(self, tokenizer: Any) -> None:
        """Set this file's rules of the pre-tokenizer, where transformers has others."""
        backend = tokenizer.backend_tokenizer
        if self._values.get("tokenizer.ggml.model") != "gpt2":
            if not self._is_gemma_without_prefix():
                self._correct_sentencepiece_(backend)
            return
        cut = str(self._values.get("tokenizer.ggml.pre", "default"))
        if rules := PRE_TOKENIZERS[cut]:
            steps = [
                pre_tokenizers.Split(Regex(rule), behavior="isolated") for rule in rules
            ]
            last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, last])
        if cut in WHOLE_WORDS:
            backend.model.ignore_merges = True
            if "tokenizer.ggml.add_bos_token" not in self._values:
                tokenizer.add_bos_token = True

    def _correct_sentencepiece_(self, backend: Any) -> None:
        """Set SentencePiece's rules: a space before the text, unless the file says otherwise."""
        steps: list[Any] = [normalizers.Replace(" ", "\u2581")]
        decoding = [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
        ]
        if self._values.get("tokenizer.ggml.add_space_prefix", True):
            steps.insert(0, normalizers.Prepend("\u2581"))
            decoding.append(decoders.Strip(" ", 1, 0))
        backend.normalizer = normalizers.Sequence(steps)
        backend.pre_tokenizer = None
        backend.decoder = decoders.Sequence(decoding)

    def _own(self, key: str, otherwise: Any = None) -> Any:
        return self._values.get(f"{self._name}.{key}", otherwise)

    def _numbers(self, name: str) -> list[float] | None:
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        values: list[float] = (
            quants.dequantize(tensor.data, tensor.tensor_type).ravel().tolist()
        )
        return values

    @cached_property
    def _usual_head(self) -> int:
        return int(self._own("embedding_length") // self._own("attention.head_count"))

    @cached_property
    def _head(self) -> int:
        rotated = None if self._name == "phi3" else self._own("rope.dimension_count")
        return int(self._own("attention.key_length") or rotated or self._usual_head)

    @cached_property
    def _original(self) -> int:
        return int(
            self._own("rope.scaling.original_context_length")
            or self._own("context_length")
        )

    def _heads(self) -> dict[str, Any]:
        """Config entries of the heads: their size only if unusual or always in the config."""
        if "attention.key_length" not in self._known.keys:
            return {}
        n_heads = self._own("attention.head_count")
        entries = {
            "num_key_value_heads": self._own("attention.head_count_kv") or n_heads
        }
        always = self._name in ("llama", "qwen3", "qwen3moe", "gemma2", "gemma3")
        if always or self._head != self._usual_head:
            entries["head_dim"] = self._head
        return entries

    def _special(self) -> dict[str, Any]:
        """Config entries of the family that depend on several keys or tensors."""
        biased = {
            name.split(".")[2]
            for name in self._tensors
            if name.startswith("blk.") and name.endswith(".bias")
        }
        match self._name:
            case "llama":
                attention = {"attn_q", "attn_k", "attn_v", "attn_output"}
                mlp = {"ffn_gate", "ffn_up", "ffn_down"}
                return {
                    "attention_bias": bool(biased & attention),
                    "mlp_bias": bool(biased & mlp),
                }
            case "qwen3moe":
                # llama.cpp's graph makes the gates of the chosen experts sum to 1.
                return {"norm_topk_prob": True}
            case "starcoder2":
                return {"use_bias": bool(biased - {"attn_norm", "ffn_norm"})}
            case "falcon":
                n_kv_heads = self._own("attention.head_count_kv", 0)
                return {
                    "new_decoder_architecture": n_kv_heads != 1 or self._has_two_norms,
                    "num_ln_in_parallel_attn": 2 if self._has_two_norms else 1,
                }
            case "phi3":
                return {
                    "sliding_window": self._own("attention.sliding_window") or None,
                    "original_max_position_embeddings": self._original,
                }
            case "gemma2" | "gemma3":
                n_blocks = self._own("block_count")
                slides = self._own(
                    "attention.sliding_window_pattern", _PATTERN[self._name]
                )
                if not isinstance(slides, list):
                    slides = [(index + 1) % max(1, slides) for index in range(n_blocks)]
                kinds = [
                    "sliding_attention" if slide else "full_attention"
                    for slide in slides
                ]
                is_large = n_blocks == _LARGE_GEMMA[self._name]
                return {
                    "query_pre_attn_scalar": self._usual_head
                    if is_large
                    else self._head,
                    "sliding_window": self._own("attention.sliding_window"),
                    "layer_types": kinds,
                }
            case _:
                return {}

    def _rope(self) -> dict[str, Any]:
        """RoPE parameters; in llama.cpp a factor without a type is linear."""
        kind = self._own("rope.scaling.type", "linear")
        factor = float(self._own("rope.scaling.factor") or 1)
        attention_factor = float(self._own("rope.scaling.attn_factor", 1))
        divisors = self._numbers("rope_freqs.weight")
        short = self._numbers("rope_factors_short.weight")
        long = self._numbers("rope_factors_long.weight")
        n_rotated = self._own("rope.dimension_count", self._head)
        rope: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": float(self._own("rope.freq_base", 10_000.0)),
        }
        if self._name == "phi3":
            rope["partial_rotary_factor"] = n_rotated / self._head
        lacks_factors = kind == "longrope" and short is None and divisors is None
        if (short is None) != (long is None) or lacks_factors:
            raise ValueError(
                "it has RoPE factors for short or long texts alone, or none where longrope needs them"
            )
        is_linear_phi3 = self._name == "phi3" and kind == "linear" and factor != 1
        if kind == "yarn":
            if divisors or short:
                raise ValueError(
                    "it has YaRN and a factor for each RoPE frequency, and one of both is possible"
                )
            rope |= {
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": self._original,
                "attention_factor": attention_factor
                * (1 + 0.1 * math.log(max(1.0, factor))),
                "beta_fast": self._own("rope.scaling.yarn_beta_fast", 32.0),
                "beta_slow": self._own("rope.scaling.yarn_beta_slow", 1.0),
            }
        elif divisors or short or attention_factor != 1 or is_linear_phi3:
            scale = 1 if kind == "none" else factor
            plain = divisors or [1.0] * (n_rotated // 2)
            rope |= {
                "rope_type": "longrope",
                "short_factor": [divisor * scale for divisor in short or plain],
                "long_factor": [divisor * scale for divisor in long or plain],
                "original_max_position_embeddings": self._original,
                "attention_factor": attention_factor,
            }
        elif factor != 1 and kind != "none":
            rope |= {"rope_type": "linear", "factor": factor}
        if self._name != "gemma3":
            return rope
        theta = float(self._own("rope.freq_base_swa", 10_000.0))
        sliding = {"rope_type": "default", "rope_theta": theta}
        return {"full_attention": rope, "sliding_attention": sliding}

    def _parts(
        self,
        name: str,
        values: Array,
        config: PretrainedConfig,
    ) -> list[tuple[str, Array]]:
        """The tensor under its name; q, k and v where `openelm` has qwen3's one below the other."""
        if self._graph != "openelm" or ".attn_qkv." not in name:
            return [(name, values)]
        n_q = config.num_attention_heads * config.head_dim
        n_kv = config.num_key_value_heads * config.head_dim
        parts = np.split(values, [n_q, n_q + n_kv])
        return [
            (name.replace("qkv", q_k_v), part)
            for q_k_v, part in zip("qkv", parts, strict=True)
        ]

    def _reordered(
        self,
        name: str,
        values: Array,
        config: PretrainedConfig,
    ) -> Array:
        """Undo the reordering of llama.cpp's converter."""
        part = name.removeprefix("blk.").partition(".")[2]
        projection = part.partition(".")[0]
        heads = config.num_attention_heads
        further = values.shape[1:]
        match self._name, projection:
            case "llama" | "qwen2", "attn_q" | "attn_k" if self._graph in (
                "llama",
                "deci",
            ):
                n = heads if projection == "attn_q" else config.num_key_value_heads
                return (
                    values.reshape(n, -1, 2, *further)
                    .swapaxes(1, 2)
                    .reshape(values.shape)
                )
            case "gemma2" | "gemma3", _ if name.endswith("norm.weight"):
                return values - 1
            case "gpt2", "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down" if (
                values.ndim == 2
            ):
                return values.T
            case "bloom", "attn_qkv":
                return (
                    values.reshape(3, heads, -1, *further)
                    .swapaxes(0, 1)
                    .reshape(values.shape)
                )
            case "falcon", "attn_qkv" if (
                values.ndim == 2 and config.new_decoder_architecture
            ):
                n_kv = config.num_kv_heads
                width = values.shape[1]
                size = width // heads
                qkv = np.split(values, [heads * size, (heads + n_kv) * size])
                grouped = [rows.reshape(n_kv, -1, size, width) for rows in qkv]
                return np.concatenate(grouped, axis=1).reshape(values.shape)
            case _:
                return values


_CONVERSION_VERSION = 2
"""Raise it if the same file is converted to other numbers or other tokens."""


def unpack_gguf(
    file: Path,
    store: Store,
    on_part: OnPart = ignore,
) -> Path:
    """The folder with this file's model in FP32 and its tokenizer. Raises ModelError."""
    name = f"{file.stem}-{hash_file(file, store)[:16]}-{_CONVERSION_VERSION}"
    return converted_folder(
        name,
        lambda folder: _write_converted(file, folder, on_part),
        store,
    )


def gguf_source_type(file: Path, store: Store) -> str:
    """The type of a quantised file, see `quantised_type`; read once, then noted."""
    note = store_keys.source_type_note(hash_file(file, store))
    source_type = store.recall(note)
    if source_type is None:
        source_type = quantised_type(opened_gguf(file))
        store.remember(note, source_type)
    return source_type


def _write_converted(
    file: Path,
    folder: Path,
    on_part: OnPart,
) -> None:
    unreadable = f"{file.name} could not be read as a GGUF model"
    reader = opened_gguf(file)
    problem = gguf_problem(reader.values, (tensor.name for tensor in reader.tensors))
    if problem:
        raise ModelError(f"{unreadable}: {problem}.")
    gguf_model = GgufModel(reader)
    with refusing(unreadable, "Name another file of this model."):
        config = gguf_model.config()
        refuse_impossible(config.to_dict(), file.name)
        refuse_oversized(
            file.name,
            config,
            file.stat().st_size,
            "gguf",
        )
        tokenizer = gguf_model.tokenizer(file)
        weights = gguf_model.weights(config, on_part)
        on_part(1, 2)
    # transformers' own bars would tear the shell's.
    with redirect_stderr(StringIO()):
        model = read_model(
            file.name,
            config,
            torch.float32,
            pretrained_model_name_or_path=None,
            state_dict=weights,
        )
        refuse_no_numbers(file.name, model)
        with refusing(
            f"{file.name} could not be unpacked", "See whether the disk is full."
        ):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
