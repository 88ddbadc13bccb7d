"""Reading everything: a flipped bit is found wherever it is, nothing else is, and nothing is
changed by looking.
"""

from typing import get_args

import pytest

from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Checked, Damage, Kept, Run
from sparsedash.storage.text_files import file_of
from sparsedash.storage.verification import verify
from tests.storage.every_kind import LARGE, RECORDS, fill, harm_entry, harm_file, take_away


@pytest.fixture
def names(store):
    return fill(store)


def found_in(store):
    return [(damage.kind, damage.name) for damage in verify(store, ignore_steps).damaged]


def every_entry():
    entries = [("records", f"{type(record).__name__.lower()}/{record.key}") for record in RECORDS]
    return [*entries, ("records", "note/family|m"), ("artefacts", "small"), ("artefacts", "large")]


def test_there_is_a_value_of_every_kind():
    assert {type(record) for record in RECORDS} == set(get_args(Kept))


def test_everything_is_read_without_counting_as_use_and_what_is_sound_is_not_called_damaged(
    store, names
):
    before = store.entries("artefacts")
    found = verify(store, ignore_steps)
    assert store.entries("artefacts") == before
    assert (found.damaged, found.n_damaged) == ((), 0)
    # Beside those there are the entry of the export in its folder, and the note of the unpacked
    # model.
    expected = {kind: len(of_kind) for kind, of_kind in names.items()}
    assert found.n_checked == {**expected, "record": expected["record"] + 2}
    assert set(found.n_checked) == set(get_args(Checked))
    assert found.n_bytes > 3 * len(LARGE)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_bit_that_is_flipped_in_anything_is_found_and_nothing_is_dropped(store, names, share):
    expected = []
    for shelf, name in every_entry():
        harm_entry(store, shelf, name, share)
        expected.append(({"records": "record", "artefacts": "artefact"}[shelf], name))
    assert sorted(found_in(store)) == sorted(expected)
    assert sorted(found_in(store)) == sorted(expected), "it is there to be found again"


@pytest.mark.parametrize("kind", ["unpacked model", "upload", "export"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_bit_that_is_flipped_in_any_file_is_found_with_where_it_belongs(
    store, names, kind, share
):
    for name in names[kind]:
        path = {
            "unpacked model": store.folder / "models" / name,
            "upload": file_of(name, store.folder),
            "export": name,
        }
        harm_file(path[kind], share)
        entry = {"unpacked model": "tiny-0123", "upload": name, "export": "taken"}[kind]
        (damage,) = verify(store, ignore_steps).damaged
        assert (damage.kind, damage.name, damage.entry) == (kind, name, entry)
        harm_file(path[kind], share)
    assert found_in(store) == []


def test_a_file_that_is_missing_from_its_folder_is_damage_and_a_folder_that_is_gone_was_deleted(
    store, names
):
    export = take_away(store, store.folder / "exports" / "other", "other")
    (export / "model.safetensors").unlink()
    (damage,) = verify(store, ignore_steps).damaged
    assert damage == Damage(
        kind="export", name=str(export / "model.safetensors"), what="it is missing", entry="other"
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
        ("UPDATE Cache SET key = 'run/s' WHERE key = 'run/r'", "its checksum does not match"),
        (
            "UPDATE Cache SET mode = 4 WHERE key = 'run/r'",
            "The store holds a value that this program did not write.",
        ),
    ],
)
def test_an_entry_that_was_set_aside_or_renamed_and_a_pickle_are_found(store, names, change, fault):
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
