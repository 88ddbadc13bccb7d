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

from sparsedash.catalog.config_checks import MOST_LAYERS

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


_NAMES = tomllib.loads((Path(__file__).parent / "gguf.toml").read_text(encoding="utf-8"))


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


ARCHITECTURES = {name: _architecture(**row) for name, row in _NAMES["architectures"].items()}

HARMLESS = frozenset(" ".join(_NAMES["harmless"].values()).split())
"""Keys that change no number."""

GENERAL = _pairs(_NAMES["general"]["names"])
"""Keys without an architecture that are mapped, with what they become."""

NEUTRAL: dict[str, list[object]] = _NAMES["neutral"]
"""Values at which a refused key changes nothing, as llama.cpp reads it."""

_REQUIRED = ("context_length", "embedding_length", "block_count", "attention.head_count")
_YES_OR_NO = [name for name in GENERAL if name.startswith("tokenizer.ggml.add_")]
_SCALINGS = ("none", "linear", "yarn", "longrope")
_NAMED = 5
_MOST_TOKEN_BYTES = 1_000
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
    rules: name for name, rules in reversed(PRE_TOKENIZERS.items()) if rules and name != "default"
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
    """Why a file with these keys and tensors cannot be read as the model it is, or ""."""
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        return (
            f"its architecture is {str(architecture)[:40]!r}; possible: {', '.join(ARCHITECTURES)}"
        )
    settings = {name.removeprefix(f"{architecture}."): value for name, value in values.items()}
    if values.get("general.type", "model") != "model":
        return f"it holds no model: general.type is {str(values['general.type'])[:40]!r}"
    if values.get("split.count", 1) not in (0, 1):
        return (
            f"it is one of {values['split.count']} parts; join them with llama-gguf-split --merge"
        )
    problem = _odd_value(settings, architecture) or _odd_tokenizer(settings, architecture)
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
    text = "tensors: " + ", ".join(f"{n:,} in {name}" for name, n in chosen.items() if n)
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
        if class_of_key(name, architecture) == "refused" and value not in NEUTRAL.get(key, ()):
            yield (
                f"{name[:80]!r} = {str(value)[:20]}"
                if not isinstance(value, list)
                else repr(name[:80])
            )


def _refused_tensors(tensors: Iterable[str], n_blocks: int, architecture: str) -> Iterator[str]:
    for name in tensors:
        block = name.split(".")[1] if name.startswith("blk.") else "0"
        beyond = not block.isdecimal() or int(block) >= n_blocks
        if beyond or general_name(name) not in ARCHITECTURES[architecture].tensors:
            yield f"tensor {name[:80]!r}"


def _odd_value(own: Mapping[str, Any], architecture: str) -> str:
    """The first mapped key with an impossible value, in words.

    own: the values, without the architecture's name.
    """
    mapped = ARCHITECTURES[architecture].keys
    n_blocks = own.get("block_count", 1)
    if type(n_blocks) is not int or not 0 < n_blocks <= MOST_LAYERS:
        return f"{architecture}.block_count is {str(n_blocks)[:40]}; possible: 1 to {MOST_LAYERS:,}"
    required = [*_REQUIRED, *(key for key in mapped if key.endswith("epsilon"))]
    required += ["attention.sliding_window"] if architecture.startswith("gemma") else []
    if missing := [key for key in required if key not in own]:
        return f"it lacks {architecture}.{missing[0]}"
    for key in sorted(
        mapped.keys() & own.keys() - {"rope.scaling.type", "attention.sliding_window_pattern"}
    ):
        value = own[key]
        none = (architecture, key) == ("phi3", "attention.sliding_window") or "softcapping" in key
        counts = key in ("rope.dimension_count", "rope.scaling.original_context_length")
        counts = counts or not (key.startswith("rope.") or "epsilon" in key or "softcapping" in key)
        kinds = (int,) if counts else (int, float)
        if type(value) not in kinds or not (0 < value < inf or (value == 0 and none)):
            number = "whole number" if counts else "number"
            return f"{architecture}.{key} is {str(value)[:40]}; possible: one {number} above 0"
    if own.get("rope.scaling.type", "none") not in _SCALINGS:
        kind = str(own["rope.scaling.type"])[:40]
        return f"{architecture}.rope.scaling.type is {kind!r}; possible: {', '.join(_SCALINGS)}"
    sizes_of_heads = [own.get(f"attention.{part}_length") for part in ("key", "value")]
    heads = {size for size in sizes_of_heads if type(size) is int}
    heads = heads or {own["embedding_length"] // max(1, own["attention.head_count"])}
    turned = (
        own["rope.dimension_count"]
        if "rope.dimension_count" in mapped.keys() & own.keys()
        else max(heads)
    )
    if len(heads) > 1 or (turned != max(heads) and architecture != "phi3"):
        sizes = ", ".join(map(str, sorted({*heads, turned})))
        return (
            f"keys, values and rotated parts of a head have {sizes} numbers; they must have as many"
        )
    pattern = own.get("attention.sliding_window_pattern", 1)
    by_block = pattern if isinstance(pattern, list) else [pattern] * own["block_count"]
    are_numbers = all(type(number) in (int, bool) and number >= 0 for number in by_block)
    if len(by_block) != own["block_count"] or not are_numbers:
        return (
            f"{architecture}.attention.sliding_window_pattern is {str(pattern)[:40]}; "
            "possible: one number for a block"
        )
    return ""


def _odd_tokenizer(values: Mapping[str, Any], architecture: str) -> str:
    possible = QWEN_PRE_TOKENIZERS if architecture.startswith("qwen") else tuple(PRE_TOKENIZERS)
    model = values.get("tokenizer.ggml.model")
    cut = values.get("tokenizer.ggml.pre", "default")
    if model not in ("gpt2", "llama") or (model == "llama" and architecture.startswith("qwen")):
        models = "gpt2" if possible == QWEN_PRE_TOKENIZERS else "gpt2, llama"
        return f"its tokenizer is {str(model)[:40]!r}; possible: {models}"
    if model == "gpt2" and cut not in possible:
        return f"tokenizer.ggml.pre is {str(cut)[:40]!r}; possible: {', '.join(possible)}"
    if odd := [key for key in _YES_OR_NO if type(values.get(key, True)) is not bool]:
        return f"{odd[0]} is {str(values[odd[0]])[:40]}; possible: true, false"
    tokens = values.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, list) else []
    n_tokens = len(tokens)
    longest = max((len(token) for token in tokens if isinstance(token, bytes)), default=0)
    if longest > _MOST_TOKEN_BYTES:
        return f"one of its tokens has {longest:,} bytes; possible: {_MOST_TOKEN_BYTES:,}"
    if values.get("vocab_size", n_tokens) != n_tokens:
        return f"it has {n_tokens:,} tokens, and its vocab_size is {values['vocab_size']}"
    return ""
