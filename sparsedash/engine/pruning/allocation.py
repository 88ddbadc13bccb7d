"""How much each block gives. One function and one row add a way."""

from collections.abc import Callable, Sequence

Allocation = Callable[[Sequence[int], int, int], list[int]]


def uniform(widths: Sequence[int], permille: int, multiple: int) -> list[int]:
    """Kept channels of each block: the same share everywhere, to the nearest multiple.

    widths: inner channels of each block. permille: to remove. multiple: of how many channels a kept width must be;
    at least one multiple stays, and nothing asked means nothing removed. Requested and reached sparsity can differ.
    """
    return [_nearest(width, permille, multiple) for width in widths]


ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform}


def _nearest(width: int, permille: int, multiple: int) -> int:
    if permille == 0 or width <= multiple:
        return width
    exact = width * (1000 - permille) / 1000
    return min(width, max(multiple, int(exact / multiple + 0.5) * multiple))
