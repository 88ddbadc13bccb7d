"""Files that Inspect, promptfoo and OpenCompass themselves wrote (`files/make*.py`), and plain tables, as question
sets; and that no damaged file loses or doubles a question in silence.
"""

import json
import random
import re
import shutil
import zipfile
from collections import Counter
from itertools import chain
from operator import attrgetter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from sparsedash.schema.errors import CorpusError
from sparsedash.stats.task_pairs import pair_tasks
from sparsedash.storage.answers import answer_files
from sparsedash.storage.answers.answer_files import read_answers, read_models
from tests.question_sets import WRITTEN, samples
from tests.storage.answers.test_harness_and_lighteval import detail, details

FILES = Path(__file__).parent / "files"
MUTATIONS = 200
FROM_BYTES = 3
"""Every third mutation is of bytes, where a file is text."""


def logs(folder, task):
    (log,) = (FILES / "inspect" / folder).glob(f"*_{task}_*")
    return log


def test_logs_of_inspect_are_read_zipped_or_not():
    sums, colours = read_answers(FILES / "inspect" / "dense")
    assert (sums.model, sums.task, sums.version) == ("mockllm/model", "sums", "2")
    assert (sums.measure, sums.kind, len(sums.questions)) == ("match", "generation", 40)
    assert sum(question.right for question in sums.questions) == 38
    question = sums.questions[3]
    assert (question.context, question.target, question.answer) == (
        "What is 3 + 4?",
        "7",
        "7",
    )
    assert question.fields == {"size": "small"}
    assert (colours.measure, len(colours.questions)) == ("choice", 10)
    assert "B) green" in colours.questions[0].context
    (pair, _), notes = pair_tasks(
        [sums, colours], read_answers(FILES / "inspect" / "small")
    )
    assert len(pair.questions) == 40
    assert notes == []


def altered_log(folder, change):
    """The JSON log with another list of samples, and what else `change` does to it."""
    log = json.loads(logs("dense", "colours").read_text())
    change(log)
    file = folder / "log.json"
    file.write_text(json.dumps(log))
    return file


def test_errors_later_epochs_and_what_was_not_reached_are_counted(tmp_path):
    def change(log):
        one, two, three = log["samples"][:3]
        again = json.loads(json.dumps(one)) | {"epoch": 2}
        log["samples"] = [
            one,
            again,
            two | {"scores": None, "error": {"message": "out of memory"}},
            three | {"scores": {}},
        ]
        log["status"] = "error"

    (answers,) = read_answers(altered_log(tmp_path, change))
    assert len(answers.questions) == 1
    assert answers.omitted == {
        "of later epochs": 1,
        "with an error": 1,
        "without a score": 1,
        "not reached, since the run ended early": 7,
    }
    (whole,) = read_answers(logs("dense", "colours"))
    _, notes = pair_tasks([whole], [answers])
    assert notes[0] == "Questions of colours left out: 9, answered by one model only."
    assert notes[1] == (
        "Questions of colours left out: 1 of the other model, of later epochs."
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("P", "no measure by which every answer is right or wrong"),
        (0.5, "no measure by which every answer is right or wrong"),
        (float("nan"), "no measure by which every answer is right or wrong"),
    ],
)
def test_partial_scores_are_refused(value, reason, tmp_path):
    def change(log):
        log["samples"][4]["scores"]["choice"]["value"] = value

    with pytest.raises(CorpusError, match=reason):
        read_answers(altered_log(tmp_path, change))


def test_of_two_logs_of_a_task_the_newer_counts_and_the_older_is_counted(tmp_path):
    for folder in ("dense", "small"):
        shutil.copy(logs(folder, "sums"), tmp_path)
    (answers,) = read_answers(tmp_path)
    assert sum(question.right for question in answers.questions) == 33
    assert answers.omitted == {"in older logs of the task": 40}


def test_a_damaged_zip_is_refused(tmp_path):
    content = bytearray(logs("dense", "sums").read_bytes())
    content[len(content) // 2] ^= 0xFF
    file = tmp_path / "log.eval"
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=r"Sample \d+ of log.eval is no answer"):
        read_answers(file)
    file.write_bytes(content[:1000])
    with pytest.raises(CorpusError, match=r"log.eval could not be read"):
        read_answers(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("samples/1.json", "{}")
    with pytest.raises(CorpusError, match="no header"):
        read_answers(file)


def test_results_of_promptfoo_are_read_and_their_errors_counted(tmp_path):
    (answers,) = read_answers(FILES / "promptfoo" / "small.json")
    assert (answers.model, answers.task, answers.measure) == ("echo", "sums", "success")
    assert sum(question.right for question in answers.questions) == 33
    question = answers.questions[3]
    assert (question.context, question.target, question.text) == (
        "What is 3 + 4?",
        "7",
        "none",
    )
    assert question.fields["size"] == "small"
    document = json.loads((FILES / "promptfoo" / "small.json").read_text())
    document["results"]["results"][5]["failureReason"] = 2
    file = tmp_path / "small.json"
    file.write_text(json.dumps(document))
    (answers,) = read_answers(file)
    assert answers.omitted == {"with an error": 1}
    assert len(answers.questions) == 39


def test_several_providers_of_one_file_are_several_models(tmp_path):
    document = json.loads((FILES / "promptfoo" / "small.json").read_text())
    results = document["results"]["results"]
    second = [
        result | {"provider": {"id": "echo", "label": "second"}} for result in results
    ]
    document["results"]["results"] = results + second
    file = tmp_path / "both.json"
    file.write_text(json.dumps(document))
    assert list(read_models(file)) == ["echo", "second"]
    with pytest.raises(CorpusError, match="several models: echo, second"):
        read_answers(file)


@pytest.mark.parametrize("task", ["sums", "sums_detailed"])
def test_results_of_opencompass_are_read_with_details_and_without(task):
    file = FILES / "opencompass" / "small" / f"{task}.json"
    (answers,) = read_answers(file)
    assert (answers.model, answers.measure, len(answers.questions)) == (
        "small",
        "accuracy",
        40,
    )
    assert sum(question.right for question in answers.questions) == 33
    question = answers.questions[3]
    assert (question.context, question.target, question.text) == (
        "What is 3 + 4?",
        "7",
        "none",
    )
    (pair,), notes = pair_tasks(
        read_answers(FILES / "opencompass" / "dense" / file.name), [answers]
    )
    assert len(pair.questions) == 40
    assert notes == []


def test_a_folder_of_opencompass_holds_a_task_a_file():
    first, second = read_answers(FILES / "opencompass" / "dense")
    assert (first.task, second.task) == ("sums", "sums_detailed")
    with pytest.raises(CorpusError, match="several models: dense, small"):
        read_answers(FILES / "opencompass")


def altered_compass(folder, task, change):
    document = json.loads(
        (FILES / "opencompass" / "small" / f"{task}.json").read_text()
    )
    change(document)
    return written(folder / f"{task}.json", document)


def test_answers_of_opencompass_that_are_not_said_to_be_right_are_refused(tmp_path):
    def restate(document):
        document["accuracy"] = 85.0

    with pytest.raises(CorpusError, match=r"82.50 % are equal .* its accuracy is 85.0"):
        read_answers(altered_compass(tmp_path, "sums", restate))

    def forget(document):
        del document["details"][5]["is_correct"]

    with pytest.raises(CorpusError, match="of 1 of 40 answers"):
        read_answers(altered_compass(tmp_path, "sums_detailed", forget))


def test_later_runs_of_opencompass_are_counted(tmp_path):
    def repeat(document):
        for answer in document["details"]:
            for name, value in answer.items():
                if isinstance(value, list):
                    answer[name] = value * 3

    (answers,) = read_answers(altered_compass(tmp_path, "sums_detailed", repeat))
    assert len(answers.questions) == 40
    assert answers.omitted == {"of later runs": 80}


TABLE = [
    {
        "id": f"q{i}",
        "correct": i % 9 != 0,
        "question": f"Sum {i}?",
        "topic": "ab"[i % 2],
    }
    for i in range(40)
]


def table(file, rows=TABLE):
    if file.suffix == ".csv":
        lines = [",".join(rows[0])]
        for row in rows:
            lines.append(",".join(map(str, row.values())))
    else:
        lines = map(json.dumps, rows)
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_plain_tables_are_read_by_the_names_of_their_columns(suffix, tmp_path):
    (answers,) = read_answers(table(tmp_path / f"mine{suffix}"))
    assert (answers.model, answers.task, answers.measure) == (
        "mine",
        "questions",
        "right",
    )
    assert [question.right for question in answers.questions[:3]] == [False, True, True]
    assert answers.questions[1].context == "Sum 1?"
    assert answers.questions[1].fields == {"topic": "b"}
    changed = [*TABLE[:2], TABLE[2] | {"correct": ""}, *TABLE[3:]]
    (fewer,) = read_answers(table(tmp_path / f"fewer{suffix}", changed))
    assert fewer.omitted == {"neither right nor wrong": 1}
    by_topic = read_answers(
        table(tmp_path / f"mine{suffix}"), {"task": "topic", "right": "correct"}
    )
    assert [answers.task for answers in by_topic] == ["a", "b"]


def test_a_question_without_a_prompt_is_named_by_its_id(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("id,correct,topic\nq7,1,sums")
    (answers,) = read_answers(file)
    assert answers.questions[0].fields == {"id": "q7", "topic": "sums"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "id,correct\n1,1\n2,maybe",
            "Row 2 of t.csv .* 'maybe' is neither right nor wrong",
        ),
        ("id,correct\n1,1\n2", "Row 2 of t.csv .* it has 1 cells, and the header 2"),
        ("id,id,correct\n1,1,1", "two columns have the same name"),
        ("id,answer\n1,1", "no column for right"),
        ("answer,correct\n1,1", "no column for id or prompt"),
        ("id,correct\n,1", "neither id nor prompt"),
        ('id,correct\n"1,1', "Row 1 of t.csv .* unexpected end of data"),
        ("id,correct", "holds no answers"),
        ("", "holds no answers"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_by_its_row(text, reason, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(CorpusError, match=reason):
        read_answers(file)


def test_tables_beside_logs_are_of_other_things_and_other_files_are_refused(tmp_path):
    shutil.copy(logs("dense", "sums"), tmp_path)
    table(tmp_path / "notes.csv")
    (answers,) = read_answers(tmp_path)
    assert answers.task == "sums"
    with pytest.raises(CorpusError, match="was written by Inspect"):
        read_answers(tmp_path, {"id": "nr"})
    (tmp_path / "results.txt").write_text("1")
    with pytest.raises(CorpusError, match="no files of answers") as refused:
        read_answers(tmp_path / "results.txt")
    assert "promptfoo" in refused.value.advice


def harness(folder, rows=None):
    lines = [
        json.dumps(
            WRITTEN
            | {
                "doc_id": i,
                "doc_hash": f"{i}",
                "prompt_hash": f"p{i}",
                "exact_match": 1.0,
            }
        )
        for i in range(40)
    ]
    return samples(
        folder, *(lines if rows is None else map(json.dumps, rows)), task="sums"
    )


def lighteval(folder, rows=None):
    if rows is None:
        rows = []
        for i in range(40):
            row = json.loads(json.dumps(detail(logprobs=[-3.0, -2.0], text=[])))
            row["doc"]["query"] = f"What is {i}?"
            rows.append(row)
    details(folder, *rows)
    return next(folder.glob("*.parquet"))


def inspect_log(folder, rows=None):
    log = json.loads(logs("dense", "colours").read_text())
    for sample in log["samples"]:
        del sample["events"]
    log["samples"] = log["samples"] if rows is None else rows
    return written(folder / "log.json", log)


def inspect_zip(folder, rows=None):
    """A log as `.eval`; packed by deflation, as Inspect did before Zstandard."""
    log = json.loads(inspect_log(folder).read_text())
    file = folder / "log.eval"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, sample in enumerate(log.pop("samples") if rows is None else rows):
            archive.writestr(f"samples/{i}.json", json.dumps(sample))
        archive.writestr("header.json", json.dumps(log))
    return file


def promptfoo(folder, rows=None):
    document = json.loads((FILES / "promptfoo" / "dense.json").read_text())
    if rows is not None:
        document["results"]["results"] = rows
    return written(folder / "results.json", document)


def opencompass(folder, rows=None):
    document = json.loads(
        (FILES / "opencompass" / "dense" / "sums_detailed.json").read_text()
    )
    if rows is not None:
        document["details"] = rows
    return written(folder / "sums.json", document)


def opencompass_plain(folder, rows=None):
    """Without details of the evaluator: answers by their place."""
    document = json.loads((FILES / "opencompass" / "dense" / "sums.json").read_text())
    if rows is not None:
        by_place = {f"{place}": row for place, row in enumerate(rows)}
        document["details"] = {"type": "GEN"} | by_place
    return written(folder / "sums.json", document)


def written(file, document):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def csv_table(folder, rows=None):
    folder.mkdir(parents=True, exist_ok=True)
    return table(folder / "t.csv", TABLE if rows is None else rows)


def jsonl_table(folder, rows=None):
    folder.mkdir(parents=True, exist_ok=True)
    return table(folder / "t.jsonl", TABLE if rows is None else rows)


def rows_of(file):
    """The entries of a file that hold one answer each."""
    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pylist()
    if file.suffix == ".csv":
        return [dict(row) for row in TABLE]
    if file.suffix == ".eval":
        return json.loads(file.with_name("log.json").read_text())["samples"]
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines() if line]
    document = json.loads(file.read_text())
    if "details" in document:
        details = document["details"]
        return details if isinstance(details, list) else list(details.values())[1:]
    return (
        document["samples"] if "samples" in document else document["results"]["results"]
    )


def mutate_rows(rows, chance):
    """One change: a row or a value lost, doubled, moved or of another type."""
    rows = json.loads(json.dumps(rows))
    i = chance.randrange(len(rows))
    k = chance.randrange(len(rows))
    kind = chance.randrange(6)
    if kind == 0:
        del rows[i]
    elif kind == 1:
        rows.insert(k, rows[i])
    elif kind == 2:
        rows[i] = rows[k]
    else:
        holder = rows[i]
        source = rows[k]
        name = chance.choice(list(holder))
        while isinstance(holder[name], dict) and holder[name] and chance.random() < 0.7:
            holder = holder[name]
            source = source.get(name) or {}
            name = chance.choice(list(holder))
        odd = [
            None,
            "",
            7,
            -1.5,
            True,
            [],
            {},
            "x" * 300,
            float("nan"),
            "\u2028",
            10**30,
        ]
        if kind == 3:
            del holder[name]
        elif kind == 4:
            holder[name] = source.get(name)
        else:
            holder[name] = chance.choice(odd)
    return rows


def mutate_bytes(content, chance):
    """One change: bytes flipped, lost, doubled or cut off."""
    i = chance.randrange(len(content))
    k = min(len(content), i + chance.choice((1, 1, 3, 40, 400)))
    match chance.randrange(4):
        case 0:
            return (
                content[:i]
                + bytes(chance.randrange(256) for _ in range(k - i))
                + content[k:]
            )
        case 1:
            return content[:i] + content[k:]
        case 2:
            return content[:k] + content[i:]
        case _:
            return content[:i]


@pytest.mark.parametrize(
    "write",
    [
        *(harness, lighteval, inspect_log, inspect_zip, promptfoo),
        *(opencompass, opencompass_plain, csv_table, jsonl_table),
    ],
    ids=lambda write: write.__name__,
)
def test_no_mutated_file_loses_or_doubles_a_question_in_silence(write, tmp_path):
    chance = random.Random(2026)
    original = write(tmp_path / "dense")
    dense = read_answers(original)
    rows = rows_of(original)
    content = original.read_bytes()
    refused = 0
    judged = 0
    for number in range(MUTATIONS):
        folder = tmp_path / f"{number}"
        n_rows = None
        try:
            if number % FROM_BYTES == 0:
                folder.mkdir()
                file = folder / original.name
                file.write_bytes(mutate_bytes(content, chance))
            else:
                changed = mutate_rows(rows, chance)
                n_rows = len(changed)
                file = write(folder, changed)
        except (pyarrow.ArrowException, TypeError, OverflowError):
            # What the format cannot hold.
            continue
        try:
            sparse = read_answers(file)
            pairs, notes = pair_tasks(dense, sparse)
        except CorpusError:
            refused += 1
            continue
        judged += 1
        require_all_counted(dense, sparse, pairs, notes)
        if n_rows is not None:
            assert len(list(questions_of(sparse))) + n_omitted(sparse) == n_rows
    assert refused > 20
    assert judged > 20


def questions_of(sets):
    return chain.from_iterable(answers.questions for answers in sets)


def n_omitted(sets):
    return sum(chain.from_iterable(answers.omitted.values() for answers in sets))


def require_all_counted(dense, sparse, pairs, notes):
    counts = Counter()
    for note in notes:
        count, about = re.search(r"left out: ([\d,]+)(.*)", note).groups()
        kind = (
            "repeats"
            if "repeats" in about
            else "alone"
            if "one model" in about
            else "omitted"
        )
        counts[kind] += int(count.replace(",", ""))
    paired = []
    for pair in pairs:
        paired += [one.doc_hash for one, _ in pair.questions]
    assert len(set(paired)) == len(paired)
    of_dense = set(map(attrgetter("doc_hash"), questions_of(dense)))
    others = list(map(attrgetter("doc_hash"), questions_of(sparse)))
    assert counts["alone"] >= len(of_dense) - len(paired)
    assert counts["repeats"] >= len(others) - len(set(others))
    assert counts["omitted"] == n_omitted(sparse)


def test_a_zip_that_holds_too_much_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("a.jsonl", "b.jsonl"):
            packed.writestr(name, "0" * 1_000)
    monkeypatch.setattr(answer_files, "MAX_BYTES", 1_500)
    with pytest.raises(CorpusError, match=r"bomb\.zip holds more than"):
        answer_files.unpack_answers(archive, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
