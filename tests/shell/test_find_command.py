"""`python -m sparsedash find`: what it prints, writes and ends with, and what it says to bad arguments."""

import json

import pytest

from sparsedash.shell.commands import main
from tests.engine.conftest import model_folder, passage_file  # noqa: F401 - fixtures


@pytest.fixture
def arguments(model_folder, passage_file, tmp_path):  # noqa: F811
    return [
        "find",
        *("--model", str(model_folder)),
        *("--calibration", f"file:{passage_file}"),
        *("--calibration-samples", "40"),
        *("--calibration-length", "32"),
        *("--evaluation", f"file:{passage_file}"),
        *("--width-multiple", "32"),
        *("--data-dir", str(tmp_path / "data")),
    ]


def test_what_can_go_is_said_in_a_sentence_and_written_down(arguments, tmp_path, capsys):
    file = tmp_path / "found.json"
    # The random model's losses are small beside a thousand times the perplexity.
    assert main([*arguments, "--within", "1000", "--json", str(file)]) == 0
    document = json.loads(file.read_text())
    found = document["find"]
    assert found["answer_percent"] == 66.7 and found["finished"] is True
    assert found["steps_percent"] == [33.3, 66.7] and found["passages"] == 40
    assert [trial["verdict"] for trial in found["trials"]] == ["within", "within"]
    assert [sparse["sparsity_percent"] for sparse in document["sparse"]] == [33.3, 66.7]
    assert [sparse["verdict"]["verdict"] for sparse in document["sparse"]] == ["within", "within"]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-2:] == [found["sentence"], f"Run {document['key'][:16]}"]
    assert found["sentence"].startswith("66.7 % of the MLP channels can go: word perplexity ")
    assert "Evaluating, trial 2: " in printed.err


def test_where_nothing_is_within_the_exit_code_says_so(arguments, capsys):
    assert main([*arguments, "--passages", "10"]) == 3
    said = capsys.readouterr().out.splitlines()[-2]
    assert said.startswith("Too few to judge: 10 passages cannot show that anything stays within 1.1 ×")


def test_one_passage_is_too_few_to_judge(arguments, tmp_path):
    file = tmp_path / "found.json"
    assert main([*arguments, "--passages", "1", "--json", str(file)]) == 3
    document = json.loads(file.read_text())
    assert document["find"]["answer_percent"] is None
    assert document["find"]["sentence"].startswith("Too few to judge: 1 passage cannot")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--sparsity", "10"], "unrecognized arguments: --sparsity"),
        (["--stop-early"], "unrecognized arguments: --stop-early"),
        (["--method", "best,obs"], "method: 'best,obs' is not possible"),
        (["--method", "wanda-2:4"], "method: '2:4' is not possible"),
        (["--within", "1"], "allowed word perplexity: 1.0 is not possible"),
        (["--within-points", "nan"], "allowed points of accuracy: nan is not possible"),
        (["--json", "/nowhere/at/all.json"], "a file in a folder that exists"),
    ],
)
def test_a_bad_argument_ends_with_one_line_and_exit_code_2(arguments, change, said, capsys):
    try:
        code = main([*arguments, *change])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    complaint = capsys.readouterr().err.strip()
    assert said in complaint and "\n" not in complaint
