"""Makes what ships for who has not run anything yet: the text that the built-in model wrote, and
the example run.

python -m examples.shipped_run text     sparsedash/catalog/texts/smollm2-text.jsonl
python -m examples.shipped_run run      sparsedash/catalog/example/run.jsonl.xz, on that text

The text is the same on the same machine with the same versions; its identity is part of the keys of
every run on it, so it is made again only with a name of its own. A run that breaks off goes on
where it stopped, with the same --data-dir.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import msgspec

from sparsedash.catalog.choices import (
    EXAMPLE,
    EXAMPLE_FILE,
    SHIPPED_TEXTS,
    example_key,
    write_example,
)
from sparsedash.catalog.presets import method_named
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.run.pipeline import run
from sparsedash.engine.texts.corpora import TEXTS, story_openings
from sparsedash.engine.texts.generation import generate_texts
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Passages, Record
from sparsedash.schema.settings import (
    BUILTIN_CLOZE_402,
    BUILTIN_MIXED,
    BUILTIN_MODEL,
    BUILTIN_TEXT,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.storage.store import Store

METHODS = (
    "best",
    "least-squares",
    "flap",
    "retrain-free (published)",
    "wanda-channels",
    "random",
)
SPARSITIES = "2,5,10,20,30,40,50"
TEXT = CalibrationSettings(n_samples=64)
"""How the text was written: 64 samples of 256 tokens, seed 0."""

_DIGITS = 4
"""Significant ones of every number in a record: what a page shows, and a third of the size."""


def main(arguments: list[str] | None = None) -> int:
    """Make one of the two. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.shipped_run", description=__doc__.partition("\n\n")[0]
    )
    parser.add_argument("what", choices=("text", "run"))
    parser.add_argument(
        "--data-dir", type=Path, default=Path(gettempdir()) / "sparsedash-example"
    )
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sparsity", default=SPARSITIES)
    parser.add_argument(
        "--passages", type=int, help="so many of the 402; all unless given"
    )
    asked = parser.parse_args(arguments)
    store = Store(asked.data_dir)
    if asked.what == "text":
        return _write_text(store)
    settings = RunSettings(
        dtype="bfloat16",
        methods=tuple(method_named(name) for name in asked.methods.split(",")),
        sparsities_permille=parse_percents(asked.sparsity),
        calibration=CalibrationSettings(corpus=BUILTIN_MIXED, n_samples=64),
        evaluation=EvaluationSettings(
            corpus=BUILTIN_CLOZE_402, n_passages=asked.passages
        ),
    )
    return _write_run(store, settings)


def _write_text(store: Store) -> int:
    """Let the built-in model write in FP32, as a run with the calibration text `self` does."""
    loaded = load_model(locate_model(BUILTIN_MODEL, store), "float32")
    texts = generate_texts(loaded, story_openings(), TEXT, _Progress())
    (name,) = SHIPPED_TEXTS[BUILTIN_TEXT]
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (TEXTS / name).write_text("".join(lines), encoding="utf-8")
    return 0


def _write_run(store: Store, settings: RunSettings) -> int:
    made = run(settings, store, _Progress())
    keys = (made.dense, *made.sparse)
    records = [record for record in (store.get(Record, key) for key in keys) if record]
    passages = store.get(Passages, records[0].passages_key)
    if passages is None or len(records) != len(keys):
        print("A record was lost; run it again.")
        return 1
    shipped = replace(
        made,
        key=EXAMPLE,
        dense=example_key(made.dense),
        sparse=tuple(map(example_key, made.sparse)),
        cached=(),
        made_on=_machine(),
    )
    texts = filter(None, (store.get(Continuation, key) for key in made.continuations))
    written = [
        replace(text, key=example_key(key))
        for text, key in zip(texts, shipped.continuations, strict=True)
    ]
    write_example(
        [
            shipped,
            replace(passages, key=example_key(passages.key)),
            *map(_compact, records),
            *written,
        ]
    )
    print(
        f"{EXAMPLE_FILE}: {EXAMPLE_FILE.stat().st_size:,} bytes, {len(records)} records"
    )
    return 0


def _compact(record: Record) -> Record:
    """The record under its key in the example, its numbers rounded."""
    rounded = msgspec.convert(_rounded(msgspec.to_builtins(record)), Record)
    return replace(
        rounded,
        key=example_key(record.key),
        passages_key=example_key(record.passages_key),
    )


def _rounded(value: Any) -> Any:
    """A plain value with every number in it rounded."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(part) for part in value]
    return value


def _machine() -> str:
    """The processor and the cores that this process may use."""
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    names = [
        line.partition(":")[2].strip()
        for line in lines
        if line.startswith("model name")
    ]
    return f"{next(iter(names), platform.machine())}, {cores} cores"


class _Progress:
    """Prints where the work is, once in a while."""

    def __init__(self) -> None:
        self._printed = 0.0

    def __call__(self, step: Step) -> None:
        """Print this step, unless one was printed a moment ago."""
        if time.monotonic() - self._printed > 10:
            self._printed = time.monotonic()
            print(
                f"{step.stage} {step.done:,} of {step.total:,} {step.message}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
