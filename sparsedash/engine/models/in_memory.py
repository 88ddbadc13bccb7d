"""Takes a model that the caller holds in memory: copied, sharing its weights."""

import copy
from pathlib import Path
from typing import Any, cast, get_args

from torch import nn
from transformers import (
    CONFIG_MAPPING,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from sparsedash.catalog.config_checks import config_problem
from sparsedash.engine.models.checkpoint_reading import (
    refuse_no_numbers,
    refusing,
    type_name,
)
from sparsedash.engine.models.loading import LoadedModel, loaded_model
from sparsedash.engine.models.locating import Source
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.engine.models.structure import auto_class, meta_model
from sparsedash.engine.pruning.surgery import is_projection
from sparsedash.schema.errors import ModelError
from sparsedash.schema.settings import Dtype

IN_MEMORY = "the given model"
"""Reference of a model that the caller holds."""

_AS_LOADED = "Give it as it was loaded: merge adapters, and remove what was added to its modules."


def model_in_memory(
    model: PreTrainedModel, tokenizer: Tokenizer, folder: Path
) -> tuple[Source, LoadedModel]:
    """A copy of the model's modules that shares its weights, for the engine to change.

    folder: for the config's and the tokenizer's files. Raises ModelError if it cannot be pruned.
    """
    by_auto = "Load it by AutoModelForCausalLM; merge adapters, and unwrap it."
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"{type(model).__name__} is no model of transformers.", by_auto
        )
    if not isinstance(tokenizer, Tokenizer):
        raise ModelError(
            f"{type(tokenizer).__name__} is no tokenizer of transformers.",
            "Load it by AutoTokenizer.",
        )
    if problem := config_problem(model.config.to_dict(), IN_MEMORY):
        raise ModelError(problem[0].upper() + problem[1:])
    kind = auto_class(model.config)._model_mapping[
        CONFIG_MAPPING[model.config.model_type]
    ]
    if not isinstance(model, kind):
        raise ModelError(
            f"{type(model).__name__} cannot be pruned; possible: {kind.__name__}.",
            by_auto,
        )
    places = {
        f"{type_name(weight.dtype)} on {weight.device}" for weight in model.parameters()
    }
    dtype = type_name(model.dtype)
    if (
        len(places) > 1
        or dtype not in get_args(Dtype)
        or model.device.type not in ("cpu", "cuda")
    ):
        allowed = (
            f"one of {', '.join(get_args(Dtype))}, all on the CPU or on one CUDA GPU"
        )
        actual = ", ".join(sorted(places))
        advice = "Give model.float().cpu()."
        raise ModelError(
            f"The weights of {IN_MEMORY} must be {allowed}, not {actual}.", advice
        )
    if "forward" in vars(model):
        raise ModelError(f"The forward of {IN_MEMORY} was replaced.", _AS_LOADED)
    refuse_no_numbers(f"of {IN_MEMORY}", model)
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    with refusing("The given model cannot be copied", _AS_LOADED):
        copied = copy.deepcopy(model, shared)
    # As save_pretrained() writes it, without its checks, which refuse some valid configs.
    copied.config.architectures = [type(model).__name__]
    copied.config.dtype = model.dtype
    folder.mkdir()
    copied.config.to_json_file(folder / "config.json")
    copied.generation_config.to_json_file(folder / "generation_config.json")
    tokenizer.save_pretrained(folder)
    source = Source(
        reference=IN_MEMORY,
        folder=folder,
        identity=IN_MEMORY,
        shape=inspect_model(copied.config, IN_MEMORY),
    )
    return source, loaded_model(source, cast(Dtype, dtype), copied, tokenizer)


def require_stock_projections(loaded: LoadedModel) -> None:
    """Raise ModelError unless the blocks of a model in memory compute as stock transformers.

    Pruning reads and changes the weights of their projections, and sees their inputs by the stock
    forward.
    """
    stock = meta_model(loaded.model.config)
    modules = dict(loaded.model.named_modules())
    for name, part in stock.named_modules():
        if not name.startswith(f"{loaded.structure.blocks}.") or not is_projection(
            part
        ):
            continue
        if name not in modules:
            raise ModelError(f"{name} of {IN_MEMORY} is missing.", _AS_LOADED)
        if type(modules[name]) is not type(part):
            kinds = f"{_type_path(modules[name])}, not {_type_path(part)}"
            raise ModelError(f"{name} of {IN_MEMORY} is {kinds}.", _AS_LOADED)
    for name, part in modules.items():
        if "forward" in vars(part):
            raise ModelError(
                f"The forward of {name} of {IN_MEMORY} was replaced.", _AS_LOADED
            )


def _type_path(module: nn.Module) -> str:
    return f"a {type(module).__module__}.{type(module).__qualname__}"
