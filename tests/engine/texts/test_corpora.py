"""Text references: what is read from where, and what is said when it cannot be."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA
from sparsedash.engine.texts.corpora import BUILTIN, CORPORA, read_texts, story_openings
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_CLOZE_402, BUILTIN_TEXT
from sparsedash.storage.text_files import Uploads

FIRST_PASSAGES = "sha256:1feb799f53783ced0feb97519a67952d9cd147f95da02e31ef82f6500aabb067"


def test_every_corpus_of_the_catalog_can_be_read_by_name():
    offered = {choice.name for choice in (*EVALUATION_CORPORA, *CALIBRATION_CORPORA)}
    assert offered == {*CORPORA, *BUILTIN, "self"}


def test_the_built_in_passages_are_at_least_120_and_end_on_a_word():
    texts = read_texts(BUILTIN_CLOZE).texts
    assert len(texts) >= 120
    assert len(set(texts)) == len(texts)
    assert all(text.split(" ")[-1].isalpha() for text in texts)


def test_the_first_132_passages_are_those_that_results_were_published_on():
    first = read_texts(BUILTIN_CLOZE)
    assert first.identity == FIRST_PASSAGES
    assert read_texts(BUILTIN_CLOZE_402).texts[:132] == first.texts


def test_all_402_passages_are_different_and_end_on_a_word():
    texts = read_texts(BUILTIN_CLOZE_402).texts
    assert len(texts) == len(set(texts)) == 402
    assert all(text.split(" ")[-1].isalpha() for text in texts)
    assert all(45 <= len(text.split()) <= 300 for text in texts)


def test_half_of_the_passages_at_least_speak_and_some_do_not():
    texts = read_texts(BUILTIN_CLOZE_402).texts[132:]
    assert 0.5 < sum('"' in text for text in texts) / len(texts) < 0.95


def test_no_two_passages_share_a_run_of_eight_words():
    seen: dict[tuple[str, ...], int] = {}
    for number, text in enumerate(read_texts(BUILTIN_CLOZE_402).texts):
        words = text.lower().split()
        for run in zip(*(words[i:] for i in range(8)), strict=False):
            assert seen.setdefault(run, number) == number, run


def test_the_text_by_the_built_in_model_goes_on_from_the_openings():
    texts = read_texts(BUILTIN_TEXT).texts
    assert len(texts) == len(set(texts)) == 64
    assert all(text.startswith(story_openings()) for text in texts)


def test_openings_are_short_and_many():
    assert len(story_openings()) >= 64
    assert all(3 <= len(opening.split()) <= 25 for opening in story_openings())


def test_json_lines_text_and_parquet_give_their_texts(tmp_path):
    texts = ["one two three", "fünf — sechs \u2028 sieben"]
    jsonl, parquet, txt = (tmp_path / f"x.{kind}" for kind in ("jsonl", "parquet", "txt"))
    jsonl.write_text("\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts) + "\n\n", "utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), parquet)
    txt.write_text("\n\n".join(texts), "utf-8")
    assert read_texts(f"file:{jsonl}").texts == tuple(texts)
    assert read_texts(f"file:{parquet}").texts == tuple(texts)
    assert read_texts(f"file:{txt}").texts == tuple(texts)
    assert read_texts(f"file:{txt}").running


def test_a_slice_takes_some_of_the_texts(passage_file):
    whole = read_texts(f"file:{passage_file}").texts
    assert read_texts(f"file:{passage_file}[30:]").texts == whole[30:]
    assert read_texts(f"file:{passage_file}[:4]").texts == whole[:4]
    assert read_texts(f"file:{passage_file}[3:5]").texts == whole[3:5]


def test_an_upload_is_read_from_the_data_folder_it_lies_in(tmp_path):
    content = "".join(json.dumps({"text": text}) + "\n" for text in ("one", "two", "three"))
    reference = Uploads(tmp_path).keep("mine.jsonl", content.encode())
    assert read_texts(reference, tmp_path).texts == ("one", "two", "three")
    assert read_texts(f"{reference}[1:]", tmp_path).texts == ("two", "three")
    with pytest.raises(CorpusError, match="There is no file"):
        read_texts(reference, tmp_path / "another")
    with pytest.raises(CorpusError, match=r"There is no file upload:\.\./a\.txt@0"):
        read_texts("upload:../a.txt@0", tmp_path)


def test_the_identity_changes_with_any_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one two\n\nthree", "utf-8")
    first = read_texts(f"file:{file}").identity
    file.write_text("one two\n\nthree!", "utf-8")
    assert read_texts(f"file:{file}").identity != first


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bad.jsonl", b'{"text": "fine"}\n{"txt": 1}\n', "Line 2 of bad.jsonl"),
        ("bad.jsonl", b"not json\n", "Line 1 of bad.jsonl"),
        ("bad.jsonl", b'{"text": 5}\n', "Line 1 of bad.jsonl"),
        ("bad.txt", b"\xff\xfe\x00", "bad.txt is not text in UTF-8"),
        ("empty.jsonl", b"\n\n", "holds no text"),
        ("bad.parquet", b"PAR1 no", "bad.parquet could not be read"),
        ("bad.csv", b"text\nfine\n", "possible: .jsonl, .txt, .parquet"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=said):
        read_texts(f"file:{tmp_path / name}")


def test_a_missing_file_and_an_unknown_name_are_told(tmp_path):
    with pytest.raises(CorpusError, match="There is no file"):
        read_texts(f"file:{tmp_path}/nowhere.jsonl")
    with pytest.raises(CorpusError, match="possible: builtin:cloze"):
        read_texts("nowhere")


def test_an_unreachable_hub_is_told_with_what_works_instead(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(CorpusError, match="not in the local cache") as caught:
        read_texts("lambada_openai")
    assert "builtin:cloze" in caught.value.advice
