"""A sparse model as a folder that stock transformers loads: weights, and the base's own files as they are."""

import json
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from sparsedash.engine.models.loading import Source, gguf_file

_LICENCE = ("license*", "licence*", "notice*")
_LICENCE_NAMES = tuple(f"{name}{end}" for name in ("license", "licence", "notice") for end in ("", ".txt", ".md"))
_COPIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.jinja"),
    *("chat_template*", "generation_config.json", *_LICENCE),
)
"""The base's files that go along unchanged, those that it has: its tokenizer, and what its licence asks to be kept."""

_DTYPE_KEYS = ("dtype", "torch_dtype")


def write_checkpoint(
    folder: Path,
    base: Source,
    tensors: Mapping[str, Tensor],
    shard_mb: int,
    changes: Mapping[str, Any],
    on_shard: Callable[[], None],
) -> None:
    """Write weights in shards with their index, the changed config and the base's other files into the folder.

    changes: to the base's config.json. on_shard: called after each.
    """
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | dict(changes), indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=shard_mb * 10**6)
    for file, names in plan.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
        # The library lets nobody but the owner read it, whatever the umask.
        (folder / file).chmod(mode)
        on_shard()
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(f"{text}\n", encoding="utf-8")
    copy_files(base, folder)


def config_changes(base: Source, width_key: str, width: int | None, weights: str) -> dict[str, Any]:
    """What config.json says otherwise than the base's: the width, and the type of the weights where it names another.

    Without the latter a loader would round float32 weights to the type that the base had. width: None: as it was.
    """
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    changes: dict[str, Any] = {} if width is None or not width_key else {width_key: width}
    return changes | {key: weights for key in _DTYPE_KEYS if config.get(key, weights) != weights}


def copy_files(base: Source, folder: Path) -> None:
    """Copy the tokenizer's files, the generation config and the licence as they are."""
    _copy(base.folder, _COPIED, folder)
    if file := gguf_file(base.reference):
        # What else lies beside a downloaded file is nobody's business.
        _copy(file.parent, _LICENCE_NAMES, folder)


def _copy(place: Path, patterns: Sequence[str], folder: Path) -> None:
    for file in place.iterdir():
        if file.is_file() and file.suffix != ".py" and any(fnmatch(file.name.lower(), each) for each in patterns):
            shutil.copyfile(file, folder / file.name)


def tensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all weights."""
    return sum(tensor.nbytes for tensor in tensors.values())
