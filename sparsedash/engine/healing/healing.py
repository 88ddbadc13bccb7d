"""Healing: a sparse model learns the dense one's next-token distribution.

Trained are the narrowed MLPs and all norms, by AdamW on the KL divergence of the two distributions.
Held-out sequences are not trained on: they decide which weights are kept, never worse ones than
before. Dimensions: d hidden width, n tokens, v vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from sparsedash.engine.calibration.statistics import pack_tensors, split_held_out, unpacked
from sparsedash.engine.models.decoder_blocks import Batch, skipping
from sparsedash.engine.models.loading import LoadedModel
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
from sparsedash.storage.checkpoint import StageCheckpoint

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
    loaded: LoadedModel,
    narrowed: Sequence[PrunedMlp],
    sequences: Sequence[Sequence[int]],
    further: Sequence[Sequence[int]],
    *,
    n_steps: int,
    seed: int,
    on_step: OnStep,
    checkpoint: "HealingCheckpoint",
) -> HealedWeights:
    """The healed model of these narrowed MLPs; the loaded model stays the dense one.

    sequences: those of the calibration, some of which are held out. further: more text, all of
    which is trained on.
    seed: of the order of the text. The dense model reads first what is needed of the text; its last
    hidden states are kept. Same arguments, same weights, also from a checkpoint. Raises
    CalibrationError where there is too little text, or a prediction is not finite.
    """
    require_healable(len(sequences), streamed=loaded.residency.streamed)
    begun = Step("heal", 0, n_steps, message="reading the text with the dense model")
    text = _Text.of(loaded, sequences, further, n_steps, seed, lambda: on_step(begun))
    gone = [index for index, narrow in enumerate(narrowed) if narrow.is_gone]
    without = skipping(loaded.model.base_model, loaded.blocks, gone)
    with pruned(loaded.mlps, list(narrowed)), without, _trainable(loaded, gone) as names:
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
                student.judge(state)
                student.reached(checkpoint, state)
            on_step(state.reported(n_steps))
        return student.result(narrowed, state)


def _rate(number: int, n_steps: int) -> float:
    return RATE * min(1.0, (number + 1) / WARM_STEPS) * (1 + cos(pi * number / n_steps)) / 2


Piece = list[int]
"""Token ids of a sequence, or of a part of a long one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Text:
    """Text of a healing. batches: pieces of every step. judged: held-out pieces.

    dense: the dense model's last hidden states (n, d) of every piece, by the piece's identity.
    """

    batches: list[list[Piece]]
    judged: list[Piece]
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
                yield from (
                    loaded.windows(ids, HEAL_PASS_TOKENS) if len(ids) > HEAL_PASS_TOKENS else [ids]
                )

        fitted, apart = map(cut, split_held_out(sequences))
        judged = list[Piece]()
        n_judged = 0
        for piece in apart:
            if n_judged < JUDGED_TOKENS:
                judged.append(piece)
                n_judged += len(piece)
        batches = list(_drawn([*fitted, *cut(further)], n_steps, seed))
        used = list({id(piece): piece for piece in chain(judged, *batches)}.values())
        dense = dict[int, Tensor]()
        for rows, batch in loaded.batches(used, HEAL_BATCH_TOKENS):
            on_batch()
            pieces = [used[row] for row in rows]
            parts = torch.split(_last_hidden(loaded, batch), [len(piece) for piece in pieces])
            dense |= {id(piece): part.clone() for piece, part in zip(pieces, parts, strict=True)}
        return cls(batches=batches, judged=judged, dense=dense)


def _drawn(pieces: Sequence[Piece], n_steps: int, seed: int) -> Iterator[list[Piece]]:
    """Batches of at most HEAL_BATCH_TOKENS tokens, or one piece; an epoch at a time."""
    draw = Random(seed)
    waiting = list[Piece]()
    for _ in range(n_steps):
        batch = list[Piece]()
        n_tokens = 0
        while True:
            waiting = waiting or draw.sample(pieces, len(pieces))
            n_tokens += len(waiting[-1])
            if batch and n_tokens > HEAL_BATCH_TOKENS:
                break
            batch.append(waiting.pop())
        yield batch


def _last_hidden(loaded: LoadedModel, batch: Batch) -> Tensor:
    """What the output head is given, (n, d), of the real tokens of all rows."""
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
        return [f"{places[module]}.{name}" for name, _ in module.named_parameters(recurse=False)]

    idle = {module for index in gone for module in loaded.blocks[index].modules()}
    # Whatever has vectors alone: a norm under any name, with its bias.
    norms = [
        module
        for module in model.base_model.modules()
        if module not in idle
        and not is_projection(module)
        and (parameters := [*module.parameters(recurse=False)])
        and all(p.dim() == 1 for p in parameters)
    ]
    names = [[name for module in (*mlp.inner, mlp.out) for name in of(module)] for mlp in mlps]
    names.append([name for module in norms for name in of(module)])
    copies = {
        name: nn.Parameter(model.get_parameter(name).detach().clone()) for name in chain(*names)
    }
    with reparametrised(model, copies):
        yield names


@dataclass(kw_only=True)
class _State:
    """step: steps done. best: least held-out divergence, after kept_step. before: initial one."""

    best: float
    before: float
    step: int = 0
    kept_step: int = 0

    def reported(self, n_steps: int, share: float = 0.0) -> Step:
        """Progress with this share of the next step."""
        message = (
            f"step {self.step} of {n_steps}, held-out KL {self.best:.3f}, {self.before:.3f} before"
        )
        return Step("heal", self.step, n_steps, message=message, ahead=share)


class _Student:
    """The sparse model in training: float32 weights, optimiser, and the best weights so far."""

    def __init__(self, loaded: LoadedModel, names: list[list[str]], text: _Text) -> None:
        self._loaded = loaded
        self._names = names
        self._text = text
        self._weights = {name: loaded.model.get_parameter(name) for name in chain(*names)}
        wide = {
            name: weight.detach().float().requires_grad_() for name, weight in self._weights.items()
        }
        # The weights themselves where they are in single precision.
        self._wide = {
            n: weight if weight.dtype == torch.float32 else wide[n]
            for n, weight in self._weights.items()
        }
        groups = [{"params": [weight], "scale": _scale(weight)} for weight in self._wide.values()]
        self._optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0)
        self._best: dict[str, Tensor] = {}
        # One token, in whose place the head is given what it is to score.
        ids = torch.zeros(1, 1, dtype=torch.long, device=loaded.model.device)
        self._walk = loaded.walk([Batch(ids, torch.ones_like(ids))])

    def train(
        self, pieces: Sequence[Piece], rate: float, on_share: Callable[[float], None]
    ) -> None:
        """One step on these pieces. on_share: called before each pass with the share done."""
        n_tokens = sum(map(len, pieces))
        passes = self._loaded.batches(pieces, HEAL_PASS_TOKENS)
        for number, (rows, batch) in enumerate(passes):
            on_share(number / len(passes))
            with torch.enable_grad():
                hidden = _last_hidden(self._loaded, batch)
                dense = self._dense([pieces[row] for row in rows])
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
        self._narrow()

    def begin(self) -> _State:
        """The state before the first step. Raises CalibrationError if a prediction is not finite."""
        before = self._divergence()
        if not isfinite(before):
            raise CalibrationError(
                "The sparse model's predictions are NaN or infinite.", "Remove less of it."
            )
        return _State(best=before, before=before)

    def judge(self, state: _State) -> None:
        """Keep the present weights where they are better than the best so far."""
        if (divergence := self._divergence()) < state.best:
            state.best = divergence
            state.kept_step = state.step
            self._best = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def result(self, narrowed: Sequence[PrunedMlp], state: _State) -> HealedWeights:
        """The MLPs and the norms with the best weights. narrowed: the MLPs before."""
        for name, best in self._best.items():
            self._weights[name].copy_(best)

        def of(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
            return weight_of(module).detach(), None if module.bias is None else module.bias.detach()

        blocks = list(narrowed)
        norms = dict[str, Tensor]()
        if self._best:
            norms = {name: self._weights[name].detach() for name in self._names[-1]}
            for index, mlp in enumerate(self._loaded.mlps):
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
            n_tokens=sum(map(len, self._text.judged)),
            weights="",
        )
        return HealedWeights(blocks=blocks, norms=norms, figures=figures)

    def reached(self, checkpoint: "HealingCheckpoint", state: _State) -> None:
        """Keep everything, if it is time."""
        checkpoint.keep([lambda names=names: self._packed(names, state) for names in self._names])  # type: ignore[misc]

    def resume(self, checkpoint: "HealingCheckpoint") -> _State | None:
        """Everything as the newest whole checkpoint has it, and its state; None without one."""
        state = checkpoint.newest(len(self._names))
        if state is None:
            return None
        for names, data in zip(self._names, checkpoint.parts(state, len(self._names)), strict=True):
            for name in names:
                self._wide[name].copy_(data[name])
                if f"{name} mean" in data:
                    moments = {
                        "exp_avg": data[f"{name} mean"],
                        "exp_avg_sq": data[f"{name} square"],
                    }
                    device = self._wide[name].device
                    self._optimiser.state[self._wide[name]] = {
                        "step": torch.tensor(float(state.step)),
                        **{key: moment.to(device) for key, moment in moments.items()},
                    }
                if state.kept_step:
                    best = data.get(f"{name} best", data[name])
                    self._best[name] = best.to(self._weights[name])
        self._narrow()
        return state

    def _packed(self, names: Sequence[str], state: _State) -> bytes:
        tensors = {"state": _as_tensor(state)}
        for name in names:
            tensors[name] = self._wide[name].detach()
            moments = self._optimiser.state[self._wide[name]]
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
        pieces = self._text.judged
        for rows, batch in self._loaded.batches(pieces, HEAL_PASS_TOKENS):
            hidden = _last_hidden(self._loaded, batch)
            dense = self._dense([pieces[row] for row in rows])
            total += sum(float(self._kl(*parts)) for parts in self._chunks(hidden, dense))
        return max(0.0, total / sum(map(len, pieces))) if isfinite(total) else inf

    def _dense(self, pieces: Sequence[Piece]) -> Tensor:
        return torch.cat([self._text.dense[id(piece)] for piece in pieces])

    def _chunks(self, hidden: Tensor, dense: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Both (n, d) in parts of which the logits have room."""
        n = max(1, HEAL_LOGITS // len(self._loaded.model.get_output_embeddings().weight))
        return zip(torch.split(hidden.detach(), n), torch.split(dense, n), strict=True)

    def _kl(self, hidden: Tensor, dense: Tensor) -> Tensor:
        """Sum over the tokens of the KL divergence from dense. hidden, dense: (n, d)."""
        with torch.no_grad():
            target = self._logits(dense).float().log_softmax(dim=-1)
        log_probabilities = self._logits(hidden).float().log_softmax(dim=-1)
        return nn.functional.kl_div(log_probabilities, target, reduction="sum", log_target=True)

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
            wide = self._wide[name]
            if wide is not weight and weight.grad is not None:
                wide.grad = (
                    weight.grad.float() if wide.grad is None else wide.grad.add_(weight.grad)
                )
                weight.grad = None

    def _narrow(self) -> None:
        """Round the weights in single precision to the model's own type."""
        for name, weight in self._weights.items():
            if self._wide[name] is not weight:
                weight.copy_(self._wide[name])


def _scale(weight: Tensor) -> float:
    """What the rate of a parameter is multiplied by."""
    return float(weight.detach().square().mean().sqrt()) if weight.dim() > 1 else VECTOR_SCALE


def _as_tensor(state: _State) -> Tensor:
    return torch.tensor(
        [state.best, state.before, state.step, state.kept_step], dtype=torch.float64
    )


@dataclass
class HealingCheckpoint:
    """Checkpoint of a healing, written block by block to avoid a copy of everything.

    Two are kept in turn: while one is written, the other is whole.
    """

    _checkpoint: StageCheckpoint
    _key: str
    _turn: int = 0

    def keep(self, pack: Sequence[Callable[[], bytes]]) -> None:
        """Keep the parts, if it is time."""
        # Not left to the checkpoint: until later the weights would be others.
        if self._checkpoint.is_due:
            turn = self._turn + 1
            # Where not all has room, the other one stays the whole one.
            if self._checkpoint.keep(
                {self._name(turn % 2, part): pack_part for part, pack_part in enumerate(pack)}
            ):
                self._turn = turn

    def newest(self, n_parts: int) -> _State | None:
        """The state of the newest whole checkpoint, or None."""
        states_by_turn = dict[int, tuple[float, ...]]()
        for turn in range(2):
            states = {
                self._checkpoint.get(self._name(turn, part), _unpack_state)
                for part in range(n_parts)
            }
            if len(states) == 1 and (state := states.pop()) is not None:
                states_by_turn[turn] = state
        if not states_by_turn:
            return None
        self._turn = max(states_by_turn, key=lambda turn: states_by_turn[turn][2])
        best, before, step, kept_step = states_by_turn[self._turn]
        return _State(best=best, before=before, step=int(step), kept_step=int(kept_step))

    def parts(self, state: _State, n_parts: int) -> Iterator[dict[str, Tensor]]:
        """The tensors of each part of this state."""
        for part in range(n_parts):
            data = self._checkpoint.get(self._name(self._turn % 2, part), _unpack_part)
            assert data is not None and torch.equal(data["state"], _as_tensor(state)), (
                "it was whole just now"
            )
            yield data

    def done(self) -> None:
        """Drop both: the result is in the store."""
        self._checkpoint.done()

    def _name(self, turn: int, part: int) -> str:
        return f"{self._key}/healing/{turn}/{part}"


def _unpack_state(data: bytes) -> tuple[float, ...]:
    with unpacked(data, "healing") as tensors:
        return tuple(tensors["state"].tolist())


def _unpack_part(data: bytes) -> dict[str, Tensor]:
    with unpacked(data, "healing") as tensors:
        return tensors
