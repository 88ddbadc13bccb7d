"""Quantised GGUF files: made by llama.cpp's quantiser, and read back as weights of the model."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gguf import LlamaFileType
from torch import Tensor, nn

from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.engine.models import quantiser
from sparsedash.engine.models.decoder_blocks import renumbered
from sparsedash.engine.models.fresh_process import run_program
from sparsedash.engine.models.gguf_writing import (
    block_tensors,
    dense_bytes,
    require_known,
    write_gguf,
)
from sparsedash.engine.models.model_conversion import GgufModel
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.pruning.surgery import PrunedMlp, weight_of
from sparsedash.schema.errors import ExportError, SettingsError
from sparsedash.schema.export_settings import Weights, WrittenFiles
from sparsedash.schema.model_shape import MlpLayout
from sparsedash.schema.progress import OnPart, ignore
from sparsedash.schema.sparse_spec import ROW_MULTIPLE

MADE_BY_LLAMA_CPP: dict[Weights, LlamaFileType] = {
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
"""Types that need llama.cpp's quantiser; q8_0 is written here, to the same bits."""

_ALLOWED_ERRORS = {"F32": 1e-6, "F16": 1e-3, "Q8_0": 0.01, "Q6_K": 0.04}
_ALLOWED_ERROR = 0.2
"""Largest rounding error of a tensor, as a share of its norm, of a type or of one of 4 or 5 bits;
another tensor would be off by 1.4.
"""

_ADVICE = "Choose other weights, and please report this with the model and the method."


class ReadBack(NamedTuple):
    """Contents of a file: MLPs, and all other parameters by name.

    tensors: number of each type. fell_back: of these, with rows that are no multiple of the type's.
    """

    blocks: list[PrunedMlp]
    others: dict[str, Tensor]
    tensors: dict[str, int]
    fell_back: dict[str, int]


def write_quantised(
    file: Path,
    dense_file: Path,
    sparse: PrunedChannels,
    weights: Weights,
    *,
    is_base: bool,
    require_room: Callable[[int], None],
    on_part: OnPart = ignore,
) -> WrittenFiles:
    """As `write_gguf`, also in the types of llama.cpp's quantiser.

    Of these base_size is that of float16. Raises ExportError if llama.cpp fails.
    """
    write = partial(
        write_gguf,
        dense_file=dense_file,
        sparse=sparse,
        is_base=is_base,
        on_part=on_part,
    )
    if weights not in MADE_BY_LLAMA_CPP:
        return write(
            file,
            weights=weights,
            require_room=require_room,
        )
    if sparse.experts:
        raise SettingsError(
            "weights",
            weights,
            "float32, float16, q8_0 or as-stored for a mixture",
            "Quantise the float16 file by llama-quantize.",
        )
    require_known(opened_gguf(dense_file))
    full = file.with_name(f"{file.stem}.full.gguf")

    def require_room_for_both(n_bytes: int) -> None:
        require_room(n_bytes + n_bytes // 4)

    written = write(
        full,
        weights="float32",
        require_room=require_room_for_both,
    )
    file_type = str(int(MADE_BY_LLAMA_CPP[weights]))
    try:
        run_program(
            quantiser.__file__,
            [str(full), str(file), file_type, str(torch.get_num_threads())],
            on_look=lambda: on_part(1, 1),
            failed="llama.cpp could not quantise the model",
            advice=_ADVICE,
        )
    finally:
        full.unlink()
    return replace(
        written,
        size=sum(int(tensor.n_bytes) for tensor in opened_gguf(file).tensors),
        base_size=dense_bytes(opened_gguf(dense_file), "float16"),
        file=file.name,
    )


@torch.no_grad()
def read_back(
    file: Path,
    dense_file: Path,
    sparse: PrunedChannels,
    weights: Weights,
) -> ReadBack:
    """The weights in a file that was written of this model, in the model's own type.

    The loaded model must be the dense one. Raises ExportError for weights of another model.
    """
    model = sparse.loaded.model
    reader = opened_gguf(file)
    architecture = str(opened_gguf(dense_file).values["general.architecture"])
    gguf_model = GgufModel(reader, architecture)
    # By the layers' numbers in the dense model.
    path = sparse.loaded.structure.blocks
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {renumbered(name, path, sparse.removed_layers): name for name in parameters}
    stored = _Stored(values={}, kinds={})
    for name, value in gguf_model.weights(model.config).items():
        stored.values[names.get(name, name)] = value
    for name, kind in gguf_model.kinds.items():
        stored.kinds[names.get(name, name)] = kind
    has_width_a_block = reader.values["general.architecture"] != architecture
    blocks = []
    for index, narrow in enumerate(sparse.blocks):
        if index not in sparse.removed_layers:
            width = len(narrow.kept) if has_width_a_block else max(sparse.widths)
            narrow = _block_read_back(sparse, index, width, stored)
        blocks.append(narrow)
    return ReadBack(
        blocks=blocks,
        others=_others_read_back(sparse, stored),
        tensors=_counted(reader.tensors),
        fell_back=_counted(
            tensor for tensor in reader.tensors if _fell_back(tensor, weights)
        ),
    )


class _Stored(NamedTuple):
    """Weights of a file by the dense model's names, and the types that they are stored in."""

    values: dict[str, Tensor]
    kinds: dict[str, str]


def _block_read_back(
    sparse: PrunedChannels, index: int, width: int, stored: _Stored
) -> PrunedMlp:
    """A block's MLP with the weights of a file, which are taken out of those that are stored.

    width: that the file has for it.
    """
    loaded = sparse.loaded
    tensors: dict[str, Tensor] = {}
    for name, expected in block_tensors(sparse, index, width).items():
        full_name = f"{loaded.structure.blocks}.{index}.{name}"
        module: Any = loaded.model.get_submodule(full_name.rpartition(".")[0])
        value = stored.values.pop(full_name)
        if name.endswith("weight") and weight_of(module) is not module.weight:
            value = value.T
        tensors[name] = _checked(value, expected, full_name, stored.kinds)
    layout = loaded.structure.mlps[index]
    assert layout is not None, "every block of a model with a GGUF file has an MLP"
    return _narrowed(layout, sparse.blocks[index], tensors)


def _others_read_back(sparse: PrunedChannels, stored: _Stored) -> dict[str, Tensor]:
    """Parameters that a file stores beside MLPs. Parameters that share their memory in the model share it here."""
    model = sparse.loaded.model
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shared: dict[int, nn.Parameter] = {}
    for name, value in stored.values.items():
        parameter = parameters[name]
        expected = sparse.others.get(name, parameter)
        checked = _checked(value, expected, name, stored.kinds)
        shared[id(parameter)] = nn.Parameter(
            checked.to(parameter.device), requires_grad=False
        )
    in_mlps = _mlp_parameters(sparse)
    path = sparse.loaded.structure.blocks
    others: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        is_gone = renumbered(name, path, sparse.removed_layers) is None
        if id(parameter) in in_mlps or is_gone:
            continue
        if id(parameter) not in shared:
            raise ExportError(f"The file lacks {name}.", _ADVICE)
        others[name] = shared[id(parameter)]
    return others


def _mlp_parameters(sparse: PrunedChannels) -> set[int]:
    """Identities of all parameters of the dense model's MLPs."""
    ids = set[int]()
    for mlp in sparse.loaded.mlps:
        for module in (*mlp.inner, mlp.out):
            ids.update(map(id, module.parameters()))
    return ids


def _counted(tensors: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(tensor.tensor_type.name for tensor in tensors).items()))


def _fell_back(tensor: Any, weights: Weights) -> bool:
    """True if its rows are no multiple of the type's, so that it has another one."""
    is_matrix = len(tensor.shape) > 1 and tensor.tensor_type.name != "F32"
    return is_matrix and tensor.shape[0] % ROW_MULTIPLE.get(weights, 32) > 0


def _checked(
    value: Tensor,
    expected: Tensor,
    name: str,
    kinds: Mapping[str, str],
) -> Tensor:
    """The value in the expected type. Raises ExportError unless it is that tensor, rounded."""
    expected = expected.detach().cpu()
    allowed = _ALLOWED_ERRORS.get(kinds.get(name, "F32"), _ALLOWED_ERROR)
    wide = expected.float()
    if (
        value.shape != wide.shape
        or (value - wide).norm() > allowed * wide.norm() + 1e-6
    ):
        raise ExportError(
            f"{name} was read back from the file as another tensor.", _ADVICE
        )
    return value.to(expected.dtype)


def _narrowed(
    layout: MlpLayout, narrow: PrunedMlp, tensors: Mapping[str, Tensor]
) -> PrunedMlp:
    """The MLP with these weights, by their names in the block, without the zeros that pad it."""
    n_kept = len(narrow.kept)

    def unpadded(part: Tensor) -> Tensor:
        return torch.cat([rows[:n_kept] for rows in part.chunk(layout.fused)])

    inner = []
    for name in layout.inner:
        bias = tensors.get(f"{name}.bias")
        weight = unpadded(tensors[f"{name}.weight"])
        inner.append((weight, None if bias is None else unpadded(bias)))
    return replace(
        narrow,
        out_weight=tensors[f"{layout.out}.weight"][:, :n_kept].contiguous(),
        out_bias=tensors.get(f"{layout.out}.bias"),
        inner=tuple(inner),
    )
