"""Writes a dense model's GGUF file from its folder: the inverse of model_conversion.py.

Sparse and quantised GGUF files are made from it. It is written once and kept among the converted
models. A model that the file cannot represent is refused, by reading its keys back.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from transformers import AutoTokenizer, PretrainedConfig

from sparsedash.catalog.export_forms import MADE_GGUF
from sparsedash.catalog.gguf_names import (
    ARCHITECTURES,
    CUTS_OF,
    INDIVIDUAL_DIGITS,
    WHOLE_WORDS,
    WORDS_OF_BYTES,
)
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.engine.models.checkpoint_reading import (
    read_config,
    refusing,
    stored_tensors,
    type_name,
    weight_files,
)
from sparsedash.engine.models.gguf_writing import (
    Array,
    GgufTensor,
    gguf_type,
    write_file,
)
from sparsedash.engine.models.locating import Source, gguf_file
from sparsedash.engine.models.model_conversion import GgufModel, converted_folder
from sparsedash.schema.errors import ModelError
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import OnPart, ignore
from sparsedash.storage.model_folders import require_export_room
from sparsedash.storage.store import Store

_VERSION = 2
"""Raise it where the same folder makes another file."""
_KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}
_COMPUTED = ("rope_parameters", "layer_types")
"""Entries of a config that are written otherwise, or follow from others."""
_COMPARED = (
    "hidden_act",
    "hidden_activation",
    "attention_bias",
    "mlp_bias",
    "layer_types",
    "query_pre_attn_scalar",
    "tie_word_embeddings",
    "sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "norm_topk_prob",
    "clip_qkv",
    "mlp_only_layers",
    "decoder_sparse_step",
)
"""Entries that change a model's output, beside those that have a key."""
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_ADVICE = "Name a GGUF file of the dense model: for an export with --dense-gguf, for all else as the model."
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_PREFIX = {"type": "Prepend", "prepend": "\u2581"}
_NORMALIZERS: tuple[Any, ...] = (
    None,
    _SPACES,
    {"type": "NFC"},
    {"type": "Sequence", "normalizers": [_PREFIX, _SPACES]},
    {"type": "Sequence", "normalizers": [_SPACES]},
)
"""Normalizers that llama.cpp equals: it replaces spaces, and leaves the text as it is otherwise."""


def dense_gguf_file(
    source: Source,
    store: Store,
    on_part: OnPart = ignore,
) -> Path:
    """The GGUF file that the model is read from, or else one made of its folder.

    on_part: called before each tensor that is written. Raises ModelError if none can be made.
    """
    file = gguf_file(source.reference)
    if file is not None:
        return file

    def write(folder: Path) -> None:
        write_dense_gguf(source, folder / "dense.gguf", on_part)

    name = f"{source.folder.name}-{digest(source.identity)[:16]}-gguf-{_VERSION}"
    return converted_folder(name, write, store) / "dense.gguf"


def write_dense_gguf(
    source: Source,
    file: Path,
    on_part: OnPart = ignore,
) -> None:
    """Write the file in the folder's own types of weights.

    Raises ModelError for a model that it cannot represent, before any weight is written, and if the
    disk is full.
    """
    config = read_config(source.folder, source.reference)
    name = MADE_GGUF.get(config.model_type)
    if name is None:
        raise _impossible(f"none of {config.model_type} can be made here")
    if config.model_type == "mistral" and config.sliding_window:
        raise _impossible("llama.cpp reads no sliding window of a mistral model")
    with refusing(
        f"The tokenizer of {source.reference} could not be read",
        "Fetch the model again.",
    ):
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=False, local_files_only=True
        )
    tensors = [*_rope_factors(config), *_tensors(source, config, name)]
    title = Path(source.reference).name
    keys = partial(
        _add_keys,
        config=config,
        title=title,
        tokenizer=tokenizer,
        tensors=tensors,
    )
    try:
        write_file(
            file,
            name,
            keys,
            [_placeholder(tensor) for tensor in tensors],
        )
        _require_same_config(file, config)
        require_export_room(file.parent, sum(tensor.n_bytes for tensor in tensors))
        write_file(file, name, keys, tensors, on_part)
    except OSError as error:
        raise ModelError(
            f"{file} could not be written: {error.strerror or error}.",
            "Free some space.",
        ) from error


def _impossible(reason: str) -> ModelError:
    return ModelError(f"No GGUF file can be made of this model: {reason}.", _ADVICE)


def _placeholder(tensor: GgufTensor) -> GgufTensor:
    """One number under the name of a weight, to read a file's keys back before its weights."""
    if tensor.name == "rope_freqs.weight":
        return tensor
    return replace(
        tensor,
        shape=(1,),
        kind=GGMLQuantizationType.F32,
        make=lambda: np.zeros(1, np.float32),
    )


def _add_keys(
    writer: GGUFWriter,
    config: PretrainedConfig,
    title: str,
    tokenizer: Any,
    tensors: Sequence[GgufTensor],
) -> None:
    writer.add_name(title)
    _add_config(writer, config, writer.arch)
    _add_tokenizer(writer, tokenizer, config)
    kinds = {tensor.kind.name for tensor in tensors}
    writer.add_file_type(
        LlamaFileType[
            next(_FILE_TYPES[kind] for kind in ("BF16", "F16", "F32") if kind in kinds)
        ]
    )


def _require_same_config(file: Path, config: PretrainedConfig) -> None:
    """Raises ModelError if the config that the file is read back with has other values."""
    known = ARCHITECTURES[MADE_GGUF[config.model_type]].keys.values()
    read_back = GgufModel(opened_gguf(file)).config().to_dict()
    expected = config.to_dict()
    for entry in sorted(read_back.keys() & expected.keys() & {*known, *_COMPARED}):
        value = expected[entry]
        # Numbers of the file have 32 bits.
        is_float = isinstance(read_back[entry], float)
        same = is_float and np.float32(read_back[entry]) == np.float32(value)
        if entry != "rope_parameters" and read_back[entry] != value and not same:
            kind = config.model_type
            raise _impossible(
                f"a file cannot hold {entry} = {str(value)[:80]} of a {kind} model"
            )


def _head_size(config: PretrainedConfig) -> int:
    usual = config.hidden_size // config.num_attention_heads
    return int(getattr(config, "head_dim", None) or usual)


def _add_config(
    writer: GGUFWriter,
    config: PretrainedConfig,
    name: str,
) -> None:
    """Add the keys of the architecture."""
    for key, entry in ARCHITECTURES[name].keys.items():
        value = (
            _head_size(config) if entry == "head_dim" else getattr(config, entry, None)
        )
        if value is None or entry in _COMPUTED:
            continue
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{name}.{key}", value)
    rope, *sliding = _rope(config)
    writer.add_float32(f"{name}.rope.freq_base", rope["rope_theta"])
    for sliding_rope in sliding:
        writer.add_float32(f"{name}.rope.freq_base_swa", sliding_rope["rope_theta"])
    if rope.get("rope_type", "default") == "linear":
        writer.add_string(f"{name}.rope.scaling.type", "linear")
        writer.add_float32(f"{name}.rope.scaling.factor", rope["factor"])


def _rope(config: PretrainedConfig) -> list[Mapping[str, Any]]:
    """RoPE parameters of full and, in Gemma 3, of sliding attention.

    Raises ModelError for another scaling.
    """
    parameters = [config.rope_parameters]
    if "full_attention" in config.rope_parameters:
        parameters = [
            config.rope_parameters[f"{kind}_attention"] for kind in ("full", "sliding")
        ]
    kinds = [rope.get("rope_type", "default") for rope in parameters]
    if kinds[0] not in ("default", "linear", "llama3") or kinds[1:] not in (
        [],
        ["default"],
    ):
        raise _impossible(f"none with RoPE scaling {', '.join(kinds)} can be made here")
    return parameters


def _rope_factors(config: PretrainedConfig) -> Iterator[GgufTensor]:
    """Divisors of a Llama 3 model's RoPE frequencies: from 1 for high ones to the factor for low.

    Source: Llama 3.1's `apply_scaling`, as transformers' `llama3` has it.
    """
    rope = _rope(config)[0]
    if rope.get("rope_type") != "llama3":
        return
    head = _head_size(config)
    frequencies = rope["rope_theta"] ** (
        -np.arange(0, head, 2, dtype=np.float64) / head
    )
    turns = rope["original_max_position_embeddings"] * (frequencies / (2 * math.pi))
    low = rope["low_freq_factor"]
    share = np.clip((turns - low) / (rope["high_freq_factor"] - low), 0.0, 1.0)
    values: Array = (1 / ((1 - share) / rope["factor"] + share)).astype(np.float32)
    yield GgufTensor(
        "rope_freqs.weight", values.shape, GGMLQuantizationType.F32, lambda: values
    )


def _tensors(
    source: Source,
    config: PretrainedConfig,
    name: str,
) -> Iterator[GgufTensor]:
    """The model's tensors under llama.cpp's names and in its order of rows."""
    gguf_names = {ours: theirs for theirs, ours in ARCHITECTURES[name].tensors.items()}
    tied: list[torch.Tensor] = []
    # Like all tensors here mapped from the files: none is in memory before it is written.
    experts: dict[str, dict[int, torch.Tensor]] = {}
    files = weight_files(source.folder, source.reference)
    for own_name, tensor in chain.from_iterable(map(stored_tensors, files)):
        gguf_name = gguf_names.get(re.sub(r"\.\d+\.", ".#.", own_name))
        if gguf_name is None:
            if own_name.endswith("rotary_emb.inv_freq"):
                continue
            raise _impossible(
                f"a file has no place for {own_name[:80]} of {config.model_type}"
            )
        if config.tie_word_embeddings and gguf_name in (
            "token_embd.weight",
            "output.weight",
        ):
            tied.append(tensor)
            if len(tied) > 1 and not torch.equal(*tied):
                raise _impossible(
                    "its config ties the output head to the embedding, but the two weights differ"
                )
            if gguf_name == "output.weight":
                continue
        number = re.search(r"\.(\d+)\.", own_name)
        full_name = gguf_name.replace("#", number[1] if number else "")
        if "_exps." in gguf_name:
            expert = int(own_name.split(".")[-3])
            experts.setdefault(full_name, {})[expert] = tensor
            continue
        kind = _kind_of(full_name, tensor)
        make = partial(
            _rows,
            tensor,
            gguf_name,
            config,
            name,
        )
        yield GgufTensor(full_name, tuple(tensor.shape), kind, make)
    for full_name, by_number in experts.items():
        of_block = [by_number[number] for number in sorted(by_number)]
        shape = (len(of_block), *of_block[0].shape)
        kind = _kind_of(full_name, of_block[0])
        yield GgufTensor(full_name, shape, kind, partial(_stacked, of_block))


def _kind_of(name: str, tensor: torch.Tensor) -> GGMLQuantizationType:
    """The type of a tensor in the file."""
    if gguf_type(name, tensor.shape, "float16") is GGMLQuantizationType.F32:
        return GGMLQuantizationType.F32
    return GGMLQuantizationType[_KINDS.get(type_name(tensor.dtype), "F32")]


def _stacked(of_experts: Sequence[torch.Tensor]) -> Array:
    """The weights of all experts of a block, (experts, out, in)."""
    values: Array = torch.stack([weight.float() for weight in of_experts]).numpy()
    return values


def _rows(
    tensor: torch.Tensor,
    gguf_name: str,
    config: PretrainedConfig,
    name: str,
) -> Array:
    """A tensor's values as llama.cpp's converter orders them; undone by GgufModel._reordered."""
    values: Array = tensor.float().numpy()
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    part = gguf_name.removeprefix("blk.#.").partition(".")[0]
    if name == "llama" and part in heads:
        halves = values.reshape(
            heads[part],
            2,
            -1,
            *values.shape[1:],
        )
        return halves.swapaxes(1, 2).reshape(values.shape)
    return (
        values + 1
        if name.startswith("gemma") and gguf_name.endswith("norm.weight")
        else values
    )


def _add_tokenizer(
    writer: GGUFWriter,
    tokenizer: Any,
    config: PretrainedConfig,
) -> None:
    """Add the tokens, their merges and the rules of the pre-tokenizer.

    Raises ModelError for another kind of tokenizer.
    """
    n_tokens = config.vocab_size
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model = spec["model"]
    if model["type"] != "BPE":
        raise _impossible(f"its tokenizer is of the kind {model['type']}")
    if spec["normalizer"] not in _NORMALIZERS:
        raise _impossible(
            "its tokenizer changes texts in a way that llama.cpp's does not"
        )
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in model["merges"]
    ]
    words = _words_of(spec, n_tokens)
    by_bytes = not model.get("byte_fallback")
    writer.add_tokenizer_model("gpt2" if by_bytes else "llama")
    _add_tokens(writer, words, spec, n_tokens)
    if by_bytes:
        writer.add_tokenizer_pre(_cut_by(spec))
        writer.add_token_merges(merges)
    else:
        _add_scores(writer, words, merges, spec, n_tokens)
        first = tokenizer.backend_tokenizer.encode(
            "a", add_special_tokens=False
        ).tokens[0]
        writer.add_add_space_prefix(first.startswith("\u2581"))
    _add_special_tokens(writer, tokenizer, config)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        # Of several, by their names, the one that is used if none is named.
        template = template.get("default")
    if template:
        writer.add_chat_template(template)


def _words_of(spec: Mapping[str, Any], n_tokens: int) -> dict[int, str]:
    """The tokens of a tokenizer by their numbers. Raises ModelError for one without a row."""
    words = {number: word for word, number in spec["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in spec["added_tokens"]}
    words |= added
    beyond = [number for number in words if number >= n_tokens and number not in added]
    if beyond:
        n_words = max(beyond) + 1
        raise _impossible(
            f"its tokenizer has {n_words:,} tokens, and the model {n_tokens:,}"
        )
    return words


def _add_tokens(
    writer: GGUFWriter, words: Mapping[int, str], spec: Mapping[str, Any], n_tokens: int
) -> None:
    """Add a token and its type for each row of the embeddings.

    Rows without a token get one that no text holds; added tokens without a row are left out.
    """
    model = spec["model"]
    added = {token["id"]: token for token in spec["added_tokens"]}
    tokens = []
    kinds = []
    for number in range(n_tokens):
        token = words.get(number, f"[PAD{number}]")
        kind = _kind(words.get(number), added.get(number), model.get("unk_token"))
        if model.get("byte_fallback") and kind in (
            TokenType.USER_DEFINED,
            TokenType.CONTROL,
        ):
            # Those are searched in the text as it is written.
            token = token.replace("\u2581", " ")
        tokens.append(token)
        kinds.append(int(kind))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)


def _add_scores(
    writer: GGUFWriter,
    words: Mapping[int, str],
    merges: Sequence[str],
    spec: Mapping[str, Any],
    n_tokens: int,
) -> None:
    """Add a score for each token: llama.cpp merges into the token of the highest score.

    Raises ModelError where words are cut otherwise.
    """
    if not _cuts_at_spaces(spec["pre_tokenizer"]):
        raise _impossible("its tokenizer cuts words otherwise than llama.cpp does")
    # The first merge that makes a token.
    scores: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        scores.setdefault(merge.replace(" ", "", 1), -float(rank))
    lowest = -float(len(merges))
    by_number = [
        scores.get(words.get(number, ""), lowest) for number in range(n_tokens)
    ]
    writer.add_token_scores(by_number)


def _add_special_tokens(
    writer: GGUFWriter, tokenizer: Any, config: PretrainedConfig
) -> None:
    """Add which tokens begin, end and fill up a text, and whether one is added."""
    for add, token in (
        (writer.add_bos_token_id, "bos_token_id"),
        (writer.add_eos_token_id, "eos_token_id"),
        (writer.add_unk_token_id, "unk_token_id"),
        (writer.add_pad_token_id, "pad_token_id"),
    ):
        token_id = getattr(tokenizer, token)
        if token_id is None:
            # llama.cpp has defaults of its own for those that a file does not name.
            token_id = getattr(config, token, None)
        if isinstance(token_id, list):
            token_id = next(iter(token_id), None)
        if token_id is not None and 0 <= token_id < config.vocab_size:
            add(token_id)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)


def _cuts_at_spaces(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """True if words are cut at spaces at most, which SentencePiece's merges never cross."""
    match pre_tokenizer:
        case (
            None
            | {"type": "Metaspace", "split": False}
            | {"type": "Split", "pattern": {"String": " "}}
        ):
            return True
        case _:
            return False


def _kind(
    word: str | None,
    added: Mapping[str, Any] | None,
    unknown: str | None,
) -> TokenType:
    """The token's type in llama.cpp."""
    if word is None:
        return TokenType.UNUSED
    if word == unknown:
        return TokenType.UNKNOWN
    if added is not None:
        return TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    return TokenType.BYTE if _BYTE.fullmatch(word) else TokenType.NORMAL


def _cut_by(spec: Mapping[str, Any]) -> str:
    """llama.cpp's name for how words are cut. Raises ModelError for rules without one."""
    rules = tuple(_rules(spec["pre_tokenizer"]))
    if rules not in CUTS_OF:
        raise _impossible(
            "llama.cpp's name for how this tokenizer cuts words is not known here"
        )
    cut = CUTS_OF[rules]
    if (cut in WHOLE_WORDS) != bool(spec["model"].get("ignore_merges")):
        problem = (
            "its tokenizer merges words that are tokens otherwise than llama.cpp does"
        )
        raise _impossible(problem)
    return cut


def _rules(step: Mapping[str, Any] | None) -> Iterator[str]:
    """The regular expressions of a pre-tokenizer, in their order."""
    match step:
        case {"type": "Sequence", "pretokenizers": [*steps]}:
            for inner in steps:
                yield from _rules(inner)
        case {
            "type": "Split",
            "pattern": {"Regex": rule},
            "behavior": "Isolated",
            "invert": False,
        }:
            yield str(rule)
        case {"type": "Digits", "individual_digits": True}:
            yield INDIVIDUAL_DIGITS
        case {"type": "ByteLevel", "use_regex": use_regex, "add_prefix_space": False}:
            yield from [WORDS_OF_BYTES] if use_regex else []
        case None:
            return
        case _:
            yield str(step.get("type"))
