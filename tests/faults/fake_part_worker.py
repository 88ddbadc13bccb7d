"""A worker that makes parts of runs without the engine: how long it takes, the model's name says."""

import sys
import time
from dataclasses import replace

from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Passages, Record
from sparsedash.schema.settings import PartSettings, settings_from_plain
from sparsedash.worker import main
from tests.factories import PRUNED, RECORD, RUN

PASSAGES = Passages(key=digest("passages"), indices=(0, 1), contexts=("a", "b"), targets=("door", "door"))


def records_of(asked: PartSettings) -> tuple[Record, list[Record]]:
    dense = replace(RECORD, key=digest([asked.run_key, "dense"]), passages_key=PASSAGES.key, pruned=None)
    sparse = []
    for point in asked.points:
        pruned = replace(PRUNED, sparsity_permille=asked.run.points[point][1])
        sparse.append(replace(dense, key=digest([asked.run_key, point]), pruned=pruned))
    return dense, sparse


def make(task):
    asked = settings_from_plain(PartSettings, task.settings)
    words = asked.run.model.removeprefix("fake/").split("-")
    task.on_step(Step("load", 0, 1, message="fake"))
    BEHAVIOURS[words[0]](task.on_step, asked.points)
    dense, sparse = records_of(asked)
    task.store.put(PASSAGES.key, PASSAGES)
    for record in (dense, *sparse):
        task.store.put(record.key, record)
    keys = tuple(record.key for record in sparse)
    run = replace(RUN, key=task.key, settings=asked.run, dense=dense.key, sparse=keys, finished=True, finished_at=2.0)
    task.store.put(task.key, run)


def quick(on_step, points):
    for done in range(5):
        on_step(Step("evaluate", done, 5, unit="passages", point=points[0]))


def slow(on_step, points):
    """About a second for each sparse model."""
    for done in range(100):
        on_step(Step("evaluate", done, 100, unit="passages", point=points[0]))
        time.sleep(0.01)


def endless(on_step, points):
    while True:
        on_step(Step("calibrate", 0, 1_000_000, unit="tokens", point=points[0]))
        time.sleep(0.01)


def deaf(on_step, points):
    """Takes no steps, and does not hear what is raised into it."""
    on_step(Step("prune", 0, 1))
    while True:
        try:
            time.sleep(0.05)
        except Exception:  # noqa: BLE001
            continue


def broken(on_step, points):
    raise ValueError("a tensor of shape (3, 4)")


BEHAVIOURS = {f.__name__: f for f in (quick, slow, endless, deaf, broken)}

if __name__ == "__main__":
    sys.exit(main(load=lambda: {"part": make}))
