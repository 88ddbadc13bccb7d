"""What is suggested after a run: more passages, another share, a search, or an export."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting.next_step import next_step
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import BUILTIN_CLOZE_402
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.run_checks import Reach
from tests.factories import STOPPED, plain
from tests.reporting.held_results import results_of
from tests.reporting.test_run_answer import BEYOND, WITHIN, drawn, run_of, shifted, sweep_of
from tests.ui import specimens

NOTHING = Reach(lacks=lambda reference: reference != "builtin:cloze")
BLIND = shifted(
    0.3,
    300,
    spread=0.6,
    method="random",
)
PATTERN = shifted(0.01, 500, method="magnitude-2:4")


def on_built_in(results, **changes):
    """The results, as if the run's passages were the 120 of a built-in text."""
    settings = results.run.settings
    evaluation = replace(
        settings.evaluation,
        corpus="builtin:cloze",
        **changes,
    )
    return replace(
        results,
        run=replace(
            results.run,
            settings=replace(settings, evaluation=evaluation),
        ),
    )


@pytest.mark.parametrize(
    ("sparse", "kind"),
    [
        ((shifted(0.03, 200, spread=1.0), WITHIN, BEYOND), "more passages"),
        ((WITHIN, BEYOND), "search"),
        ((WITHIN,), "search"),
        ((BEYOND,), "search"),
        ((PATTERN,), "export"),
        ((shifted(0.9, 500, method="magnitude-2:4"),), "search"),
    ],
    ids=[
        "undecided",
        "between",
        "above",
        "below",
        "pattern within",
        "pattern beyond",
    ],
)
def test_the_suggestion_depends_on_what_is_open(sparse, kind):
    step = next_step(sweep_of(*sparse))
    assert step.kind == kind and plain(step.sentence).startswith("Next: ") and step.link


def test_an_unfinished_run_and_one_without_verdicts_have_no_suggestion():
    assert next_step(sweep_of(WITHIN, finished=False)) is None is next_step(sweep_of())


def test_a_search_keeps_the_method_unless_that_reads_no_text_or_has_one_share_only():
    for sparse, method in (
        (BEYOND, MethodSettings()),
        (BLIND, method_named("best")),
        (shifted(0.9, 500, method="magnitude-2:4"), method_named("best")),
    ):
        request = next_step(sweep_of(sparse)).request
        assert (request.method, request.tolerance) == (method, Tolerance())


def test_all_undecided_shares_that_a_text_can_decide_are_tested_on_it():
    results = run_of(
        132,
        60,
        (10, 0.04, 0.4, 59),
        (20, 0.25, 0.7, 55),
    )
    step = next_step(on_built_in(results), NOTHING)
    assert "The passages within reach cannot settle 10 % and 20 %." in plain(step.sentence)
    assert step.kind == "more passages" and not step.link and step.request is None
    step = next_step(on_built_in(results))
    assert step.request.sparsities_permille == (100, 200)
    assert step.request.evaluation.corpus == "lambada_openai"
    assert plain(step.sentence).startswith("Next: test 10 % and 20 % on about ")


@pytest.mark.parametrize(
    ("reach", "sentence", "corpus"),
    [
        (
            Reach(lacks=lambda reference: reference == "lambada_openai"),
            "1 passage is too few for a verdict. Next: test 90 % on all 402 passages "
            "from “Cloze passages, all (built in)”.",
            BUILTIN_CLOZE_402,
        ),
        (
            NOTHING,
            "1 passage is too few for a verdict. Next: test 90 % on all 132 passages.",
            "builtin:cloze",
        ),
    ],
    ids=["longer text", "rest of its own"],
)
def test_too_few_passages_for_a_verdict_lead_to_the_longest_text_there_is(reach, sentence, corpus):
    results = on_built_in(run_of(1, 0, (90, 30.0, 0.0, 0)), n_passages=1)
    step = next_step(results, reach)
    assert plain(step.sentence) == sentence
    assert (step.request.evaluation.corpus, step.request.evaluation.n_passages) == (corpus, None)


def test_models_that_stopped_early_are_tested_on_all_passages_where_these_are_enough():
    results = run_of(1000, 400, (10, 0.04, 0.7, 400))
    (model,) = results.sparse_models
    stopped = replace(
        STOPPED,
        decision="close",
        n_answered=300,
        n_passages=1000,
    )
    record = replace(
        model.record,
        outcomes=drawn(
            300,
            0.01,
            0.6,
            300,
            2,
        ),
        stopping=stopped,
    )
    early = replace(results.run.settings.evaluation, stop_early=True)
    run = replace(
        results.run,
        settings=replace(results.run.settings, evaluation=early),
    )
    request = next_step(results_of(run, [results.dense, record])).request
    assert request.evaluation == replace(early, stop_early=False)


def test_a_search_takes_the_first_text_that_can_decide_else_a_share_between_is_tried():
    results = on_built_in(sweep_of(shifted(0.0, 20, 0.6), shifted(0.9, 300, 0.6)))
    for ratio, corpus in (
        (2.0, "builtin:cloze"),
        (1.5, BUILTIN_CLOZE_402),
        (1.1, "lambada_openai"),
    ):
        step = next_step(replace(results, tolerance=Tolerance(ratio=ratio)))
        assert (step.kind, step.request.evaluation.corpus) == ("search", corpus)
    step = next_step(results, NOTHING)
    assert step.kind == "another share" and step.request.sparsities_permille == (160,)
    assert "passages, more than any text within reach has. Next: try 16 %." in plain(step.sentence)
    neighbours = on_built_in(sweep_of(shifted(0.0, 20, 0.6), shifted(0.9, 30, 0.6)))
    step = next_step(neighbours, NOTHING)
    assert not step.link and "Next: upload more passages" in step.sentence


def test_an_upload_is_asked_where_it_has_enough_passages():
    own = "upload:own.jsonl@" + "0" * 32
    results = run_of(132, 27, (10, 0.05, 0.9, 27))
    settings = results.run.settings
    evaluation = replace(
        settings.evaluation,
        corpus=own,
        n_passages=132,
    )
    run = replace(
        results.run,
        settings=replace(settings, evaluation=evaluation),
    )
    for n_there, corpus in ((140, "lambada_openai"), (20_000, own)):
        reach = Reach(n_passages={own: n_there}.get)
        request = next_step(replace(results, run=run), reach).request
        assert request.evaluation.corpus == corpus


def test_what_cannot_start_has_no_link_and_says_why():
    reach = Reach(problems=lambda request: ("No room.", "No time."))
    step = next_step(sweep_of(BEYOND), reach)
    assert step.sentence.endswith(" It cannot start: No room.") and not step.link


@pytest.mark.parametrize(
    ("slope", "method", "kind", "has_link"),
    [
        (0.3, "least-squares", "export", True),
        (60.0, "least-squares", "search", True),
        (60.0, "best", "search", False),
    ],
)
def test_a_search_leads_to_its_model_or_to_the_recommended_method(slope, method, kind, has_link):
    run, records, search = specimens.search(slope=slope)
    run = replace(
        run,
        find=replace(run.find, method=method_named(method)),
    )
    for i, record in enumerate(records):
        if record.pruned:
            spec = replace(record.pruned.spec, method=method_named(method))
            records[i] = replace(record, pruned=replace(record.pruned, spec=spec))
    step = next_step(
        results_of(
            run,
            records,
            search,
            tolerance=run.find.tolerance,
        )
    )
    assert (step.kind, bool(step.link)) == (kind, has_link)
    other = next_step(
        results_of(
            run,
            records,
            search,
            tolerance=Tolerance(ratio=1.02),
        )
    )
    made_for = "The search was made for perplexity 1.30 ×, accuracy −30 points. "
    assert other.sentence.startswith(made_for)
