"""Text files that are odd, or far larger than they look: refused in words, without being read whole."""

import os
import tracemalloc

import pyarrow
import pytest
from pyarrow import parquet

from sparsedash.schema.errors import CorpusError
from sparsedash.storage import text_files
from sparsedash.storage.local_machine import local_path, path_kind
from sparsedash.storage.text_files import file_of, fingerprint, texts_of

TOO_MUCH = r"holds more than 200 MB of text"


def read(path):
    return list(texts_of(path))


def peak_while_refused(path):
    tracemalloc.start()
    with pytest.raises(CorpusError, match=TOO_MUCH):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_sparse_text_of_a_gigabyte_is_refused_unread(tmp_path):
    path = tmp_path / "sparse.txt"
    with path.open("wb") as file:
        file.truncate(2**30)
    assert peak_while_refused(path) < 2**20


def test_a_tiny_parquet_of_twenty_gigabytes_is_refused_after_its_share(tmp_path):
    path = tmp_path / "packed.parquet"
    same = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000), ["x" * 20_000_000])
    parquet.write_table(pyarrow.table({"text": same}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    with pytest.raises(CorpusError, match=TOO_MUCH):
        read(path)


def test_a_parquet_of_many_different_large_values_is_refused_by_what_it_says_of_itself(tmp_path):
    path = tmp_path / "packed.parquet"
    table = pyarrow.table({"text": [f"{i}" + " " * 25_000_000 for i in range(9)]})
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    del table
    assert peak_while_refused(path) < 2**22


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 10_000)
    path = tmp_path / "long.jsonl"
    path.write_text('{"text": "' + "a" * 20_000 + '"}')
    with pytest.raises(CorpusError, match="holds more than"):
        read(path)


def test_the_first_texts_of_a_file_are_read_without_the_rest(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\nno JSON')
    texts = texts_of(path)
    assert [next(texts), next(texts)] == ["one", "two"]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path, ends):
    path = tmp_path / "texts.txt"
    path.write_bytes(f"one{ends}more{ends}{ends}two".encode())
    assert read(path) == ["one\nmore", "two"]


@pytest.mark.parametrize("name", ["~nosuchuser/x.txt", "a" * 300 + ".txt", "x/" * 3000 + "y.txt"])
def test_a_name_that_no_file_can_have_names_nothing(name, tmp_path):
    assert path_kind(local_path(name)) == "nothing"
    assert fingerprint(name) == ""
    assert fingerprint(f"file:{name}") == ""
    assert path_kind(file_of(f"file:{name}", tmp_path)) == "nothing"


def test_pipes_and_devices_are_told_from_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    assert [path_kind(tmp_path / name) for name in ("pipe.txt", "zero.txt", ".")] == ["other", "other", "folder"]
