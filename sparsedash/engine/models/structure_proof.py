"""Proves on a tiny random model that the structure found is right: what the engine does to a model
of this kind gives what it should, to rounding.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from sparsedash.engine.models.decoder_blocks import (
    Batch,
    BlockWalk,
    preallocated_cache,
    renumbered,
    shortened_config,
    skipping,
)
from sparsedash.engine.models.structure import (
    auto_class,
    block_experts,
    block_mlps,
    model_of,
    with_values,
)
from sparsedash.engine.models.tiny_config import VOCABULARY
from sparsedash.engine.pruning.experts import Experts, KeptExperts, sliced_tensors
from sparsedash.engine.pruning.surgery import (
    Mlp,
    PrunedMlp,
    out_weight,
    pruned,
    weight_of,
)
from sparsedash.schema.errors import first_line
from sparsedash.schema.model_shape import ExpertsLayout, MlpLayout, ModelStructure

_TOLERANCE = 2e-5
"""Largest difference of logits, as a share of the largest logit."""
_N_TOKENS = 12
_STD = 0.15
"""Of random weights: larger than usual, so that a wrong channel shows in the logits."""


class NotProvenError(Exception):
    """Raised with the difference, as a clause."""


def tiny_random_model(config: PretrainedConfig) -> PreTrainedModel:
    """A random model of a tiny config, on the CPU, in FP32, with biases that are not zero."""
    generator = torch.Generator().manual_seed(0)
    model = model_of(config)
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        is_matrix = name in parameters and tensor.dim() > 1
        if tensor.is_floating_point() and (is_matrix or name.endswith("bias")):
            tensor.normal_(0, _STD, generator=generator)
    return model.eval().requires_grad_(False)


def some_ids() -> Tensor:
    """Token ids (2, t) of two short texts."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(5, VOCABULARY, (2, _N_TOKENS), generator=generator)


@torch.inference_mode()
def require_causal(model: PreTrainedModel, ids: Tensor) -> None:
    """Raise NotProvenError where the last token changes what is said before it."""
    logits = _logits(model, ids)
    if not bool(logits.isfinite().all()):
        raise NotProvenError("a tiny model of this type gives no finite numbers")
    changed_ids = ids.clone()
    changed_ids[:, -1] = 7
    if not _are_close(_logits(model, changed_ids)[:, :-1], logits[:, :-1]):
        raise NotProvenError("it sees what it is to predict")


@torch.inference_mode()
def require_walk(
    model: PreTrainedModel, structure: ModelStructure, ids: Tensor
) -> None:
    """Raise NotProvenError where the blocks, run one by one, give other logits than the model."""
    blocks = list(model.get_submodule(structure.blocks).children())
    walk = BlockWalk(model.base_model, blocks, [Batch(ids, torch.ones_like(ids))])
    for index in range(len(blocks)):
        list(walk.step(index))
    if not _are_close(walk.output(model, 0).logits, _logits(model, ids)):
        raise NotProvenError("its blocks cannot be run one by one")


@torch.inference_mode()
def require_cache(model: PreTrainedModel, ids: Tensor) -> None:
    """Raise NotProvenError where tokens read from the key-value cache get other logits."""
    cache = preallocated_cache(_N_TOKENS)
    model(input_ids=ids[:, :-4], cache=cache, use_cache=True)
    logits = model(input_ids=ids[:, -4:], cache=cache, use_cache=True).logits
    if not _are_close(logits, _logits(model, ids)[:, -4:]):
        raise NotProvenError("it keeps more than keys and values of earlier tokens")
    if any(layer.keys is None for layer in cache.layers):
        raise NotProvenError("some of its layers keep nothing of earlier tokens")


@torch.inference_mode()
def mixing_blocks(
    model: PreTrainedModel, structure: ModelStructure, ids: Tensor
) -> list[int]:
    """Blocks whose supposed MLP looks at more than one token, or at none: it is attention or such."""
    blocks = list(model.get_submodule(structure.blocks).children())
    mixing = []
    for index, layout in enumerate(structure.mlps):
        if layout is not None and not _is_tokenwise(model, blocks[index], layout, ids):
            mixing.append(index)
    return mixing


def _is_tokenwise(
    model: PreTrainedModel, block: torch.nn.Module, layout: MlpLayout, ids: Tensor
) -> bool:
    """Whether two tokens with equal outputs of the inner projections get equal channels."""
    seen: list[Tensor] = []

    def repeat_token(_: Any, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        flat = output.reshape(-1, output.shape[-1])
        flat[2] = flat[1]
        return flat.view_as(output)

    inner = [block.get_submodule(name) for name in layout.inner]
    hooks = [module.register_forward_hook(repeat_token) for module in inner]
    out = block.get_submodule(layout.out)
    hooks.append(
        out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    )
    try:
        _logits(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        return False
    channels = seen[0].reshape(-1, seen[0].shape[-1])
    return bool(torch.allclose(channels[1], channels[2], atol=1e-6))


@torch.inference_mode()
def require_narrowing(
    model: PreTrainedModel, structure: ModelStructure, ids: Tensor
) -> None:
    """Raise NotProvenError where a model without channels differs from one with zeros there."""
    dense = _logits(model, ids)
    with _narrowed(model, structure, _masked):
        masked = _logits(model, ids)
    if _are_close(masked, dense):
        raise NotProvenError("channels at zero change nothing")
    with _narrowed(model, structure, _cut):
        try:
            cut = _logits(model, ids)
        except RuntimeError as error:
            raise NotProvenError(
                "more than its projections has the width of its MLPs"
            ) from error
    if not _are_close(cut, masked):
        raise NotProvenError(
            "without channels it differs from the model with zeros there"
        )


@torch.inference_mode()
def require_even_export(
    model: PreTrainedModel,
    config: PretrainedConfig,
    structure: ModelStructure,
    ids: Tensor,
) -> None:
    """Raise NotProvenError where stock code makes another model from a narrower config."""
    widths = [layout.width // 2 if layout else 0 for layout in structure.mlps]
    values = structure.width_values(widths)
    if values is None:
        raise NotProvenError("its config has no key for the width")
    with _narrowed(model, structure, _cut):
        logits = _logits(model, ids)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _require_loadable(with_values(config, values), state, logits, ids)


@torch.inference_mode()
def require_fewer_experts(
    model: PreTrainedModel,
    config: PretrainedConfig,
    structure: ModelStructure,
    ids: Tensor,
) -> None:
    """Raise NotProvenError where a model of fewer experts differs from one that never chooses the
    others, or its experts compute otherwise than transformers' interface says.
    """
    experts = block_experts(model, structure)
    dense = _logits(model, ids)
    generator = torch.Generator().manual_seed(3)
    narrowed = {}
    values = {}
    for index, mixture in experts.items():
        _require_interface(mixture)
        narrowed[index] = KeptExperts(_half_of_each_group(mixture.layout, generator))
        values[mixture.layout.key] = len(narrowed[index].kept)
    with _applied(experts, narrowed):
        logits = _logits(model, ids)
    if _are_close(logits, dense):
        raise NotProvenError("without experts nothing changes")
    _require_loadable_experts(
        model, with_values(config, values), structure, narrowed, logits, ids
    )


@torch.inference_mode()
def require_narrower_experts(
    model: PreTrainedModel,
    config: PretrainedConfig,
    structure: ModelStructure,
    ids: Tensor,
) -> None:
    """Raise NotProvenError where a model of narrower experts differs from one with zeros there."""
    generator = torch.Generator().manual_seed(5)
    experts = block_experts(model, structure)
    values = {}
    narrowed = {}
    masked = {}
    for index, mixture in experts.items():
        layout = mixture.layout
        if not layout.width_key:
            raise NotProvenError("its config has no key for the width of experts alone")
        _require_interface(mixture)
        order = torch.rand(layout.n, layout.width, generator=generator).argsort(dim=1)
        channels = order[:, : layout.width // 2].sort(dim=1).values
        shared = None
        shared_masked = None
        if mixture.shared is not None:
            order = torch.randperm(mixture.shared.width, generator=generator)
            kept = order[: mixture.shared.width // 2].sort().values
            shared = _cut(mixture.shared, kept)
            shared_masked = _masked(mixture.shared, kept)
        everything = torch.arange(layout.n)
        narrowed[index] = KeptExperts(everything, channels=channels, shared=shared)
        values[layout.width_key] = layout.width_value // 2
        gone = torch.ones(layout.n, layout.width).scatter(1, channels, 0).bool()
        outs = torch.stack([mixture.out_weight(number) for number in range(layout.n)])
        outs = outs.masked_fill(gone[:, None], 0)
        masked[index] = KeptExperts(everything, outs=outs, shared=shared_masked)
    with _applied(experts, masked):
        logits = _logits(model, ids)
    if _are_close(logits, _logits(model, ids)):
        raise NotProvenError("channels of experts at zero change nothing")
    with _applied(experts, narrowed):
        if not _are_close(_logits(model, ids), logits):
            raise NotProvenError("without channels of experts it differs")
    _require_loadable_experts(
        model, with_values(config, values), structure, narrowed, logits, ids
    )


@contextmanager
def _applied(
    experts: dict[int, Experts], narrowed: dict[int, KeptExperts]
) -> Iterator[None]:
    with ExitStack() as stack:
        for index, mixture in experts.items():
            stack.enter_context(mixture.without(narrowed[index]))
        yield


def _require_loadable_experts(
    model: PreTrainedModel,
    config: PretrainedConfig,
    structure: ModelStructure,
    narrowed: dict[int, KeptExperts],
    logits: Tensor,
    ids: Tensor,
) -> None:
    """As `_require_loadable`, of the model with what is left of its experts."""
    state = model.state_dict()
    state.update(
        sliced_tensors(block_experts(model, structure), narrowed, structure.blocks)
    )
    state = {name: tensor.clone() for name, tensor in state.items()}
    _require_loadable(config, state, logits, ids)


def _half_of_each_group(layout: ExpertsLayout, generator: torch.Generator) -> Tensor:
    in_group = layout.n // layout.n_groups
    kept = []
    for first in range(0, layout.n, in_group):
        order = torch.randperm(in_group, generator=generator)
        kept.append(first + order[: in_group // 2])
    return torch.cat(kept).sort().values


def _require_interface(mixture: Experts) -> None:
    """Raise NotProvenError where an expert, computed by itself, puts out something else."""
    module = mixture.module
    if getattr(module, "has_post_expert_norm", True):
        raise NotProvenError(
            "its experts do more than transformers' interface for them says"
        )
    generator = torch.Generator().manual_seed(4)
    weight = mixture.out_weight(0)
    hidden = torch.randn(4, len(weight), generator=generator)
    choices = torch.zeros(4, 1, dtype=torch.long)
    expected = module(hidden, choices, torch.full((4, 1), 0.5))
    output = mixture.activations(0, hidden) @ weight.T + mixture.out_bias(0)
    if not _are_close(0.5 * output, expected):
        raise NotProvenError(
            "its experts do not compute as transformers' interface says"
        )


@torch.inference_mode()
def require_shorter_export(
    model: PreTrainedModel,
    config: PretrainedConfig,
    structure: ModelStructure,
    ids: Tensor,
) -> None:
    """Raise NotProvenError where a model of fewer layers differs from one that skips them."""
    blocks = list(model.get_submodule(structure.blocks).children())
    for gone in range(len(blocks)):
        with skipping(model.base_model, blocks, [gone]):
            logits = _logits(model, ids)
        state = {}
        for name, tensor in model.state_dict().items():
            new_name = renumbered(name, structure.blocks, [gone])
            if new_name is not None:
                state[new_name] = tensor.clone()
        kept = [index for index in range(len(blocks)) if index != gone]
        _require_loadable(shortened_config(config, kept), state, logits, ids)


def _require_loadable(
    config: PretrainedConfig, state: dict[str, Tensor], logits: Tensor, ids: Tensor
) -> None:
    """Raise NotProvenError unless the model of this config and state gives these logits, and does
    so again once saved and loaded.
    """
    model = model_of(config).eval()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise NotProvenError(
            "made from the changed config it has other tensors"
        ) from error
    if not _are_close(_logits(model, ids), logits):
        raise NotProvenError("made from the changed config it differs")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        loaded = (
            auto_class(config)
            .from_pretrained(
                folder,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
            )
            .eval()
        )
    if not _are_close(_logits(loaded, ids), logits):
        raise NotProvenError("saved and loaded it differs")


Change = Callable[[Mlp, Tensor], PrunedMlp]


@contextmanager
def _narrowed(
    model: PreTrainedModel, structure: ModelStructure, change: Change
) -> Iterator[None]:
    """Inside, half of the channels of every MLP are changed, each block's own."""
    generator = torch.Generator().manual_seed(2)
    mlps = block_mlps(model, structure)
    narrowed = []
    for mlp in mlps:
        order = torch.randperm(mlp.width, generator=generator)
        narrowed.append(change(mlp, order[: mlp.width // 2].sort().values))
    with pruned(mlps, narrowed):
        yield


def _cut(mlp: Mlp, kept: Tensor) -> PrunedMlp:
    return PrunedMlp(kept, out_weight(mlp)[:, kept])


def _masked(mlp: Mlp, kept: Tensor) -> PrunedMlp:
    """The MLP with zeros in place of all weights and biases of channels that are not kept."""
    mask = torch.zeros(mlp.width)
    mask[kept] = 1
    rows = mask.repeat(mlp.fused)
    inner = tuple(
        (
            weight_of(module) * rows[:, None],
            None if module.bias is None else module.bias * rows,
        )
        for module in mlp.inner
    )
    everything = torch.arange(mlp.width)
    return PrunedMlp(everything, out_weight(mlp) * mask, inner=inner)


def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _are_close(first: Tensor, second: Tensor) -> bool:
    largest = max(1.0, float(second.abs().max()))
    return bool((first - second).abs().max() <= _TOLERANCE * largest)


def problem_of(check: Callable[..., None], *arguments: Any) -> str:
    """The problem that this check found, as a clause; empty if there is none."""
    try:
        check(*arguments)
    except NotProvenError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a class may fail by any error
        return first_line(error)
    return ""
