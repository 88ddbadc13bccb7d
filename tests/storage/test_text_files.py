"""Text files: references, odd and huge files, uploads: their names, what is refused, and that
nothing of it stays.
"""

import os
import re
import tomllib
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.storage import text_files
from sparsedash.storage.text_files import (
    MAX_BYTES,
    MAX_MEGABYTES,
    MAX_TEXT_BYTES,
    Uploads,
    file_of,
    named_text_count,
    names_file,
    split_passage,
    text_slice,
    texts_of,
    texts_read,
)
from tests.factories import PRUNED, RECORD

LINE = b'{"text": "the lamp went home"}\n'


@pytest.fixture
def kept(tmp_path):
    return Uploads(tmp_path)


def files_in(folder):
    """All but the lock, which stays."""
    names = (
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )
    return sorted(name for name in names if name != "quotas.lock")


def parquet_bytes(values, name="text"):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({name: values}), sink)
    return sink.getvalue().to_pybytes()


def unpacking_to(n_bytes):
    """A file that says in its footer that it unpacks to 8 bytes."""
    sink = pyarrow.BufferOutputStream()
    plain = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    table = pyarrow.table({"text": ["abc def " * (n_bytes // 8)]})
    pyarrow.parquet.write_table(table, sink, **plain)
    data = sink.getvalue().to_pybytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    metadata = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)).metadata
    # As a zigzag varint, and its replacement as 8 in as many bytes.
    number = 2 * metadata.row_group(0).column(0).total_uncompressed_size
    varint = b""
    while number > 0x7F:
        varint += bytes([number & 0x7F | 0x80])
        number >>= 7
    varint += bytes([number])
    eight = bytes([0x90, *[0x80] * (len(varint) - 2), 0])
    return data[:footer] + data[footer:].replace(varint, eight)


def test_what_unpacks_to_more_than_it_says_is_refused_by_a_process_of_its_own(
    kept, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        text_files, "count_texts", lambda texts: pytest.fail("it was unpacked here")
    )
    content = unpacking_to(MAX_TEXT_BYTES + 10**6)
    assert len(content) < 100_000
    with pytest.raises(
        CorpusError, match=r"packed\.parquet holds more than 200 MB of text"
    ):
        kept.keep("packed.parquet", content)
    assert files_in(tmp_path) == []


def test_a_parquet_file_is_unpacked_by_a_process_of_its_own_alone(
    kept, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        text_files, "texts_of", lambda path: pytest.fail("it was unpacked here")
    )
    content = parquet_bytes(
        [
            "the lamp and the boat",
            "ein Haus, groß wie ein Baum",
            "one",
            "",
            "x" * 100_000,
        ]
    )
    reference = kept.keep("mine.parquet", content)
    assert kept.keep("mine.parquet", content) == reference, "it is there already"
    count = named_text_count(reference, tmp_path)
    assert (count.n_texts, count.n_characters, count.n_passages) == (4, 100_051, 2)
    assert (count.gaps[0], count.no_gap) == ("boat", "one")
    assert named_text_count(f"{reference}[1:2]", tmp_path).gaps == ("Baum",)


def test_why_a_parquet_file_cannot_be_read_is_asked_once(tmp_path, monkeypatch):
    file = tmp_path / "odd.parquet"
    file.write_bytes(parquet_bytes(["a b", None]))
    for _ in range(2):
        with pytest.raises(
            CorpusError,
            match=r"The column text of odd\.parquet holds values that are not text",
        ):
            named_text_count(f"file:{file}", tmp_path)
        monkeypatch.setattr(
            text_files, "trial_problem", lambda *_, **__: pytest.fail("asked again")
        )


def test_an_upload_lies_under_its_contents_hash_and_is_named_by_both_and_the_same_again_is_the_same(
    kept, tmp_path
):
    reference = kept.keep("passages.jsonl", LINE)
    assert re.fullmatch(r"upload:passages\.jsonl@[0-9a-f]{32}", reference)
    path = file_of(reference, tmp_path)
    assert path.read_bytes() == LINE
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    os.utime(path, (100, 100))
    assert kept.keep("passages.jsonl", LINE) == reference
    assert path.stat().st_mtime == 100
    assert files_in(tmp_path) == [f"uploads/{path.parent.name}/passages.jsonl"]
    # One content as running text and as lines of JSON are two text sets.
    text = kept.keep("passages.txt", LINE)
    os.utime(file_of(text, tmp_path), (200, 200))
    (tmp_path / "uploads" / "abc").mkdir()
    (tmp_path / "uploads" / "abc" / "planted.txt").write_text("not ours")
    assert list(kept.kept().items()) == [(text, len(LINE)), (reference, len(LINE))], (
        "the newest first, nothing else"
    )


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("../../../etc/cron.d/evil.txt", "evil.txt"),
        ("..\\..\\windows\\evil.TXT", "evil.txt"),
        ("<img src=x onerror=alert(1)>.jsonl", "img-src-x-onerror-alert-1.jsonl"),
        ("a\x00b\nc.jsonl", "a-b-c.jsonl"),
        (".jsonl", "text.jsonl"),
        ("straße_übung.txt", "straße_übung.txt"),
        ("x" * 5000 + ".txt", "x" * 60 + ".txt"),
    ],
)
def test_a_hostile_name_becomes_a_harmless_one_inside_the_folder(
    kept, tmp_path, name, called
):
    reference = kept.keep(name, LINE)
    path = file_of(reference, tmp_path)
    assert path.name == called
    assert path.parent.parent == tmp_path / "uploads"
    assert list(kept.kept()) == [reference]


@pytest.mark.parametrize(
    "reference",
    [
        "upload:../../etc/passwd.txt@" + "0" * 32,
        "upload:a.txt@../../../../etc",
        "upload:a.py@" + "0" * 32,
        "lambada",
    ],
)
def test_no_reference_leads_out_of_the_folder_of_uploads(tmp_path, reference):
    assert file_of(reference, tmp_path) is None


def test_a_damaged_upload_is_whole_once_it_is_uploaded_again(kept, tmp_path):
    path = file_of(kept.keep("passages.jsonl", LINE), tmp_path)
    path.write_bytes(LINE[:-1] + b"?")
    kept.keep("passages.jsonl", LINE)
    assert path.read_bytes() == LINE


def test_a_slice_belongs_to_the_reference_and_not_to_the_name(tmp_path):
    whole = "upload:a.txt@" + "0" * 32
    assert file_of(f"{whole}[3:5]", tmp_path) == file_of(whole, tmp_path)
    assert text_slice(f"{whole}[3:5]") == slice(3, 5)
    assert text_slice("file:/x/a.jsonl[:4]") == slice(None, 4)
    assert list(islice("abc", text_slice(f"file:a.txt[1:{'9' * 30}]").stop)) == list(
        "abc"
    )
    assert text_slice(whole) == slice(None)
    assert file_of("file:/x[1]/a[2:].jsonl[4:]", tmp_path) == Path("/x[1]/a[2:].jsonl")
    assert names_file(whole) and names_file("file:a") and not names_file("lambada")


BAD = {
    "not-json.jsonl": (b"not json\n", "Line 1 of not-json.jsonl is not a JSON object"),
    "no-text.jsonl": (LINE + b'{"txt": 1}\n', "Line 2 of no-text.jsonl"),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "Line 1 of deep.jsonl"),
    "half.jsonl": (b'{"text": "\\ud83d"}\n', "Line 1 of half.jsonl"),
    "empty.jsonl": (b"", "empty.jsonl holds no text"),
    "latin.txt": ("fünf".encode("latin-1"), "latin.txt is not text in UTF-8"),
    "no.parquet": (b"PAR1 no", "no.parquet could not be read"),
    "other.parquet": (parquet_bytes(["a"], "words"), "other.parquet could not be read"),
    "pickle.pkl": (b"\x80\x04.", "pickle.pkl cannot be read as text"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_refused_by_its_own_name_and_leaves_nothing(
    kept, tmp_path, name
):
    content, reason = BAD[name]
    with pytest.raises(CorpusError, match=re.escape(reason)) as refused:
        kept.keep(name, content)
    assert str(tmp_path) not in str(refused.value)
    assert files_in(tmp_path) == []


def test_what_is_too_large_or_unpacks_to_too_much_is_refused(
    kept, tmp_path, monkeypatch
):
    with pytest.raises(CorpusError, match=f"larger than {MAX_MEGABYTES} MB"):
        kept.keep("large.txt", bytes(MAX_BYTES + 1))
    monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 100_000)
    for name in ("long.jsonl", "long.txt"):
        with pytest.raises(CorpusError, match="holds more than"):
            kept.keep(name, b'{"text": "' + b"a" * 200_000 + b'"}')
    assert files_in(tmp_path) == []


def test_a_parquet_file_of_too_much_text_is_read_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 100_000)
    file = tmp_path / "packed.parquet"
    # One value of a dictionary in many rows, and many different ones.
    for packed in (
        parquet_bytes(["lamp " * 1000] * 1000),
        parquet_bytes([f"{i}" + " " * 30_000 for i in range(9)]),
    ):
        file.write_bytes(packed)
        with pytest.raises(CorpusError, match=r"packed\.parquet holds more than"):
            list(texts_of(file))


def test_what_would_not_fit_beside_the_others_is_refused_with_the_room_there_is(
    kept, tmp_path, monkeypatch
):
    monkeypatch.setattr(text_files, "MAX_TOTAL_BYTES", 1_000_000)
    first = kept.keep("first.txt", b"word " * 150_000)
    with pytest.raises(CorpusError) as refused:
        kept.keep("second.txt", b"text " * 60_000)
    assert (
        refused.value.message
        == "second.txt has 0.3 MB; uploads have room for 0.2 MB more."
    )
    assert len(files_in(tmp_path)) == 1
    assert kept.keep("first.txt", b"word " * 150_000) == first, "it is there already"
    kept.drop(first, in_use=())
    second = kept.keep("second.txt", b"text " * 60_000)
    assert list(kept.kept()) == [second]


def test_an_upload_is_deleted_unless_a_job_reads_it_and_the_same_content_of_another_name_is_not(
    kept, tmp_path
):
    lines = kept.keep("mine.jsonl", LINE)
    text = kept.keep("mine.txt", LINE)
    for read in (lines, f"{lines}[3:5]", f"file:{file_of(lines, tmp_path)}"):
        with pytest.raises(
            CorpusError, match=r"mine\.jsonl is read by a job that waits or runs"
        ):
            kept.drop(lines, in_use=("self", read))
    kept.drop(lines, in_use=(text, "lambada", "self"))
    assert list(kept.kept()) == [text]
    kept.drop(lines, in_use=())
    kept.drop(text, in_use=())
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize("reference", ["file:{}/a.txt", "upload:../a.txt@" + "0" * 32])
def test_nothing_but_an_upload_can_be_deleted(kept, tmp_path, reference):
    (tmp_path / "a.txt").write_text("not ours")
    with pytest.raises(CorpusError, match="There is no upload"):
        kept.drop(reference.format(tmp_path), in_use=())
    assert files_in(tmp_path) == ["a.txt"]


def test_a_run_reads_its_two_texts_and_a_prompt_those_its_models_were_calibrated_on():
    settings = RunSettings(
        calibration=CalibrationSettings(corpus="c4"),
        evaluation=EvaluationSettings(corpus="lambada"),
    )
    assert texts_read(asdict(settings), {}.get) == {"c4", "lambada"}
    records = {"dense": replace(RECORD, pruned=None), "sparse": RECORD}
    prompt = ContinuationSettings(
        left="dense",
        right="dense",
        prompt="Once",
        others=("sparse",),
    )
    assert texts_read(asdict(prompt), records.get) == {PRUNED.calibration.corpus}
    assert texts_read(asdict(prompt), {}.get) == set()


def test_the_server_takes_no_more_than_is_kept():
    config = Path(__file__).parents[2] / ".streamlit" / "config.toml"
    assert tomllib.loads(config.read_text())["server"]["maxUploadSize"] == MAX_MEGABYTES


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system_and_a_byte_order_mark_belongs_to_no_text(
    tmp_path, ends
):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"one{ends}more{ends}{ends}two".encode())
    assert list(texts_of(path)) == ["one\nmore", "two"]
    path = path.with_suffix(".jsonl")
    path.write_text('{"text": "one"}\nno JSON')
    assert next(texts_of(path)) == "one", "lazily"


@pytest.mark.parametrize(
    "end", ["", "\n", "\r\n", " \t\n", ".", "?!\n", " ...", '."', ".) "]
)
def test_a_passage_s_last_word_ends_before_white_space_and_full_stop_do(end):
    assert split_passage(f"Once upon a door{end}") == ("Once upon a", " door")


@pytest.mark.parametrize("word", ["dog's", "goin'", "(door)", "3.5"])
def test_marks_without_a_full_stop_belong_to_the_last_word(word):
    assert split_passage(f"Once upon a {word}") == ("Once upon a", f" {word}")
