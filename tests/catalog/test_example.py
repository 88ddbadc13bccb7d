"""The run that ships: whole, read by the program's own decoder, and never to be taken for a result made here."""

import pytest

from sparsedash.catalog import choices
from sparsedash.catalog.choices import EXAMPLE, EXAMPLE_FILE, example_key, example_result, is_example, write_example
from sparsedash.schema.records import Passages, Record, Run
from tests.ui import specimens


@pytest.fixture
def written(tmp_path, monkeypatch):
    run, records = specimens.run()
    file = tmp_path / "example" / "run.jsonl.gz"
    write_example([specimens.passages(), run, *records], file)
    monkeypatch.setattr(choices, "EXAMPLE_FILE", file)
    return run, records


def test_what_was_written_is_read_again_but_only_under_keys_of_the_example(written):
    run, records = written
    assert example_result(Run, run.key) is None
    assert choices._example_parts(choices.EXAMPLE_FILE)[run.key] == run
    assert choices._example_parts(choices.EXAMPLE_FILE)[records[1].key] == records[1]


def test_where_a_build_left_it_out_there_is_none(tmp_path):
    assert choices._example_parts(tmp_path / "nothing") == {}


def test_no_digest_is_a_key_of_the_example():
    assert not is_example("4f1c" * 16)
    assert is_example(EXAMPLE)
    assert is_example(example_key("4f1c" * 16))


def test_what_ships_is_whole_and_small():
    run = example_result(Run, EXAMPLE)
    assert run is not None
    assert run.finished
    assert run.made_on
    assert len(run.sparse) == run.settings.n_sparse
    dense = example_result(Record, run.dense)
    assert dense is not None
    assert example_result(Passages, dense.passages_key) is not None
    assert all(example_result(Record, key).passages_key == dense.passages_key for key in run.sparse)
    assert EXAMPLE_FILE.stat().st_size < 600_000
