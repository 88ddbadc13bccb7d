"""The sentence that a run's page opens with, from verdicts made for it."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from sparsedash.reporting.readings import answering
from sparsedash.reporting.run_answer import answer, doubt
from sparsedash.reporting.run_results import RunResults, adjusted, best, live, run_results
from sparsedash.schema.records import Record
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


def said(*sparse: Record, finished: bool = True) -> str:
    return answer(sweep_of(*sparse, finished=finished)).replace(wording.NBSP, " ")


def test_no_loss_shown_at_all():
    sentence = said(specimens.record(broken(1), 100), specimens.record(broken(2), 200))
    assert sentence.startswith(
        "Removing up to 20 % of the MLP shows no difference in the accuracy of last words on 120 passages; measured "
        "at 20 %: −1.7 points, 95 %"
    )


def test_one_sparsity_is_not_up_to():
    assert said(specimens.record(broken(1), 100)).startswith("Removing 10 % of the MLP shows no difference")


def test_a_loss_shown_from_some_sparsity_on():
    sentence = said(specimens.record(broken(1), 100), specimens.record(broken(30), 200))
    assert sentence.startswith(
        "Removing 10 % of the MLP shows no difference in the accuracy of last words on 120 passages; 20 % changes "
        "it by −25.0 points"
    )


def test_a_loss_shown_from_the_first_sparsity_on():
    sentence = said(specimens.record(broken(30), 100), specimens.record(broken(40), 200))
    assert sentence.startswith("Removing 10 % of the MLP changes the accuracy of last words by −25.0 points")
    assert sentence.endswith("on 120 passages.")


def test_no_difference_is_not_called_none_where_the_passages_are_too_few_to_show_it():
    found = sweep_of(specimens.record(broken(1), 100), specimens.record(broken(2), 200))
    assert doubt(found).replace(wording.NBSP, " ") == (
        "120 passages are too few to show a difference as small as that at 20 %: about 470 would be needed."
    )
    assert doubt(sweep_of(specimens.record(broken(0), 100))) == (
        "That does not prove that there is none: 120 passages are too few to show a small one."
    )


def test_a_loss_that_only_word_perplexity_shows_is_said_with_its_interval():
    dense = specimens.record(DENSE)
    less_likely = tuple(
        replace(outcome, log_likelihood=outcome.log_likelihood - 0.5 - 0.1 * (i % 2))
        for i, outcome in enumerate(dense.outcomes)
    )
    said = doubt(sweep_of(replace(specimens.record(broken(0), 100), outcomes=less_likely)))
    assert said.replace(wording.NBSP, " ").endswith(
        " Word perplexity does show a loss at 10 %: it is 1.73 × the dense model's, 95 % interval 1.72 to 1.75."
    )


def test_a_comparison_has_its_p_value_among_all_of_the_run():
    found = sweep_of(specimens.record(broken(1), 100), specimens.record(broken(30), 200))
    first, second = found.sparse
    assert adjusted(found, found.dense, second) == found.p_values[1]
    assert adjusted(found, first, second) is None
    assert adjusted(found, found.dense, found.dense) is None


def test_there_is_no_doubt_before_a_sparse_answer_or_where_each_shows_a_difference():
    assert doubt(sweep_of()) == ""
    assert doubt(sweep_of(specimens.record(broken(30), 100))) == ""


def test_the_order_in_which_sparsities_were_asked_does_not_matter():
    records = specimens.record(broken(1), 100), specimens.record(broken(30), 200)
    assert said(*records) == said(*reversed(records))


def test_an_unfinished_run_speaks_for_so_far():
    assert said(specimens.record(broken(1), 100), finished=False).startswith("So far: removing 10 %")


def test_without_sparse_records_the_rest_is_announced():
    assert said() == "The dense model has answered; the sparse models are on their way."


def test_the_method_that_keeps_longest_what_it_had_is_the_best():
    weak = [specimens.record(broken(n), p, method_named("random")) for p, n in ((100, 30), (200, 40))]
    strong = [specimens.record(broken(n), p, method_named("magnitude")) for p, n in ((100, 1), (200, 30))]
    found = sweep_of(*weak, *strong)
    assert [record.key for record, _, _ in best(found)] == [record.key for record in strong]
    assert answer(found).startswith("With “magnitude”, removing")


def test_p_values_are_adjusted_for_the_number_of_comparisons():
    found = sweep_of(specimens.record(broken(6), 100), specimens.record(broken(6), 200))
    assert found.paired[0].p_value == pytest.approx(0.03125)
    assert found.p_values == pytest.approx((0.0625, 0.0625))


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
    assert all(second.readings[key] is first.readings[key] for key in first.readings)
    assert all(one is other for one, other in zip(first.paired, second.paired, strict=True))


def test_a_record_that_was_missing_at_first_is_found_when_it_comes():
    backend = FakeBackend()
    run, records = specimens.run()
    backend.add_run((run, records[:-1]))
    early = run_results(backend, run)
    backend.add_run((run, records))
    late = run_results(backend, run)
    assert early is not None and late is not None
    assert (len(early.sparse), len(late.sparse)) == (2, 3)


def test_a_record_of_other_passages_is_left_out():
    other = replace(specimens.record(broken(1), 100), passages_key="others")
    assert sweep_of(other).sparse == ()


def test_a_record_that_answered_fewer_passages_is_compared_on_those():
    whole = specimens.record(broken(6), 100)
    stopping = replace(STOPPED, decision="open", n_answered=80, p_value=0.1, interval=(-0.2, 0.1))
    found = sweep_of(replace(whole, outcomes=whole.outcomes[:80], stopping=stopping))
    (compared,) = found.paired
    assert (compared.broke, compared.both_right, compared.both_wrong) == (6, 54, 20)


def test_the_passages_that_a_record_stopped_at_are_called_too_few_only_where_nothing_was_decided():
    whole = specimens.record([False] * 13 + [True] * 49 + [False] * 58, 100)
    stopping = replace(STOPPED, decision="open", n_answered=75, p_value=0.051, interval=(-0.3, 0.1))
    found = replace(whole, outcomes=whole.outcomes[:75], stopping=stopping)
    assert doubt(sweep_of(found)) == ("75 passages are too few for a test that allows for stopping early.")
    close = replace(found, stopping=replace(stopping, decision="close"))
    assert doubt(sweep_of(close)) == ""


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
