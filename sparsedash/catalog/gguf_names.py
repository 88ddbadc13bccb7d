"""Keys and tensors of GGUF files, by `gguf.toml`: mapped to the config and the model, harmless, or
refused.

Keys of an architecture stand without its name; `#` is a number. engine/models/model_conversion.py
reads nothing that is not listed.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

from sparsedash.catalog.config_checks import MAX_LAYERS

Class = Literal["mapped", "harmless", "refused"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture of GGUF.

    model_type: its family. keys: of its mapped keys, the entries of config.json. tensors: of its
    tensors, the names in the model. harmless: its keys that change no number.
    """

    model_type: str
    keys: Mapping[str, str]
    tensors: Mapping[str, str]
    harmless: frozenset[str]


_NAMES = tomllib.loads(
    (Path(__file__).parent / "gguf.toml").read_text(encoding="utf-8")
)


def _pairs(text: str) -> dict[str, str]:
    """GGUF's names with ours, groups of them resolved."""
    names: dict[str, str] = {}
    for word in text.split():
        name, is_pair, our_name = word.partition("=")
        names |= {name: our_name} if is_pair else _pairs(_NAMES["groups"][name])
    return names


def _architecture(
    model_type: str,
    keys: str,
    outer: str,
    blocks: str = "model.layers",
    weights: str = "",
    biased: str = "",
    harmless: str = "",
) -> Architecture:
    """A row of `architectures` in gguf.toml."""
    tensors = _pairs(outer)
    for name, module in (_pairs(weights) | _pairs(biased)).items():
        tensors[f"blk.#.{name}.weight"] = f"{blocks}.#.{module}.weight"
    for name, module in _pairs(biased).items():
        tensors[f"blk.#.{name}.bias"] = f"{blocks}.#.{module}.bias"
    return Architecture(
        model_type=model_type,
        keys=_pairs(keys),
        tensors=tensors,
        harmless=frozenset(harmless.split()),
    )


ARCHITECTURES = {
    name: _architecture(**row) for name, row in _NAMES["architectures"].items()
}

HARMLESS = frozenset(" ".join(_NAMES["harmless"].values()).split())
"""Keys that change no number."""

GENERAL = _pairs(_NAMES["general"]["names"])
"""Keys without an architecture that are mapped, with what they become."""

NEUTRAL: dict[str, list[object]] = _NAMES["neutral"]
"""Values at which a refused key changes nothing, as llama.cpp reads it."""

_REQUIRED = (
    "context_length",
    "embedding_length",
    "block_count",
    "attention.head_count",
)
_YES_OR_NO = [name for name in GENERAL if name.startswith("tokenizer.ggml.add_")]
_SCALINGS = ("none", "linear", "yarn", "longrope")
_NO_NUMBERS = {"rope.scaling.type", "attention.sliding_window_pattern"}
_ROPE_COUNTS = ("rope.dimension_count", "rope.scaling.original_context_length")
_NAMED = 5
_MAX_TOKEN_BYTES = 1_000
"""Of a token: the merges that are made of it grow as the square of its length."""


def _pre_tokenizers() -> dict[str, tuple[str, ...]]:
    rules = dict[str, tuple[str, ...]]()
    for row in _NAMES["pre_tokenizers"]:
        cuts = tuple(_NAMES["cuts"].get(rule, rule) for rule in row["rules"])
        rules |= dict.fromkeys(row["names"].split(), cuts)
    return rules


PRE_TOKENIZERS = _pre_tokenizers()
"""By the name that tokenizer.ggml.pre holds, where words are cut, one rule after the other, as
llama.cpp cuts them.
"""

WORDS_OF_BYTES: str = _NAMES["cuts"]["gpt2"]
"""The rule of a byte-level pre-tokenizer that says none."""
INDIVIDUAL_DIGITS = r"\p{N}"
CUTS_OF: dict[tuple[str, ...], str] = {
    rules: name
    for name, rules in reversed(PRE_TOKENIZERS.items())
    if rules and name != "default"
} | {(row["rule"],): row["name"] for row in _NAMES["written"]}
"""The way back: llama.cpp's name for the rules of a tokenizer."""

QWEN_PRE_TOKENIZERS = ("qwen2", "deepseek-r1-qwen")
"""Those of the Qwen families: their class in transformers knows one rule."""

WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")
"""Under these a word that is a token is never made of merges, and a text begins with a token if
nothing is said.
"""

_MANY = re.compile(
    r"^(general\.(?:base_model|dataset)\.(?=\d)|general\.sampling\.|tokenizer\.chat_template\.|(?:quantize\.)?imatrix\.).*"
)


def gguf_problem(values: Mapping[str, Any], tensors: Iterable[str]) -> str:
    """The reason a file with these keys and tensors cannot be read as its model, or ""."""
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        return f"its architecture is {str(architecture)[:40]!r}; possible: {', '.join(ARCHITECTURES)}"
    settings = {
        name.removeprefix(f"{architecture}."): value for name, value in values.items()
    }
    if values.get("general.type", "model") != "model":
        return (
            f"it holds no model: general.type is {str(values['general.type'])[:40]!r}"
        )
    if values.get("split.count", 1) not in (0, 1):
        return f"it is one of {values['split.count']} parts; join them with llama-gguf-split --merge"
    problem = _odd_value(settings, architecture) or _odd_tokenizer(
        settings, architecture
    )
    if problem:
        return problem
    refused = [
        *_refused_keys(values, architecture),
        *_refused_tensors(tensors, settings["block_count"], architecture),
    ]
    if refused:
        more = f" and {len(refused) - _NAMED:,} more" if len(refused) > _NAMED else ""
        return (
            f"it would be another model without {', '.join(refused[:_NAMED])}{more}, "
            "which nothing here can express"
        )
    return ""


def general_name(name: str) -> str:
    """A key or tensor as in the tables: `#` for a block's number, or all names of a kind."""
    return _MANY.sub(r"\1#", re.sub(r"^blk\.\d+\.", "blk.#.", name))


def tensor_types(tensors: Mapping[str, int], fell_back: Mapping[str, int]) -> str:
    """ "tensors: 30 in Q4_K, 61 in F32; fallback for the length of their rows: 150 to Q5_0".

    tensors: how many there are of each type; fell_back: of these, by the length of their rows.
    """
    chosen = {name: n - fell_back.get(name, 0) for name, n in tensors.items()}
    text = "tensors: " + ", ".join(
        f"{n:,} in {name}" for name, n in chosen.items() if n
    )
    if fell_back:
        replaced = ", ".join(f"{n:,} to {name}" for name, n in fell_back.items())
        text += f"; fallback for the length of their rows: {replaced}"
    return text


def class_of_key(name: str, architecture: str) -> Class:
    """The class of a key in a file of this architecture."""
    known = ARCHITECTURES[architecture]
    key = general_name(name.removeprefix(f"{architecture}."))
    if key in known.keys or key in GENERAL:
        return "mapped"
    return "harmless" if key in known.harmless | HARMLESS else "refused"


def _refused_keys(values: Mapping[str, Any], architecture: str) -> Iterator[str]:
    for name, value in values.items():
        key = name.removeprefix(f"{architecture}.")
        if class_of_key(name, architecture) == "refused" and value not in NEUTRAL.get(
            key, ()
        ):
            yield (
                f"{name[:80]!r} = {str(value)[:20]}"
                if not isinstance(value, list)
                else repr(name[:80])
            )


def _refused_tensors(
    tensors: Iterable[str], n_blocks: int, architecture: str
) -> Iterator[str]:
    for name in tensors:
        block = name.split(".")[1] if name.startswith("blk.") else "0"
        beyond = not block.isdecimal() or int(block) >= n_blocks
        if beyond or general_name(name) not in ARCHITECTURES[architecture].tensors:
            yield f"tensor {name[:80]!r}"


def _odd_value(own: Mapping[str, Any], architecture: str) -> str:
    """The first mapped key with an impossible value, in words.

    own: the values, without the architecture's name.
    """
    # Each check relies on those before it.
    for check in (
        _odd_depth,
        _missing_key,
        _odd_number,
        _odd_scaling,
        _odd_heads,
        _odd_pattern,
    ):
        problem = check(own, architecture)
        if problem:
            return problem
    return ""


def _odd_depth(own: Mapping[str, Any], architecture: str) -> str:
    depth = own.get("block_count", 1)
    if type(depth) is int and 0 < depth <= MAX_LAYERS:
        return ""
    return f"{architecture}.block_count is {str(depth)[:40]}; possible: 1 to {MAX_LAYERS:,}"


def _missing_key(own: Mapping[str, Any], architecture: str) -> str:
    required = list(_REQUIRED)
    for key in ARCHITECTURES[architecture].keys:
        if key.endswith("epsilon"):
            required.append(key)
    if architecture.startswith("gemma"):
        required.append("attention.sliding_window")
    for key in required:
        if key not in own:
            return f"it lacks {architecture}.{key}"
    return ""


def _odd_number(own: Mapping[str, Any], architecture: str) -> str:
    mapped = ARCHITECTURES[architecture].keys
    for key in sorted(mapped.keys() & own.keys() - _NO_NUMBERS):
        value = own[key]
        is_soft_cap = "softcapping" in key
        is_share = "epsilon" in key or (
            key.startswith("rope.") and key not in _ROPE_COUNTS
        )
        kinds = (int, float) if is_soft_cap or is_share else (int,)
        # Zero stands for none.
        may_be_zero = is_soft_cap or (architecture, key) == (
            "phi3",
            "attention.sliding_window",
        )
        is_possible = (
            type(value) in kinds and 0 <= value < inf and (value > 0 or may_be_zero)
        )
        if not is_possible:
            number = "number" if float in kinds else "whole number"
            return f"{architecture}.{key} is {str(value)[:40]}; possible: one {number} above 0"
    return ""


def _odd_scaling(own: Mapping[str, Any], architecture: str) -> str:
    kind = own.get("rope.scaling.type", "none")
    if kind in _SCALINGS:
        return ""
    return f"{architecture}.rope.scaling.type is {str(kind)[:40]!r}; possible: {', '.join(_SCALINGS)}"


def _odd_heads(own: Mapping[str, Any], architecture: str) -> str:
    lengths = [own.get(f"attention.{part}_length") for part in ("key", "value")]
    heads = {length for length in lengths if type(length) is int}
    if not heads:
        heads = {own["embedding_length"] // max(1, own["attention.head_count"])}
    rotated = max(heads)
    if "rope.dimension_count" in ARCHITECTURES[architecture].keys:
        rotated = own.get("rope.dimension_count", rotated)
    may_rotate_a_part = architecture == "phi3"
    if len(heads) == 1 and (may_rotate_a_part or rotated == max(heads)):
        return ""
    sizes = ", ".join(map(str, sorted({*heads, rotated})))
    return f"keys, values and rotated parts of a head have {sizes} numbers; they must have as many"


def _odd_pattern(own: Mapping[str, Any], architecture: str) -> str:
    pattern = own.get("attention.sliding_window_pattern", 1)
    by_block = pattern if isinstance(pattern, list) else [pattern] * own["block_count"]
    are_numbers = all(
        type(number) in (int, bool) and number >= 0 for number in by_block
    )
    if are_numbers and len(by_block) == own["block_count"]:
        return ""
    return (
        f"{architecture}.attention.sliding_window_pattern is {str(pattern)[:40]}; "
        "possible: one number for a block"
    )


def _odd_tokenizer(values: Mapping[str, Any], architecture: str) -> str:
    possible = (
        QWEN_PRE_TOKENIZERS
        if architecture.startswith("qwen")
        else tuple(PRE_TOKENIZERS)
    )
    model = values.get("tokenizer.ggml.model")
    cut = values.get("tokenizer.ggml.pre", "default")
    if model not in ("gpt2", "llama") or (
        model == "llama" and architecture.startswith("qwen")
    ):
        models = "gpt2" if possible == QWEN_PRE_TOKENIZERS else "gpt2, llama"
        return f"its tokenizer is {str(model)[:40]!r}; possible: {models}"
    if model == "gpt2" and cut not in possible:
        return (
            f"tokenizer.ggml.pre is {str(cut)[:40]!r}; possible: {', '.join(possible)}"
        )
    if odd := [key for key in _YES_OR_NO if type(values.get(key, True)) is not bool]:
        return f"{odd[0]} is {str(values[odd[0]])[:40]}; possible: true, false"
    tokens = values.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, list) else []
    n_tokens = len(tokens)
    longest = max(
        (len(token) for token in tokens if isinstance(token, bytes)), default=0
    )
    if longest > _MAX_TOKEN_BYTES:
        return (
            f"one of its tokens has {longest:,} bytes; possible: {_MAX_TOKEN_BYTES:,}"
        )
    if values.get("vocab_size", n_tokens) != n_tokens:
        return (
            f"it has {n_tokens:,} tokens, and its vocab_size is {values['vocab_size']}"
        )
    return ""
