"""Files of an exported model for transformers: safetensors and the base's other files."""

import json
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from sparsedash.catalog.config_checks import fewer_layers
from sparsedash.engine.models.checkpoint_reading import stored_tensors, weight_files
from sparsedash.engine.models.decoder_blocks import renumbered
from sparsedash.engine.models.gguf_writing import block_tensors
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.locating import Source, gguf_file
from sparsedash.engine.models.residency import WeightResidency
from sparsedash.engine.models.sparse_models import PrunedChannels, SparseModel
from sparsedash.engine.models.structure import language_config
from sparsedash.engine.pruning.experts import sliced_tensors
from sparsedash.engine.pruning.surgery import weight_of
from sparsedash.schema.errors import ExportError
from sparsedash.schema.export_settings import WrittenFiles
from sparsedash.schema.progress import OnPart, ignore
from sparsedash.storage.local_machine import lies_below

_LICENCES = tuple(
    map("".join, product(("license", "licence", "notice"), ("", ".txt", ".md")))
)
_COPIED = (
    *(
        "tokenizer*",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab*",
        "merges.txt",
        "*.model",
        "*.jinja",
    ),
    *(
        "chat_template*",
        "*processor_config.json",
        "generation_config.json",
        "license*",
        "licence*",
        "notice*",
    ),
)
"""The base's files that are copied: its tokenizer and processors, and what its licence asks to be
kept.
"""
_TEMPLATES = "additional_chat_templates"

STREAMED_SHARD_MB = 1_000
"""The largest shard of a model that does not fit into memory: a shard is in memory as a whole."""


def write_folder(
    folder: Path,
    base: Source,
    sparse: SparseModel,
    *,
    widths: Sequence[int] | None,
    weights: str,
    shard_mb: int = 1_000,
    require_room: Callable[[int], None] = ignore,
    on_part: OnPart = ignore,
) -> WrittenFiles:
    """Write weights in shards, their index, the config and the base's other files.

    widths: of every MLP in the files; None: dense's, each channel in its own place. weights: a
    floating-point type. shard_mb: the largest shard. require_room: called with the bytes of the
    weights before the first is written. on_part: called between tensors and between shards. The
    loaded model must be the dense one. Raises ExportError for a tensor that stock code has no place
    for, or whose numbers this type cannot represent.
    """
    loaded = sparse.loaded
    dtype = getattr(torch, weights)
    tensors = _all_tensors(sparse, widths, dtype, on_part)
    for name, tensor in _tower_tensors(base, loaded):
        tensors[name] = tensor
    size = sum(tensor.nbytes for tensor in tensors.values())
    require_room(size)
    config = _written_config(base, sparse, widths, weights)
    _write_json(folder / "config.json", config)
    most = min(shard_mb, STREAMED_SHARD_MB) if loaded.residency.streamed else shard_mb
    _write_shards(folder, tensors, most, loaded.residency, on_part)
    copy_base_files(base, folder)
    layout = _layout_words(sparse, widths)
    n_gone = len(sparse.removed_layers)
    if n_gone:
        n_layers = len(loaded.blocks)
        layout = f"{n_layers - n_gone} of {n_layers} layers, {layout}"
    dense = (
        sum(parameter.numel() for parameter in loaded.model.parameters())
        * dtype.itemsize
    )
    return WrittenFiles(layout=layout, size=size, base_size=dense)


def _written_config(
    base: Source, sparse: SparseModel, widths: Sequence[int] | None, weights: str
) -> dict[str, Any]:
    """The base's config.json, changed to what is in the files; see `write_folder`."""
    loaded = sparse.loaded
    config: dict[str, Any] = json.loads(
        (base.folder / "config.json").read_text(encoding="utf-8")
    )
    aliases = language_config(loaded.model.config).attribute_map
    if widths:
        _set_values_(config, loaded.structure.width_values(widths) or {}, aliases)
    if sparse.experts:
        _set_values_(config, loaded.structure.experts_values(sparse.kept), aliases)
    if gone := sparse.removed_layers:
        kept = [index for index in range(len(loaded.blocks)) if index not in gone]
        config |= fewer_layers(loaded.model.config.to_dict(), kept)
    head = loaded.model.get_output_embeddings().weight
    embedding = loaded.model.get_input_embeddings().weight
    usually_tied = getattr(type(loaded.model.config), "tie_word_embeddings", False)
    if config.get("tie_word_embeddings", usually_tied) and head is not embedding:
        # The checkpoint has a head of its own, which its config denies.
        config["tie_word_embeddings"] = False
    # Otherwise a loader would round float32 weights to the type of the base.
    return config | {key: weights for key in ("dtype", "torch_dtype") if key in config}


def _write_shards(
    folder: Path,
    tensors: Mapping[str, Tensor],
    shard_mb: int,
    residency: WeightResidency,
    on_part: OnPart,
) -> None:
    """Write tensors in shards of so many megabytes at most, and their index."""
    # The library gives a file to its owner only, whatever the umask.
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    plan = split_torch_state_dict_into_shards(
        dict(tensors), max_shard_size=shard_mb * 10**6
    )
    n_shards = len(plan.filename_to_tensors)
    for number, (file, names) in enumerate(plan.filename_to_tensors.items()):
        on_part(n_shards + number, 2 * n_shards)
        save_file(
            {name: tensors[name] for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
        (folder / file).chmod(mode)
        residency.drop()
    if plan.is_sharded:
        index = {
            "metadata": plan.metadata,
            "weight_map": dict(sorted(plan.tensor_to_filename.items())),
        }
        _write_json(folder / "model.safetensors.index.json", index)


def _tower_tensors(base: Source, loaded: LoadedModel) -> Iterator[tuple[str, Tensor]]:
    """Tensors beside the language model in a model of text and images, as the checkpoint stores them."""
    if loaded.model.get_decoder() is loaded.model.base_model:
        return
    names = loaded.model.state_dict().keys()
    language = f"{loaded.structure.blocks.rpartition('.')[0]}."
    heads = (loaded.model.get_output_embeddings(), loaded.model.get_input_embeddings())
    head_names = {
        name for name, module in loaded.model.named_modules() if module in heads
    }
    for file in weight_files(base.folder, base.reference):
        for stored_name, tensor in stored_tensors(file):
            # Files of earlier versions lack the first part.
            name = stored_name if stored_name in names else f"model.{stored_name}"
            is_language = (
                name.startswith(language) or name.rpartition(".")[0] in head_names
            )
            if name in names and not is_language:
                yield name, tensor


def _layout_words(sparse: SparseModel, widths: Sequence[int] | None) -> str:
    """The files' contents: "1,024 channels in every block"."""
    kept = sparse.kept
    words = []
    if kept.experts:
        counts = sorted(set(kept.experts) - {0})
        words.append(f"{' or '.join(map(str, counts))} experts in every mixture")
    if kept.expert_widths:
        channels = sorted(set(kept.expert_widths) - {0})
        words.append(f"{' or '.join(map(str, channels))} channels in every expert")
    if widths is None:
        words.append("the dense widths, zeros where something is gone")
    elif any(widths):
        several = sorted(set(widths) - {0})
        width = " or ".join(f"{width:,}" for width in several)
        blocks = "every block" if all(widths) else "every MLP"
        words.append(f"{width} channels in {blocks}")
        if any(0 < few < width for few, width in zip(kept.widths, widths, strict=True)):
            words.append("padded with zeros where fewer are left")
    return ", ".join(words)


def _set_values_(
    config: dict[str, Any], values: Mapping[str, Any], aliases: Mapping[str, str]
) -> None:
    """Write values into a plain config, by keys with dots between nested configs.

    aliases: other names that its class knows a key by; a config of the hub may have those.
    """
    for path, value in values.items():
        *parents, key = path.split(".")
        part = config
        for parent in parents:
            part = part.setdefault(parent, {})
        names = {key, *(alias for alias, real in aliases.items() if real == key)}
        for name in names & part.keys() or {key}:
            part[name] = value


def _all_tensors(
    sparse: SparseModel,
    widths: Sequence[int] | None,
    dtype: torch.dtype,
    on_part: OnPart,
) -> dict[str, Tensor]:
    """Every tensor of the file by name, on the CPU; shared ones once.

    on_part: as many parts are left for writing.
    """
    loaded = sparse.loaded
    changed = dict[str, Tensor]()
    gone = sparse.removed_layers
    for index, block in enumerate(loaded.projections("decoder")):
        if index in gone:
            continue
        if isinstance(sparse, PrunedChannels):
            width = None if widths is None else widths[index]
            tensors = block_tensors(sparse, index, width)
        else:
            tensors = {
                f"{name}.weight": weight
                for name, weight in sparse.blocks[index].weights.items()
            }
        for name, tensor in tensors.items():
            module, _, kind = name.rpartition(".")
            as_it_is = (
                kind == "bias" or weight_of(block[module]) is block[module].weight
            )
            changed[f"{loaded.structure.blocks}.{index}.{name}"] = (
                loaded.residency.offload(tensor if as_it_is else tensor.T)
            )
    mixtures = loaded.experts if sparse.experts else {}
    narrowed = dict(enumerate(sparse.experts))
    for name, tensor in sliced_tensors(mixtures, narrowed, loaded.structure.blocks):
        changed[name] = loaded.residency.offload(tensor)
    if isinstance(sparse, PrunedChannels):
        changed |= sparse.others
    model = loaded.model
    cast = dict[str, Tensor]()
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    if strange := sorted(set(changed) - names):
        raise ExportError(
            f"The sparse model has {strange[0]}, for which its stock code has no place.",
            "Choose a method that gives no layer a bias, such as least-squares.",
        )
    for number, (name, tensor) in enumerate(
        (all_tensors := model.state_dict()).items()
    ):
        on_part(number, 2 * len(all_tensors))
        there = renumbered(name, loaded.structure.blocks, gone)
        if name not in names or there is None:
            continue
        tensor = changed.get(name, tensor).detach().cpu()
        cast[there] = (
            tensor.to(dtype).contiguous() if tensor.is_floating_point() else tensor
        )
        if not bool(cast[there].isfinite().all()):
            raise ExportError(
                f"{name} holds numbers that {str(dtype).removeprefix('torch.')} cannot.",
                "Choose bfloat16, which has the range of float32.",
            )
        loaded.residency.drop()
    return cast


def _is_copied(name: str) -> bool:
    """Whether the base model's file of this name belongs into its export."""
    return any(fnmatch(name.lower(), pattern) for pattern in _COPIED)


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(
        f"{json.dumps(value, indent=2, ensure_ascii=False)}\n", encoding="utf-8"
    )


def copy_base_files(base: Source, folder: Path) -> None:
    """Copy the tokenizer's files, chat templates, the generation config and the licence.

    Raises ExportError where one of them is a link out of the folder.
    """
    gguf = gguf_file(base.reference)
    templates = base.folder / _TEMPLATES
    where = gguf.parent.resolve() if gguf else base.folder
    # Other files in a folder of downloads do not belong to the model.
    beside = (
        [file for file in where.iterdir() if file.name.lower() in _LICENCES]
        if gguf
        else []
    )
    copied = [file for file in base.folder.iterdir() if _is_copied(file.name)]
    # The hub's own cache keeps contents beside its folders.
    roots = [base.folder, where]
    roots += [folder.parent.parent / "blobs" for folder in (base.folder, where)]
    for file in (*copied, *templates.glob("*.jinja"), *beside):
        if not file.is_file() or file.suffix == ".py":
            continue
        if not lies_below(file, list(map(str, roots))):
            raise ExportError(
                f"{file.name} is a link out of the model's folder, which may lead anywhere.",
                "Put the file itself in its place.",
            )
        there = (
            folder / file.relative_to(base.folder)
            if file.parent == templates
            else folder / file.name
        )
        there.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, there)
