"""Reads a checkpoint's config and weights, or refuses it with the names of what is wrong.

A loader fills a gap with random numbers and only logs it; every later figure would be wrong. So no
weight may be missing, unexpected, of another shape or NaN, and sizes are checked before anything is
built.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from pickle import (
    UnpicklingError,
)  # Weights-only loading raises it on anything but weights.
from typing import Any
from zipfile import is_zipfile

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from sparsedash.catalog.config_checks import config_problem
from sparsedash.engine.models.structure import auto_class, meta_model
from sparsedash.schema.errors import ModelError, SparseDashError, first_line
from sparsedash.storage.model_folders import model_config

_OF_LIBRARIES = (
    ImportError,
    UnpicklingError,
    SafetensorError,
    StrictDataclassError,
    AssertionError,
    ArithmeticError,
)
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    TypeError,
    AttributeError,
    *_OF_LIBRARIES,
)
"""Errors of libraries on files that are damaged or were never a model."""

MAX_WEIGHTS_A_BYTE = {"gguf": 8.0, "safetensors": 1.5, "bin": 1.5}
"""Most weights of a config per byte of its files: tied ones are stored once, GGUF packs several."""
HARMLESS_WEIGHTS = 50_000_000
"""Up to here weights are not compared with the files: they take little memory."""

OTHER_CONFIG = "See whether config.json is whole, and that of this model."
FLOAT_TYPES = ("float64", "float32", "float16", "bfloat16")
_FORMS = (
    ("model.safetensors", "*.safetensors"),
    ("pytorch_model.bin", "pytorch_model*.bin"),
)
"""The single file of each form, which a loader prefers to an index, and the names of its shards."""
_NAMED = 5
_MASKS = re.compile(r"\.att(n|ention)(\.attention)?\.(masked_)?bias$")
"""Causal masks that earlier versions of transformers stored with GPT-2, -J, -Neo and -NeoX."""


@contextmanager
def refusing(problem: str, advice: str) -> Iterator[None]:
    """Raises ModelError with this problem and a library's reason if reading inside fails."""
    try:
        yield
    except UNREADABLE as error:
        raise ModelError(f"{problem}: {first_line(error)}.", advice) from error


@contextmanager
def refusing_tokenizer(problem: str, advice: str) -> Iterator[None]:
    """As `refusing`, of tokenizers, whose library also raises bare BaseExceptions."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, SparseDashError):
        raise
    except BaseException as error:
        raise ModelError(f"{problem}: {first_line(error)}.", advice) from error


def read_config(folder: Path, reference: str) -> PretrainedConfig:
    """The config of a folder, without weights. Raises ModelError if it is unreadable or refused."""
    plain = model_config(str(folder))
    if plain is None:
        raise ModelError(
            f"{reference} holds no config.json that is JSON.",
            "Name what save_pretrained() wrote.",
        )
    # Before transformers reads it, which makes lists as long as the config says.
    refuse_impossible(plain, reference)
    with refusing(f"The config of {reference} could not be read", OTHER_CONFIG):
        config = AutoConfig.from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
        )
    # A file may name an attention without a causal mask, or code of a hub.
    config._attn_implementation = None
    return config


def refuse_impossible(config: Mapping[str, Any], reference: str) -> None:
    """Raises ModelError for an unknown family, a quantised model, or impossible sizes."""
    if problem := config_problem(config, reference):
        raise ModelError(problem[0].upper() + problem[1:], OTHER_CONFIG)


def read_model(
    reference: str, config: PretrainedConfig, dtype: torch.dtype, **where: Any
) -> PreTrainedModel:
    """The model with these weights and no others, on the CPU. where: as for `from_pretrained`.

    Raises ModelError with the names of tensors that are missing, unexpected, or of another shape.
    """
    advice = "The folder needs config.json, weights as .safetensors, and the tokenizer's files."
    with refusing(f"{reference} could not be read", advice):
        kind = auto_class(config)
        if "state_dict" in where:
            # The automatic class takes no weights without a folder.
            kind = kind._model_mapping[type(config)]
        model, info = kind.from_pretrained(
            **where,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with every name
        )
    unexpected = [name for name in info["unexpected_keys"] if not _MASKS.search(name)]
    problems = {
        "lacks": info["missing_keys"],
        "has, and its config knows nothing of,": unexpected,
        "has in another shape than its config says": [
            name for name, *_ in info["mismatched_keys"]
        ],
    }
    parts = [f"{verb} {_few(names)}" for verb, names in problems.items() if names]
    if parts:
        raise ModelError(
            f"The checkpoint {reference} {'; it '.join(parts)}.",
            "Random numbers would stand in for what is missing. Fetch or save the model again.",
        )
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        # A checkpoint may have a head of its own that its config denies.
        model.config.tie_word_embeddings = False
    return model


def refuse_damaged_files(folder: Path, reference: str) -> None:
    """Raises ModelError for missing or damaged weight files, or weights of another type."""
    files = weight_files(folder, reference)
    if not files:
        advice = "Fetch them, or name a folder that has them."
        raise ModelError(f"The weights of {reference} are not on this machine.", advice)
    for file in files:
        with refusing(
            f"{reference} could not be read: {file.name} is damaged",
            "Fetch or save the model again.",
        ):
            types = {
                name: type_name(tensor.dtype)
                for name, tensor in stored_tensors(file)
                if name.endswith(("weight", "bias")) and not _MASKS.search(name)
            }
        if odd := [
            f"{name} ({kind})"
            for name, kind in types.items()
            if kind not in FLOAT_TYPES
        ]:
            raise ModelError(
                f"{file.name} of {reference} holds weights that are none of {', '.join(FLOAT_TYPES)}: {_few(odd)}.",
                "Name the model that it was quantised from, or a GGUF file of it.",
            )


def type_name(dtype: torch.dtype) -> str:
    """Such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def stored_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file by name, each read when touched. Raises UNREADABLE if damaged."""
    if file.suffix == ".bin":
        # Files of the oldest form are no archives, and are read at once.
        yield from torch.load(
            file, map_location="cpu", mmap=is_zipfile(file), weights_only=True
        ).items()
        return
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no dict
            yield name, opened.get_tensor(name)


def weight_files(folder: Path, reference: str) -> list[Path]:
    """The files that a loader reads a folder's weights from; none without weights.

    Raises ModelError for a damaged index, or one that names a file elsewhere, which is not part of
    the model's identity.
    """
    for whole, _ in _FORMS:
        index = folder / f"{whole}.index.json"
        if (folder / whole).is_file():
            return [folder / whole]
        if index.is_file():
            return _shards(index, reference)
    return next(filter(None, (sorted(folder.glob(names)) for _, names in _FORMS)), [])


def _shards(index: Path, reference: str) -> list[Path]:
    advice = "Fetch the model again."
    with refusing(f"{index.name} of {reference} could not be read", advice):
        shards = set(
            json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        )
        files = [index.with_name(Path(shard).name) for shard in sorted(shards)]
    for shard, file in zip(sorted(shards), files, strict=True):
        if file.name != shard or not file.is_file():
            raise ModelError(
                f"{index.name} of {reference} names {shard[:80]!r}, which is not in the folder.",
                advice,
            )
    return files


def refuse_oversized(
    reference: str,
    config: PretrainedConfig,
    n_bytes: int,
    kind: str,
) -> None:
    """Raises ModelError if the config describes no model, or far more weights than its files hold.

    Counted on the meta device. kind: of MAX_WEIGHTS_A_BYTE.
    """
    with refusing(f"The config of {reference} describes no model", OTHER_CONFIG):
        model = meta_model(config)
    described = sum(
        tensor.numel() for tensor in chain(model.parameters(), model.buffers())
    )
    if described > HARMLESS_WEIGHTS + MAX_WEIGHTS_A_BYTE[kind] * n_bytes:
        raise ModelError(
            f"The config of {reference} describes {described:,} weights, and its files hold {n_bytes:,} bytes.",
            "See whether config.json is that of this model, and whether all files are there.",
        )


def refuse_no_numbers(
    reference: str,
    model: PreTrainedModel,
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Raises ModelError with the names of weights that are not finite; reads all.

    after_each: called after each weight.
    """

    def is_finite(weight: Tensor) -> bool:
        # Without a copy of the weight: NaN and infinity both reach its least or largest value.
        least, largest = torch.aminmax(weight.detach())
        after_each()
        return bool(least.isfinite() and largest.isfinite())

    if broken := [
        name for name, weight in model.named_parameters() if not is_finite(weight)
    ]:
        raise ModelError(
            f"The checkpoint {reference} holds NaN or infinite values in {_few(broken)}.",
            "Fetch or save the model again.",
        )


def _few(names: Iterable[str]) -> str:
    known = sorted(names)
    more = f" and {len(known) - _NAMED:,} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more
