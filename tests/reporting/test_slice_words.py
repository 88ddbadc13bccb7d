"""Slices in words, and the file of questions."""

import json

from sparsedash.reporting.slice_words import (
    differing_slices,
    questions_file,
    slice_documents,
    slice_table,
    slices_sentence,
)
from sparsedash.stats.answer_slices import slice_tasks
from sparsedash.stats.task_verdicts import judge_tasks
from tests.stats.test_answer_slices import TOLERANCE, pair

SUBJECTS = [{"subject": "law" if i < 100 else "art"} for i in range(500)]
LOST = pair([i >= 30 for i in range(500)], SUBJECTS)


def test_slices_that_differ_are_named_with_their_change():
    sentence = slices_sentence(slice_tasks([LOST], TOLERANCE))
    assert sentence == (
        "2 of 2 slices differ from the rest of their task: sums, subject: law (−30.0 points, the rest "
        "0.0); sums, subject: art (0.0 points, the rest −30.0)."
    )
    even = pair([i % 10 > 0 for i in range(500)], SUBJECTS)
    assert slices_sentence(slice_tasks([even], TOLERANCE)) == (
        "None of 2 slices is shown to differ from the rest of its task."
    )
    assert slices_sentence([]) == "No slice has enough questions to judge."


def test_the_table_and_the_document_have_every_slice():
    slices = slice_tasks([LOST], TOLERANCE)
    law, art = slice_table(slices).rows
    assert law[:5] == ["subject: law", "sums", "100", "−30.0", "0.0"]
    assert law[6:8] == ["✕ beyond", "−40.3 to −20.0"]
    (document, _) = json.loads(json.dumps(slice_documents(slices)))
    assert (document["slice"], document["differs"], document["rest"]) == (
        "subject: law",
        True,
        0.0,
    )
    assert document["loss"]["value"] == 0.3
    assert art[2] == "400"
    assert slice_table(slices).head[-4:] == [
        "Broke",
        "Fixed",
        "Both right",
        "Both wrong",
    ]
    assert law[-4:] == ["30", "0", "70", "0"]
    assert (document["broke"], document["both_right"], document["both_wrong"]) == (
        30,
        70,
        0,
    )
    even = pair([i % 10 > 0 for i in range(500)], SUBJECTS)
    assert len(differing_slices(slices)) == 2
    assert differing_slices(slice_tasks([even], TOLERANCE)) == []


def test_every_question_is_in_the_file_with_what_became_of_it():
    lines = questions_file(judge_tasks([LOST], TOLERANCE)).decode().splitlines()
    assert len(lines) == 501
    assert (
        lines[0] == '"task","kind","prompt","expected","dense","other","field subject"'
    )
    assert lines[1].startswith('"sums","broke",')
    assert lines[500].endswith('"art"')
