"""What is said of runs that decide little: one passage, ten, equal models, a model against itself, a better one.

Every sentence as the overview, the compare page with the report, the shell and the JSON document have it.
"""

from dataclasses import replace
from random import Random

import pytest

from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.run_answer import answer_figures, answer_sentence
from sparsedash.reporting.run_reports import html_report, run_document
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.verdicts import judgement, remarks
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import RunSettings
from sparsedash.shell.terminal import run_table
from tests.factories import PRUNED, RUN, answered
from tests.ui.fake_backend import FakeBackend

RANDOM = MethodSettings(saliency="random")
ALLOWED = "1.1 × the word perplexity and 2 points of accuracy"


def plain(text):
    return text.replace("\xa0", " ")


def drawn(n, fall, spread, right, seed):
    """n passages whose words lost so many nats, with so much spread; the first `right` of them answered right."""
    rng = Random(seed)
    (one,) = answered("x", 1).outcomes
    noise = [spread * rng.gauss(0, 1) for _ in range(n)]
    middle = sum(noise) / n
    return tuple(
        replace(one, index=i, last_word_right=i < right, log_likelihood=-4.0 - fall - value + middle)
        for i, value in enumerate(noise)
    )


def run_of(n, dense, *sparse):
    """What is known of a run over n passages. dense: right answers; sparse: (percent, nats lost, spread, right)."""
    settings = RunSettings(methods=(RANDOM,), sparsities_permille=tuple(10 * percent for percent, *_ in sparse))
    backend = FakeBackend()
    records = [answered(f"{n}-dense", n, outcomes=drawn(n, 0, 0, dense, 0))]
    for i, (percent, fall, spread, right) in enumerate(sparse):
        made = replace(PRUNED, method=RANDOM, sparsity_permille=10 * percent, mlp_sparsity=0.97 * percent / 100)
        outcomes = drawn(n, fall, spread, right, i + 1)
        records.append(answered(f"{n}-{percent}", n, pruned=made, outcomes=outcomes))
    keys = tuple(record.key for record in records[1:])
    run = replace(RUN, settings=settings, dense=records[0].key, sparse=keys, finished=True)
    backend.add_run((run, records))
    return run_results(backend, run)


def said_of(found, i=-1, beside=None):
    """The overview's sentences and the compare page's, on one line each."""
    judged = found.judged[i]
    name = found.name_of(judged.record)
    compare = [judgement(name, judged.verdict, found.tolerance), *remarks(name, judged.verdict)]
    return plain(" ".join([answer_sentence(found), *answer_figures(found)])), plain(" ".join(compare))


def everywhere_else(found, i=-1):
    """The verdict in the report's text, in the shell's line and in the JSON document."""
    judged = found.judged[i]
    pair = Pair(left_name="dense", left=found.dense, right_name=found.name_of(judged.record), right=judged.record)
    document = run_document(found.run, found.dense, list(found.sparse))
    return (
        plain(html_report(found, pair, None).decode()),
        list(run_table(document))[2:][i],
        document["sparse"][i]["verdict"],
    )


@pytest.fixture
def one_passage():
    return run_of(1, 0, (30, 9.8, 0, 0), (60, 13.0, 0, 0))


def test_one_passage_is_too_few_to_judge_whatever_was_lost_on_it(one_passage):
    overview, compare = said_of(one_passage, 0)
    assert overview.startswith(
        f"Too few to judge: 1 passage cannot show that removing 30 % of the MLP stays within {ALLOWED}."
    )
    open_ = "at least 30 passages are needed; 1 passage cannot say how many would decide it."
    assert f"30 % is undecided: {open_} 60 % is undecided: {open_}" in overview
    assert compare == (
        f"Too few to judge: 1 passage cannot tell whether 30 % stays within {ALLOWED}. "
        "Word perplexity 18,034 × dense's (no interval); too few answers are right to judge accuracy. "
        f"Open: {open_}"
    )
    told, line, verdict = everywhere_else(one_passage, 0)
    assert "Too few to judge: 1 passage cannot tell whether 30 % stays within" in told and open_ in told
    assert line.endswith("undecided")
    assert (verdict["verdict"], verdict["points"], verdict["passages_needed"]) == ("undecided", None, None)
    assert verdict["ratio"]["low"] is None


def test_ten_passages_show_a_loss_that_is_beyond_doubt():
    found = run_of(10, 1, (30, 7.3, 3.5, 0), (60, 16.0, 5.0, 0), (90, 23.0, 6.0, 0))
    overview, compare = said_of(found)
    assert overview.startswith(
        "Removing 30 % of the MLP goes beyond 1.1 × the word perplexity, on 10 passages. "
        "30 % (measured 29.1 % of the MLPs, 10.0 % of all linear weights): word perplexity "
    )
    assert overview.endswith("too few answers are right to judge accuracy.")
    assert compare.startswith("90 % goes beyond 1.1 × the word perplexity: word perplexity over 1,000,000 × dense's (")
    told, line, verdict = everywhere_else(found)
    assert "goes beyond 1.1 × the word perplexity" in told and line.endswith("beyond")
    assert (verdict["verdict"], verdict["decided_by"]) == ("beyond", ["word perplexity"])


def test_a_loss_beyond_all_numbers_is_said_once():
    _, compare = said_of(run_of(132, 27, (90, 30.0, 4.0, 0)))
    assert (
        "word perplexity over 1,000,000 × dense's (97.5 % interval over 1,000,000), accuracy −20.5 points (" in compare
    )


def test_ten_passages_without_any_loss_are_too_few_and_thirty_would_do():
    overview, compare = said_of(run_of(10, 3, (30, 0.0, 0.0, 3)))
    assert overview.startswith("Too few to judge: 10 passages cannot show that removing 30 % of the MLP stays within")
    assert compare.endswith("Open: about 30 passages would decide it, if its loss stays what it was on 10.")


def test_equal_models_are_within_and_leave_nothing_open():
    found = run_of(132, 27, (0, 0.0, 0.0, 27))
    overview, compare = said_of(found)
    assert overview.startswith("Removing 0 % of the MLP stays within 1.1 × the word perplexity, on 132 passages.")
    assert compare.startswith(
        "0 % stays within 1.1 × the word perplexity: word perplexity 1.00 × dense's (97.5 % interval 1.00 to 1.00), "
        "accuracy 0.0 points ("
    )
    assert "undecided" not in compare
    told, line, verdict = everywhere_else(found)
    assert (
        "stays within 1.1 × the word perplexity" in told and line.endswith("within") and verdict["verdict"] == "within"
    )


@pytest.mark.parametrize("n", [1, 132])
def test_a_model_against_itself_is_not_judged(n):
    found = run_of(n, 0, (30, 1.0, 0.5, 0))
    itself = found.judged[0].verdict
    assert judgement("30 %", itself, found.tolerance, "30 %") == (
        "30 % stands on both sides: a model loses nothing against itself."
    )
    assert remarks("30 %", itself, "30 %") == []
    dense = Pair(left_name="dense", left=found.dense, right_name="dense", right=found.dense)
    told = html_report(found, dense, None).decode()
    assert "dense stands on both sides: a model loses nothing against itself." in told
    assert told.count("Every verdict stayed the same") == 1


def test_a_model_that_is_better_than_dense_is_within_and_its_gain_is_a_gain():
    found = run_of(400, 100, (10, -0.4, 0.3, 120))
    overview, compare = said_of(found)
    assert overview.startswith(f"Removing 10 % of the MLP stays within {ALLOWED}, on 400 passages. ")
    assert "word perplexity 0.67 × dense's (97.5 % interval 0.6" in compare and "accuracy +5.0 points (" in compare
    told, line, verdict = everywhere_else(found)
    assert "accuracy +5.0 points" in told and line.endswith("within")
    assert verdict["decided_by"] == ["word perplexity", "accuracy"] and verdict["points"]["value"] == 5.0


def test_two_sparse_models_are_not_said_to_be_compared_with_dense():
    found = run_of(400, 100, (10, 0.3, 0.3, 90), (20, 0.9, 0.3, 80))
    said = plain(judgement("20 %", found.judged[1].verdict, found.tolerance, "10 %"))
    assert "× that of 10 % (" in said and "dense" not in said


def test_a_loss_as_large_as_what_is_allowed_needs_no_absurd_number_of_passages():
    _, compare = said_of(run_of(132, 0, (10, 0.0953, 0.5, 0)))
    assert compare.endswith(
        "Open: its loss is so near to what is allowed that over 1,000,000 passages would be needed."
    )


def test_every_sparsity_that_is_undecided_has_its_sentence():
    found = run_of(132, 27, (10, 0.09, 0.9, 27), (20, 0.13, 1.0, 26), (30, 3.0, 1.0, 10))
    said = plain(" ".join(answer_figures(found)))
    assert "10 % is undecided: " in said and "20 % is undecided: " in said and said.startswith("30 % (measured")
