"""Statistics that are gathered as far as they are needed, block by block, or all at once."""

from collections.abc import Callable

from sparsedash.engine.calibration.statistics import Gathering


class GatheredOn:
    """One text's way through the blocks, begun when a block is first asked for, and again after it was broken off.

    begin: the text before the first block. over: called when it is through the last one.
    """

    def __init__(self, begin: Callable[[], Gathering], over: Callable[[], None]) -> None:
        self._begin, self._over = begin, over
        self._gathering: Gathering | None = None

    def has_reached(self, index: int) -> bool:
        """Whether the text is on its way, and through this block."""
        return self._gathering is not None and self._gathering.n_reached > index

    def reach(self, index: int) -> None:
        """Go on until the text is through this block."""
        try:
            gathering = self._gathering = self._gathering or self._begin()
            gathering.reach(index)
        except BaseException:
            # Some of the text may be further than the rest.
            self._gathering = None
            raise
        if gathering.is_over:
            self._gathering = None
            self._over()
