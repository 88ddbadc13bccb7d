"""Builds a dense model's GGUF file from its folder: the inverse of model_conversion.py.

What llama.cpp makes of a model, sparse or quantised, is made from such a file. It is written once
and kept among the converted models. What it cannot say of a model is refused, by reading it back.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from transformers import AutoTokenizer, PretrainedConfig

from sparsedash.catalog.families import MADE_GGUF
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
from sparsedash.engine.models.gguf_writing import Array, GgufTensor, gguf_type, write_file
from sparsedash.engine.models.loading import Source, gguf_file
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
"""Entries of a config that are written in a way of their own, or follow from others."""
_ALSO_SAID = (
    *(
        "hidden_act",
        "hidden_activation",
        "attention_bias",
        "mlp_bias",
        "layer_types",
        "query_pre_attn_scalar",
    ),
    *("tie_word_embeddings", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
)
"""Entries that change what a model computes, beside those that have a key."""
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_ADVICE = "Name a GGUF file of the dense model: for an export with --dense-gguf, for all else as the model."
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_PREFIX = {"type": "Prepend", "prepend": "\u2581"}
_NORMALIZERS: tuple[Any, ...] = (
    *(None, _SPACES, {"type": "NFC"}),
    {"type": "Sequence", "normalizers": [_PREFIX, _SPACES]},
    {"type": "Sequence", "normalizers": [_SPACES]},
)
"""What may become of a text before it is cut; llama.cpp does the same with spaces, and leaves the
rest as it is.
"""


def gguf_of(source: Source, store: Store, on_part: OnPart = ignore) -> Path:
    """The GGUF file that the model is read from, or else one made of its folder.

    on_part: called before each tensor that is written. Raises ModelError where none can be made.
    """
    if base := gguf_file(source.reference):
        return base
    name = f"{source.folder.name}-{digest(source.identity)[:16]}-gguf-{_VERSION}"
    folder = converted_folder(
        name, lambda made: write_dense_gguf(source, made / "dense.gguf", on_part), store
    )
    return folder / "dense.gguf"


def write_dense_gguf(source: Source, file: Path, on_part: OnPart = ignore) -> None:
    """Write the file in the folder's own types of weights.

    Raises ModelError for a model that it cannot hold, before any weight is written, and where the
    disk is full.
    """
    config = read_config(source.folder, source.reference)
    name = MADE_GGUF.get(config.model_type)
    if name is None:
        raise _impossible(f"none of {config.model_type} can be made here")
    if config.model_type == "mistral" and config.sliding_window:
        raise _impossible("llama.cpp reads no sliding window of a mistral model")
    with refusing(
        f"The tokenizer of {source.reference} could not be read", "Fetch the model again."
    ):
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=False, local_files_only=True
        )
    tensors = [*_rope_factors(config), *_tensors(source, config, name)]
    title = Path(source.reference).name
    keys = partial(_add_keys, config=config, title=title, tokenizer=tokenizer, tensors=tensors)
    try:
        write_file(file, name, keys, [_stand_in(tensor) for tensor in tensors])
        _require_said(file, config)
        require_export_room(file.parent, sum(tensor.n_bytes for tensor in tensors))
        write_file(file, name, keys, tensors, on_part)
    except OSError as error:
        raise ModelError(
            f"{file} could not be written: {error.strerror or error}.", "Free some space."
        ) from error


def _impossible(reason: str) -> ModelError:
    return ModelError(f"No GGUF file can be made of this model: {reason}.", _ADVICE)


def _stand_in(tensor: GgufTensor) -> GgufTensor:
    """One number under the name of a weight, so that a file's keys can be read back before its
    weights are written.
    """
    if tensor.name == "rope_freqs.weight":
        return tensor
    return replace(
        tensor, shape=(1,), kind=GGMLQuantizationType.F32, make=lambda: np.zeros(1, np.float32)
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
        LlamaFileType[next(_FILE_TYPES[kind] for kind in ("BF16", "F16", "F32") if kind in kinds)]
    )


def _require_said(file: Path, config: PretrainedConfig) -> None:
    """Raises ModelError where the config that the file is read back with computes otherwise."""
    said = {*ARCHITECTURES[MADE_GGUF[config.model_type]].keys.values(), *_ALSO_SAID} - {
        "rope_parameters"
    }
    found, wanted = GgufModel(opened_gguf(file)).config().to_dict(), config.to_dict()
    for entry in sorted(found.keys() & wanted.keys() & said):
        one, other = found[entry], wanted[entry]
        # Numbers of the file have 32 bits.
        if one != other and not (isinstance(one, float) and np.float32(one) == np.float32(other)):
            raise _impossible(
                f"a file cannot hold {entry} = {str(wanted[entry])[:80]} of a {config.model_type} model"
            )


def _add_config(writer: GGUFWriter, config: PretrainedConfig, name: str) -> None:
    """Add the keys of the architecture."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for key, entry in ARCHITECTURES[name].keys.items():
        value = head if entry == "head_dim" else getattr(config, entry, None)
        if value is None or entry in _COMPUTED:
            continue
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{name}.{key}", value)
    whole, sliding = _rope(config)
    writer.add_float32(f"{name}.rope.freq_base", whole["rope_theta"])
    if sliding is not None:
        writer.add_float32(f"{name}.rope.freq_base_swa", sliding["rope_theta"])
    if whole.get("rope_type", "default") == "linear":
        writer.add_string(f"{name}.rope.scaling.type", "linear")
        writer.add_float32(f"{name}.rope.scaling.factor", whole["factor"])


def _rope(config: PretrainedConfig) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """RoPE parameters of full and, in Gemma 3, of sliding attention. Raises ModelError for another
    scaling.
    """
    said = config.rope_parameters
    whole, sliding = (
        (said["full_attention"], said["sliding_attention"])
        if "full_attention" in said
        else (said, None)
    )
    kinds = [each.get("rope_type", "default") for each in (whole, sliding) if each is not None]
    if kinds[0] not in ("default", "linear", "llama3") or kinds[1:] not in ([], ["default"]):
        raise _impossible(f"none with RoPE scaling {', '.join(kinds)} can be made here")
    return whole, sliding


def _rope_factors(config: PretrainedConfig) -> Iterator[GgufTensor]:
    """What each RoPE frequency of a Llama 3 model is divided by: 1 above one frequency, the factor
    below another.

    Source: Llama 3.1's `apply_scaling`, as transformers' `llama3` has it.
    """
    whole, _ = _rope(config)
    if whole.get("rope_type") != "llama3":
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turns = whole["original_max_position_embeddings"] * (
        whole["rope_theta"] ** (-np.arange(0, head, 2, dtype=np.float64) / head) / (2 * math.pi)
    )
    low, high, factor = whole["low_freq_factor"], whole["high_freq_factor"], whole["factor"]
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    values: Array = (1 / ((1 - share) / factor + share)).astype(np.float32)
    yield GgufTensor("rope_freqs.weight", values.shape, GGMLQuantizationType.F32, lambda: values)


def _tensors(source: Source, config: PretrainedConfig, name: str) -> Iterator[GgufTensor]:
    """The model's tensors under llama.cpp's names and in its order of rows."""
    names, ends = (
        {ours: theirs for theirs, ours in ARCHITECTURES[name].tensors.items()},
        dict[str, torch.Tensor](),
    )
    for file in weight_files(source.folder, source.reference):
        for ours, tensor in stored_tensors(file):
            theirs = names.get(re.sub(r"\.\d+\.", ".#.", ours, count=1))
            if theirs is None:
                if ours.endswith("rotary_emb.inv_freq"):
                    continue
                raise _impossible(f"a file has no place for {ours[:80]} of {config.model_type}")
            if theirs in ("token_embd.weight", "output.weight"):
                ends[theirs] = tensor
                if len(ends) > 1 and config.tie_word_embeddings and not torch.equal(*ends.values()):
                    raise _impossible("its head is not its embedding, which its config denies")
            if theirs == "output.weight" and config.tie_word_embeddings:
                continue
            number = re.search(r"\.(\d+)\.", ours)
            full = theirs.replace("#", number[1] if number else "")
            kind = gguf_type(full, tensor.shape, "float32" if tensor.dim() < 2 else "float16")
            if kind is not GGMLQuantizationType.F32:
                kind = GGMLQuantizationType[_KINDS.get(type_name(tensor.dtype), "F32")]
            yield GgufTensor(
                full, tuple(tensor.shape), kind, partial(_rows, tensor, theirs, config, name)
            )


def _rows(tensor: torch.Tensor, theirs: str, config: PretrainedConfig, name: str) -> Array:
    """A tensor's numbers as llama.cpp's converter orders them; the way back of GgufModel's
    reordering.
    """
    values: Array = tensor.float().numpy()
    part = theirs.removeprefix("blk.#.")
    if name == "llama" and part.startswith(("attn_q.", "attn_k.")):
        heads = (
            config.num_attention_heads if part.startswith("attn_q.") else config.num_key_value_heads
        )
        return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return values + 1 if name.startswith("gemma") and theirs.endswith("norm.weight") else values


def _add_tokenizer(writer: GGUFWriter, tokenizer: Any, config: PretrainedConfig) -> None:
    """Add the tokens, their merges and where words are cut. Raises ModelError for a tokenizer of
    another kind.

    Rows of the embeddings without a token get one that no text holds; added tokens without a row
    are left out.
    """
    said, n_tokens = json.loads(tokenizer.backend_tokenizer.to_str()), config.vocab_size
    model, added = said["model"], {each["id"]: each for each in said["added_tokens"]}
    if model["type"] != "BPE":
        raise _impossible(f"its tokenizer is of the kind {model['type']}")
    words = {number: word for word, number in model["vocab"].items()} | {
        i: own["content"] for i, own in added.items()
    }
    if beyond := [i for i in words if i >= n_tokens and i not in added]:
        raise _impossible(
            f"its tokenizer has {max(beyond) + 1:,} tokens, and the model {n_tokens:,}"
        )
    merges = [" ".join(each) if isinstance(each, list) else each for each in model["merges"]]
    of_bytes = not model.get("byte_fallback")
    if said["normalizer"] not in _NORMALIZERS:
        raise _impossible("its tokenizer changes texts in a way that llama.cpp's does not")
    kinds = [_kind(words.get(i), added.get(i), model.get("unk_token")) for i in range(n_tokens)]
    writer.add_tokenizer_model("gpt2" if of_bytes else "llama")
    listed = [words.get(i, f"[PAD{i}]") for i in range(n_tokens)]
    if not of_bytes:
        # Those are looked for in the text as it is written.
        spaced = (int(TokenType.USER_DEFINED), int(TokenType.CONTROL))
        listed = [
            word.replace("\u2581", " ") if kind in spaced else word
            for word, kind in zip(listed, kinds, strict=True)
        ]
    writer.add_token_list(listed)
    writer.add_token_types(kinds)
    if of_bytes:
        cut = _cut_by(said["pre_tokenizer"])
        if (cut in WHOLE_WORDS) != bool(model.get("ignore_merges")):
            raise _impossible(
                "its tokenizer merges words that are tokens otherwise than llama.cpp does"
            )
        writer.add_tokenizer_pre(cut)
        writer.add_token_merges(merges)
    elif _cuts_at_spaces(said["pre_tokenizer"]):
        # llama.cpp merges what makes the token of the highest score: the first merge that makes it.
        scores = {
            merge.replace(" ", "", 1): -float(rank)
            for rank, merge in reversed([*enumerate(merges)])
        }
        writer.add_token_scores(
            [scores.get(words.get(i, ""), -float(len(merges))) for i in range(n_tokens)]
        )
        first = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).tokens[0]
        writer.add_add_space_prefix(first.startswith("\u2581"))
    else:
        raise _impossible("its tokenizer cuts words otherwise than llama.cpp does")
    for add, token in (
        (writer.add_bos_token_id, "bos_token_id"),
        (writer.add_eos_token_id, "eos_token_id"),
        (writer.add_unk_token_id, "unk_token_id"),
        (writer.add_pad_token_id, "pad_token_id"),
    ):
        number = getattr(tokenizer, token)
        # llama.cpp has numbers of its own for those that a file does not name.
        number = getattr(config, token, None) if number is None else number
        number = next(iter(number), None) if isinstance(number, list) else number
        if number is not None and 0 <= number < n_tokens:
            add(number)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)
    template = tokenizer.chat_template
    # Of several, by their names, the one that is used where none is named.
    if template := template.get("default") if isinstance(template, dict) else template:
        writer.add_chat_template(template)


def _cuts_at_spaces(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Whether words are cut at no more than spaces, which merges of SentencePiece never cross from
    left to right.
    """
    match pre_tokenizer:
        case (
            None
            | {"type": "Metaspace", "split": False}
            | {"type": "Split", "pattern": {"String": " "}}
        ):
            return True
        case _:
            return False


def _kind(word: str | None, added: Mapping[str, Any] | None, unknown: str | None) -> int:
    """What llama.cpp takes a token for."""
    if word is None:
        return int(TokenType.UNUSED)
    if word == unknown:
        return int(TokenType.UNKNOWN)
    if added is not None:
        return int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    return int(TokenType.BYTE if _BYTE.fullmatch(word) else TokenType.NORMAL)


def _cut_by(pre_tokenizer: Mapping[str, Any] | None) -> str:
    """llama.cpp's name for where words are cut. Raises ModelError for rules that have none here."""
    rules = tuple(_rules(pre_tokenizer))
    if rules not in CUTS_OF:
        raise _impossible("llama.cpp's name for how this tokenizer cuts words is not known here")
    return CUTS_OF[rules]


def _rules(step: Mapping[str, Any] | None) -> Iterator[str]:
    """The regular expressions of a pre-tokenizer, in their order."""
    match step:
        case {"type": "Sequence", "pretokenizers": [*steps]}:
            for each in steps:
                yield from _rules(each)
        case {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}:
            yield str(rule)
        case {"type": "Digits", "individual_digits": True}:
            yield INDIVIDUAL_DIGITS
        case {"type": "ByteLevel", "use_regex": use_regex, "add_prefix_space": False}:
            yield from [WORDS_OF_BYTES] if use_regex else []
        case None:
            return
        case _:
            yield str(step.get("type"))
