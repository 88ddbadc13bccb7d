"""The commands of the shell on a tiny model; what they compute is reused by the tests of one
module.
"""

import pytest

from sparsedash.shell.commands import main
from tests.engine.conftest import model_folder, passage_file, tokenizers_are_tried_once  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("shell") / "data")


@pytest.fixture
def flags(model_folder, passage_file, data_folder, monkeypatch):  # noqa: F811
    """The flags of a run of the tiny model on twelve passages."""
    # A command says so by a variable, before transformers is imported; these tests have imported
    # it.
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)
    return [
        *("--model", str(model_folder)),
        *("--calibration", f"file:{passage_file}"),
        *("--calibration-samples", "40"),
        *("--calibration-length", "32"),
        *("--evaluation", f"file:{passage_file}"),
        *("--passages", "12"),
        *("--method", "least-squares"),
        *("--sparsity", "50"),
        *("--width-multiple", "4"),
        *("--data-dir", data_folder),
    ]


@pytest.fixture
def refusal(capsys):
    """Runs a command that is refused; returns its one line of error."""

    def refused(*arguments, code=2):
        try:
            ended = main(list(arguments))
        except SystemExit as stopped:
            ended = stopped.code
        (line,) = capsys.readouterr().err.splitlines()
        assert ended == code
        assert line.startswith("sparsedash") and len(line) < 2000
        return line

    return refused
