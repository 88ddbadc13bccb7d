"""The chance that a model is called within or beyond, by what it truly loses: as a table, and as a picture."""

from collections import defaultdict
from math import log
from pathlib import Path

import numpy as np

from benchmarks import svg
from sparsedash.stats.mean_intervals import Moments
from sparsedash.stats.tolerance import FEWEST_RIGHT, Losses, Tolerance, judge_all

RATIOS = (1.0, 1.02, 1.04, 1.06, 1.08, 1.1, 1.12, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5)
"""True losses: word perplexity, times the dense model's."""
PASSAGES_IN_ALL = 8_000_000

_WIDTH, _HEIGHT, _LEFT, _TOP, _PANEL, _DEEP = 860, 320, 56, 48, 330, 210


def power(population, arguments):
    """Print, and draw where asked, the chances for one model whose losses spread as those of the population do.

    Both measures are judged together; counted is what is said of word perplexity.
    """
    tolerance, rng, curves = Tolerance(), np.random.default_rng(3), {}
    print(f"chance of within and beyond, percent, at {tolerance.ratio:g} times; losses spread as of {population.name}")
    print(f"{'n':>7}" + "".join(f"{ratio:>10g}" for ratio in RATIOS))
    for n in arguments.sizes:
        draws = max(1, min(arguments.power_draws, PASSAGES_IN_ALL // n))
        curves[n] = [_chances(population, n, log(ratio), draws, rng) for ratio in RATIOS]
        print(f"{n:>7,}" + "".join(f"{within:>6.0f}{beyond:>4.0f}" for within, beyond in curves[n]))
    if arguments.picture:
        Path(arguments.picture).write_text(picture(curves, tolerance.ratio), encoding="utf-8")


def losses_of(nats, flips=(0, 0), n_right=0):
    """What a draw lost, as the verdict is given it. flips: how many broke, and were fixed."""
    found = Moments(
        n=len(nats),
        mean=float(nats.mean()),
        deviation=float(nats.std(ddof=1)),
        lowest=float(nats.min()),
        highest=float(nats.max()),
    )
    return Losses(nats=found, broke=flips[0], fixed=flips[1], n_right=n_right, anytime=False)


def _chances(population, n, nats, draws, rng):
    called = defaultdict(int)
    for _ in range(draws):
        drawn = rng.integers(0, len(population.nats), n)
        flips = [int((population.broke[drawn] == flip).sum()) for flip in (1, -1)]
        right = max(FEWEST_RIGHT, int(population.right[drawn].sum()))
        moved = population.nats[drawn] - population.nats.mean() + nats
        (judged,) = judge_all([losses_of(moved, flips, right)], Tolerance())
        called[judged.perplexity.verdict] += 1
    return 100 * called["within"] / draws, 100 * called["beyond"] / draws


def picture(curves, tolerance):
    """Both chances against the true loss as an SVG: a panel each, a line for each number of passages."""
    drawn = []
    for panel, title in enumerate(("\u2713 called within", "\u2715 called beyond")):
        left = _LEFT + panel * (_PANEL + 70)
        drawn += [svg.text(left, 24, f"{title}, % of models, by their true loss", size=15), *_grid(left, tolerance)]
        for number, (n, curve) in enumerate(curves.items()):
            points = [(_x(left, ratio), _y(chances[panel])) for ratio, chances in zip(RATIOS, curve, strict=True)]
            drawn.append(svg.curve(points, number, f"{n:,} passages"))
    drawn += svg.legend([f"{n:,} passages" for n in curves], _LEFT, _HEIGHT - 16)
    return svg.document(_WIDTH, _HEIGHT, "The chance of each verdict against the true loss", drawn)


def _x(left, ratio):
    return left + _PANEL * log(ratio) / log(RATIOS[-1])


def _y(percent):
    return _TOP + _DEEP * (1 - percent / 100)


def _grid(left, tolerance):
    drawn = []
    for percent in (0, 50, 80, 100):
        y = _y(percent)
        drawn += [svg.line(left, y, left + _PANEL, y), svg.text(left - 8, y + 4, f"{percent}", "end")]
    for ratio in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5):
        drawn.append(svg.text(_x(left, ratio), _TOP + _DEEP + 18, f"{ratio:g} ×", "middle"))
    at = _x(left, tolerance)
    drawn.append(svg.line(at, _TOP, at, _TOP + _DEEP, "#0b7a5b", ' opacity="0.5"'))
    drawn.append(svg.text(at + 4, _TOP - 6, "allowed"))
    return drawn
