"""Chooses the experts of every mixture that stay, and refits them, on the dense model's activations.

Block after block: the text is read once as it is, and for each sparse model once more with the
removed experts' logits at minus infinity, so that the router chooses again. Each kept expert is
then fitted in closed form to what the others leave of the dense experts' output. Dimensions: d
hidden width, m inner width of an expert, n tokens, r tokens routed to an expert, e experts, k
chosen for a token.

Sources: reap, arXiv:2510.13999.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any

import torch
from torch import Tensor

from sparsedash.catalog.resources import EXPERT_PASSES, MIN_REFIT_TOKENS_PER_CHANNEL
from sparsedash.engine.calibration.statistics import (
    BATCH_TOKENS,
    WalkCheckpoint,
    held_out,
)
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.experts import Experts, KeptExperts
from sparsedash.engine.pruning.layer import layer_of, uncentred_statistics
from sparsedash.engine.pruning.linalg import damped_solution
from sparsedash.engine.pruning.saliency import SALIENCIES, drawn_seed
from sparsedash.engine.pruning.surgery import PrunedMlp
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.settings import MIN_TOKENS_PER_CHANNEL
from sparsedash.storage.local_machine import (
    WORTH_RETURNING_BYTES,
    freed_bytes,
    give_back_freed,
)

_AT_ONCE = 8192
"""Tokens that an expert is computed on together."""

Norms = Callable[[int], Tensor]
"""The length of what an expert puts out for each token that is routed to it and fitted, (r,)."""


@torch.no_grad()
def prune_experts(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    models: Sequence[tuple[MethodSettings, Sequence[int]]],
    on_step: OnStep,
    checkpoint: WalkCheckpoint,
) -> Iterator[tuple[int, list[KeptExperts]]]:
    """Index and kept experts of each block, of every sparse model, from the block that an
    interrupted walk had reached.

    models: method of each, and the experts of each block that it keeps, or the inner channels of
    each expert where those are removed; blocks without experts give none. Held-out sequences are
    not fitted.
    """
    mixtures = loaded.experts
    numbered = loaded.batches(sequences, BATCH_TOKENS)
    batches = [batch for _, batch in numbered]
    walk = loaded.walk(batches)
    first = checkpoint.resume(walk)
    n_steps = (len(loaded.blocks) + len(mixtures) * len(models)) * len(batches)
    n_before = first + sum(index < first for index in mixtures) * len(models)
    n_done = count(n_before * len(batches))
    is_fitted = torch.cat([_fitted_tokens(rows, batch) for rows, batch in numbered])

    def report() -> None:
        on_step(Step("prune", next(n_done), n_steps, unit="batches"))

    report()
    for index in range(first, len(loaded.blocks)):
        mixture = mixtures.get(index)
        if mixture is None:
            for _ in walk.step(index):
                report()
            narrowed = [KeptExperts(torch.arange(0)) for _ in models]
        else:
            kept = [(method, n_kept[index]) for method, n_kept in models]
            narrowed = _prune_block(
                walk, index, mixture, batches, is_fitted, kept, report
            )
            loaded.residency.drop()
        for place, narrow in enumerate(narrowed):
            if narrow.outs is not None:
                narrowed[place] = replace(
                    narrow, outs=loaded.residency.offload(narrow.outs)
                )
        yield index, narrowed
        checkpoint.reached(index + 1, walk)


def _prune_block(
    walk: BlockWalk,
    index: int,
    mixture: Experts,
    batches: Sequence[Batch],
    is_fitted: Tensor,
    models: Sequence[tuple[MethodSettings, int]],
    report: Callable[[], None],
) -> list[KeptExperts]:
    """The parts of a block that each model keeps; the walk then stands at the block's end.

    models: with their counts.
    """
    before = walk.hidden

    def read() -> Iterator[tuple[slice, _Routing]]:
        return _read(walk, index, mixture, batches, report)

    dense = _gathered(read(), len(is_fitted))
    after = walk.hidden
    use = _use(dense, mixture.layout.n)
    energy = _energy(dense.output, is_fitted) or 1.0
    energy_held_out = _energy(dense.output, ~is_fitted) or 1.0

    @cache
    def norms(number: int) -> Tensor:
        tokens, _ = dense.to(number, is_fitted)
        return _norms(mixture, number, dense.hidden, tokens)

    narrowed = []
    for place, (method, n_kept) in enumerate(models):
        is_last = place == len(models) - 1
        if method.removes_experts:
            scores = _scores(mixture, dense, is_fitted, norms, method, index)
            narrow = KeptExperts(
                best_of_each_group(scores, n_kept, mixture.layout.n_groups)
            )
        else:
            narrow = _narrower(mixture, dense, n_kept, is_fitted, method, index)
            shared = _shared(mixture, dense, narrow, is_fitted, method, index)
            narrow = replace(narrow, shared=shared)
        walk.restart_from(before)
        with mixture.without(narrow):
            residual, sparse = _read_again(
                walk, read(), dense, before, after if is_last else None
            )
        if is_last:
            dense = replace(dense, output=_NOTHING)
        lost_without = _energy(residual, is_fitted) / energy
        if method.refits:
            outs, n_few_tokens = _refit_(
                mixture, narrow, sparse, residual, is_fitted, method.damping
            )
            narrow = replace(narrow, outs=outs, n_few_tokens=n_few_tokens)
        if not bool(is_fitted.all()):
            lost_held_out = _energy(residual, ~is_fitted) / energy_held_out
            narrow = replace(narrow, lost_held_out=lost_held_out)
        lost = _energy(residual, is_fitted) / energy
        narrowed.append(replace(narrow, use=use, lost=lost, lost_without=lost_without))
    walk.restart_from(after)
    return narrowed


def _fitted_tokens(rows: Sequence[int], batch: Batch) -> Tensor:
    """Of the real tokens of a batch, whether they may be fitted."""
    real = batch.mask.bool()
    may = (real & ~held_out(rows).to(real.device)).expand_as(real)
    return may[real].cpu()


@dataclass(frozen=True, eq=False)
class _Routing:
    """Inputs and outputs of a block's experts, for every real token.

    hidden: (n, d). choices, gates: (n, k), the experts chosen and their weights. output: (n, d).
    shared: inner activations of the shared expert that is as narrow, (n, c); (n, 0) where there is
    none.
    """

    hidden: Tensor
    choices: Tensor
    gates: Tensor
    output: Tensor
    shared: Tensor

    def to(self, number: int, among: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that are routed to an expert, (r,), and its weight for each, (r,).

        among: (n,) bool, the tokens that count.
        """
        tokens, places = torch.where((self.choices == number) & among[:, None])
        return tokens, self.gates[tokens, places].float()


_NOTHING = torch.empty(0)


@dataclass(eq=False)
class _Seen:
    """Hooks that keep what the experts of a block saw last."""

    inputs: tuple[Tensor, ...] = ()
    output: Tensor = _NOTHING
    shared: Tensor | None = None

    def before(
        self, _: Any, inputs: tuple[Any, ...], named_inputs: dict[str, Any]
    ) -> None:
        """Hook before the experts."""
        self.inputs = (*inputs, *named_inputs.values())

    def after(self, _: Any, __: Any, output: Tensor) -> None:
        """Hook after the experts."""
        self.output = output

    def before_shared(self, _: Any, inputs: tuple[Tensor]) -> None:
        """Hook before the out-projection of the shared expert."""
        self.shared = inputs[0]


def _read(
    walk: BlockWalk,
    index: int,
    mixture: Experts,
    batches: Sequence[Batch],
    report: Callable[[], None],
) -> Iterator[tuple[slice, _Routing]]:
    """Take the text through a block: of each batch the place of its tokens, and what experts saw."""
    seen = _Seen()
    module = mixture.module
    hooks = [
        module.register_forward_pre_hook(seen.before, with_kwargs=True),
        module.register_forward_hook(seen.after),
    ]
    if mixture.shared is not None:
        hooks.append(mixture.shared.out.register_forward_pre_hook(seen.before_shared))
    start = 0
    try:
        for number in walk.step(index):
            real = batches[number].mask.bool().flatten()
            hidden, choices, gates = (_rows(tensor, real) for tensor in seen.inputs)
            shared = hidden[:, :0] if seen.shared is None else _rows(seen.shared, real)
            part = _Routing(hidden, choices, gates, _rows(seen.output, real), shared)
            yield slice(start, start + len(hidden)), part
            start += len(hidden)
            report()
    finally:
        for hook in hooks:
            hook.remove()


def _rows(tensor: Tensor, real: Tensor) -> Tensor:
    """The rows of real tokens, on the CPU. real: (n,) bool."""
    return tensor.reshape(len(real), -1)[real].cpu()


def _gathered(parts: Iterable[tuple[slice, _Routing]], n_tokens: int) -> _Routing:
    """The routing of all tokens, joined without a second copy."""
    whole = dict[str, Tensor]()
    for tokens, part in parts:
        for name, rows in vars(part).items():
            if name not in whole:
                whole[name] = rows.new_empty(n_tokens, rows.shape[1])
            whole[name][tokens] = rows
    return _Routing(**whole)


def _read_again(
    walk: BlockWalk,
    reading: Iterable[tuple[slice, _Routing]],
    dense: _Routing,
    before: list[Tensor],
    after: Sequence[Tensor] | None,
) -> tuple[Tensor, _Routing]:
    """Error that the kept experts have to make up for, (n, d), and the routing to them, without an output.

    before: hidden states of each batch, which give way to those after the block where it is not
    read again, else None.
    """
    residual = torch.empty(dense.output.shape)
    choices = torch.empty_like(dense.choices)
    gates = torch.empty_like(dense.gates)
    for number, (tokens, part) in enumerate(reading):
        residual[tokens] = dense.output[tokens].float() - part.output
        choices[tokens] = part.choices
        gates[tokens] = part.gates
        if after is not None:
            # Of a real block the hidden states before it are gigabytes; so is its output.
            before[number] = after[number]
            if freed_bytes() > WORTH_RETURNING_BYTES:
                give_back_freed()
        # No block reads what comes out of this one.
        walk.restart_from(before)
    return residual, replace(dense, choices=choices, gates=gates, output=_NOTHING)


def _use(routing: _Routing, n: int) -> tuple[float, ...]:
    """The share of the choices that went to each expert."""
    counts = torch.bincount(routing.choices.flatten(), minlength=n)
    return tuple(round(share, 5) for share in (counts / counts.sum()).tolist())


def _scores(
    mixture: Experts,
    dense: _Routing,
    is_fitted: Tensor,
    norms: Norms,
    method: MethodSettings,
    block: int,
) -> Tensor:
    """Scores of the experts (e,): larger means keep. block: its index, for random ones."""
    n = mixture.layout.n
    if method.saliency == "random":
        generator = torch.Generator().manual_seed(drawn_seed(str((method.seed, block))))
        return torch.rand(n, generator=generator)
    scores = torch.zeros(n, dtype=torch.float64)
    for number in range(n):
        tokens, gates = dense.to(number, is_fitted)
        if method.saliency == "frequency":
            scores[number] = len(tokens)
            continue
        weighted = gates * norms(number)
        if method.saliency == "reap":
            scores[number] = float(weighted.sum(dtype=torch.float64)) / max(
                1, len(tokens)
            )
        else:
            scores[number] = float(weighted.square().sum(dtype=torch.float64))
    return scores


def _norms(mixture: Experts, number: int, hidden: Tensor, tokens: Tensor) -> Tensor:
    """The length of what an expert puts out for each of these tokens, (r,)."""
    weight = mixture.out_weight(number)
    bias = mixture.out_bias(number)
    norms = []
    for part in torch.split(tokens, _AT_ONCE):
        activations = mixture.activations(number, hidden[part].to(weight.device))
        output = activations @ weight.T + bias
        norms.append(output.float().norm(dim=1).cpu())
    return torch.cat(norms)


def best_of_each_group(scores: Tensor, n_kept: int, n_groups: int) -> Tensor:
    """The experts (k,) with the highest scores, as many of each group, ascending."""
    of_groups = scores.view(n_groups, -1)
    order = torch.argsort(of_groups, dim=1, descending=True, stable=True)
    starts = torch.arange(n_groups)[:, None] * of_groups.shape[1]
    return (order[:, : n_kept // n_groups] + starts).flatten().sort().values


def _narrower(
    mixture: Experts,
    dense: _Routing,
    width: int,
    is_fitted: Tensor,
    method: MethodSettings,
    block: int,
) -> KeptExperts:
    """All experts with so many channels each, chosen on their own activations, weighted by gates."""
    channels = []
    for number in range(mixture.layout.n):
        tokens, gates = dense.to(number, is_fitted)
        inputs = _weighted_activations(mixture, number, dense.hidden, tokens, gates)
        seed = drawn_seed(str((method.seed, block, number)))
        layer = mixture.layer(number, inputs, seed)
        saliency = method.saliency
        if (
            len(tokens) < MIN_TOKENS_PER_CHANNEL * mixture.layout.width
            and saliency != "random"
        ):
            # Of hardly any tokens only the weights tell something.
            saliency = "magnitude"
        row = SALIENCIES[saliency]
        channels.append(row.choose(None, row.score(layer), width).sort().values)
    return KeptExperts(torch.arange(mixture.layout.n), channels=torch.stack(channels))


def _shared(
    mixture: Experts,
    dense: _Routing,
    narrow: KeptExperts,
    is_fitted: Tensor,
    method: MethodSettings,
    block: int,
) -> PrunedMlp | None:
    """The shared expert with its share of the channels, fitted to its own dense output."""
    mlp = mixture.shared
    if mlp is None or narrow.channels is None:
        return None
    statistics = uncentred_statistics(dense.shared[is_fitted].float())
    layer = layer_of(mlp, statistics, drawn_seed(str((method.seed, block))))
    row = SALIENCIES[method.saliency]
    width = mixture.layout.shared_width(narrow.channels.shape[1])
    kept = row.choose(None, row.score(layer), width).sort().values
    fitted = COMPENSATIONS[method.compensation].refit(layer, kept, method.damping)
    return PrunedMlp(kept, fitted.out_weight.to(mlp.out.weight.dtype))


def _energy(values: Tensor, tokens: Tensor) -> float:
    """The sum of the squares of values (n, d), of these tokens (n,) bool."""
    energy = 0.0
    for part, of_part in zip(
        torch.split(values, _AT_ONCE), torch.split(tokens, _AT_ONCE), strict=True
    ):
        energy += float(part[of_part].float().square().sum(dtype=torch.float64))
    return energy


def _refit_(
    mixture: Experts,
    narrow: KeptExperts,
    sparse: _Routing,
    residual: Tensor,
    is_fitted: Tensor,
    damping: float,
) -> tuple[Tensor, int]:
    """Out-projections (k, d, c) of the kept experts, and how many are dense's as they saw too few
    tokens. Takes what they make up for from the residual, in place.

    Of each expert the least squares over the tokens routed to it, of the residual that all others
    leave, with a ridge towards its dense weights. Memory is one expert's inputs and moments.
    """
    kept = narrow.kept.tolist()
    channels: list[Tensor | slice] = [slice(None)] * len(kept)
    if narrow.channels is not None:
        channels = list(narrow.channels)
    dense = []
    for number, of_expert in zip(kept, channels, strict=True):
        dense.append(mixture.out_weight(number).cpu()[:, of_expert])
    hidden_width, width = dense[0].shape
    everything = torch.ones_like(is_fitted)
    changes: dict[int, Tensor] = {}
    few: set[int] = set()
    for _ in range(EXPERT_PASSES):
        for place, number in enumerate(kept):
            tokens, gates = sparse.to(number, everything)
            if int(is_fitted[tokens].sum()) < MIN_REFIT_TOKENS_PER_CHANNEL * width:
                few.add(place)
                continue
            inputs = _weighted_activations(
                mixture, number, sparse.hidden, tokens, gates, channels[place]
            )
            moment = torch.zeros(width, width)
            product = torch.zeros(width, hidden_width)
            for of_slice, rows in _slices(tokens, inputs):
                fitted = is_fitted[of_slice]
                fit = rows[fitted]
                moment.addmm_(fit.T, fit)
                product.addmm_(fit.T, residual[of_slice[fitted]])
            # The target is what the dense weights would leave, had this expert nothing else.
            change = changes.get(place, torch.zeros(hidden_width, width))
            product.addmm_(moment, change.T)
            solution, _ = damped_solution(moment.__getitem__, product, damping)
            changes[place] = solution.T
            change = change - solution.T
            for of_slice, rows in _slices(tokens, inputs):
                residual[of_slice] += rows @ change.T
    outs = torch.stack(dense)
    for place, change in changes.items():
        outs[place] = dense[place].float() + change
    return outs, len(few)


def _slices(tokens: Tensor, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some of the tokens (r,) and of an expert's inputs (r, c) at a time."""
    return zip(
        torch.split(tokens, _AT_ONCE), torch.split(inputs, _AT_ONCE), strict=True
    )


def _weighted_activations(
    mixture: Experts,
    number: int,
    hidden: Tensor,
    tokens: Tensor,
    gates: Tensor,
    channels: Tensor | slice = slice(None),
) -> Tensor:
    """Inner activations of an expert, each times its weight for the token, (r, c) float32."""
    module = mixture.module
    n_channels = len(torch.arange(mixture.layout.width)[channels])
    inputs = torch.empty(len(tokens), n_channels)
    start = 0
    for part in torch.split(tokens, _AT_ONCE):
        activations = mixture.activations(
            number, hidden[part].to(module.down_proj.device)
        )
        rows = slice(start, start + len(part))
        inputs[rows] = activations[:, channels].float().cpu() * gates[rows, None]
        start += len(part)
    return inputs
