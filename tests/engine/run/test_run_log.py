from sparsedash.engine.run import run_log
from sparsedash.engine.run.run_log import RunLog
from sparsedash.schema.progress import ignore_steps


def log_under(loads, monkeypatch):
    """A log of as many stages, at whose ends the machine is overloaded or not."""
    answers = iter(loads)
    monkeypatch.setattr(run_log, "is_overloaded", lambda: next(answers))
    log = RunLog(ignore_steps)
    for _ in loads:
        with log.timed("prune"):
            pass
    return log


def test_a_run_is_busy_once_any_of_its_stages_ended_on_an_overloaded_machine(
    monkeypatch,
):
    assert not log_under([False, False], monkeypatch).busy
    assert log_under([False, True], monkeypatch).busy
    log = log_under([True], monkeypatch)
    monkeypatch.setattr(run_log, "is_overloaded", lambda: False)
    with log.timed("evaluate"):
        pass
    assert log.busy
