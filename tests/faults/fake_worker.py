"""A worker without the engine, of runs and of parts of runs: it does what the model's name says,
faults to order.
"""

import faulthandler
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from sparsedash.schema.errors import ModelError
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Passages, Record
from sparsedash.schema.settings import PartSettings, settings_from_plain
from sparsedash.worker import main

COMMAND = (sys.executable, "-P", __file__)
PASSAGES = Passages(
    key=digest("passages"),
    indices=(0, 1),
    contexts=("a", "b"),
    targets=("door", "door"),
)


def begin(task, *steps):
    """Say in the ledger that this process has begun the work."""
    with (task.store.folder / "ledger").open("a") as ledger:
        ledger.write(f"{task.key} {os.getpid()}\n")
    for step in steps:
        task.on_step(step)


def run(task):
    begin(task, Step("load", 0, 1, message="fake"))
    behave(task.settings["model"], task.store.folder, task.on_step)


def continue_prompt(task):
    begin(task)
    task.on_text("left", "right")
    task.on_step(Step("continue", 0, 1))


def records_of(settings: PartSettings) -> tuple[Record, list[Record]]:
    from tests.factories import PRUNED, RECORD

    dense = replace(
        RECORD,
        key=digest([settings.run_key, "dense"]),
        passages_key=PASSAGES.key,
        pruned=None,
    )
    sparse = []
    for point in settings.points:
        pruned = replace(PRUNED, spec=settings.run.points[point])
        sparse.append(
            replace(
                dense,
                key=digest([settings.run_key, point]),
                pruned=pruned,
            )
        )
    return dense, sparse


def make_part(task):
    from tests.factories import RUN

    settings = settings_from_plain(PartSettings, task.settings)
    behave(
        settings.run.model,
        task.store.folder,
        lambda step: task.on_step(replace(step, point=settings.points[0])),
    )
    dense, sparse = records_of(settings)
    task.store.put(PASSAGES.key, PASSAGES)
    for record in (dense, *sparse):
        task.store.put(record.key, record)
    keys = tuple(record.key for record in sparse)
    run_record = replace(
        RUN,
        key=task.key,
        settings=settings.run,
        dense=dense.key,
        sparse=keys,
        finished=True,
        finished_at=2.0,
    )
    task.store.put(task.key, run_record)


def behave(model, folder, on_step):
    print("working on", model)
    BEHAVIOURS[model.removeprefix("fake/").split("-")[0]](folder, on_step)


def quick(folder: Path, on_step, n=5, each_s=0.0):
    for done in range(n):
        on_step(Step("evaluate", done, n, unit="passages"))
        time.sleep(each_s)


slow = partial(quick, n=100, each_s=0.01)
slower = partial(quick, n=100, each_s=0.03)
"""About a second for each part."""


def steady(folder: Path, on_step):
    """Steps until the file `release` is there."""
    done = 0
    while not (folder / "release").exists():
        on_step(
            Step(
                "calibrate",
                done,
                1_000_000,
                unit="tokens",
                message="block 1",
            )
        )
        done += 1
        time.sleep(0.005)


def deaf(folder: Path, on_step, heard=()):
    """Takes no steps, as while a large file is read."""
    steps = [Step("prune", 0, 1)]
    while True:
        try:
            # Inside: a signal may come as soon as the step is seen.
            while steps:
                on_step(steps.pop())
            time.sleep(0.05)
        except heard:
            continue


stubborn = partial(deaf, heard=Exception)
"""Catches whatever is raised into it, as some libraries do."""


def broken(folder: Path, on_step):
    raise ValueError("a tensor of shape (3, 4)\nand more lines")


def unfindable(folder: Path, on_step):
    raise ModelError("There is no such model.", "Check the spelling.")


def hungry(folder: Path, on_step):
    raise MemoryError


def segfault(folder: Path, on_step):
    faulthandler._sigsegv()


def quits(folder: Path, on_step):
    print("out of patience", file=sys.stderr)
    os._exit(3)


BEHAVIOURS = {
    f.__name__: f
    for f in (quick, steady, deaf, broken, unfindable, hungry, segfault, quits)
}
BEHAVIOURS |= {"slow": slow, "slower": slower, "stubborn": stubborn}


if __name__ == "__main__":
    exit_code = main(
        load=lambda: {"run": run, "part": make_part, "continuation": continue_prompt}
    )
    while "FAKE_WORKER_HANGS_AT_ITS_END" in os.environ:
        time.sleep(1)
    sys.exit(exit_code)
