"""Tokens a second of GGUF files in llama.cpp beside the first of them, in passes over all.

    python -m benchmarks.llama_speed dense.gguf folder/*.gguf --passes 12

A machine has faster and slower minutes, which reading from memory feels less than multiplying does.
So each pass times each file anew, in a process of its own beside the first file; the ratio and its
95 % interval are over the passes, not over the samples of one of them. All are copied first: a file
that was written just now is read up to a sixth faster from the system's cache than one that came
from the disk piece by piece.
"""

import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.arguments import parser_of
from sparsedash.engine.comparison import llama_timer
from sparsedash.engine.comparison.timing import timed_rounds
from sparsedash.engine.models.fresh_process import talking_to
from sparsedash.schema.pair_records import TimingSettings
from sparsedash.stats.mean_intervals import speed_ratio

PHASES = ("decode", "prefill")
ROUNDS = TimingSettings(dense="-", sparse="-", n_warmup=1, most_s=1)
"""One that is not counted, then three, and more as long as a second is not over."""


def main():
    arguments = _arguments()
    with TemporaryDirectory(dir=arguments.files[0].parent) as folder:
        copies = []
        for number, file in enumerate(arguments.files):
            # The first may be named again.
            place = Path(folder) / f"{number}"
            place.mkdir()
            copies.append(Path(shutil.copy(file, place)))
        _print_speeds(copies, arguments)


def _print_speeds(copies, arguments):
    first, *files = copies
    times = defaultdict(list)
    for number in range(arguments.passes):
        print(f"pass {number + 1} of {arguments.passes}", flush=True)
        for file in files:
            for phase, medians in _phase_medians(
                first, file, number, arguments
            ).items():
                times[file, phase].append(medians)
    n_tokens = {"decode": arguments.tokens, "prefill": arguments.prompt}
    print(
        "\n| file | MB | "
        + " | ".join(f"{phase}, tokens a second | times the first" for phase in PHASES)
        + " |"
    )
    print(f"|---|---|{'---|---|' * len(PHASES)}")
    for file in files:
        cells = [file.stem, f"{file.stat().st_size / 1e6:.1f}"]
        for phase in PHASES:
            before_s, after_s = zip(*times[file, phase], strict=True)
            ratio = speed_ratio(before_s, after_s)
            cells.append(
                f"{n_tokens[phase] / median(after_s):.0f} ({n_tokens[phase] / median(before_s):.0f})"
            )
            cells.append(f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
        print(f"| {' | '.join(cells)} |")
    print(
        f"\n{arguments.threads} threads, {arguments.prompt} tokens read and {arguments.tokens} written after them; "
        f"in brackets the first file's next to it, {first.stat().st_size / 1e6:.1f} MB; n = {arguments.passes} passes"
    )


def _phase_medians(first, file, seed, arguments):
    """Of each phase the median seconds of the first file and of this one, in turn in one
    process.
    """
    words = [
        str(first),
        str(file),
        str(arguments.threads),
        str(arguments.prompt + arguments.tokens),
        "1",
    ]
    medians = {}
    with talking_to(
        llama_timer.__file__, words, failed="llama.cpp could not be timed"
    ) as ask:
        for phase in PHASES:
            request = f"{phase} 1 {arguments.prompt} {arguments.tokens}"
            times = timed_rounds(_sample(ask, request), replace(ROUNDS, seed=seed))
            medians[phase] = (median(times.dense_s), median(times.sparse_s))
    return medians


def _sample(ask, request):
    return lambda is_first: float(ask(f"{int(not is_first)} {request}"))


def _arguments():
    parser = parser_of(
        __doc__, passes=12, prompt=128, tokens=32, threads=torch.get_num_threads()
    )
    parser.add_argument("files", type=Path, nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    main()
