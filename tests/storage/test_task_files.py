"""Which files a task of a user's own reads, found without running or copying anything of it."""

import pytest

from sparsedash.storage.task_files import named_data, task_files


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("data/mc.jsonl", ["data/mc.jsonl"]),
        (
            "{test: a.jsonl, validation: [b.jsonl, c.jsonl]}",
            ["a.jsonl", "b.jsonl", "c.jsonl"],
        ),
        ("[2024]", ["2024"]),
        ("*here", ["a.jsonl"]),
        ("!function evil.f", ["evil.f"]),
    ],
)
def test_data_are_named_as_one_file_as_several_or_by_split(tmp_path, data, named):
    file = tmp_path / "mine.yaml"
    file.write_text(f"x: &here a.jsonl\ndataset_kwargs:\n  data_files: {data}\n")
    assert named_data(file) == [tmp_path / name for name in named]


@pytest.mark.parametrize(
    "text",
    ["", "[", "a: 1", "dataset_kwargs: 3", "[" * 100_000, "- " * 100_000, "\0", "\xff"],
)
def test_what_is_no_task_names_none(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="latin-1")
    assert named_data(file) == []


def test_a_folder_is_all_its_yaml_files_and_their_data_where_they_exist(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("{}")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(
            f"dataset_kwargs: {{data_files: data/{name}.jsonl}}"
        )
    (tmp_path / "other.txt").write_text("not read")
    names = [str(path.relative_to(tmp_path)) for path in task_files(f"file:{tmp_path}")]
    assert names == ["a.yaml", "data/a.jsonl", "b.yaml"]
    assert task_files(f"file:{tmp_path}/b.yaml") == [tmp_path / "b.yaml"]
