"""Writes a narrower model as one GGUF file for llama.cpp.

llama.cpp reads one width for a whole model, but for the graphs in `PER_LAYER`: `deci`, which runs
LLaMA's block, `openelm` and others take a width for each. Numpy shapes are torch's, (out, in);
GGUF counts the other way. q and k of `llama` files have their rows in the order that `deci`
rotates; those of `qwen2` have not. Widths of each block were tried by hand against llama.cpp b11739 (docs/adr/0019).
Dimensions: d hidden width, m inner width, k kept channels, w width in the file.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType, quants
from gguf.quants import quant_shape_to_byte_shape
from torch import Tensor

from sparsedash.catalog.export_forms import LOST_WITHOUT_REFIT, PER_LAYER, one_width
from sparsedash.catalog.gguf_names import ARCHITECTURES, general_name
from sparsedash.catalog.gguf_reader import (
    SOURCE_TYPE,
    GgufReader,
    opened_gguf,
    quantised_type,
)
from sparsedash.engine.models.decoder_blocks import renumbered
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.pruning.experts import Experts, KeptExperts
from sparsedash.engine.pruning.surgery import out_weight
from sparsedash.schema.errors import ExportError, ModelError, SettingsError
from sparsedash.schema.export_settings import Weights, WrittenFiles
from sparsedash.schema.progress import OnPart, ignore
from sparsedash.schema.settings import Dtype

Array = np.ndarray[Any, Any]

_GGUF_TYPES: dict[Weights, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_KEPT_FULL = (
    "position_embd",
    "token_types",
    "rope_freqs",
    "norm",
    "ffn_gate_inp",
    "ssm_conv1d",
    "ssm_a",
    "ssm_d",
    "shortconv.conv",
)
"""Parts of the names of tensors that llama.cpp reads in float32 only."""

_GROUP = 32
"""Weights that share a scale in q8_0; a row that is no multiple is kept in float16."""

_SHIFTED_NORMS = ("gemma", "gemma2", "gemma3")

_OTHER_MODEL = "Name one made from the model that was pruned."


def block_tensors(
    sparse: PrunedChannels,
    index: int,
    width: int | None,
) -> dict[str, Tensor]:
    """The tensors of one block's MLP by their names within the block, weights as (out, in).

    width: its channels in the file; None: the dense ones, each channel in its own place.
    """
    layout = sparse.loaded.structure.mlps[index]
    if layout is None:
        return {}
    mlp = sparse.loaded.mlps[index]
    narrow = sparse.blocks[index]
    places = narrow.kept if width is None else torch.arange(len(narrow.kept))
    w = mlp.width if width is None else width

    def padded(part: Tensor) -> Tensor:
        """The kept rows (k, ...) in their places, zeros elsewhere (w, ...)."""
        rows = torch.zeros(w, *part.shape[1:], dtype=part.dtype)
        rows[places] = part
        return rows

    tensors = {}
    for number, name in enumerate(layout.inner):
        for kind, part in zip(
            ("weight", "bias"), narrow.inner_part(mlp, number), strict=True
        ):
            if part is not None:
                # Gate and up may be parts of one projection.
                parts = part.detach().cpu().chunk(mlp.fused)
                tensors[f"{name}.{kind}"] = torch.cat(list(map(padded, parts)))
    dense = out_weight(mlp)
    out = torch.zeros(len(dense), w, dtype=dense.dtype)
    out[:, places] = narrow.out_weight.to("cpu", dense.dtype)
    tensors[f"{layout.out}.weight"] = out
    bias = mlp.out.bias if narrow.out_bias is None else narrow.out_bias
    if bias is not None:
        tensors[f"{layout.out}.bias"] = bias.detach().to("cpu", dense.dtype)
    return tensors


@dataclass(frozen=True, eq=False)
class GgufTensor:
    """One tensor of a GGUF file. shape: as in torch. kind: its type in the file. make: its values,
    or where is_stored what the file holds of them.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    make: Callable[[], Array]
    is_stored: bool = False

    @property
    def n_bytes(self) -> int:
        """Its bytes in the file."""
        return _n_bytes(self.shape, self.kind)

    @property
    def is_mlp(self) -> bool:
        """True for the projections of an MLP."""
        return any(f".ffn_{part}." in self.name for part in ("gate", "up", "down"))


def _n_bytes(shape: Sequence[int], kind: GGMLQuantizationType) -> int:
    return int(np.prod(quant_shape_to_byte_shape(tuple(shape), kind)))


def torch_shape(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor of a reader, as torch has it."""
    return tuple(int(n) for n in reversed(tensor.shape))


def gguf_type(
    name: str,
    shape: Sequence[int],
    weights: Weights,
) -> GGMLQuantizationType:
    """Type of a tensor in the file: vectors and norms in float32, whatever the weights."""
    if len(shape) < 2 or any(part in name for part in _KEPT_FULL):
        return GGMLQuantizationType.F32
    wanted = _GGUF_TYPES[weights][0]
    ragged = wanted is GGMLQuantizationType.Q8_0 and shape[-1] % _GROUP
    return GGMLQuantizationType.F16 if ragged else wanted


def write_gguf(
    file: Path,
    dense_file: Path,
    sparse: PrunedChannels,
    weights: Weights,
    *,
    is_base: bool,
    require_room: Callable[[int], None],
    on_part: OnPart = ignore,
) -> WrittenFiles:
    """Write the sparse model's file from the dense model's, with one tensor in memory at a time.

    is_base: the dense file was pruned itself, and may be quantised. require_room: as in
    `write_folder`. on_part: called before each tensor. Raises ModelError, ExportError or
    SettingsError unless it is a full file of the dense model.
    """
    reader = require_full_gguf(dense_file, is_base=is_base)
    if weights == "as-stored":
        return _write_as_stored(file, dense_file, reader, sparse, require_room, on_part)
    source = str(reader.values["general.architecture"])
    dtype = sparse.loaded.dtype
    dense = [_dense_tensor(tensor, source, dtype, weights) for tensor in reader.tensors]
    _require_same(dense_file, {tensor.name: tensor for tensor in dense}, sparse)
    tied = all(tensor.name != "output.weight" for tensor in dense)
    # The architecture under which llama.cpp may read a width for each block.
    architecture = source
    widths = sparse.widths
    layout = f"one width, architecture {source}"
    changed: dict[str, object] = {}
    if sparse.experts:
        changed = _experts_keys(sparse, source, reader)
        dense = list(_with_fewer_experts(dense, sparse))
        layout = f"fewer or narrower experts, architecture {source}"
    elif not one_width(widths):
        if source in PER_LAYER and (tied or PER_LAYER[source] != "openelm"):
            architecture = PER_LAYER[source]
            layout = f"a width for each block, llama.cpp's architecture {architecture}"
        else:
            widths = tuple(max(widths) if width else 0 for width in widths)
            layout = (
                f"filled up to the widest block, architecture {source}: "
                "llama.cpp reads no width for each block of this family"
            )
    outside_mlps = [
        tensor for tensor in _with_norms(dense, reader, sparse) if not tensor.is_mlp
    ]
    tensors = [
        *_converted(outside_mlps, source, architecture, reader.values),
        *_mlp_tensors(sparse, widths, weights),
    ]
    if sparse.removed_layers:
        n_layers = len(widths)
        layout = (
            f"{n_layers - len(sparse.removed_layers)} of {n_layers} layers, {layout}"
        )
        numbered = [
            (renumbered(tensor.name, "blk", sparse.removed_layers), tensor)
            for tensor in tensors
        ]
        tensors = [
            replace(tensor, name=name) for name, tensor in numbered if name is not None
        ]
    size = sum(tensor.n_bytes for tensor in tensors)
    require_room(size)
    file_type = int(_GGUF_TYPES[weights][1])
    keys = partial(
        _add_keys,
        reader=reader,
        widths=widths,
        removed_layers=sparse.removed_layers,
        file_type=file_type,
        changed=changed,
    )
    write_file(
        file,
        architecture,
        keys,
        tensors,
        on_part,
    )
    base_size = dense_bytes(reader, weights)
    return WrittenFiles(
        layout=layout,
        size=size,
        base_size=base_size,
        file=file.name,
    )


def _write_as_stored(
    file: Path,
    dense_file: Path,
    reader: GgufReader,
    sparse: PrunedChannels,
    require_room: Callable[[int], None],
    on_part: OnPart,
) -> WrittenFiles:
    """The dense file without the experts that are gone; of all others every bit is as it was.

    Raises SettingsError where the kept experts have other weights.
    """
    if problem := _stored_problem(sparse):
        raise SettingsError(
            "weights",
            message=f"No file can be written as-stored: {problem}.",
            advice=_OTHER_TYPE,
        )
    source = str(reader.values["general.architecture"])
    tensors = []
    dense = {}
    for tensor in reader.tensors:
        dense[tensor.name] = _dense_tensor(tensor, source, "float32", "float32")
        shape = torch_shape(tensor)
        kept = None
        index, part = _part_of_experts(tensor.name)
        if part:
            kept = sparse.experts[index].kept.numpy()
            shape = (len(kept), *shape[1:])
        make = partial(_stored, tensor, kept)
        tensors.append(
            GgufTensor(tensor.name, shape, tensor.tensor_type, make, is_stored=True)
        )
    _require_same(dense_file, dense, sparse)
    size = sum(tensor.n_bytes for tensor in tensors)
    require_room(size)
    keys = partial(
        _add_keys,
        reader=reader,
        widths=sparse.widths,
        removed_layers=sparse.removed_layers,
        file_type=int(reader.values.get("general.file_type", LlamaFileType.ALL_F32)),
        changed=_experts_keys(sparse, source, reader),
    )
    write_file(file, source, keys, tensors, on_part)
    return WrittenFiles(
        layout=f"fewer experts, every tensor as in the dense file, architecture {source}",
        size=size,
        base_size=sum(int(tensor.n_bytes) for tensor in reader.tensors),
        file=file.name,
    )


_OTHER_TYPE = (
    f"Choose float16; or a method that refits nothing, such as reap, which lost {LOST_WITHOUT_REFIT} as experts at "
    "50 % (docs/results.md)."
)


def _stored_problem(sparse: PrunedChannels) -> str:
    """The reason the kept weights are not those of the dense file, or ""."""
    if not sparse.experts or any(
        narrow.channels is not None for narrow in sparse.experts
    ):
        return "only whole experts can be cut out of a file"
    if any(narrow.outs is not None for narrow in sparse.experts):
        return "the experts that stay are refitted"
    if sparse.loaded.dtype != "float32":
        return "the run rounded the weights to bfloat16"
    return ""


def _stored(tensor: Any, kept: Array | None) -> Array:
    """A tensor's data in the file; those of these experts alone, if they are named."""
    values: Array = tensor.data
    return values if kept is None else np.ascontiguousarray(values[kept])


def write_file(
    file: Path,
    architecture: str,
    add_keys: Callable[[GGUFWriter], None],
    tensors: Sequence[GgufTensor],
    on_part: OnPart = ignore,
) -> None:
    """Write a file of these tensors, one in memory at a time. add_keys: adds the metadata."""
    writer = GGUFWriter(file, architecture)
    try:
        add_keys(writer)
        for tensor in tensors:
            writer.add_tensor_info(
                tensor.name,
                quant_shape_to_byte_shape(tensor.shape, tensor.kind),
                np.dtype(np.uint8),
                tensor.n_bytes,
                raw_dtype=tensor.kind,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for n_written, tensor in enumerate(tensors):
            on_part(n_written, len(tensors))
            values = tensor.make()
            if not tensor.is_stored:
                values = quants.quantize(values.astype(np.float32), tensor.kind)
            writer.write_tensor_data(values)
    finally:
        writer.close()


def dense_bytes(reader: GgufReader, weights: Weights) -> int:
    """Bytes of the dense file's tensors in this type."""
    total = 0
    for tensor in reader.tensors:
        shape = torch_shape(tensor)
        total += _n_bytes(shape, gguf_type(tensor.name, shape, weights))
    return total


_LEFT_OUT = (
    "general.architecture",
    "general.file_type",
    "general.alignment",
    "general.size_label",
    "general.quantization_version",
    "general.quantized_by",
    "quantize.",
    "imatrix.",
)
"""Prefixes of keys that the library writes itself, and of those about the dense file's weights."""


def _add_keys(
    writer: GGUFWriter,
    reader: GgufReader,
    widths: Sequence[int],
    removed_layers: Collection[int],
    file_type: int,
    changed: Mapping[str, object],
) -> None:
    """Add the dense file's keys under the new architecture, with the new widths and type.

    widths: of all blocks of the dense model; 0 where one has no MLP or is removed. changed: values
    of keys that say what is left of experts; the others then stay.
    """
    source = reader.values["general.architecture"]
    kept_layers = [index for index in range(len(widths)) if index not in removed_layers]
    new_widths = [int(widths[index]) for index in kept_layers]
    for name, value in reader.values.items():
        kind, *sub_types = reader.fields[name].types
        sub_type = sub_types[0] if sub_types else None
        is_own = name.startswith(f"{source}.")
        # The library writes no empty array, which has no type of its items either.
        if (kind, sub_type) == (GGUFValueType.ARRAY, None) or name.startswith(
            _LEFT_OUT
        ):
            continue
        if changed:
            value = changed.get(name, value)
        elif name == f"{source}.block_count":
            value = len(kept_layers)
        elif name == f"{source}.feed_forward_length":
            is_one = len(set(new_widths)) == 1
            kind = GGUFValueType.UINT32 if is_one else GGUFValueType.ARRAY
            sub_type = None if is_one else GGUFValueType.UINT32
            value = new_widths[0] if is_one else new_widths
        elif kind == GGUFValueType.ARRAY and is_own and len(value) == len(widths):
            value = [value[index] for index in kept_layers]
        new_name = f"{writer.arch}{name.removeprefix(source)}" if is_own else name
        writer.add_key_value(
            new_name,
            value,
            kind,
            sub_type=sub_type,
        )
    source_type = quantised_type(reader)
    if source_type and SOURCE_TYPE not in reader.values:
        writer.add_string(SOURCE_TYPE, source_type)
    writer.add_file_type(file_type)


def gguf_rounded(values: Array, weights: Weights) -> Array:
    """A weight (out, in) as it is read back from the file."""
    kind = gguf_type("", values.shape, weights)
    rounded: Array = quants.dequantize(
        quants.quantize(values.astype(np.float32), kind), kind
    )
    return rounded


def _dense_tensor(
    tensor: Any,
    source: str,
    dtype: Dtype,
    weights: Weights,
) -> GgufTensor:
    """A tensor of the dense file with the run's values: rounded if it ran in bfloat16."""
    shape = torch_shape(tensor)
    # Gemma's files hold 1 more than its norms' weights.
    shift = float(source in _SHIFTED_NORMS and tensor.name.endswith("norm.weight"))

    def make() -> Array:
        values: Array = quants.dequantize(tensor.data, tensor.tensor_type).reshape(
            shape
        )
        if dtype == "bfloat16" and not tensor.name.startswith("rope_"):
            values = (torch.tensor(values - shift).bfloat16().float() + shift).numpy()
        return values

    return GgufTensor(
        tensor.name,
        shape,
        gguf_type(tensor.name, shape, weights),
        make,
    )


def _with_norms(
    dense: Sequence[GgufTensor], reader: GgufReader, sparse: PrunedChannels
) -> list[GgufTensor]:
    """The dense tensors with the norms of a healed model.

    Raises ExportError if the file lacks one of them.
    """
    norms = dict(sparse.others)
    if not norms:
        return list(dense)
    require_known(reader)
    source = str(reader.values["general.architecture"])
    shift = float(source in _SHIFTED_NORMS)
    tensors = []
    for tensor in dense:
        name = ARCHITECTURES[source].tensors.get(general_name(tensor.name), "")
        name = name.replace("#", tensor.name.split(".")[1])
        if name not in norms:
            # Falcon's norm before both parts of a block.
            name = name.replace("ln_mlp", "input_layernorm")
        if name in norms:
            tensor = replace(tensor, make=partial(_shifted, norms.pop(name), shift))
        tensors.append(tensor)
    if norms:
        raise ExportError(
            f"The file has no place for {min(norms)}, which was healed.",
            "Choose another form.",
        )
    return tensors


def _shifted(norm: Tensor, shift: float) -> Array:
    values: Array = norm.detach().float().cpu().numpy() + np.float32(shift)
    return values


def _experts_keys(
    sparse: PrunedChannels, source: str, reader: GgufReader
) -> dict[str, object]:
    """The keys that say how many experts a block has, and how wide they are."""
    narrow = next(narrow for narrow in sparse.experts if len(narrow.kept))
    keys: dict[str, object] = {f"{source}.expert_count": len(narrow.kept)}
    if narrow.channels is not None:
        width_key = f"{source}.expert_feed_forward_length"
        if width_key not in reader.values:
            width_key = f"{source}.feed_forward_length"
        keys[width_key] = narrow.channels.shape[1]
    return keys


def _with_fewer_experts(
    dense: Sequence[GgufTensor], sparse: PrunedChannels
) -> Iterator[GgufTensor]:
    """The dense tensors, those of experts and routers with what is left of them."""
    mixtures = sparse.loaded.experts
    for tensor in dense:
        index, part = _part_of_experts(tensor.name)
        if not part:
            yield tensor
            continue
        narrow = sparse.experts[index]
        make = partial(_of_experts, mixtures[index], narrow, part)
        yield replace(tensor, shape=_shape_of_experts(tensor, narrow, part), make=make)


def _part_of_experts(name: str) -> tuple[int, str]:
    """The block of a tensor and GGUF's name for what it is of its experts or their router; "" where
    it is of neither.
    """
    match = re.match(r"blk\.(\d+)\.(ffn_\w+_exps|ffn_gate_inp)\.", name)
    return (int(match[1]), match[2]) if match else (0, "")


def _shape_of_experts(
    tensor: GgufTensor, narrow: KeptExperts, part: str
) -> tuple[int, ...]:
    """The shape (experts, out, in) of what is left of it."""
    shape = [len(narrow.kept), *tensor.shape[1:]]
    if narrow.channels is not None and part != "ffn_gate_inp":
        shape[2 if part == "ffn_down_exps" else 1] = narrow.channels.shape[1]
    return tuple(shape)


def _of_experts(mixture: Experts, narrow: KeptExperts, part: str) -> Array:
    """The kept experts of a block, under GGUF's name for a part of them."""
    tensors = mixture.sliced(narrow)
    if part == "ffn_gate_inp":
        tensor = tensors[f"{mixture.layout.router}.weight"]
    elif part == "ffn_down_exps":
        tensor = tensors[f"{mixture.layout.path}.down_proj"]
    else:
        halves = tensors[f"{mixture.layout.path}.gate_up_proj"].chunk(2, dim=1)
        tensor = halves[part == "ffn_up_exps"]
    values: Array = tensor.detach().float().cpu().numpy()
    return values


def _mlp_tensors(
    sparse: PrunedChannels, widths: Sequence[int], weights: Weights
) -> Iterator[GgufTensor]:
    def make(index: int, width: int, name: str) -> Array:
        values: Array = block_tensors(sparse, index, width)[name].float().numpy()
        return values

    for index, width in enumerate(widths):
        layout = sparse.loaded.structure.mlps[index]
        if not width or layout is None:
            continue
        # A fused projection, or one without a gate, is GGUF's up.
        inner = ("ffn_gate", "ffn_up") if len(layout.inner) > 1 else ("ffn_up",)
        gguf_names = {
            **dict(zip(layout.inner, inner, strict=True)),
            layout.out: "ffn_down",
        }
        for name, tensor in block_tensors(sparse, index, width).items():
            module, _, kind = name.rpartition(".")
            full_name = f"blk.{index}.{gguf_names[module]}.{kind}"
            shape = tuple(tensor.shape)
            gguf_kind = gguf_type(full_name, shape, weights)
            yield GgufTensor(
                full_name, shape, gguf_kind, partial(make, index, width, name)
            )


def _converted(
    dense: list[GgufTensor], source: str, architecture: str, values: Mapping[str, Any]
) -> Iterator[GgufTensor]:
    """The dense tensors in another architecture's layout. values: metadata of the dense file."""
    if architecture == source:
        yield from dense
        return
    n_heads = int(values[f"{source}.attention.head_count"])
    n_kv_heads = int(values.get(f"{source}.attention.head_count_kv", n_heads))
    by_name = {tensor.name: tensor for tensor in dense}
    change = (source, architecture)
    for tensor in dense:
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if change == ("qwen2", "deci") and part in ("attn_q", "attn_k"):
            heads = n_heads if part == "attn_q" else n_kv_heads
            yield replace(tensor, make=partial(_interleaved, tensor, heads))
        elif change == ("qwen3", "openelm") and part == "attn_q":
            qkv = [by_name[tensor.name.replace(part, name)] for name in _QKV]
            shape = (sum(projection.shape[0] for projection in qkv), *tensor.shape[1:])
            name = tensor.name.replace(part, "attn_qkv")
            yield GgufTensor(name, shape, tensor.kind, partial(_stacked, qkv))
        elif change != ("qwen3", "openelm") or part not in _QKV:
            yield tensor


_QKV = ("attn_q", "attn_k", "attn_v")


def _stacked(tensors: Sequence[GgufTensor]) -> Array:
    """Rows of all tensors, one below the other."""
    return np.concatenate([tensor.make() for tensor in tensors])


def _interleaved(tensor: GgufTensor, n_heads: int) -> Array:
    """Rows of every head: halves one after the other become pairs, as `deci` rotates them."""
    values = tensor.make()
    halves = values.reshape(
        n_heads,
        2,
        len(values) // n_heads // 2,
        *values.shape[1:],
    )
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def require_full_gguf(file: Path, *, is_base: bool) -> GgufReader:
    """The file's reader.

    Raises ModelError for another file, SettingsError for a quantised one that is not the base.
    """
    reader = opened_gguf(file)
    if "general.architecture" not in reader.values:
        raise ModelError(
            f"{file.name} holds no model: it names no architecture.",
            "Name a model's GGUF file.",
        )
    quantised = {tensor.tensor_type.name for tensor in reader.tensors} - {
        "F32",
        "F16",
        "BF16",
    }
    if quantised and not is_base:
        reason = f"Reason: it is quantised ({', '.join(sorted(quantised))}), and its weights would not be the model's."
        raise SettingsError(
            "dense GGUF",
            file.name,
            "a file with F32, F16 or BF16 weights",
            reason,
        )
    return reader


def require_known(reader: GgufReader) -> None:
    """Raise ExportError for a file whose tensors have no names here.

    Healed norms find no place in it, and quantised weights cannot be read back and proven.
    """
    source = str(reader.values["general.architecture"])
    if source not in ARCHITECTURES:
        raise ExportError(
            f"The names of llama.cpp's {source} files are not known here, so none is written healed or in this type.",
            "Choose a model that is not healed and float32, float16 or q8_0, or another form.",
        )


def _require_same(
    file: Path,
    dense: Mapping[str, GgufTensor],
    sparse: PrunedChannels,
) -> None:
    """Raises ExportError unless the file holds the dense model's first MLP, or its experts."""
    if sparse.experts:
        down = dense.get("blk.0.ffn_down_exps.weight")
        expected = sparse.loaded.experts[0].module.down_proj.float().cpu().numpy()
    else:
        mlps = enumerate(sparse.loaded.structure.mlps)
        first = next(index for index, layout in mlps if layout)
        down = dense.get(f"blk.{first}.ffn_down.weight")
        expected = out_weight(sparse.loaded.mlps[first]).float().cpu().numpy()
    n_blocks = len({name.split(".")[1] for name in dense if name.startswith("blk.")})
    if down is None or down.shape != expected.shape or n_blocks != len(sparse.widths):
        raise ExportError(
            f"{file.name} is a file of another model: its blocks have other shapes.",
            _OTHER_MODEL,
        )
    if np.abs(down.make() - expected).max() > 0.01 * np.abs(expected).max():
        raise ExportError(
            f"{file.name} is a file of another model: its weights differ.", _OTHER_MODEL
        )
