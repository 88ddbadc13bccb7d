"""How the time of each stage grows with passages, calibration tokens, width and depth: python -m benchmarks.growth

Whole runs of models of LLaMA's architecture with random weights in float32: least squares at 20 %, calibrated on text
that is given and, in a run of its own, on text that the model writes itself. One of the four is doubled from run to
run while the others stay. Prints every stage's seconds, and as multiples of the smallest run's beside what was
multiplied; a run's seconds count at the rate of a large matrix product before and after it, so that a machine that
drifts does not look like growth. --picture draws them: a panel for each of the four.

Passages and tokens cost in proportion. Of the others, by operations: depth in proportion; width in proportion in
answering and writing, as its square in the second moments, as its cube in solving.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from math import log2
from pathlib import Path

import torch

from benchmarks import svg
from benchmarks.machine import SIDE, matmul_flops
from benchmarks.streaming import LLAMA, words_drawn, write_model
from sparsedash.catalog.presets import method_named
from sparsedash.engine.run import pipeline
from sparsedash.schema.settings import BUILTIN_CLOZE, SELF, CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage.store import Store

SMALLEST = {"passages": 16, "tokens": 8192, "width": 256, "depth": 4}
"""What is doubled; where another one is, `passages` and `tokens` stay at this, `width` and `depth` at twice of it."""

STAGES = {"evaluate": "answering", "text": "own text", "calibrate": "calibrating", "prune": "pruning"}
STAGES_OF = {"passages": ("evaluate",), "tokens": ("text", "calibrate"), "width": tuple(STAGES), "depth": tuple(STAGES)}
"""On which stages each of the four bears."""

LENGTH = 256

_WIDTH, _HEIGHT, _LEFT, _TOP, _PANEL, _DEEP, _APART = 920, 330, 46, 48, 168, 210, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--doublings", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--shrink", type=int, default=1, help="divide passages, tokens, texts and width by this")
    parser.add_argument("--side", type=int, default=SIDE, help="of the square matrices whose product gives the rate")
    parser.add_argument("--picture", type=Path, help="draw all of it into this .svg")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Runs(Path(folder), arguments)
        run.work(SMALLEST)
        grown = {name: list(_growth(name, run, arguments.doublings)) for name in SMALLEST}
    if arguments.picture:
        arguments.picture.write_text(picture(grown), encoding="utf-8")


def _growth(name, run, n_doublings):
    """Of each size of what has this name, the stages' work against the smallest's. Prints them."""
    usual = SMALLEST | {"width": 2 * SMALLEST["width"], "depth": 2 * SMALLEST["depth"]}
    first = None
    for size in (SMALLEST[name] * 2**doubling for doubling in range(n_doublings + 1)):
        found = {stage: done for stage, done in run.work(usual | {name: size}).items() if stage in STAGES_OF[name]}
        first = first or found
        times = {stage: work / first[stage][0] for stage, (work, _) in found.items()}
        told = ", ".join(f"{STAGES[s]} {found[s][1]:.2f} s ({times[s]:.2f} times)" for s in found)
        print(f"{name} {size // run.shrink(name)} ({size / SMALLEST[name]:g} times): {told}", flush=True)
        yield size / SMALLEST[name], times


class Runs:
    """Makes runs of any size, each from nothing. folder: for models, texts and what runs leave."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder, self._arguments, self._n = folder, arguments, 0

    def shrink(self, name: str) -> int:
        """What sizes of this name are divided by."""
        return 1 if name == "depth" else self._arguments.shrink

    def work(self, sizes: dict[str, int]) -> dict[str, tuple[float, float]]:
        """Of each stage: its seconds times the rate of this machine meanwhile, and its seconds."""
        sizes = {name: max(1, size // self.shrink(name)) for name, size in sizes.items()}
        hidden, depth = self._arguments.hidden, sizes["depth"]
        shape = {"hidden_size": hidden, "num_hidden_layers": depth, "num_attention_heads": max(1, hidden // 64)}
        plain = LLAMA | shape | {"intermediate_size": sizes["width"], "vocab_size": 8000}
        model = write_model(plain, self._folder / f"{sizes['width']}x{depth}")
        length = max(32, LENGTH // self._arguments.shrink)
        n_texts = sizes["tokens"] // length
        given = CalibrationSettings(
            corpus=f"file:{words_drawn(n_texts, length, self._folder)}", n_samples=n_texts, length=length, packed=True
        )
        settings = RunSettings(
            model=str(model),
            methods=(replace(method_named("least-squares"), width_multiple=8),),
            sparsities_permille=(200,),
            calibration=given,
            evaluation=EvaluationSettings(corpus=BUILTIN_CLOZE, n_passages=sizes["passages"]),
        )
        work = self._timed(settings)
        # Alone: what a random model writes is no text to read it again.
        own = replace(settings, calibration=replace(given, corpus=SELF), evaluation=EvaluationSettings(n_passages=1))
        return work | {"text": self._timed(own)["text"]}

    def _timed(self, settings: RunSettings) -> dict[str, tuple[float, float]]:
        self._n += 1
        before = matmul_flops(torch.float32, self._arguments.side)
        seconds = pipeline.run(settings, Store(self._folder / f"data-{self._n}")).seconds
        rate = (before + matmul_flops(torch.float32, self._arguments.side)) / 2
        return {stage: (rate * taken, taken) for stage, taken in seconds.items()}


def picture(grown) -> str:
    """Work against size, both as multiples of the smallest and on logarithmic scales: a panel for each of the four."""
    drawn = []
    highest = max(max(times.values()) for sizes in grown.values() for _, times in sizes)
    for panel, (name, sizes) in enumerate(grown.items()):
        left, widest = _LEFT + panel * _APART, sizes[-1][0]

        def place(x, y, left=left, widest=widest):
            return left + _PANEL * log2(x) / log2(widest), _TOP + _DEEP * (1 - log2(max(y, 1)) / log2(highest))

        drawn += [svg.text(left, 24, f"{name}, times the fewest", size=14)]
        for doubling in range(int(log2(highest)) + 1):
            if doubling % 2 == 0:
                _, y = place(1, 2**doubling)
                drawn += [svg.line(left, y, left + _PANEL, y), svg.text(left - 6, y + 4, f"{2**doubling}", "end")]
        for size, _ in sizes:
            drawn.append(svg.text(place(size, 1)[0], _TOP + _DEEP + 18, f"{size:g}", "middle"))
        drawn.append(svg.line(*place(1, 1), *place(widest, widest), svg.INK, ' opacity="0.25"'))
        for number, (stage, title) in enumerate(STAGES.items()):
            points = [place(size, times[stage]) for size, times in sizes if stage in times]
            if points:
                drawn.append(svg.curve(points, number, f"{title} by {name}"))
    drawn += svg.legend(STAGES.values(), _LEFT, _HEIGHT - 16)
    drawn.append(svg.text(_LEFT + 4 * 150, _HEIGHT - 16, "thin: in proportion", size=13))
    return svg.document(_WIDTH, _HEIGHT, "How the time of each stage grows", drawn)


if __name__ == "__main__":
    begun = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - begun:.0f} s")
