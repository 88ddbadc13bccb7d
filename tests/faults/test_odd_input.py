"""Whatever is asked for, in whatever way, is answered by a job or a sentence: never by a traceback.

A few of each in every run; many with `make faults`, which says how many were refused.
"""

import json
import os
import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest

from sparsedash.catalog.presets import METHODS
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.schema.errors import JobError, ModelError, SettingsError
from sparsedash.schema.method_settings import (
    Allocation,
    Compensation,
    Pattern,
    Saliency,
    Schedule,
    Scope,
)
from sparsedash.schema.settings import RunSettings, settings_from_plain
from sparsedash.service.backend import Backend
from sparsedash.service.run_checks import run_problems
from sparsedash.ui import frame
from tests.engine.tiny import save_tiny
from tests.ui import specimens
from tests.ui.conftest import client, shows_as_text

pytestmark = pytest.mark.faults


HUGE = "9" * 5000
TEXTS = (
    "", " ", "-1", "0", "1", "1.5", "abc", "nan", "inf", "-inf", "1e999", "1e9", "true", "None", "..", ".", "/", "--",
    "99999999999999999999", HUGE, "x" * 10_000, "a\0b", "\x1b[31m", "a\nb", "\u202e", "٣", "²", "１", "日本語", "🦊",
    "~nosuchuser/x", "~", "/dev/null", "/dev/zero", "/proc/self/mem", "file:", "file:/", "file:/dev/zero", "upload:x",
    f"file:/x.txt[{'9' * 30}:]", "builtin:", "builtin:cloze", "self", "gpt2", "a/b@c", "a/b/c", "m" * 300, "%00", "<b>",
    "10,20", "90", "91", "12.55", "10,,20", "10 10", "obs,obs", "best", "wanda, random", "𝟙", "{}", "[]", "'",
    '"; DROP',
)  # fmt: skip
NUMBERS = (
    0,
    1,
    -1,
    2,
    8,
    32,
    64,
    100,
    256,
    900,
    901,
    2**31 - 1,
    2**31,
    2**63,
    10**30,
    0.5,
    1.0,
    -0.1,
    1e308,
)
ODD = (
    *NUMBERS,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    "",
    "5",
    [],
    {},
    [1],
    {"a": 1},
    "x" * 5000,
)

CHOICES: dict[str, Any] = {
    "saliency": Saliency,
    "pattern": Pattern,
    "compensation": Compensation,
    "allocation": Allocation,
    "schedule": Schedule,
    "scope": Scope,
}


def odd_settings(rng: random.Random) -> dict[str, Any]:
    """A run's settings in their plain form, some values changed to odd ones or to others that do
    not fit.
    """
    plain = json.loads(json.dumps(asdict(RunSettings())))
    plain["methods"] = [
        asdict(rng.choice(METHODS).settings)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 5)))
    ]
    plain["sparsities_permille"] = rng.sample(
        range(0, 950), rng.choice((0, 1, 2, 3, 51))
    )
    parts = [plain, plain["calibration"], plain["evaluation"], *plain["methods"]]
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        part = rng.choice(parts)
        name = rng.choice([*part, "unknown"])
        if name in CHOICES and rng.random() < 0.7:
            part[name] = rng.choice(get_args(CHOICES[name]))
        elif name in ("corpus", "model"):
            part[name] = rng.choice(TEXTS)
        else:
            part[name] = rng.choice(ODD if rng.random() < 0.5 else NUMBERS)
    return plain


PARAMETERS = {
    "overview": ("against", "highlight", "limits", "measure", "numbers", "run", "runtime", "share", "threads"),
    "runs": ("baseline", "chosen", "contains", "model", "order", "page", "rows", "sort", "view"),
    "compare": ("blind", "change", "filter", "groups", "left", "passage", "right", "run", "search", "sort", "words"),
    "models": ("export-weights", "form", "limits", "right", "run"),
    "settings": ("page", "view"),
    "prune": (
        "allocation", "budget", "calibration", "compensation", "damping", "dtype", "goal", "heal",
        "layers", "length", "limits", "masks", "method", "model", "own", "packed", "passages", "pattern", "mix",
        "prompts", "quantise", "residency", "row", "rule", "saliency", "samples", "seed", "shuffle",
        "sparsity", "stop", "tasks", "text", "view", "weights", "width", "with",
    ),
}  # fmt: skip


def odd_address(rng: random.Random) -> tuple[str, dict[str, str | list[str]]]:
    """A page, and what its address says."""
    page = rng.choice((*PARAMETERS, "prune", "compare"))
    query: dict[str, str | list[str]] = {}
    for name in rng.sample(PARAMETERS[page], rng.choice((1, 1, 2, 2))):
        known = (
            get_args(CHOICES[name]) if name in CHOICES and rng.random() < 0.5 else TEXTS
        )
        value = rng.choice(known)
        query[name] = [value, rng.choice(TEXTS)] if rng.random() < 0.1 else value
    if page == "prune" and rng.random() < 0.6:
        query |= {"own": "true", "saliency": rng.choice(get_args(Saliency))}
    return page, query


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    long = pytest.param(many, marks=pytest.mark.long, id="many")
    return pytest.mark.parametrize("n", [pytest.param(few, id="few"), long])


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    backend = Backend(tmp_path / "data")
    yield backend
    backend.close()


@few_or_many(200, 2000)
def test_settings_are_a_job_or_a_typed_error(backend, n, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen: Counter[str] = Counter()
    for seed in range(n):
        plain = odd_settings(random.Random(seed))
        try:
            job = backend.submit(settings_from_plain(RunSettings, plain))
        except (SettingsError, JobError) as error:
            assert error.message
            seen["refused"] += 1
            continue
        assert job.state == "queued"
        backend.preflight(settings_from_plain(RunSettings, job.settings))
        seen["queued"] += 1
    assert min(seen["refused"], seen["queued"]) > n / 20
    print(dict(seen))


@few_or_many(10, 300)
def test_an_address_shows_a_page_without_an_exception(backend, n, monkeypatch):
    run, records = specimens.run()
    backend._store.put(run.key, run)
    for record in records:
        backend._store.put(record.key, record)
    backend._store.put("passages", specimens.passages())
    monkeypatch.setattr(frame, "backend", lambda: backend)
    seen: Counter[str] = Counter()
    for seed in range(n):
        page, query = odd_address(random.Random(seed))
        app = client(page)
        for name, value in query.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, (page, query)
        drawn = "\n".join(element.proto.body for element in app.get("html"))
        shows_as_text(drawn)
        assert drawn.count("<h1") == 1, (page, query)
        seen[page] += 1
    print(dict(seen))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)]
)
def test_what_is_no_file_in_a_model_folder_is_refused_in_words(
    name, make, store, tmp_path
):
    folder = save_tiny(tmp_path / "model")
    (folder / name).unlink()
    make(folder / name)
    if problems := run_problems(RunSettings(model=str(folder)), tmp_path):
        assert problems[0].startswith("Model: ")
        return
    with pytest.raises(ModelError) as refused:
        load_model(locate_model(str(folder), store), "float32")
    assert refused.value.message
