"""Tokens a second of GGUF files in llama.cpp beside the first of them, in passes over all.

    python -m benchmarks.llama_speed dense.gguf folder/*.gguf --passes 12

A machine has faster and slower minutes, which reading from memory feels less than multiplying does. So each pass times
each file anew, in a process of its own beside the first file; the ratio and its 95 % interval are over the passes, not
over the samples of one of them. All are copied first: a file that was written just now is read up to a sixth faster
from the system's cache than one that came from the disk piece by piece.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

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
    with tempfile.TemporaryDirectory(dir=arguments.files[0].parent) as place:
        # The first may be named again.
        copies = [Path(place) / f"{n}" / file.name for n, file in enumerate(arguments.files)]
        for file, copy in zip(arguments.files, copies, strict=True):
            copy.parent.mkdir()
            shutil.copy(file, copy)
        _time(copies, arguments)


def _time(copies, arguments):
    first, *files = copies
    seconds = {(file, phase): [] for file in files for phase in PHASES}
    for n in range(arguments.passes):
        print(f"pass {n + 1} of {arguments.passes}", flush=True)
        for file in files:
            for phase, pair in _timed(first, file, n, arguments).items():
                seconds[file, phase].append(pair)
    print("\n| file | MB | " + " | ".join(f"{phase}, tokens a second | times the first" for phase in PHASES) + " |")
    print(f"|---|---|{'---|---|' * len(PHASES)}")
    for file in files:
        cells = [file.stem, f"{file.stat().st_size / 1e6:.1f}"]
        for phase in PHASES:
            before, after = zip(*seconds[file, phase], strict=True)
            ratio, tokens = speed_ratio(before, after), _tokens(phase, arguments)
            cells.append(f"{tokens / median(after):.0f} ({tokens / median(before):.0f})")
            cells.append(f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
        print(f"| {' | '.join(cells)} |")
    print(
        f"\n{arguments.threads} threads, {arguments.prompt} tokens read and {arguments.tokens} written after them; "
        f"in brackets the first file's beside it, {first.stat().st_size / 1e6:.1f} MB; n = {arguments.passes} passes"
    )


def _timed(first, file, seed, arguments):
    """Of each phase the median seconds of the first file and of this one, in turn in one process."""
    process = [str(first), str(file), str(arguments.threads), str(arguments.prompt + arguments.tokens), "1"]
    found = {}
    with talking_to(llama_timer.__file__, process, failed="llama.cpp could not be timed") as ask:

        def seconds(asked, is_first):
            return float(ask(f"{int(not is_first)} {asked}"))

        for phase in PHASES:
            sample = partial(seconds, f"{phase} 1 {arguments.prompt} {arguments.tokens}")
            timed = timed_rounds(sample, replace(ROUNDS, seed=seed))
            found[phase] = (median(timed.dense_s), median(timed.sparse_s))
    return found


def _tokens(phase, arguments):
    return arguments.prompt if phase == "prefill" else arguments.tokens


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--passes", type=int, default=12)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
