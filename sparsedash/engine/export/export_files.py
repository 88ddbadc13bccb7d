"""Files of an exported model: a folder of safetensors for transformers, or one GGUF file for llama.cpp.

llama.cpp reads one width for a whole model, but for its graphs `deci`, which runs LLaMA's block, and `openelm`: these
take a width for each. Numpy shapes are torch's, (out, in); GGUF counts the other way. q and k of `llama` files have
their rows in the order that `deci` rotates; those of `qwen2` have not. Widths of each block were tried by hand against
llama.cpp b11739 (docs/adr/0019). Dimensions: d hidden width, m inner width, k kept channels, w width in the file.
"""

import json
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType, quants
from gguf.quants import quant_shape_to_byte_shape
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsedash.catalog.families import PER_LAYER, one_width
from sparsedash.catalog.gguf_reader import GgufReader, opened_gguf
from sparsedash.engine.models.loading import Source, gguf_file
from sparsedash.engine.pruning.surgery import out_weight, weight_of
from sparsedash.engine.run.sparse_models import PrunedChannels, SparseModel
from sparsedash.schema.errors import ExportError, SettingsError
from sparsedash.schema.export_settings import Weights
from sparsedash.schema.settings import Dtype

_TORCH_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHT, _BIAS = "weight", "bias"


def exported_tensors(made: SparseModel, width: int | None, weights: str) -> dict[str, Tensor]:
    """Every tensor of the file by its name, on the CPU; what is shared stands once.

    width: channels that every MLP has in the file; None: the dense ones, each channel in its own place. weights: a
    floating-point type. Raises ExportError for a tensor that stock code has no place for, or whose numbers this type
    cannot hold. Asked while the loaded model is the dense one.
    """
    loaded, dtype = made.loaded, _TORCH_TYPES[weights]
    hold = loaded.residency.hold
    changed = {name: hold(tensor) for name, tensor in changed_tensors(made, width)}
    dense = _stored_once(loaded.model)
    if strange := sorted(set(changed) - set(dense)):
        raise ExportError(
            f"The sparse model has {strange[0]}, for which its family's stock code has no place.",
            "Choose a method that gives no layer a bias, such as least-squares.",
        )
    cast = {}
    for name, tensor in dense.items():
        cast[name] = _cast(name, changed.get(name, tensor), dtype)
        loaded.residency.drop()
    return cast


def changed_tensors(made: SparseModel, width: int | None) -> Iterator[tuple[str, Tensor]]:
    """The tensors that differ from the dense model's, with their names. width: see `exported_tensors`."""
    loaded = made.loaded
    blocks = loaded.projections("decoder")
    for index, block in enumerate(blocks):
        if isinstance(made, PrunedChannels):
            tensors = block_tensors(made, index, width)
        else:
            tensors = {f"{name}.{_WEIGHT}": weight for name, weight in made.masked[index].weights.items()}
        for name, tensor in tensors.items():
            module, _, kind = name.rpartition(".")
            yield f"{loaded.family.blocks}.{index}.{name}", _stored(block[module], tensor, kind)


def block_tensors(made: PrunedChannels, index: int, width: int | None) -> dict[str, Tensor]:
    """The tensors of one block's MLP by their names within the block, weights as (out, in).

    width: see `exported_tensors`.
    """
    mlp, narrow, family = made.loaded.mlps[index], made.narrowed[index], made.loaded.family
    kept, w = narrow.kept, mlp.width if width is None else width
    places = kept if width is None else torch.arange(len(kept))
    tensors = {}
    for name, module in zip(family.inner, mlp.inner, strict=True):
        for kind, whole in ((_WEIGHT, weight_of(module)), (_BIAS, module.bias)):
            if whole is not None:
                # One part after another where gate and up are one projection.
                parts = whole.detach().cpu().chunk(mlp.fused)
                tensors[f"{name}.{kind}"] = torch.cat([_rows(part, kept, places, w) for part in parts])
    dense = out_weight(mlp)
    out = torch.zeros(len(dense), w, dtype=dense.dtype)
    out[:, places] = narrow.out_weight.to("cpu", dense.dtype)
    tensors[f"{family.out}.{_WEIGHT}"] = out
    bias = mlp.out.bias if narrow.out_bias is None else narrow.out_bias
    if bias is not None:
        tensors[f"{family.out}.{_BIAS}"] = bias.detach().to("cpu", dense.dtype)
    return tensors


def _rows(part: Tensor, kept: Tensor, places: Tensor, w: int) -> Tensor:
    """part: (m, ...). Returns (w, ...): the kept rows in their places, zeros elsewhere."""
    rows = torch.zeros(w, *part.shape[1:], dtype=part.dtype)
    rows[places] = part[kept]
    return rows


def _stored(module: nn.Linear, tensor: Tensor, kind: str) -> Tensor:
    """A weight (out, in) as this module stores it; a bias as it is."""
    as_it_is = kind == _BIAS or weight_of(module) is module.weight
    return tensor if as_it_is else tensor.T


def _stored_once(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without the second name of what two modules share."""
    once = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in once}


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype).contiguous()
    if not bool(cast.isfinite().all()):
        raise ExportError(
            f"{name} holds numbers that {str(dtype).removeprefix('torch.')} cannot.",
            "Choose bfloat16, which reaches as far as float32.",
        )
    return cast


Array = np.ndarray[Any, Any]

_GGUF_TYPES: dict[Weights, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_FULL = ("F32", "F16", "BF16")
_KEPT_FULL = ("position_embd", "token_types", "rope_freqs", "norm")
"""Parts of the names of tensors that llama.cpp reads in float32 only."""

_GROUP = 32
"""Weights that share a scale in q8_0; a row that is no multiple is kept in float16."""

_SHIFTED_NORMS = ("gemma2", "gemma3")

_OTHER_MODEL = "Name one that was made from the very model that was pruned."


@dataclass(frozen=True, eq=False)
class GgufTensor:
    """One tensor to be written: shape as torch has it; make: its numbers, asked for only when it is written."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Array]

    def kind(self, weights: Weights) -> GGMLQuantizationType:
        """How it is kept: vectors and norms in float32, whatever the weights."""
        if len(self.shape) < 2 or any(part in self.name for part in _KEPT_FULL):
            return GGMLQuantizationType.F32
        wanted = _GGUF_TYPES[weights][0]
        ragged = wanted is GGMLQuantizationType.Q8_0 and self.shape[-1] % _GROUP
        return GGMLQuantizationType.F16 if ragged else wanted

    def n_bytes(self, weights: Weights) -> int:
        """Bytes it takes in the file."""
        return int(np.prod(_byte_shape(self.shape, self.kind(weights))))


@dataclass(frozen=True, eq=False, kw_only=True)
class GgufPlan:
    """What a file will hold. architecture: its own, or that under which llama.cpp takes a width for each block.

    widths: in the file. dense: the entries of the dense model. layout: in words.
    """

    reader: GgufReader
    architecture: str
    widths: tuple[int, ...]
    entries: list[GgufTensor]
    dense: list[GgufTensor]
    layout: str

    def n_bytes(self, weights: Weights) -> int:
        """Bytes that the tensors take."""
        return sum(entry.n_bytes(weights) for entry in self.entries)

    def base_bytes(self, weights: Weights) -> int:
        """Bytes that the dense model's tensors would take."""
        return sum(entry.n_bytes(weights) for entry in self.dense)


def plan_gguf(file: Path, made: PrunedChannels, *, is_base: bool) -> GgufPlan:
    """What becomes of the dense model's file. is_base: it is what was pruned, so that it may be quantised.

    Raises ModelError, ExportError or SettingsError where it is not a full file of the dense model.
    """
    reader = require_full_gguf(file, is_base=is_base)
    own = str(reader.fields["general.architecture"].contents())
    dense = [_dense_tensor(tensor, own, made.loaded.dtype) for tensor in reader.tensors]
    _require_same(file, {entry.name: entry for entry in dense}, made)
    tied = all(entry.name != "output.weight" for entry in dense)
    if one_width(made.widths):
        architecture, widths, layout = own, made.widths, f"one width, as {own}"
    elif own in PER_LAYER and (tied or PER_LAYER[own] != "openelm"):
        architecture, widths = PER_LAYER[own], made.widths
        layout = f"a width for each block, as {architecture}"
    else:
        architecture, widths = own, [max(made.widths)] * len(made.widths)
        layout = f"filled up to the widest block, as {own}: llama.cpp reads no width for each block of this family"
    heads = _heads(reader, own)
    kept = [entry for entry in dense if not _is_mlp(entry.name)]
    entries = [*_converted(kept, own, architecture, heads), *_mlp_tensors(made, widths)]
    return GgufPlan(
        reader=reader, architecture=architecture, widths=tuple(widths), entries=entries, dense=dense, layout=layout
    )


def write_gguf(file: Path, plan: GgufPlan, weights: Weights) -> None:
    """Write the file, tensor by tensor: no more than one is held at a time."""
    own = str(plan.reader.fields["general.architecture"].contents())
    writer = GGUFWriter(file, plan.architecture)
    try:
        for name, field in plan.reader.fields.items():
            # The library writes no empty array, which has no type of its items either.
            empty = field.types == [GGUFValueType.ARRAY]
            if not (empty or name.startswith("GGUF.") or name == "general.architecture"):
                renamed = f"{plan.architecture}{name.removeprefix(own)}" if name.startswith(f"{own}.") else name
                value, kind, sub_type = _field_value(field)
                if renamed == f"{plan.architecture}.feed_forward_length":
                    value, kind, sub_type = _width_value(plan.widths)
                elif renamed == "general.file_type":
                    value = int(_GGUF_TYPES[weights][1])
                writer.add_key_value(renamed, value, kind, sub_type=sub_type)
        if "general.file_type" not in plan.reader.fields:
            writer.add_file_type(int(_GGUF_TYPES[weights][1]))
        for entry in plan.entries:
            kind = entry.kind(weights)
            shape, number = _byte_shape(entry.shape, kind), _NUMPY.get(kind, np.dtype(np.uint8))
            stated = entry.shape if kind in _NUMPY else shape
            writer.add_tensor_info(entry.name, stated, number, int(np.prod(shape)), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in plan.entries:
            writer.write_tensor_data(quants.quantize(entry.make().astype(np.float32), entry.kind(weights)))
    finally:
        writer.close()


def gguf_rounded(values: Array, weights: Weights) -> Array:
    """A weight (out, in) as the file gives it back."""
    kind = GgufTensor("", values.shape, lambda: values).kind(weights)
    back: Array = quants.dequantize(quants.quantize(values.astype(np.float32), kind), kind)
    return back


_NUMPY = {GGMLQuantizationType.F32: np.dtype(np.float32), GGMLQuantizationType.F16: np.dtype(np.float16)}


def _byte_shape(shape: tuple[int, ...], kind: GGMLQuantizationType) -> tuple[int, ...]:
    return tuple(quant_shape_to_byte_shape(shape, kind))


def _field_value(field: Any) -> tuple[Any, GGUFValueType, GGUFValueType | None]:
    """A key's value as it can be written again; words as bytes, since a vocabulary holds parts of characters."""
    kind, sub_type = field.types[0], field.types[-1] if len(field.types) > 1 else None
    if sub_type == GGUFValueType.STRING:
        return [bytes(field.parts[at]) for at in field.data], kind, sub_type
    return field.contents(), kind, sub_type


def _width_value(widths: tuple[int, ...]) -> tuple[Any, GGUFValueType, GGUFValueType | None]:
    if one_width(widths):
        return int(widths[0]), GGUFValueType.UINT32, None
    return list(map(int, widths)), GGUFValueType.ARRAY, GGUFValueType.UINT32


def _dense_tensor(tensor: Any, own: str, dtype: Dtype) -> GgufTensor:
    """A tensor of the dense file in the numbers that the run had, which are narrower ones where it ran in bfloat16."""
    shape = tuple(int(n) for n in reversed(tensor.shape))
    # Gemma's files hold 1 more than its norms' weights.
    shift = float(own in _SHIFTED_NORMS and tensor.name.endswith("norm.weight"))

    def make() -> Array:
        values: Array = quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        if dtype == "float32" or tensor.name.startswith("rope_"):
            return values
        ran: Array = (torch.tensor(values - shift).bfloat16().float() + shift).numpy()
        return ran

    return GgufTensor(tensor.name, shape, make)


def _is_mlp(name: str) -> bool:
    return any(f".{part}." in name for part in ("ffn_gate", "ffn_up", "ffn_down"))


def _mlp_names(made: PrunedChannels) -> dict[str, str]:
    """GGUF's name of each projection of a block by ours; what is fused or alone goes up."""
    family = made.loaded.family
    inner = ("ffn_gate", "ffn_up") if len(family.inner) > 1 else ("ffn_up",)
    return {**dict(zip(family.inner, inner, strict=True)), family.out: "ffn_down"}


def _mlp_tensors(made: PrunedChannels, widths: Any) -> Iterator[GgufTensor]:
    names = _mlp_names(made)
    for index, width in enumerate(widths):
        for name, tensor in block_tensors(made, index, width).items():
            module, _, kind = name.rpartition(".")

            def make(index: int = index, width: int = width, name: str = name) -> Array:
                return block_tensors(made, index, width)[name].float().numpy()

            yield GgufTensor(f"blk.{index}.{names[module]}.{kind}", tuple(tensor.shape), make)


def _heads(reader: GgufReader, own: str) -> dict[str, int]:
    count = int(reader.fields[f"{own}.attention.head_count"].contents())
    few = reader.fields.get(f"{own}.attention.head_count_kv")
    return {"attn_q": count, "attn_k": count if few is None else int(few.contents())}


def _converted(dense: list[GgufTensor], own: str, architecture: str, heads: dict[str, int]) -> Iterator[GgufTensor]:
    """The dense tensors as another architecture's graph reads them."""
    by_name = {entry.name: entry for entry in dense}
    for entry in dense:
        part = entry.name.split(".")[2] if entry.name.startswith("blk.") else ""
        if (own, architecture) == ("qwen2", "deci") and part in heads:
            yield _interleaved(entry, heads[part])
        elif (own, architecture) == ("qwen3", "openelm") and part in ("attn_q", "attn_k", "attn_v"):
            if part == "attn_q":
                yield _joined_qkv(
                    [by_name[entry.name.replace("attn_q", other)] for other in ("attn_q", "attn_k", "attn_v")]
                )
        else:
            yield entry


def _interleaved(entry: GgufTensor, n_heads: int) -> GgufTensor:
    """Rows of every head: halves one after the other become pairs, as `deci` rotates them."""

    def make() -> Array:
        values = entry.make()
        halves = values.reshape(n_heads, 2, len(values) // n_heads // 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)

    return GgufTensor(entry.name, entry.shape, make)


def _joined_qkv(parts: list[GgufTensor]) -> GgufTensor:
    """q, k and v one below the other."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    name = parts[0].name.replace("attn_q", "attn_qkv")
    return GgufTensor(name, shape, lambda: np.concatenate([part.make() for part in parts]))


def require_full_gguf(file: Path, *, is_base: bool) -> GgufReader:
    """The file's reader. Raises ModelError for what is no GGUF file, SettingsError for a quantised one but the base."""
    reader = opened_gguf(file)
    quantised = {t.tensor_type.name for t in reader.tensors} - set(_FULL)
    if quantised and not is_base:
        reason = f"Reason: it is quantised ({', '.join(sorted(quantised))}), and its weights would not be the model's."
        raise SettingsError("dense GGUF", file.name, "a file with F32, F16 or BF16 weights", reason)
    return reader


def _require_same(file: Path, dense: dict[str, GgufTensor], made: PrunedChannels) -> None:
    """Raises ExportError unless the file holds the dense model's first MLP."""
    own = dense.get("blk.0.ffn_down.weight")
    wanted = out_weight(made.loaded.mlps[0]).float().cpu().numpy()
    n_blocks = len({name.split(".")[1] for name in dense if name.startswith("blk.")})
    if own is None or own.shape != wanted.shape or n_blocks != len(made.widths):
        raise ExportError(f"{file.name} is a file of another model: its blocks have other shapes.", _OTHER_MODEL)
    if np.abs(own.make() - wanted).max() > 0.01 * np.abs(wanted).max():
        raise ExportError(f"{file.name} is a file of another model: its weights differ.", _OTHER_MODEL)


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
    copy_base_files(base, folder)


def config_changes(base: Source, width_key: str, width: int | None, weights: str) -> dict[str, Any]:
    """What config.json says otherwise than the base's: the width, and the type of the weights where it names another.

    Without the latter a loader would round float32 weights to the type that the base had. width: None: as it was.
    """
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    changes: dict[str, Any] = {} if width is None or not width_key else {width_key: width}
    return changes | {key: weights for key in _DTYPE_KEYS if config.get(key, weights) != weights}


def copy_base_files(base: Source, folder: Path) -> None:
    """Copy the tokenizer's files, the generation config and the licence as they are."""
    _copy_matching(base.folder, _COPIED, folder)
    if file := gguf_file(base.reference):
        # What else lies beside a downloaded file is nobody's business.
        _copy_matching(file.parent, _LICENCE_NAMES, folder)


def _copy_matching(place: Path, patterns: Sequence[str], folder: Path) -> None:
    for file in place.iterdir():
        if file.is_file() and file.suffix != ".py" and any(fnmatch(file.name.lower(), each) for each in patterns):
            shutil.copyfile(file, folder / file.name)


def tensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all weights."""
    return sum(tensor.nbytes for tensor in tensors.values())
