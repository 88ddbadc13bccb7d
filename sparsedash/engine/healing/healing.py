"""Healing: a sparse model learns the dense one's next-token distribution.

Trained are the narrowed MLPs and all norms, by AdamW on the KL divergence of the two distributions.
Held-out sequences are not trained on: they decide which weights are kept, never worse ones than
before. Dimensions: d hidden width, n tokens, v vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import cos, inf, isfinite, pi
from random import Random

import torch
from torch import Tensor, nn

from sparsedash.catalog.resources import (
    HEAL_BATCH_TOKENS,
    HEAL_LOGITS,
    HEAL_PASS_TOKENS,
)
from sparsedash.catalog.run_rules import require_healable
from sparsedash.engine.calibration.statistics import pack_tensors, split_held_out
from sparsedash.engine.healing.healing_checkpoint import HealingCheckpoint, HealingState
from sparsedash.engine.models.decoder_blocks import Batch, skipping
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.pruning.surgery import (
    PrunedMlp,
    is_projection,
    pruned,
    reparametrised,
    weight_of,
)
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Healed

RATE = 1e-3
WARM_STEPS = 4
"""The largest rate of AdamW, reached after so many steps; then a cosine to 0. A share of the root
mean square that a matrix has at the beginning: models differ tenfold in the size of their weights.
See docs/adr/0045.
"""

VECTOR_SCALE = 0.2
"""Scale of the rate of a norm or a bias, whose root mean square may be 0, or say nothing."""

CHECK_EVERY = 8
"""Steps between two looks at the held-out text, after each of which a kill resumes."""

JUDGED_TOKENS = 4096
"""Held-out tokens that decide, at most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HealedWeights:
    """Result of healing. norms: by parameter name. figures: without `weights`, the key.

    Where no step gained anything the blocks are those of before, and there are no norms.
    """

    blocks: list[PrunedMlp]
    norms: dict[str, Tensor]
    figures: Healed


@torch.no_grad()
def heal(
    sparse: PrunedChannels,
    sequences: Sequence[Sequence[int]],
    further: Sequence[Sequence[int]],
    *,
    n_steps: int,
    seed: int,
    on_step: OnStep,
    checkpoint: HealingCheckpoint,
) -> HealedWeights:
    """The healed weights of a sparse model; the loaded model stays the dense one.

    sequences: those of the calibration, some of which are held out. further: more text, all of
    which is trained on.
    seed: of the order of the text. The dense model reads first what is needed of the text; its last
    hidden states are kept. Same arguments, same weights, also from a checkpoint. Raises
    CalibrationError where there is too little text, or a prediction is not finite.
    """
    loaded = sparse.loaded
    narrowed = list(sparse.blocks)
    gone = sparse.removed_layers
    require_healable(len(sequences), streamed=loaded.residency.streamed)
    begun = Step("heal", 0, n_steps, message="reading the text with the dense model")
    text = _Text.of(loaded, sequences, further, n_steps, seed, lambda: on_step(begun))
    without = skipping(loaded.model.base_model, loaded.blocks, gone)
    with pruned(loaded.mlps, narrowed), without, _trainable(loaded, gone) as names:
        student = _Student(loaded, names, text)
        state = student.resume(checkpoint) or student.begin()
        for number in range(state.step, n_steps):
            student.train(
                text.batches[number],
                _rate(number, n_steps),
                lambda share: on_step(state.reported(n_steps, share)),
            )
            state.step += 1
            if state.step % CHECK_EVERY == 0 or state.step == n_steps:
                student.keep_best_(state)
                student.save_checkpoint(checkpoint, state)
            on_step(state.reported(n_steps))
        return student.result(narrowed, state)


def _rate(number: int, n_steps: int) -> float:
    return (
        RATE
        * min(1.0, (number + 1) / WARM_STEPS)
        * (1 + cos(pi * number / n_steps))
        / 2
    )


Piece = list[int]
"""Token ids of a sequence, or of a part of a long one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Text:
    """Text of a healing, in numbered pieces.

    batches: numbers of the pieces of every step. judged: those of the held-out pieces.
    dense: the dense model's last hidden states (n, d) of every piece in use, by its number.
    """

    pieces: list[Piece]
    batches: list[list[int]]
    judged: list[int]
    dense: dict[int, Tensor]

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        sequences: Sequence[Sequence[int]],
        further: Sequence[Sequence[int]],
        n_steps: int,
        seed: int,
        on_batch: Callable[[], None],
    ) -> "_Text":
        """Cut into pieces, drawn into batches, and read by the dense model as far as it is used."""

        def cut(text: Sequence[Sequence[int]]) -> Iterator[Piece]:
            for ids in map(list, text):
                if len(ids) > HEAL_PASS_TOKENS:
                    yield from loaded.windows(ids, HEAL_PASS_TOKENS)
                else:
                    yield ids

        fitted, held_out = split_held_out(sequences)
        pieces = list[Piece]()
        n_judged_tokens = 0
        for piece in cut(held_out):
            if n_judged_tokens < JUDGED_TOKENS:
                pieces.append(piece)
                n_judged_tokens += len(piece)
        n_judged = len(pieces)
        pieces += [*cut(fitted), *cut(further)]
        judged = list(range(n_judged))
        batches = list(_drawn(pieces, range(n_judged, len(pieces)), n_steps, seed))
        used = list(dict.fromkeys(chain(judged, *batches)))
        dense = dict[int, Tensor]()
        for rows, batch in loaded.batches(
            [pieces[number] for number in used], HEAL_BATCH_TOKENS
        ):
            on_batch()
            numbers = [used[row] for row in rows]
            lengths = [len(pieces[number]) for number in numbers]
            parts = torch.split(_last_hidden(loaded, batch), lengths)
            for number, part in zip(numbers, parts, strict=True):
                dense[number] = part.clone()
        return cls(
            pieces=pieces,
            batches=batches,
            judged=judged,
            dense=dense,
        )

    def of_numbers(self, numbers: Sequence[int]) -> list[Piece]:
        """The pieces with these numbers."""
        return [self.pieces[number] for number in numbers]


def _drawn(
    pieces: Sequence[Piece], numbers: Sequence[int], n_steps: int, seed: int
) -> Iterator[list[int]]:
    """Batches of these pieces' numbers, an epoch at a time.

    Of at most HEAL_BATCH_TOKENS tokens each, or one piece.
    """
    draw = Random(seed)
    waiting = list[int]()
    for _ in range(n_steps):
        batch = list[int]()
        n_tokens = 0
        while True:
            waiting = waiting or draw.sample(numbers, len(numbers))
            n_tokens += len(pieces[waiting[-1]])
            if batch and n_tokens > HEAL_BATCH_TOKENS:
                break
            batch.append(waiting.pop())
        yield batch


def _last_hidden(loaded: LoadedModel, batch: Batch) -> Tensor:
    """Inputs of the output head, (n, d), for the real tokens of all rows."""
    output = loaded.model.base_model(
        input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
    )
    hidden: Tensor = output.last_hidden_state
    return hidden[batch.mask.bool()]


@contextmanager
def _trainable(loaded: LoadedModel, gone: Sequence[int]) -> Iterator[list[list[str]]]:
    """Inside, the parameters of the MLPs and norms of remaining layers are trainable copies.

    Gives their names: those of every block's MLP, and last those of the norms.
    """
    model = loaded.model
    mlps = loaded.mlps
    places = {module: name for name, module in model.named_modules()}

    def of(module: nn.Module) -> list[str]:
        return [
            f"{places[module]}.{name}"
            for name, _ in module.named_parameters(recurse=False)
        ]

    idle = set(chain.from_iterable(loaded.blocks[index].modules() for index in gone))
    norms = list[nn.Module]()
    for module in model.base_model.modules():
        # Whatever has vectors alone: a norm under any name, with its bias.
        n_dimensions = {
            parameter.dim() for parameter in module.parameters(recurse=False)
        }
        if module not in idle and not is_projection(module) and n_dimensions == {1}:
            norms.append(module)
    names = []
    for mlp in mlps:
        projections = (*mlp.inner, mlp.out) if mlp.inner else ()
        names.append(list(chain.from_iterable(map(of, projections))))
    names.append(list(chain.from_iterable(map(of, norms))))
    copies = {
        name: nn.Parameter(model.get_parameter(name).detach().clone())
        for name in chain(*names)
    }
    with reparametrised(model, copies):
        yield names


class _Student:
    """The sparse model in training: float32 master weights, optimiser, best weights so far."""

    def __init__(
        self, loaded: LoadedModel, names: list[list[str]], text: _Text
    ) -> None:
        self._loaded = loaded
        self._names = names
        self._text = text
        self._weights = {
            name: loaded.model.get_parameter(name) for name in chain(*names)
        }
        self._master: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            # The weight itself where it is in single precision.
            is_single = weight.dtype == torch.float32
            self._master[name] = (
                weight if is_single else weight.detach().float().requires_grad_()
            )
        groups = [
            {"params": [weight], "scale": _scale(weight)}
            for weight in self._master.values()
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0)
        self._best: dict[str, Tensor] = {}
        # One token, in whose place the head is given what it is to score.
        ids = torch.zeros(1, 1, dtype=torch.long, device=loaded.model.device)
        self._walk = loaded.walk([Batch(ids, torch.ones_like(ids))])

    def train(
        self, numbers: Sequence[int], rate: float, on_share: Callable[[float], None]
    ) -> None:
        """One step on these pieces. on_share: called before each pass with the share done."""
        pieces = self._text.of_numbers(numbers)
        n_tokens = sum(map(len, pieces))
        passes = self._loaded.batches(pieces, HEAL_PASS_TOKENS)
        for number, (rows, batch) in enumerate(passes):
            on_share(number / len(passes))
            with torch.enable_grad():
                hidden = _last_hidden(self._loaded, batch)
                dense = self._dense([numbers[row] for row in rows])
                parts = [
                    self._gradient(hidden_chunk, of_dense, n_tokens)
                    for hidden_chunk, of_dense in self._chunks(hidden, dense)
                ]
                hidden.backward(torch.cat(parts))  # type: ignore[no-untyped-call]
            self._gather_gradients()
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._round_to_model_()

    def begin(self) -> HealingState:
        """The state before the first step. Raises CalibrationError if a prediction is not finite."""
        before = self._divergence()
        if not isfinite(before):
            raise CalibrationError(
                "The sparse model's predictions are NaN or infinite.",
                "Remove less of it.",
            )
        return HealingState(best=before, before=before)

    def keep_best_(self, state: HealingState) -> None:
        """Keep the present weights where they are better than the best so far."""
        if (divergence := self._divergence()) < state.best:
            state.best = divergence
            state.kept_step = state.step
            self._best = {
                name: weight.detach().clone() for name, weight in self._weights.items()
            }

    def result(
        self, narrowed: Sequence[PrunedMlp], state: HealingState
    ) -> HealedWeights:
        """The MLPs and the norms with the best weights. narrowed: the MLPs before."""
        for name, best in self._best.items():
            self._weights[name].copy_(best)

        def of(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
            return weight_of(
                module
            ).detach(), None if module.bias is None else module.bias.detach()

        blocks = list(narrowed)
        norms = dict[str, Tensor]()
        if self._best:
            norms = {name: self._weights[name].detach() for name in self._names[-1]}
            for index, mlp in enumerate(self._loaded.mlps):
                if not mlp.inner:
                    continue
                (weight, bias) = of(mlp.out)
                inner = tuple(map(of, mlp.inner))
                blocks[index] = replace(
                    blocks[index], out_weight=weight, out_bias=bias, inner=inner
                )
        figures = Healed(
            steps=state.step,
            kept_step=state.kept_step,
            before=state.before,
            after=state.best,
            n_tokens=sum(map(len, self._text.of_numbers(self._text.judged))),
            weights="",
        )
        return HealedWeights(blocks=blocks, norms=norms, figures=figures)

    def save_checkpoint(
        self, checkpoint: HealingCheckpoint, state: HealingState
    ) -> None:
        """Write everything to the checkpoint, if it is time."""
        checkpoint.keep([partial(self._packed, names, state) for names in self._names])

    def resume(self, checkpoint: HealingCheckpoint) -> HealingState | None:
        """Everything as the newest whole checkpoint has it, and its state; None without one."""
        state = checkpoint.newest(len(self._names))
        if state is None:
            return None
        for names, data in zip(
            self._names, checkpoint.parts(state, len(self._names)), strict=True
        ):
            for name in names:
                self._master[name].copy_(data[name])
                if f"{name} mean" in data:
                    moments = {
                        "exp_avg": data[f"{name} mean"],
                        "exp_avg_sq": data[f"{name} square"],
                    }
                    device = self._master[name].device
                    self._optimiser.state[self._master[name]] = {
                        "step": torch.tensor(float(state.step)),
                        **{key: moment.to(device) for key, moment in moments.items()},
                    }
                if state.kept_step:
                    best = data.get(f"{name} best", data[name])
                    self._best[name] = best.to(self._weights[name])
        self._round_to_model_()
        return state

    def _packed(self, names: Sequence[str], state: HealingState) -> bytes:
        tensors = {"state": state.as_tensor()}
        for name in names:
            tensors[name] = self._master[name].detach()
            moments = self._optimiser.state[self._master[name]]
            if moments:
                tensors |= {
                    f"{name} mean": moments["exp_avg"],
                    f"{name} square": moments["exp_avg_sq"],
                }
            if self._best and state.kept_step < state.step:
                tensors[f"{name} best"] = self._best[name]
        return pack_tensors(tensors)

    def _divergence(self) -> float:
        """Mean KL divergence from dense on the held-out text, nats a token; inf if not finite."""
        total = 0.0
        pieces = self._text.of_numbers(self._text.judged)
        for rows, batch in self._loaded.batches(pieces, HEAL_PASS_TOKENS):
            hidden = _last_hidden(self._loaded, batch)
            dense = self._dense([self._text.judged[row] for row in rows])
            total += sum(
                float(self._kl(*parts)) for parts in self._chunks(hidden, dense)
            )
        return max(0.0, total / sum(map(len, pieces))) if isfinite(total) else inf

    def _dense(self, numbers: Sequence[int]) -> Tensor:
        return torch.cat([self._text.dense[number] for number in numbers])

    def _chunks(self, hidden: Tensor, dense: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Both (n, d) in parts of which the logits have room."""
        n = max(
            1, HEAL_LOGITS // len(self._loaded.model.get_output_embeddings().weight)
        )
        return zip(torch.split(hidden.detach(), n), torch.split(dense, n), strict=True)

    def _kl(self, hidden: Tensor, dense: Tensor) -> Tensor:
        """Sum over the tokens of the KL divergence from dense. hidden, dense: (n, d)."""
        with torch.no_grad():
            target = self._logits(dense).float().log_softmax(dim=-1)
        log_probabilities = self._logits(hidden).float().log_softmax(dim=-1)
        return nn.functional.kl_div(
            log_probabilities, target, reduction="sum", log_target=True
        )

    def _gradient(self, hidden: Tensor, dense: Tensor, n_tokens: int) -> Tensor:
        """Of the mean divergence of n_tokens, by the hidden states of some of them, (n, d)."""
        leaf = hidden.requires_grad_()
        return torch.autograd.grad(self._kl(leaf, dense) / n_tokens, leaf)[0]

    def _logits(self, hidden: Tensor) -> Tensor:
        """The head's (n, v), with all that the model's own code does to them. hidden: (n, d)."""
        head: nn.Module = self._loaded.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda _, inputs: (hidden,))
        try:
            logits: Tensor = self._walk.output(self._loaded.model, 0).logits
            return logits
        finally:
            handle.remove()

    def _gather_gradients(self) -> None:
        """Add the gradients of one pass, in single precision."""
        for name, weight in self._weights.items():
            master = self._master[name]
            if master is not weight and weight.grad is not None:
                master.grad = (
                    weight.grad.float()
                    if master.grad is None
                    else master.grad.add_(weight.grad)
                )
                weight.grad = None

    def _round_to_model_(self) -> None:
        """Round the master weights to the model's own type."""
        for name, weight in self._weights.items():
            if self._master[name] is not weight:
                weight.copy_(self._master[name])


def _scale(weight: Tensor) -> float:
    """Factor of a parameter's learning rate."""
    return (
        float(weight.detach().square().mean().sqrt())
        if weight.dim() > 1
        else VECTOR_SCALE
    )
