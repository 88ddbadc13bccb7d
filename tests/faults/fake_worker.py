"""A worker whose pipeline does what the model's name says, so that faults can be had to order."""

import faulthandler
import os
import sys
import time
from pathlib import Path

from sparsedash.schema.errors import ModelError
from sparsedash.schema.progress import Step
from sparsedash.worker import Pipeline, main


def run(settings, store, on_step, key):
    sign(store.folder, key)
    on_step(Step("load", 0, 1, message="fake"))
    print("working on", settings.model)
    BEHAVIOURS[settings.model.removeprefix("fake/").split("-")[0]](store.folder, on_step)


def continue_prompt(settings, store, on_step, on_text):
    sign(store.folder, settings.key())
    on_text("left", "right")
    on_step(Step("continue", 0, 1))


def measure_divergence(settings, store, on_step):
    sign(store.folder, settings.key())
    on_step(Step("diverge", 0, 1))


def sign(folder: Path, key: str):
    """Say in the ledger that this process has begun the work."""
    with (folder / "ledger").open("a") as ledger:
        ledger.write(f"{key} {os.getpid()}\n")


def quick(folder: Path, on_step):
    for done in range(5):
        on_step(Step("evaluate", done, 5, unit="passages"))


def steady(folder: Path, on_step):
    """Steps until the file `release` is there."""
    done = 0
    while not (folder / "release").exists():
        on_step(Step("calibrate", done, 1_000_000, unit="tokens", message="block 1"))
        done += 1
        time.sleep(0.005)


def deaf(folder: Path, on_step):
    """Takes no steps, as while a large file is read."""
    on_step(Step("prune", 0, 1))
    while True:
        time.sleep(0.05)


def stubborn(folder: Path, on_step):
    """Catches whatever is raised into it, as some libraries do."""
    on_step(Step("prune", 0, 1))
    while True:
        try:
            time.sleep(0.05)
        except Exception:  # noqa: BLE001
            continue


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


BEHAVIOURS = {f.__name__: f for f in (quick, steady, deaf, stubborn, broken, unfindable, hungry)}
BEHAVIOURS |= {f.__name__: f for f in (segfault, quits)}


if __name__ == "__main__":
    fake = Pipeline(run=run, continue_prompt=continue_prompt, measure_divergence=measure_divergence)
    exit_code = main(load=lambda: fake)
    while "FAKE_WORKER_HANGS_AT_ITS_END" in os.environ:
        time.sleep(1)
    sys.exit(exit_code)
