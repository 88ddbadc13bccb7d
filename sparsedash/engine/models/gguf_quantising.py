"""Quantised GGUF files: made by llama.cpp's own quantiser from a full file, and read back as
weights of the model.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gguf import LlamaFileType
from torch import Tensor, nn

from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.engine.models import quantiser
from sparsedash.engine.models.fresh_process import run_program
from sparsedash.engine.models.gguf_writing import (
    block_tensors,
    dense_bytes,
    renumbered,
    require_known,
    write_gguf,
)
from sparsedash.engine.models.model_conversion import GgufModel
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.pruning.surgery import PrunedMlp, weight_of
from sparsedash.schema.errors import ExportError
from sparsedash.schema.export_settings import Weights, WrittenFiles
from sparsedash.schema.method_settings import ROW_MULTIPLE
from sparsedash.schema.progress import OnPart, ignore

MADE_BY_LLAMA_CPP: dict[Weights, LlamaFileType] = {
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
"""Types that need llama.cpp's quantiser; q8_0 is written here, to the same bits."""

_ALLOWED_ERRORS = {"F32": 1e-6, "F16": 1e-3, "Q8_0": 0.01, "Q6_K": 0.04}
_ALLOWED_ERROR = 0.2
"""Share of a tensor's norm that rounding to a type may cost, or to 4 or 5 bits; of another tensor
it would be 1.4.
"""

_ADVICE = "Choose other weights, and please report this with the model and the method."


class ReadBack(NamedTuple):
    """What a file holds: MLPs, and all other parameters by name.

    tensors: how many there are of each type; fell_back: of these, since their rows are no multiple
    of what was asked.
    """

    blocks: list[PrunedMlp]
    others: dict[str, Tensor]
    tensors: dict[str, int]
    fell_back: dict[str, int]


def write_quantised(
    file: Path,
    dense_file: Path,
    made: PrunedChannels,
    weights: Weights,
    *,
    is_base: bool,
    require_room: Callable[[int], None],
    on_part: OnPart = ignore,
) -> WrittenFiles:
    """As `write_gguf`, also in the types of llama.cpp's quantiser; of these base_size is the dense
    model's in float16.

    Raises ExportError where llama.cpp fails.
    """
    write = partial(write_gguf, dense_file=dense_file, made=made, is_base=is_base, on_part=on_part)
    if weights not in MADE_BY_LLAMA_CPP:
        return write(file, weights=weights, require_room=require_room)
    require_known(opened_gguf(dense_file))
    full = file.with_name(f"{file.stem}.full.gguf")
    # Beside the full file there is the one made of it.
    written = write(
        full, weights="float32", require_room=lambda n_bytes: require_room(n_bytes + n_bytes // 4)
    )
    arguments = [
        str(full),
        str(file),
        str(int(MADE_BY_LLAMA_CPP[weights])),
        str(torch.get_num_threads()),
    ]
    try:
        run_program(
            quantiser.__file__,
            arguments,
            on_look=lambda: on_part(1, 1),
            failed="llama.cpp could not quantise the model",
            advice=_ADVICE,
        )
    finally:
        full.unlink()
    size = sum(int(tensor.n_bytes) for tensor in opened_gguf(file).tensors)
    return replace(
        written,
        size=size,
        base_size=dense_bytes(opened_gguf(dense_file), "float16"),
        file=file.name,
    )


@torch.no_grad()
def read_back(file: Path, dense_file: Path, made: PrunedChannels, weights: Weights) -> ReadBack:
    """The weights in a file that was written of this model, in the model's own type.

    Raises ExportError where they are those of another model: the loaded model must be the dense
    one.
    """
    loaded, model, reader = made.loaded, made.loaded.model, opened_gguf(file)
    own = str(opened_gguf(dense_file).values["general.architecture"])
    said, blocks = GgufModel(reader, own), list[PrunedMlp]()
    found = said.weights(model.config)
    # By the layers' numbers in the dense model.
    own_names = (name for name, _ in model.named_parameters(remove_duplicate=False))
    names = {renumbered(name, loaded.family.blocks, made.gone): name for name in own_names}
    found = {names.get(name, name): value for name, value in found.items()}
    kinds = {names.get(name, name): kind for name, kind in said.kinds.items()}
    each_its_own = reader.values["general.architecture"] != own
    for index, narrow in enumerate(made.blocks):
        if narrow.is_gone:
            blocks.append(narrow)
            continue
        width, there = len(narrow.kept) if each_its_own else max(made.widths), dict[str, Tensor]()
        for name, wanted in block_tensors(made, index, width).items():
            full_name = f"{loaded.family.blocks}.{index}.{name}"
            module: Any = model.get_submodule(full_name.rpartition(".")[0])
            is_turned = name.endswith("weight") and weight_of(module) is not module.weight
            value = found.pop(full_name)
            there[name] = _as_meant(value.T if is_turned else value, wanted, full_name, kinds)
        blocks.append(_narrowed(made, narrow, there))
    return ReadBack(
        blocks=blocks,
        others=_others(model, found, made, kinds),
        tensors=_counted(reader.tensors),
        fell_back=_counted([tensor for tensor in reader.tensors if _fell_back(tensor, weights)]),
    )


def _counted(tensors: Sequence[Any]) -> dict[str, int]:
    return dict(sorted(Counter(tensor.tensor_type.name for tensor in tensors).items()))


def _fell_back(tensor: Any, weights: Weights) -> bool:
    """Whether its rows are no multiple of the type's, of 256 or 32, so that it has another one."""
    return (
        len(tensor.shape) > 1
        and tensor.tensor_type.name != "F32"
        and tensor.shape[0] % ROW_MULTIPLE.get(weights, 32) > 0
    )


def _as_meant(value: Tensor, wanted: Tensor, name: str, kinds: Mapping[str, str]) -> Tensor:
    """The value in the type of what was to be written. Raises ExportError where it is not that,
    rounded.
    """
    wanted, allowed = (
        wanted.detach().cpu(),
        _ALLOWED_ERRORS.get(kinds.get(name, "F32"), _ALLOWED_ERROR),
    )
    if (
        value.shape != wanted.shape
        or (value - wanted.float()).norm() > allowed * wanted.float().norm() + 1e-6
    ):
        raise ExportError(f"{name} was read back from the file as another tensor.", _ADVICE)
    return value.to(wanted.dtype)


def _narrowed(made: PrunedChannels, narrow: PrunedMlp, there: dict[str, Tensor]) -> PrunedMlp:
    """The MLP with these weights, of which zeros that fill it up to a width are left out."""
    family, k = made.loaded.family, len(narrow.kept)

    def rows(part: Tensor) -> Tensor:
        return torch.cat([own[:k] for own in part.chunk(family.fused)])

    inner = ((there[f"{name}.weight"], there.get(f"{name}.bias")) for name in family.inner)
    return replace(
        narrow,
        out_weight=there[f"{family.out}.weight"][:, :k].contiguous(),
        out_bias=there.get(f"{family.out}.bias"),
        inner=tuple((rows(weight), None if bias is None else rows(bias)) for weight, bias in inner),
    )


def _others(
    model: nn.Module, found: dict[str, Tensor], made: PrunedChannels, kinds: Mapping[str, str]
) -> dict[str, Tensor]:
    """Every other parameter by each of its names. Raises ExportError where the file lacks one."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    mlps = {
        id(part)
        for mlp in made.loaded.mlps
        for module in (*mlp.inner, mlp.out)
        for part in module.parameters()
    }
    shared: dict[int, nn.Parameter] = {}
    for name, value in found.items():
        like = parameters[name]
        wanted = made.others.get(name, like)
        shared[id(like)] = nn.Parameter(
            _as_meant(value, wanted, name, kinds).to(like.device), requires_grad=False
        )
    blocks, gone = made.loaded.family.blocks, made.gone
    wanted_names = {
        n: own
        for n, own in parameters.items()
        if id(own) not in mlps and renumbered(n, blocks, gone)
    }
    if missing := [name for name, own in wanted_names.items() if id(own) not in shared]:
        raise ExportError(f"The file lacks {missing[0]}.", _ADVICE)
    return {name: shared[id(own)] for name, own in wanted_names.items()}
