"""The state of a healing and its checkpoint, from which a killed one resumes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.engine.calibration.statistics import unpacked
from sparsedash.schema.progress import Step
from sparsedash.storage.checkpoint import StageCheckpoint


@dataclass(kw_only=True)
class HealingState:
    """Progress of a healing, and its held-out divergence.

    step: steps done. best: the least divergence, after kept_step. before: the initial one.
    """

    best: float
    before: float
    step: int = 0
    kept_step: int = 0

    def as_tensor(self) -> Tensor:
        """(4,), float64: best, before, step, kept_step."""
        return torch.tensor(
            [self.best, self.before, self.step, self.kept_step], dtype=torch.float64
        )

    def reported(self, n_steps: int, share: float = 0.0) -> Step:
        """Progress with this share of the next step."""
        message = f"step {self.step} of {n_steps}, held-out KL {self.best:.3f}, {self.before:.3f} before"
        return Step("heal", self.step, n_steps, message=message, ahead=share)


@dataclass
class HealingCheckpoint:
    """Checkpoint of a healing, written block by block to avoid a copy of everything.

    Two are kept in turn: while one is written, the other is whole.
    """

    stage: StageCheckpoint
    key: str
    turn: int = 0

    def keep(self, pack: Sequence[Callable[[], bytes]]) -> None:
        """Keep the parts, if it is time."""
        # Not left to the checkpoint: until later the weights would be others.
        if self.stage.is_due:
            turn = self.turn + 1
            # Where not all has room, the other one stays the whole one.
            if self.stage.keep(
                {
                    self._name(turn % 2, part): pack_part
                    for part, pack_part in enumerate(pack)
                }
            ):
                self.turn = turn

    def newest(self, n_parts: int) -> HealingState | None:
        """The state of the newest whole checkpoint, or None."""
        states_by_turn = dict[int, tuple[float, ...]]()
        for turn in range(2):
            states = {
                self.stage.get(self._name(turn, part), _unpack_state)
                for part in range(n_parts)
            }
            if len(states) == 1 and (state := states.pop()) is not None:
                states_by_turn[turn] = state
        if not states_by_turn:
            return None
        self.turn = max(states_by_turn, key=lambda turn: states_by_turn[turn][2])
        best, before, step, kept_step = states_by_turn[self.turn]
        return HealingState(
            best=best, before=before, step=int(step), kept_step=int(kept_step)
        )

    def parts(self, state: HealingState, n_parts: int) -> Iterator[dict[str, Tensor]]:
        """The tensors of each part of this state."""
        for part in range(n_parts):
            data = self.stage.get(self._name(self.turn % 2, part), _unpack_part)
            assert data is not None and torch.equal(data["state"], state.as_tensor()), (
                "it was whole just now"
            )
            yield data

    def done(self) -> None:
        """Drop both: the result is in the store."""
        self.stage.done()

    def _name(self, turn: int, part: int) -> str:
        return f"{self.key}/healing/{turn}/{part}"


def _unpack_state(data: bytes) -> tuple[float, ...]:
    with unpacked(data, "healing") as tensors:
        return tuple(tensors["state"].tolist())


def _unpack_part(data: bytes) -> dict[str, Tensor]:
    with unpacked(data, "healing") as tensors:
        return tensors
