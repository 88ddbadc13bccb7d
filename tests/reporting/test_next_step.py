"""What is suggested after a run: more passages, another share, a search, or an export."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import next_step as next_step_module
from sparsedash.reporting.next_step import next_step, passages_needed
from sparsedash.schema.settings import BUILTIN_CLOZE_402
from sparsedash.service.run_checks import RequestRules
from sparsedash.stats.tolerance import passages_to_judge
from tests.factories import plain
from tests.reporting.held_results import results_of
from tests.reporting.test_run_answer import BEYOND, WITHIN, run_of, shifted, sweep_of
from tests.ui import specimens

NOTHING = RequestRules(lacks=lambda reference: reference != "builtin:cloze")
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
    ("sparse", "kind", "link"),
    [
        (
            (shifted(0.03, 200, spread=1.0), WITHIN, BEYOND),
            "more passages",
            "Test 20 %",
        ),
        ((WITHIN, BEYOND), "another share", "Test 15 %"),
        ((WITHIN,), "another share", "Test 20 %"),
        ((BEYOND,), "another share", "Test 9 %"),
        ((BLIND,), "another share", "Test 8 %"),
        ((PATTERN,), "export", "Export 50 %"),
        ((shifted(0.9, 500, method="magnitude-2:4"),), "search", "Search with best"),
        ((shifted(0.0, 20, 0.6), shifted(0.9, 22, 0.6)), "export", "Export 2 %"),
    ],
    ids=[
        "undecided",
        "between",
        "above",
        "below",
        "blind",
        "pattern within",
        "pattern beyond",
        "neighbours",
    ],
)
def test_the_share_whose_verdict_is_worth_most_comes_next(sparse, kind, link):
    step = next_step(sweep_of(*sparse))
    assert (step.kind, plain(step.link)) == (kind, link)
    assert plain(step.sentence).startswith("Next: ")


def test_an_unfinished_run_and_one_without_verdicts_have_no_suggestion():
    assert next_step(sweep_of(WITHIN, finished=False)) is None is next_step(sweep_of())


def test_nothing_is_exported_while_a_larger_share_is_open_and_what_stays_open_is_named():
    results = run_of(
        402,
        200,
        (2, 0.0, 0.1, 200),
        (10, 0.02, 0.7, 198),
        (20, 0.09, 0.9, 190),
    )
    step = next_step(on_built_in(results))
    assert step.request.sparsities_permille == (100,)
    sentence = plain(step.sentence)
    assert sentence.startswith("Next: test 10 % on about ")
    assert sentence.endswith(
        " passages from “LAMBADA, OpenAI variant”. 20 % stays open."
    )
    step = next_step(on_built_in(results), NOTHING)
    assert step.kind != "export"
    assert "10 % and 20 %" in plain(
        step.sentence
    ) or step.request.sparsities_permille < (100,)


def test_a_share_of_less_than_half_of_the_estimated_limit_is_not_worth_a_run():
    results = run_of(402, 200, (10, 0.3, 0.9, 190))
    worth = next_step(on_built_in(results))
    assert plain(worth.link) == "Test 2.5 %", "the limit is estimated at 3.2 %"
    step = next_step(on_built_in(results), NOTHING)
    assert plain(step.link) == "Search with best"


def test_a_share_that_no_text_can_confirm_is_not_suggested():
    results = run_of(132, 60, (10, 0.09, 3.0, 59))
    step = next_step(on_built_in(results), NOTHING)
    assert "10 % would take more passages than any text here has." in plain(
        step.sentence
    )
    assert step.kind == "more passages" and not step.link and step.request is None


@pytest.mark.parametrize("rules", [NOTHING, RequestRules()])
def test_more_passages_are_not_suggested_where_only_tasks_are_open(rules):
    results = on_built_in(run_of(132, 60, (10, 0.0, 0.1, 60)))
    (dense, model) = results.models
    model = replace(model, verdict=replace(model.verdict, unanswered=True))
    step = next_step(replace(results, models=(dense, model)), rules)
    assert plain(step.sentence).startswith(
        "Passages cannot decide 10 %: tasks are open."
    )
    assert not step.link and step.request is None


def test_passages_are_counted_in_one_way_whichever_step_takes_them():
    results = run_of(402, 200, (10, 0.03, 0.7, 198), (20, 0.3, 0.9, 190))
    tested = passages_needed(results, 100)
    assert tested == passages_to_judge(
        0.03, 1.1, 0.025, results.best[0].losses.nats.deviation
    )
    assert passages_needed(results, 50) < tested < passages_needed(results, 120)
    assert passages_needed(results, 200) is None, "it is likely to lose too much"


@pytest.mark.parametrize(
    ("rules", "sentence", "corpus"),
    [
        (
            RequestRules(lacks=lambda reference: reference == "lambada_openai"),
            "1 passage is too few for a verdict. Next: test again on all 402 passages "
            "from “Cloze passages, all (built in)”.",
            BUILTIN_CLOZE_402,
        ),
        (
            NOTHING,
            "1 passage is too few for a verdict. Next: test again on all 132 passages.",
            "builtin:cloze",
        ),
    ],
    ids=["longer text", "rest of its own"],
)
def test_too_few_passages_for_a_verdict_lead_to_the_longest_text_there_is(
    rules, sentence, corpus
):
    results = on_built_in(run_of(1, 0, (90, 30.0, 0.0, 0)), n_passages=1)
    step = next_step(results, rules)
    assert plain(step.sentence) == sentence
    assert (step.request.evaluation.corpus, step.request.evaluation.n_passages) == (
        corpus,
        None,
    )


def test_an_upload_is_asked_where_it_has_enough_passages():
    upload = "upload:own.jsonl@" + "0" * 32
    results = run_of(132, 27, (10, 0.05, 0.9, 27))
    settings = results.run.settings
    evaluation = replace(
        settings.evaluation,
        corpus=upload,
        n_passages=132,
    )
    run = replace(
        results.run,
        settings=replace(settings, evaluation=evaluation),
    )
    for n_there, corpus in ((140, "lambada_openai"), (20_000, upload)):
        rules = RequestRules(n_passages={upload: n_there}.get)
        request = next_step(replace(results, run=run), rules).request
        assert request.evaluation.corpus == corpus


def test_what_cannot_start_has_no_link_and_says_why():
    rules = RequestRules(problems=lambda request: ("No room.", "No time."))
    step = next_step(sweep_of(BEYOND), rules)
    assert step.sentence.endswith(" It cannot start: No room.") and not step.link


def test_a_finished_search_leads_to_its_model_and_one_without_an_answer_to_a_smaller_share():
    run, records, search = specimens.search()
    limits = run.find.tolerance
    step = next_step(results_of(run, records, search, tolerance=limits))
    assert plain(step.sentence).startswith(
        "60.4 % and 62.5 % would take more passages than any"
    )
    run, records, search = specimens.search(slope=60.0)
    step = next_step(results_of(run, records, search, tolerance=limits))
    assert step.request.method == method_named("best")


def test_an_export_beside_quantised_files_says_that_it_is_none(monkeypatch):
    monkeypatch.setattr(
        next_step_module, "smallest_file", lambda results: results.best[0]
    )
    assert plain(next_step(sweep_of(PATTERN)).link) == "Export 50 %, not quantised"


def test_after_a_search_with_a_quantised_answer_one_share_is_tested_alone():
    run, records, result = specimens.search(n_trials=2)
    assert result.trials
    wide = replace(run.settings.methods[0], width_multiple=256)
    settings = replace(
        run.settings,
        methods=(wide,),
        quantise=("q8_0",),
        quantised_permille=run.settings.sparsities_permille[:1],
    )
    dense, *sparse = records
    for i, record in enumerate(sparse):
        spec = replace(record.pruned.spec, method=wide)
        sparse[i] = replace(record, pruned=replace(record.pruned, spec=spec))
    run = replace(run, settings=settings, finished=True)
    step = next_step(results_of(run, [dense, *sparse], result))
    assert step.kind == "another share"
    assert step.request.quantised_permille == ()
    assert step.request.methods[0].width_multiple == 32
