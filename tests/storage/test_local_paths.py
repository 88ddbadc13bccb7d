"""What lies under a path, and what lies below a folder once every link is followed."""

from pathlib import Path

import pytest

from sparsedash.storage.local_machine import lies_below, path_kind


@pytest.fixture
def places(tmp_path):
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed / "model", other / "model"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (tmp_path / "allowed-too").mkdir()
    (other / "secret.txt").write_text("secret")
    return allowed, other


def test_what_is_in_the_folder_lies_below_it_whether_or_not_it_is_there(places):
    allowed, _ = places
    for path in (allowed, allowed / "model", allowed / "model" / "config.json", allowed / "nothing.txt"):
        assert lies_below(path, [str(allowed)])


def test_what_is_beside_it_does_not(places):
    allowed, other = places
    for path in (other, other / "secret.txt", allowed.parent, allowed.with_name("allowed-too")):
        assert not lies_below(path, [str(allowed)])


def test_two_dots_are_refused_wherever_they_lead(places):
    allowed, _ = places
    assert not lies_below(allowed / "model" / ".." / "model", [str(allowed)])
    assert not lies_below(allowed / ".." / "other" / "secret.txt", [str(allowed)])


def test_a_link_lies_where_it_leads(places):
    allowed, other = places
    (allowed / "out.txt").symlink_to(other / "secret.txt")
    (allowed / "out").symlink_to(other)
    (other / "in").symlink_to(allowed / "model")
    assert not lies_below(allowed / "out.txt", [str(allowed)])
    assert not lies_below(allowed / "out" / "secret.txt", [str(allowed)])
    assert lies_below(other / "in", [str(allowed)])


def test_a_folder_with_a_link_that_leads_out_is_refused_whole(places):
    allowed, other = places
    (allowed / "model" / "tokenizer.json").symlink_to(other / "secret.txt")
    assert not lies_below(allowed / "model", [str(allowed)])


def test_a_loop_of_links_and_a_name_that_no_file_has_lie_nowhere(places):
    allowed, _ = places
    (allowed / "a").symlink_to(allowed / "b")
    (allowed / "b").symlink_to(allowed / "a")
    assert not lies_below(allowed / "a\0b", [str(allowed)])
    assert not lies_below(allowed, [])


def test_a_file_that_another_process_makes_meanwhile_is_no_device(tmp_path, monkeypatch):
    path = tmp_path / "cache.db-wal"
    looked = Path.stat

    def made_after_the_first_look(self, **how):
        try:
            return looked(self, **how)
        finally:
            path.touch()

    monkeypatch.setattr(Path, "stat", made_after_the_first_look)
    assert path_kind(path) == "nothing"
    assert path_kind(path) == "file"
