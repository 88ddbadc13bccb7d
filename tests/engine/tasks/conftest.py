"""Tasks of a user are prepared here alone, without their trial in a process of its own, which takes
seconds.
"""

import pytest

from sparsedash.engine.tasks import harness
from tests.engine.conftest import passages
from tests.engine.tasks.task_folder import write_task


@pytest.fixture
def fresh_process():
    """For tests of the process in which a user's files are tried."""


@pytest.fixture(autouse=True)
def trials(request, monkeypatch):
    if "fresh_process" not in request.fixturenames:
        monkeypatch.setattr(harness, "trial_problem", lambda *_, **__: "")


def load_written(folder, name, n_questions, *, limit=None, **config):
    """The tasks that are loaded of a file with so many questions, written for it."""
    reference = write_task(folder, name, passages(n_questions), **config)
    return harness.load_tasks([reference], limit=limit, n_shots=None)
