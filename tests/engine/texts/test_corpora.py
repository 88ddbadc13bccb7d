"""Text references: what is read from where, and what is said when it cannot be."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from sparsedash.catalog.choices import (
    CALIBRATION_CORPORA,
    EVALUATION_CORPORA,
    HUB_TEXTS,
    SHIPPED_TEXTS,
)
from sparsedash.engine.texts.corpora import read_texts, story_openings
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_CLOZE_402, BUILTIN_TEXT
from sparsedash.storage.text_files import Uploads

FIRST_PASSAGES = (
    "sha256:1feb799f53783ced0feb97519a67952d9cd147f95da02e31ef82f6500aabb067"
)


def test_every_corpus_of_the_catalog_can_be_read_by_name():
    offered = {choice.name for choice in (*EVALUATION_CORPORA, *CALIBRATION_CORPORA)}
    assert (
        offered == {*HUB_TEXTS, *SHIPPED_TEXTS, "self"}
        and not HUB_TEXTS.keys() & SHIPPED_TEXTS.keys()
    )


def test_the_built_in_passages_differ_end_on_a_word_and_begin_with_the_published_ones():
    first = read_texts(BUILTIN_CLOZE)
    texts = read_texts(BUILTIN_CLOZE_402).texts
    assert first.identity == FIRST_PASSAGES
    assert len(texts) == len(set(texts)) == 402 and texts[:132] == first.texts
    assert all(text.split(" ")[-1].isalpha() for text in texts)
    assert all(45 <= len(text.split()) <= 300 for text in texts)
    assert 0.5 < sum('"' in text for text in texts[132:]) / 270 < 0.95
    # No two share eight words in a row.
    seen: dict[tuple[str, ...], int] = {}
    for number, text in enumerate(texts):
        words = text.lower().split()
        for run in zip(*(words[i:] for i in range(8)), strict=False):
            assert seen.setdefault(run, number) == number, run


def test_the_text_by_the_built_in_model_follows_many_short_openings():
    texts = read_texts(BUILTIN_TEXT).texts
    openings = story_openings()
    assert len(texts) == len(set(texts)) == 64
    assert all(text.startswith(openings) for text in texts)
    assert len(openings) >= 64 and all(
        3 <= len(opening.split()) <= 25 for opening in openings
    )


def test_json_lines_text_and_parquet_give_their_texts(tmp_path):
    texts = ["one two three", "fünf — sechs \u2028 sieben"]
    jsonl, parquet, txt = (
        tmp_path / f"x.{kind}" for kind in ("jsonl", "parquet", "txt")
    )
    jsonl.write_text(
        "\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts) + "\n\n",
        "utf-8",
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), parquet)
    txt.write_text("\n\n".join(texts), "utf-8")
    lines, table, running = (
        read_texts(f"file:{file}") for file in (jsonl, parquet, txt)
    )
    assert lines.texts == table.texts == running.texts == tuple(texts)
    assert running.running
    assert read_texts(f"file:{jsonl}[:1]").texts == tuple(texts[:1])
    assert lines.identity == table.identity != running.identity


def test_an_upload_is_read_from_the_data_folder_it_lies_in(tmp_path):
    content = "".join(
        json.dumps({"text": text}) + "\n" for text in ("one", "two", "three")
    )
    reference = Uploads(tmp_path).keep("mine.jsonl", content.encode())
    assert read_texts(reference, tmp_path).texts == ("one", "two", "three")
    assert read_texts(f"{reference}[1:]", tmp_path).texts == ("two", "three")
    with pytest.raises(CorpusError, match="There is no file"):
        read_texts(reference, tmp_path / "another")
    with pytest.raises(CorpusError, match=r"There is no file upload:\.\./a\.txt@0"):
        read_texts("upload:../a.txt@0", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", b'{"text": 5}\n', "Line 1 of bad.jsonl"),
        ("empty.jsonl", b"\n\n", "holds no text"),
        ("bad.csv", b"text\nfine\n", "possible: .jsonl, .txt, .parquet"),
        ("none.jsonl", None, "There is no file"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_texts(f"file:{tmp_path / name}")


def test_an_unreachable_hub_is_told_with_what_works_instead(tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match="possible: builtin:cloze"):
        read_texts("nowhere")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(CorpusError, match="not in the local cache") as caught:
        read_texts("lambada_openai")
    assert "builtin:cloze" in caught.value.advice
