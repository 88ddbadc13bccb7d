"""One walk through the blocks for everything: each is calibrated, pruned and asked before the next one is read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from sparsedash.engine.run.pruned_record import OnRecord
from sparsedash.engine.run.run_log import RunLog
from sparsedash.schema.progress import Step


class OneWalk:
    """Calibrates the model of a run and makes sparse ones of it, block by block, ahead of the passages that follow.

    missing: gather what is missing of calibration text, as far as a block. models: by methods that do not look back,
    one at least. point: the place of the last of them, for the progress line.
    """

    def __init__(
        self, missing: Sequence[Callable[[int], None]], models: Sequence[OnRecord], run_log: RunLog, point: int
    ) -> None:
        self._missing, self._models, self._run_log = missing, models, run_log
        self._n_blocks, self._next = len(models[0].model.errors), 0
        doing = "calibrating, pruning and answering" if missing else "pruning and answering"
        self._step = Step("walk", 0, self._n_blocks, unit="blocks", message=doing, point=point)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Inside, progress is told of the walk alone, until passages are through all blocks."""
        self._run_log.walk = self._step
        try:
            yield
        finally:
            self._run_log.walk = None

    def at(self, index: int) -> None:
        """Make this block of every model, if it is not yet, while the loaded model is the dense one; with the number of
        blocks, note that the walk is over.
        """
        if index < self._next:
            return
        self._next = index + 1
        if index == self._n_blocks:
            self._run_log.walk = None
            return
        self._run_log.walk = replace(self._step, done=index)
        self._run_log.on_step(self._step)
        with self._run_log.timed("prune"):
            # The calibration counts its own time; other text is read for pruning.
            for gather in self._missing:
                gather(index)
            for model in self._models:
                model.block(index)

    def finish(self) -> None:
        """Make all blocks that no passage had to go through."""
        for index in range(self._next, self._n_blocks + 1):
            self.at(index)
