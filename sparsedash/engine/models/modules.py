"""The decoder blocks, MLPs and projections of a model, found where its family's row says."""

from typing import cast

from torch import nn

from sparsedash.catalog.families import FAMILIES as FAMILIES
from sparsedash.catalog.families import Family as Family
from sparsedash.engine.pruning.surgery import Mlp, is_projection
from sparsedash.schema.errors import ModelError


def family_named(model_type: str) -> Family:
    """Where a family keeps its parts, by `model_type`. Raises ModelError with the families there are."""
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise ModelError(
            f"Models of type {model_type!r} cannot be pruned yet; possible: {', '.join(sorted(FAMILIES))}.",
            "Adding a family is one row: see CONTRIBUTING.md.",
        ) from None


def blocks_of(model: nn.Module, family: Family) -> list[nn.Module]:
    """The decoder blocks in the order they run. Raises ModelError where the model is built otherwise."""
    try:
        return list(model.get_submodule(family.blocks).children())
    except AttributeError as error:
        raise ModelError(f"The model has no decoder blocks at {family.blocks!r}: {error}.") from error


def mlps_of(model: nn.Module, family: Family) -> list[Mlp]:
    """The MLP of every decoder block, in the same order. Raises ModelError where one is built otherwise."""
    try:
        return [
            Mlp(
                inner=tuple(_projection(block, name) for name in family.inner),
                out=_projection(block, family.out),
                fused=family.fused,
            )
            for block in blocks_of(model, family)
        ]
    except AttributeError as error:
        raise ModelError(
            f"A decoder block has no MLP as its family describes: {error}.",
            "Models with experts or mixed blocks are not supported.",
        ) from error


def projections_of(model: nn.Module, family: Family) -> list[dict[str, nn.Linear]]:
    """Every projection of each decoder block by its name inside the block: all that is Linear or Conv1D."""
    return [
        {name: cast(nn.Linear, part) for name, part in block.named_modules() if is_projection(part)}
        for block in blocks_of(model, family)
    ]


def _projection(block: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, block.get_submodule(name))
