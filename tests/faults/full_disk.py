"""Fills the disk of a data folder when a stage begins, and tries again with room; for one model and
text, every stage.

    python full_disk.py FOLDER GGUF MODEL TEXT

The first stage unpacks the .gguf file, the others take the model's folder. Prints, as JSON, what
was said at each stage, and whether with room the records were those of a run that had it all along,
the continuation was written, and the export was whole, after nothing of it had been left. A process
of its own: what maps a file into memory can be ended by the kernel where the disk is full.
"""

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

from sparsedash.engine.export import export
from sparsedash.schema.errors import StoreError
from sparsedash.schema.export_settings import Export, ExportSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.progress import ignore, ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.storage.store import Store
from sparsedash.worker import JobTask, describe_error, load_job_handlers

STAGES = ("load", "text", "calibrate", "prune", "evaluate")


class Filler:
    """Takes all room of the disk once the stage begins."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._file = folder / "filler"
        self.stage = stage

    def __call__(self, step) -> None:
        if step.stage == self.stage and not self._file.exists():
            with self._file.open("wb", buffering=0) as file:
                for n_bytes in (1 << 16, 1 << 12, 1):
                    try:
                        while True:
                            file.write(bytes(n_bytes))
                    except OSError:
                        continue

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def done(kind: str, settings, store: Store, on_step=ignore_steps):
    """What a worker's engine makes of a job that has just been loaded."""
    task = JobTask(
        key=settings.key(),
        settings=asdict(settings),
        store=store,
        on_step=on_step,
        on_text=ignore,
    )
    return load_job_handlers()[kind](task)


def filled(kind: str, settings, store: Store, stage: str) -> list[str]:
    """What a job says whose disk is full from this stage on; then it is done again, with room."""
    filler = Filler(store.folder.parent, stage)
    messages = []
    try:
        done(kind, settings, store, filler)
    except Exception as error:  # noqa: BLE001 - as the worker does
        messages = list(describe_error(error, None, store.folder))
    filler.remove()
    remains = [path.name for path in store.folder.parent.glob("export-*")]
    done(kind, settings, store)
    return [*messages, *remains]


def records(run, store: Store) -> list[Record]:
    records = [store.get(Record, key) for key in (run.dense, *run.sparse)]
    return [
        replace(
            record,
            seconds=0.0,
            tokens_per_second=0.0,
        )
        for record in records
    ]


def asked(model: str, text: str) -> RunSettings:
    return RunSettings(
        model=model,
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250,),
        calibration=CalibrationSettings(
            corpus=f"file:{text}",
            n_samples=16,
            length=32,
        ),
        evaluation=EvaluationSettings(corpus=f"file:{text}", n_passages=3),
    )


def main(disk: Path, gguf: str, model: str, text: str) -> dict[str, object]:
    results = dict[str, object]()
    whole = Store(disk / "whole")
    expected = records(done("run", asked(model, text), whole), whole)
    for stage in STAGES:
        settings = asked(gguf if stage == "load" else model, text)
        store = Store(disk / stage)
        messages = filled("run", settings, store, stage)
        results[stage] = [
            messages,
            stage == "load" or records(done("run", settings, store), store) == expected,
        ]
        store.close()
    run = done("run", asked(model, text), whole)
    pair = {"left": run.dense, "right": run.sparse[0]}
    prompt = ContinuationSettings(
        **pair,
        prompt="the lamp and the",
        n_tokens=3,
    )
    messages = filled("continuation", prompt, whole, "continue")
    results["continue"] = [messages, whole.get(Continuation, prompt.key()) is not None]
    assert export.require_export_room
    export.require_export_room = lambda *_: (
        None
    )  # As where somebody else takes the room meanwhile.
    for stage in ("write", "prove"):
        to = disk / f"export-{stage}"
        wanted = ExportSettings(
            dense=run.dense,
            sparse=run.sparse[0],
            form="padded",
            to=str(to),
        )
        results[stage] = [
            filled("export", wanted, whole, stage),
            whole.get(Export, wanted.key()).proof.holds,
        ]
        shutil.rmtree(to)
    whole.close()
    return results


if __name__ == "__main__":
    try:
        print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
    except StoreError as error:
        sys.exit(str(error))
