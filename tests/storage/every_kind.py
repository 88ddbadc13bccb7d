"""One value of every kind that a data folder keeps, and ways to harm it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from sparsedash.schema import store_keys
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    TokenDivergence,
)
from sparsedash.schema.records import Verification, about_artefact
from sparsedash.schema.user_records import (
    Choices,
    OwnPrompts,
    Prompts,
    RunMark,
    RunMarks,
)
from sparsedash.storage.model_folders import MODELS
from sparsedash.storage.text_files import Uploads
from tests.factories import RECORD, RUN
from tests.question_sets import answered, question
from tests.service.made import TIMING
from tests.ui import specimens
from tests.ui.test_models_exports import MADE

LARGE = b"0123456789abcdef" * 6000
"""Bytes that the store keeps in a file of their own."""

ASKED = ContinuationSettings(left="d", right="s", prompt="Once")
RECORDS = (
    RECORD,
    RUN,
    specimens.search()[2],
    specimens.passages(),
    answered(question(), key="answered"),
    Continuation(key="written", prompt="Once", left="upon", right="more"),
    Divergence(
        key="apart",
        opening="Once",
        places=(
            TokenDivergence(
                text="upon",
                nats=0.1,
                left="a",
                right="b",
            ),
        ),
    ),
    Prompts(key="tried", asked=(ASKED,)),
    OwnPrompts(key="own", prompts=("Once",)),
    Choices(key="chosen", better={"3": "d"}),
    RunMarks(key="runs", marks={"r": RunMark(name="mine")}),
    TIMING,
    MADE,
    Verification(
        key="v",
        started_at=1.0,
        finished_at=2.0,
        n_checked={"record": 1},
        n_bytes=3,
        damaged=(),
        n_damaged=0,
    ),
)
"""Of each class that is kept as a record one."""


def fill(store):
    """Put one value of every kind in; returns the names of all, as verification says them, by their
    kind.
    """
    folder = store.folder
    for record in RECORDS:
        store.put(record.key, record)
    store.remember(store_keys.source_type_note("m"), "llama")
    store.put_artefact("small", b"few bytes", about_artefact("text", "m"))
    store.put_artefact("large", LARGE, about_artefact("statistics", "m"))
    upload = Uploads(folder).keep("mine.txt", b"Some text.\n\nAnd more.")
    unpacked = unpack(store, "tiny-0123")
    export = take_away(store, folder / "exports" / "taken")
    return {
        "record": [
            f"{type(record).__name__.lower()}/{record.key}" for record in RECORDS
        ]
        + ["note/family|m"],
        "artefact": ["small", "large"],
        "unpacked model": [
            f"{unpacked.name}/model.safetensors",
            f"{unpacked.name}/config.json",
        ],
        "upload": [upload],
        "export": [str(export / "model.safetensors")],
    }


def unpack(store, name):
    """A folder as unpacking leaves it."""
    folder = store.folder / MODELS / name
    folder.mkdir(parents=True)
    noted = {}
    for file, content in (
        (folder / "model.safetensors", LARGE),
        (folder / "config.json", b"{}"),
    ):
        file.write_bytes(content)
        noted[file.name] = hashlib.sha256(content).hexdigest()
    store.remember(store_keys.unpacked_files_note(name), json.dumps(noted))
    return folder


def take_away(store, folder, key="taken", **changes):
    """An export of one file, in this folder."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(LARGE)
    files = {"model.safetensors": hashlib.sha256(LARGE).hexdigest()}
    store.put(
        key,
        replace(
            MADE,
            key=key,
            folder=str(folder),
            files=files,
            n_bytes=len(LARGE),
            **changes,
        ),
    )
    return folder


def flip(data, share=0.5):
    """The bytes with one bit flipped, so far into them."""
    place = min(len(data) - 1, int(share * len(data)))
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def harm_file(path, share=0.5):
    """Flip a bit in a file."""
    path = Path(path)
    path.write_bytes(flip(path.read_bytes(), share))


def harm_entry(store, shelf, name, share=0.5):
    """Flip a bit in the value of an entry, wherever it lies."""
    cache = store._caches[shelf]
    ((rowid, filename, value),) = cache._sql(
        "SELECT rowid, filename, value FROM Cache WHERE key = ?", (name,)
    ).fetchall()
    if filename is not None:
        harm_file(store.folder / shelf / filename, share)
    else:
        cache._sql(
            "UPDATE Cache SET value = ? WHERE rowid = ?",
            (flip(bytes(value), share), rowid),
        )
