"""Reading everything: a flipped bit is found wherever it is, nothing else is, and nothing is
changed by looking.
"""

from typing import get_args

import pytest

from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Checked, Damage, Kept, Run
from sparsedash.storage.text_files import file_of
from sparsedash.storage.verification import verify
from tests.storage.every_kind import (
    LARGE,
    RECORDS,
    fill,
    harm_entry,
    harm_file,
    take_away,
)


@pytest.fixture
def names(store):
    return fill(store)


def found_in(store):
    return [
        (damage.kind, damage.name) for damage in verify(store, ignore_steps).damaged
    ]


def every_entry():
    entries = [
        ("records", f"{type(record).__name__.lower()}/{record.key}")
        for record in RECORDS
    ]
    return [
        *entries,
        ("records", "note/source type|m"),
        ("artefacts", "small"),
        ("artefacts", "large"),
    ]


def test_there_is_a_value_of_every_kind():
    assert {type(record) for record in RECORDS} == set(get_args(Kept))


def test_everything_is_read_without_counting_as_use_and_what_is_sound_is_not_called_damaged(
    store, names
):
    before = store.entries("artefacts")
    verification = verify(store, ignore_steps)
    assert store.entries("artefacts") == before
    assert (verification.damaged, verification.n_damaged) == ((), 0)
    expected = {kind: len(names[kind]) for kind in get_args(Checked)}
    # Besides, there are the record of the export, and the note of the unpacked model.
    expected["record"] += 2
    assert verification.n_checked == expected
    assert verification.n_bytes > 3 * len(LARGE)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_bit_that_is_flipped_in_anything_is_found_and_nothing_is_dropped(
    store, names, share
):
    for shelf, name in every_entry():
        harm_entry(store, shelf, name, share)
    expected = {("record", name) for shelf, name in every_entry() if shelf == "records"}
    expected |= {("artefact", "small"), ("artefact", "large")}
    for _ in range(2):
        assert set(found_in(store)) == expected


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_bit_that_is_flipped_in_any_file_is_found_with_where_it_belongs(
    store, names, share
):
    (upload,) = names["upload"]
    (exported,) = names["export"]
    files = [("upload", upload, file_of(upload, store.folder), upload)]
    files.append(("export", exported, exported, "taken"))
    for name in names["unpacked model"]:
        files.append(
            ("unpacked model", name, store.folder / "models" / name, "tiny-0123")
        )
    for kind, name, path, entry in files:
        harm_file(path, share)
        (damage,) = verify(store, ignore_steps).damaged
        assert (damage.kind, damage.name, damage.entry) == (kind, name, entry)
        harm_file(path, share)
    assert found_in(store) == []


def test_a_file_that_is_missing_from_its_folder_is_damage_and_a_folder_that_is_gone_was_deleted(
    store, names
):
    export = take_away(store, store.folder / "exports" / "other", "other")
    (export / "model.safetensors").unlink()
    (damage,) = verify(store, ignore_steps).damaged
    assert damage == Damage(
        kind="export",
        name=str(export / "model.safetensors"),
        what="it is missing",
        entry="other",
    )
    export.rmdir()
    assert found_in(store) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            "UPDATE Cache SET key = 'damaged/run/r' WHERE key = 'run/r'",
            "it was damaged when it was read, and is set aside",
        ),
        (
            "UPDATE Cache SET key = 'run/s' WHERE key = 'run/r'",
            "its checksum does not match",
        ),
        (
            "UPDATE Cache SET mode = 4 WHERE key = 'run/r'",
            "The store holds a value that this program did not write.",
        ),
    ],
)
def test_an_entry_that_was_set_aside_or_renamed_and_a_pickle_are_found(
    store, names, change, fault
):
    store._caches["records"]._sql(change)
    (damage,) = verify(store, ignore_steps).damaged
    assert damage.what.startswith(fault)


def test_it_says_how_far_it_is_in_bytes(store, names):
    steps = []
    verify(store, steps.append)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert {(step.stage, step.unit) for step in steps} == {("verify", "megabytes")}


def test_what_is_deleted_while_everything_is_read_is_no_damage(store, names):
    gone = []

    def delete(step):
        if not gone:
            gone.append(step)
            store.drop(Run, "r")
            store.drop_entry("artefacts", "large")
            file_of(names["upload"][0], store.folder).unlink()

    assert verify(store, delete).damaged == ()
