"""Programs that are tried: their limits count from when they begin, and their output is the problem
alone.
"""

from pathlib import Path

import pytest

from sparsedash.storage.trials import trial_problem


def problem_of(what):
    return trial_problem(
        "tests.storage.trial_program",
        what,
        seconds=1,
        too_much="takes too much",
    )


def test_what_a_library_prints_is_no_part_of_the_problem():
    assert problem_of("noisy") == "is not good"


@pytest.mark.parametrize("what", ["large", "endless"])
def test_a_program_that_takes_more_than_its_limits_ends(what):
    assert problem_of(what) == "takes too much"


def test_a_file_longer_than_the_limit_of_memory_is_not_written():
    assert "File too large" in problem_of("long")


def test_temporary_files_that_a_program_leaves_are_deleted():
    folder = Path(problem_of("leaves"))
    assert folder.is_absolute() and not folder.exists()
