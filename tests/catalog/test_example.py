"""The run that ships: whole, read by the program's own decoder, and never to be taken for a result
made here.
"""

from sparsedash.catalog import choices
from sparsedash.catalog.choices import (
    EXAMPLE,
    EXAMPLE_FILE,
    example_key,
    example_result,
    is_example,
    write_example,
)
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.records import Passages, Record, Run
from tests.ui import specimens


def test_what_was_written_is_read_again_and_there_is_none_where_a_build_left_it_out(
    tmp_path,
):
    run, records = specimens.run()
    write_example(
        [specimens.passages(), run, *records], tmp_path / "example" / "run.jsonl.xz"
    )
    result = choices._example_parts(tmp_path / "example" / "run.jsonl.xz")
    assert (result[run.key], result[records[1].key]) == (run, records[1])
    assert choices._example_parts(tmp_path / "nothing") == {}
    assert example_result(Run, run.key) is None, "only keys of the example"


def test_no_digest_is_a_key_of_the_example():
    assert not is_example("4f1c" * 16)
    assert is_example(EXAMPLE)
    assert is_example(example_key("4f1c" * 16))


def test_what_ships_is_whole_and_small():
    run = example_result(Run, EXAMPLE)
    assert run.finished and run.made_on and len(run.sparse) == run.settings.n_sparse
    dense = example_result(Record, run.dense)
    assert example_result(Passages, dense.passages_key) is not None
    assert all(
        example_result(Record, key).passages_key == dense.passages_key
        for key in run.sparse
    )
    written = [
        example_result(Continuation, example_key(key)) for key in run.continuations
    ]
    assert written and all(text is not None and not text.stopped for text in written)
    assert EXAMPLE_FILE.stat().st_size < 750_000
