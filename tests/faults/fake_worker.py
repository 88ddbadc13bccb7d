"""A worker whose pipeline does what the model's name says, so that faults can be had to order."""

import faulthandler
import os
import sys
import time
from pathlib import Path

from sparsedash.schema.errors import ModelError
from sparsedash.schema.progress import Step
from sparsedash.worker import main


def run(task):
    sign(task)
    task.on_step(Step("load", 0, 1, message="fake"))
    model = task.settings["model"]
    print("working on", model)
    BEHAVIOURS[model.removeprefix("fake/").split("-")[0]](task.store.folder, task.on_step)


def continue_prompt(task):
    sign(task)
    task.on_text("left", "right")
    task.on_step(Step("continue", 0, 1))


def measure_divergence(task):
    sign(task)
    task.on_step(Step("diverge", 0, 1))


def sign(task):
    """Say in the ledger that this process has begun the work."""
    with (task.store.folder / "ledger").open("a") as ledger:
        ledger.write(f"{task.key} {os.getpid()}\n")


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
    fake = {"run": run, "continuation": continue_prompt, "divergence": measure_divergence}
    exit_code = main(load=lambda: fake)
    while "FAKE_WORKER_HANGS_AT_ITS_END" in os.environ:
        time.sleep(1)
    sys.exit(exit_code)
