"""Chooses the experts of every mixture that stay, and refits them, on the dense model's activations.

Block after block: the text is read twice, once as it is and once with the removed experts' logits
at minus infinity, so that the router chooses again. Each kept expert is then fitted in closed form
to what the others leave of the dense experts' output. Dimensions: d hidden width, m inner width of
an expert, n tokens, e experts, k chosen for a token.

Sources: reap, arXiv:2510.13999.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from sparsedash.catalog.resources import EXPERT_PASSES, FEWEST_TOKENS_PER_CHANNEL
from sparsedash.engine.calibration.statistics import BATCH_TOKENS, WalkCheckpoint, held_out
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

_AT_ONCE = 8192
"""Tokens that an expert is computed on together."""


@torch.no_grad()
def prune_experts(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    method: MethodSettings,
    n_kept: Sequence[int],
    on_step: OnStep,
    checkpoint: WalkCheckpoint,
) -> Iterator[tuple[int, KeptExperts]]:
    """Index and kept experts of each block, from the block that an interrupted walk had reached.

    n_kept: experts of each block, or inner channels of each of its experts where those are removed;
    blocks without experts give none. Held-out sequences are not fitted.
    """
    mixtures = loaded.experts
    numbered = loaded.batches(sequences, BATCH_TOKENS)
    batches = [batch for _, batch in numbered]
    walk = loaded.walk(batches)
    first = checkpoint.resume(walk)
    n_steps = (len(loaded.blocks) + len(mixtures)) * len(batches)
    n_before = first + sum(index < first for index in mixtures)
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
            yield index, KeptExperts(torch.arange(0))
        else:
            before = walk.hidden
            dense = _read(walk, index, mixture, batches, report)
            after = walk.hidden
            if method.removes_experts:
                scores = _scores(mixture, dense.of(is_fitted), method, index)
                kept = best_of_each_group(scores, n_kept[index], mixture.layout.n_groups)
                narrow = KeptExperts(kept)
            else:
                narrow = _narrower(mixture, dense, n_kept[index], is_fitted, method, index)
                shared = _shared(mixture, dense, narrow, is_fitted, method, index)
                narrow = replace(narrow, shared=shared)
            walk.restart_from(before)
            with mixture.without(narrow):
                sparse = _read(walk, index, mixture, batches, report)
            walk.restart_from(after)
            narrow = _refitted(mixture, narrow, dense, sparse, is_fitted, method)
            narrow = replace(narrow, use=_use(dense, mixture.layout.n))
            loaded.residency.drop()
            if narrow.outs is not None:
                narrow = replace(narrow, outs=loaded.residency.offload(narrow.outs))
            yield index, narrow
        checkpoint.reached(index + 1, walk)


def _fitted_tokens(rows: Sequence[int], batch: Batch) -> Tensor:
    """Of the real tokens of a batch, whether they may be fitted."""
    real = batch.mask.bool()
    may = (real & ~held_out(rows).to(real.device)).expand_as(real)
    return may[real].cpu()


@dataclass(frozen=True, eq=False)
class _Routing:
    """What the experts of a block get and give, of every real token.

    hidden: (n, d). choices, gates: (n, k), the experts chosen and their weights. output: (n, d).
    shared: inner activations of the shared expert that is as narrow; empty where there is none.
    """

    hidden: Tensor
    choices: Tensor
    gates: Tensor
    output: Tensor
    shared: Tensor

    def of(self, tokens: Tensor) -> "_Routing":
        """That of these tokens alone."""
        return replace(
            self,
            hidden=self.hidden[tokens],
            choices=self.choices[tokens],
            gates=self.gates[tokens],
            output=self.output[tokens],
        )

    def to(self, number: int) -> tuple[Tensor, Tensor]:
        """The tokens that are routed to an expert, and its weight for each, (r,)."""
        tokens, places = torch.where(self.choices == number)
        return tokens, self.gates[tokens, places].float()


@dataclass(eq=False)
class _Seen:
    """Collects the routing of a block, batch after batch."""

    parts: list[tuple[Tensor, ...]] = field(default_factory=list)
    shared: list[Tensor] = field(default_factory=list)
    _inputs: tuple[Tensor, ...] = ()

    def before(self, _: Any, inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> None:
        """Hook before the experts."""
        self._inputs = (*inputs, *named_inputs.values())

    def after(self, _: Any, __: Any, output: Tensor) -> None:
        """Hook after the experts."""
        hidden, choices, gates = self._inputs
        self.parts.append((hidden, choices, gates, output))

    def before_shared(self, _: Any, inputs: tuple[Tensor]) -> None:
        """Hook before the out-projection of the shared expert."""
        self.shared.append(inputs[0])

    def keep_real(self, batch: Batch) -> None:
        """Of the batch seen last, keep the tokens that are no padding."""
        real = batch.mask.bool().flatten()
        self.parts[-1] = tuple(_rows(part, real) for part in self.parts[-1])
        if self.shared:
            self.shared[-1] = _rows(self.shared[-1], real)


def _rows(tensor: Tensor, real: Tensor) -> Tensor:
    """The rows of real tokens, on the CPU. real: (n,) bool."""
    return tensor.reshape(len(real), -1)[real].cpu()


def _read(
    walk: BlockWalk,
    index: int,
    mixture: Experts,
    batches: Sequence[Batch],
    report: Callable[[], None],
) -> _Routing:
    """Take the text through a block, and give what its experts saw."""
    seen = _Seen()
    module = mixture.module
    hooks = [
        module.register_forward_pre_hook(seen.before, with_kwargs=True),
        module.register_forward_hook(seen.after),
    ]
    if mixture.shared is not None:
        hooks.append(mixture.shared.out.register_forward_pre_hook(seen.before_shared))
    try:
        for number in walk.step(index):
            seen.keep_real(batches[number])
            report()
    finally:
        for hook in hooks:
            hook.remove()
    hidden, choices, gates, output = (torch.cat(parts) for parts in zip(*seen.parts, strict=True))
    shared = torch.cat(seen.shared) if seen.shared else torch.empty(0)
    return _Routing(hidden, choices, gates, output, shared)


def _use(routing: _Routing, n: int) -> tuple[float, ...]:
    """The share of the choices that went to each expert."""
    counts = torch.bincount(routing.choices.flatten(), minlength=n)
    return tuple(round(share, 5) for share in (counts / counts.sum()).tolist())


def _scores(mixture: Experts, routing: _Routing, method: MethodSettings, block: int) -> Tensor:
    """Scores of the experts (e,): larger means keep. block: its index, for random ones."""
    n = mixture.layout.n
    if method.saliency == "random":
        generator = torch.Generator().manual_seed(drawn_seed(str((method.seed, block))))
        return torch.rand(n, generator=generator)
    scores = torch.zeros(n, dtype=torch.float64)
    for number in range(n):
        tokens, gates = routing.to(number)
        if method.saliency == "frequency":
            scores[number] = len(tokens)
            continue
        norms = _norms(mixture, number, routing.hidden[tokens])
        if method.saliency == "reap":
            scores[number] = float((gates * norms).sum(dtype=torch.float64)) / max(1, len(tokens))
        else:
            scores[number] = float((gates * norms).square().sum(dtype=torch.float64))
    return scores


def _norms(mixture: Experts, number: int, hidden: Tensor) -> Tensor:
    """The length of what an expert puts out for each token, (n,)."""
    weight = mixture.out_weight(number)
    bias = mixture.out_bias(number)
    norms = [hidden.new_empty(0, dtype=torch.float32)]
    for part in torch.split(hidden.to(weight.device), _AT_ONCE):
        output = mixture.activations(number, part) @ weight.T + bias
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
        tokens, gates = dense.to(number)
        fitted = is_fitted[tokens]
        tokens, gates = tokens[fitted], gates[fitted]
        inputs = _weighted_activations(mixture, number, dense.hidden[tokens], gates)
        seed = drawn_seed(str((method.seed, block, number)))
        layer = mixture.layer(number, inputs, seed)
        saliency = method.saliency
        if len(tokens) < MIN_TOKENS_PER_CHANNEL * mixture.layout.width and saliency != "random":
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


def _refitted(
    mixture: Experts,
    narrow: KeptExperts,
    dense: _Routing,
    sparse: _Routing,
    is_fitted: Tensor,
    method: MethodSettings,
) -> KeptExperts:
    """What is left of the experts, refitted where the method does so, with what is lost."""
    # What the others have to make up for, (n, d).
    residual = dense.output.float() - sparse.output.float()
    lost_without = _share(residual, dense.output, is_fitted)
    narrow = replace(narrow, lost=lost_without, lost_without=lost_without)
    if method.refits:
        routing = replace(sparse, hidden=dense.hidden)
        outs, n_few_tokens = _refit_(mixture, narrow, routing, residual, is_fitted, method.damping)
        dtype = mixture.module.down_proj.dtype
        narrow = replace(
            narrow,
            outs=outs.to(dtype),
            n_few_tokens=n_few_tokens,
            lost=_share(residual, dense.output, is_fitted),
        )
    if not bool(is_fitted.all()):
        lost_held_out = _share(residual, dense.output, ~is_fitted)
        narrow = replace(narrow, lost_held_out=lost_held_out)
    return narrow


def _share(residual: Tensor, output: Tensor, tokens: Tensor) -> float:
    """The residual's energy as a share of the output's, on these tokens."""
    whole = float(output[tokens].float().square().sum(dtype=torch.float64))
    lost = float(residual[tokens].square().sum(dtype=torch.float64))
    return lost / whole if whole > 0 else 0.0


def _refit_(
    mixture: Experts,
    narrow: KeptExperts,
    routing: _Routing,
    residual: Tensor,
    is_fitted: Tensor,
    damping: float,
) -> tuple[Tensor, int]:
    """Out-projections (k, d, c) float32 of the kept experts, and how many are dense's as they saw
    too few tokens. Takes what they make up for from the residual, in place.

    Of each expert the least squares over the tokens routed to it, of the residual that all others
    leave, with a ridge towards its dense weights; memory is one expert's moments.
    """
    kept = narrow.kept.tolist()
    everything = torch.arange(mixture.layout.width)
    channels = [everything] * len(kept) if narrow.channels is None else list(narrow.channels)
    dense = []
    for number, of_expert in zip(kept, channels, strict=True):
        dense.append(mixture.out_weight(number).float().cpu()[:, of_expert])
    outs = [weight.clone() for weight in dense]
    fewest = FEWEST_TOKENS_PER_CHANNEL * len(channels[0])
    few: set[int] = set()
    for _ in range(EXPERT_PASSES):
        for place, number in enumerate(kept):
            tokens, gates = routing.to(number)
            fitted = is_fitted[tokens]
            if int(fitted.sum()) < fewest:
                few.add(place)
                continue
            inputs = _weighted_activations(mixture, number, routing.hidden[tokens], gates)
            inputs = inputs[:, channels[place]]
            # What the dense weights would leave, had this expert nothing else.
            target = residual[tokens] + inputs @ (outs[place] - dense[place]).T
            fit = inputs[fitted]
            moment = fit.T @ fit
            solution, _ = damped_solution(moment.__getitem__, fit.T @ target[fitted], damping)
            outs[place] = dense[place] + solution.T
            residual[tokens] = target - inputs @ solution
    return torch.stack(outs), len(few)


def _weighted_activations(mixture: Experts, number: int, hidden: Tensor, gates: Tensor) -> Tensor:
    """Inner activations of an expert, each times its weight for the token, (n, m) float32."""
    device = mixture.module.down_proj.device
    parts = []
    for part in torch.split(hidden, _AT_ONCE):
        parts.append(mixture.activations(number, part.to(device)).float().cpu())
    return torch.cat(parts) * gates[:, None]
