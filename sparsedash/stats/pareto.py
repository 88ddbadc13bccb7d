"""Which of several points nobody beats."""

from collections.abc import Sequence


def unbeaten(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points beside which none is as good in both coordinates and better in one, by the first one
    rising. Larger is better in both; of equal points all are unbeaten.
    """
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    kept: list[int] = []
    best = None
    for i in order:
        x, y = points[i]
        if best is None or y > best[1] or (x, y) == best:
            kept.append(i)
            best = (x, y)
    return kept[::-1]
