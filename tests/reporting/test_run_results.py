"""The sentence that a run's page opens with, from verdicts made for it."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from sparsedash.reporting.run_answer import answer_figures, answer_sentence, missing_records
from sparsedash.reporting.run_results import RunResults, answering, best, live, run_results, verdict_of
from sparsedash.schema.records import Record
from sparsedash.stats.tolerance import Tolerance
from tests.factories import STOPPED
from tests.ui import specimens
from tests.ui.fake_backend import FakeBackend, job

DENSE = [True] * 60 + [False] * 60


def broken(n: int) -> list[bool]:
    """The dense verdicts with n right answers gone wrong."""
    return [False] * n + [True] * (60 - n) + [False] * 60


def sweep_of(*sparse: Record, finished: bool = True) -> RunResults:
    backend = FakeBackend()
    dense = specimens.record(DENSE)
    methods = tuple(dict.fromkeys(r.pruned.method for r in sparse if r.pruned))
    settings = replace(specimens.SETTINGS, methods=methods) if methods else specimens.SETTINGS
    run, _ = specimens.run(settings)
    keys = tuple(record.key for record in sparse)
    backend.add_run((replace(run, dense=dense.key, sparse=keys, finished=finished), [dense, *sparse]))
    found = run_results(backend, backend.stored_runs[0])
    assert found is not None
    return found


def plain(text: str) -> str:
    return text.replace(wording.NBSP, " ")


def said(*sparse: Record, finished: bool = True) -> str:
    return plain(answer_sentence(sweep_of(*sparse, finished=finished)))


def shifted(nats: float, permille: int, spread: float = 0.1, method: str = "least-squares") -> Record:
    """The dense answers with each target less likely by about this much; every verdict stays."""
    outcomes = tuple(
        replace(outcome, log_likelihood=outcome.log_likelihood - nats - spread * (i % 2 - 0.5))
        for i, outcome in enumerate(specimens.record(DENSE).outcomes)
    )
    return replace(specimens.record(DENSE, permille, method_named(method)), outcomes=outcomes)


def test_the_answer_names_the_largest_sparsity_within_and_the_smallest_beyond():
    assert said(shifted(0.01, 100), shifted(0.02, 200), shifted(0.3, 300)) == (
        "Removing 20 % of the MLP stays within 1.1 × the word perplexity, with accuracy undecided; "
        "30 % goes beyond 1.1 × the word perplexity, on 120 passages."
    )


@pytest.mark.parametrize(("reached", "note"), [(0.0, " (0.0 % after rounding the widths)"), (0.1, "")])
def test_a_share_that_the_widths_were_rounded_away_from_is_said(reached, note):
    record = shifted(0.01, 100)
    record = replace(record, pruned=replace(record.pruned, mlp_sparsity=reached))
    assert said(record).startswith(f"Removing 10 % of the MLP{note} stays within 1.1 × the word perplexity")


def test_a_sparsity_between_them_that_is_undecided_is_named():
    sentence = said(shifted(0.01, 100), shifted(0.09, 200, spread=1.0), shifted(0.3, 300))
    assert "accuracy undecided; 20 % is undecided, 30 % goes beyond 1.1 × the word perplexity, on" in sentence


def test_where_nothing_is_within_the_smallest_beyond_is_named_with_what_is_undecided_below_it():
    sentence = said(shifted(0.09, 100, spread=1.0), shifted(0.3, 200))
    assert sentence.startswith("Removing 20 % of the MLP goes beyond 1.1 × the word perplexity")
    assert sentence.endswith("; 10 % is undecided, on 120 passages.")


def test_a_loss_of_accuracy_alone_is_beyond_as_well():
    broke, dense = specimens.record(broken(30), 100), specimens.record(DENSE)
    pairs = zip(broke.outcomes, dense.outcomes, strict=True)
    as_likely = tuple(replace(one, log_likelihood=other.log_likelihood) for one, other in pairs)
    assert said(replace(broke, outcomes=as_likely)).startswith(
        "Removing 10 % of the MLP goes beyond 2 points of accuracy, on"
    )


def test_what_nothing_decides_is_called_undecided_and_never_no_difference():
    found = sweep_of(shifted(0.09, 100, spread=1.0))
    assert plain(answer_sentence(found)) == (
        "Undecided: 120 passages cannot tell whether removing 10 % of the MLP stays within 1.1 × the word perplexity "
        "and 2 points of accuracy."
    )
    cost, needed = answer_figures(found)
    assert plain(cost).startswith("10 % (measured 10.4 % of the MLPs, 6.2 % of all linear weights): word perplexity")
    assert "passages would decide it" in needed


def test_the_figures_say_what_the_models_cost_that_the_answer_speaks_of():
    within, beyond = map(plain, answer_figures(sweep_of(shifted(0.01, 100), shifted(0.3, 200))))
    assert within.startswith("10 % (measured 10.4 %")
    assert "word perplexity 1.01 × dense's (98.8 % interval 1.00 to 1.02)" in within
    assert beyond.startswith("20 % (measured 20.8 %")
    assert "word perplexity 1.35 × dense's" in beyond
    assert answer_figures(sweep_of()) == []


def test_a_tolerance_of_ones_own_is_judged_by():
    backend = FakeBackend()
    dense, sparse = specimens.record(DENSE), shifted(0.3, 100)
    run, _ = specimens.run()
    backend.add_run((replace(run, dense=dense.key, sparse=(sparse.key,)), [dense, sparse]))
    strict, lax = (
        run_results(backend, backend.stored_runs[0], Tolerance(ratio=ratio, points=5.0)) for ratio in (1.1, 2.0)
    )
    assert strict is not None and lax is not None
    assert "goes beyond 1.1 ×" in answer_sentence(strict)
    assert "stays within 2 × the word perplexity and 5 points" in answer_sentence(lax)


def test_a_comparison_has_its_verdict_among_all_of_the_run_and_by_itself_elsewhere():
    found = sweep_of(shifted(0.01, 100), shifted(0.3, 200))
    first, second = found.sparse
    assert verdict_of(found, found.dense, second) is found.judged[1].verdict
    assert verdict_of(found, first, second).perplexity.level == pytest.approx(0.975)


def test_the_order_in_which_sparsities_were_asked_does_not_matter():
    records = shifted(0.01, 100), shifted(0.3, 200)
    assert said(*records) == said(*reversed(records))


def test_an_unfinished_run_speaks_for_so_far():
    assert said(shifted(0.01, 100), finished=False).startswith("So far: removing 10 %")


def test_without_sparse_records_the_rest_is_announced():
    assert said() == "The dense model has answered; the sparse models are on their way."


def test_the_method_of_which_most_can_go_is_the_best():
    weak = [shifted(0.3, permille, method="random") for permille in (100, 200)]
    strong = [shifted(nats, permille, method="magnitude") for permille, nats in ((100, 0.01), (200, 0.3))]
    found = sweep_of(*weak, *strong)
    assert [row.record.key for row in best(found)] == [record.key for record in strong]
    assert plain(answer_sentence(found)).startswith("Removing 10 % of the MLP with “magnitude” stays within")


def test_p_values_are_adjusted_for_the_number_of_comparisons():
    found = sweep_of(specimens.record(broken(6), 100), specimens.record(broken(6), 200))
    assert found.judged[0].comparison.p_value == pytest.approx(0.03125)
    assert [row.p_value for row in found.judged] == pytest.approx([0.0625, 0.0625])


def test_a_run_without_its_dense_record_is_no_sweep():
    run, _ = specimens.run()
    assert run_results(FakeBackend(), run) is None
    assert run_results(FakeBackend(), None) is None


def test_a_second_look_measures_nothing_again():
    backend = FakeBackend()
    run = backend.add_run(specimens.run())
    first, second = run_results(backend, run), run_results(backend, run)
    assert first is not None and second is not None
    assert list(first.readings) == [run.dense, *run.sparse]
    assert second.readings[run.dense] is first.readings[run.dense]
    assert all(one.comparison is other.comparison for one, other in zip(first.judged, second.judged, strict=True))


def test_a_record_that_was_missing_at_first_is_found_when_it_comes():
    backend = FakeBackend()
    run, records = specimens.run()
    backend.add_run((run, records[:-1]))
    early = run_results(backend, run)
    backend.add_run((run, records))
    late = run_results(backend, run)
    assert early is not None and late is not None
    assert (len(early.sparse), len(late.sparse)) == (2, 3)


def test_a_damaged_record_is_named_and_still_counts_as_a_comparison():
    backend = FakeBackend()
    run, records = specimens.run()
    whole = run_results(backend, backend.add_run((run, records)))
    del backend.stored_records[run.sparse[-1]]
    backend.damaged.append(run.sparse[-1])
    left = run_results(FakeBackend(stored_records=backend.stored_records, damaged=backend.damaged), run)
    assert left.missing == {"30 %": "was damaged and is set aside"} and whole.missing == {}
    assert missing_records(run, left.missing) == (
        "The record of 30 % was damaged and is set aside. "
        "It still counts as a comparison in the verdicts on the others."
    )
    for before, after in zip(whole.judged, left.judged, strict=False):
        assert after.verdict.perplexity.level >= before.verdict.perplexity.level
        assert after.p_value >= before.p_value


def test_a_record_of_other_passages_is_left_out():
    other = replace(specimens.record(broken(1), 100), passages_key="others")
    assert sweep_of(other).sparse == ()


def test_a_record_that_answered_fewer_passages_is_compared_on_those():
    whole = specimens.record(broken(6), 100)
    stopping = replace(STOPPED, decision="open", n_answered=80, p_value=0.1, interval=(-0.2, 0.1))
    found = sweep_of(replace(whole, outcomes=whole.outcomes[:80], stopping=stopping))
    compared = found.judged[0].comparison
    assert (compared.broke, compared.both_right, compared.both_wrong) == (6, 54, 20)


class TestFewPassages:
    def found(self, n: int, nats: float, spread: float) -> str:
        backend, method = FakeBackend(), method_named("random")
        dense = specimens.record(DENSE[60 - n // 2 : 60 + n - n // 2])
        outcomes = tuple(
            replace(outcome, log_likelihood=outcome.log_likelihood - nats - spread * (i % 2 - 0.5))
            for i, outcome in enumerate(dense.outcomes)
        )
        sparse = replace(specimens.record(DENSE, 900, method), outcomes=outcomes)
        run, _ = specimens.run(replace(specimens.SETTINGS, methods=(method,)))
        backend.add_run((replace(run, dense=dense.key, sparse=(sparse.key,)), [dense, sparse]))
        found = run_results(backend, backend.stored_runs[0])
        assert found is not None
        return plain(answer_sentence(found))

    def test_ten_passages_never_say_that_ninety_percent_can_go(self):
        assert self.found(10, 0.0, 0.0).startswith("Too few to judge: 10 passages cannot show that removing 90 % of")
        assert self.found(29, 0.0, 0.01).startswith("Too few to judge: 29 passages")
        assert self.found(30, 0.0, 0.01).startswith("Removing 90 % of the MLP stays within")

    def test_one_passage_is_one_passage_and_too_few_whatever_it_lost(self):
        assert self.found(1, 20.0, 0.0).startswith("Too few to judge: 1 passage cannot show")

    def test_a_loss_beyond_doubt_is_said_of_ten_as_well(self):
        assert self.found(10, 16.0, 4.0).startswith(
            "Removing 90 % of the MLP goes beyond 1.1 × the word perplexity, on"
        )


class TestTheLivePoint:
    METHODS = (method_named("magnitude"), method_named("random"))

    def found(self, n_sparse: int, finished: bool = False) -> RunResults:
        backend = FakeBackend()
        settings = replace(specimens.SETTINGS, methods=self.METHODS)
        run = backend.add_run(specimens.run(settings, finished=finished, n_sparse=n_sparse))
        found = run_results(backend, run)
        assert found is not None
        return found

    @pytest.mark.parametrize(
        ("point", "label", "permille"), [(0, "magnitude", 100), (2, "magnitude", 300), (4, "random", 200)]
    )
    def test_it_is_the_model_that_the_job_names(self, point, label, permille):
        asked = job(specimens.SETTINGS, done=80, n_right=30, point=point)
        expected = answering(label, permille, right=30, done=80)
        assert live(self.found(point), asked) == expected

    def test_the_dense_models_answers_are_never_a_sparse_models(self):
        assert live(self.found(0), job(specimens.SETTINGS, done=80, n_right=30)) is None

    def test_a_model_whose_record_is_there_already_has_none(self):
        assert live(self.found(1), job(specimens.SETTINGS, done=80, n_right=30, point=0)) is None

    def test_there_is_none_before_the_first_answer_and_in_other_stages(self):
        assert live(self.found(1), job(specimens.SETTINGS, done=0, n_right=0, point=1)) is None
        assert live(self.found(1), job(specimens.SETTINGS, done=80, point=1)) is None

    def test_a_run_that_is_whole_has_none(self):
        whole = self.found(6, finished=True)
        assert live(whole, job(specimens.SETTINGS, n_right=30, point=5)) is None


def test_records_are_named_uniquely_dense_first():
    sparse = [specimens.record(broken(1), 100, method_named(name)) for name in ("magnitude", "random")]
    assert list(sweep_of(*sparse).records) == ["dense", "magnitude 10 %", "random 10 %"]
