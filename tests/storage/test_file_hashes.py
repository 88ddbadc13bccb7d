"""Files are told apart by their contents, and read again only where they may have changed."""

import time
from dataclasses import replace

from sparsedash.schema.settings import EvaluationSettings, RunSettings
from sparsedash.storage import file_hashes
from sparsedash.storage.file_hashes import file_hashes_of, fingerprint, hash_file


def test_a_file_is_not_read_again_while_its_stamp_stays(store, tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text("abc")
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    known = hash_file(file, store)
    assert known.startswith("ba7816bf"), "the published test value of SHA-256"
    monkeypatch.setattr(file_hashes, "content_hash", lambda file: "read again")
    assert hash_file(file, store) == known
    file.touch()
    assert hash_file(file, store) == "read again"


def test_a_file_that_was_written_a_moment_ago_is_read_again_since_a_further_change_may_have_the_same_time(
    store, tmp_path, monkeypatch
):
    file = tmp_path / "a.txt"
    monkeypatch.setattr(file_hashes, "file_stamp", lambda path: "of the same moment")
    file.write_text("before")
    before = hash_file(file, store)
    file.write_text("behind")
    assert hash_file(file, store) != before


def refuse(folder):
    raise PermissionError(folder)


def test_contents_are_those_of_local_files_alone(store, tmp_path, monkeypatch):
    text = tmp_path / "a.txt"
    text.write_text("abc")
    evaluation = EvaluationSettings(
        corpus=f"file:{text}[1:]", tasks=("piqa", f"file:{tmp_path}/none.yaml")
    )
    settings = RunSettings(model="owner/model", evaluation=evaluation)
    assert file_hashes_of(settings, store).keys() == {evaluation.corpus}
    text.chmod(0o600)
    assert file_hashes_of(settings, store) == file_hashes_of(settings, store)
    text.unlink()
    assert file_hashes_of(settings, store) == {}
    folder = tmp_path / "model"
    folder.mkdir()
    assert file_hashes_of(replace(settings, model=str(folder)), store) == {}
    monkeypatch.setattr(file_hashes, "_identifying_files", refuse)
    assert file_hashes_of(replace(settings, model=str(folder)), store) == {}, (
        "one that cannot be read"
    )
    assert fingerprint(str(text)) == fingerprint("owner/model") == ""
