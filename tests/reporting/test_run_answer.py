"""The sentences about one run or search, from verdicts made for them, and the same verdict
everywhere else.
"""

import html
from dataclasses import replace
from math import log
from random import Random

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import run_answer as answers
from sparsedash.reporting.findings import estimate_limit, find_race
from sparsedash.reporting.model_results import ModelVerdict
from sparsedash.reporting.next_step import next_step
from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.run_reports import comparison_words, html_report, run_document
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.tradeoff_points import loss_limits, run_tradeoff
from sparsedash.reporting.verdicts import (
    difference_p,
    difference_sentence,
    model_verdict,
    numbers_table,
    race_table,
    verdict_words,
)
from sparsedash.schema.errors import StoreError
from sparsedash.schema.find_settings import FindResult, Trial
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Healed, Record
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.run_checks import RequestRules
from sparsedash.shell.terminal import run_table
from sparsedash.stats.mean_intervals import moments
from sparsedash.stats.tolerance import Losses, judge_all
from tests.factories import PRUNED, RUN, answered, plain
from tests.question_sets import verdicts
from tests.reporting.held_results import results_of
from tests.ui import specimens
from tests.ui.filled_backend import job

DENSE = [True] * 60 + [False] * 60
RANDOM = MethodSettings(saliency="random")
CHANNELS = MethodSettings()
WEIGHTS = MethodSettings(
    saliency="magnitude",
    pattern="1x1",
    compensation="none",
)
NOTHING_KNOWN = RequestRules()
LIMITS = "Limits: perplexity 1.10 ×, accuracy −2 points."
OPEN = "accuracy needs more than 120 passages"


def sweep_of(
    *sparse: Record, finished: bool = True, tolerance: Tolerance | None = None
) -> RunResults:
    dense = specimens.record(DENSE)
    methods = tuple(dict.fromkeys(r.pruned.method for r in sparse if r.pruned))
    run, _ = specimens.run(
        replace(specimens.SETTINGS, methods=methods) if methods else specimens.SETTINGS
    )
    run = replace(
        run,
        dense=dense.key,
        sparse=tuple(record.key for record in sparse),
        finished=finished,
    )
    return results_of(
        run,
        [dense, *sparse],
        tolerance=tolerance,
    )


def said(*sparse: Record, **more) -> str:
    return plain(answers.answer_sentence(sweep_of(*sparse, **more)))


def shifted(
    nats: float, permille: int, spread: float = 0.1, method: str = "least-squares"
) -> Record:
    """The dense answers with each target less likely by about this much; every verdict stays."""
    outcomes = tuple(
        replace(
            outcome,
            log_likelihood=outcome.log_likelihood - nats - spread * (i % 2 - 0.5),
        )
        for i, outcome in enumerate(specimens.record(DENSE).outcomes)
    )
    return replace(
        specimens.record(
            DENSE,
            permille,
            method_named(method),
        ),
        outcomes=outcomes,
    )


WITHIN = shifted(0.01, 100)
UNDECIDED = shifted(0.09, 200, spread=1.0)
BEYOND = shifted(0.3, 300)


def drawn(n, fall, spread, right, seed):
    """n passages whose words lost so many nats, with so much spread; the first `right` of them
    answered right.
    """
    rng = Random(seed)
    (one,) = answered("x", 1).outcomes
    noise = [spread * rng.gauss(0, 1) for _ in range(n)]
    middle = sum(noise) / n
    return tuple(
        replace(
            one,
            index=i,
            last_word_right=i < right,
            log_likelihood=-4.0 - fall - value + middle,
        )
        for i, value in enumerate(noise)
    )


def run_of(n, dense, *sparse):
    """A run over n passages. dense: right answers; sparse: (percent, nats lost, spread, right)."""
    settings = RunSettings(
        methods=(RANDOM,),
        sparsities_permille=tuple(10 * percent for percent, *_ in sparse),
    )
    records = [
        answered(
            f"{n}-dense",
            n,
            outcomes=drawn(
                n,
                0,
                0,
                dense,
                0,
            ),
        )
    ]
    for i, (percent, fall, spread, right) in enumerate(sparse):
        gone = replace(PRUNED.reached, channels=0.97 * percent / 100)
        pruned = replace(
            PRUNED,
            spec=SparseSpec(RANDOM, 10 * percent),
            reached=gone,
        )
        outcomes = drawn(
            n,
            fall,
            spread,
            right,
            i + 1,
        )
        records.append(
            answered(
                f"{n}-{percent}",
                n,
                pruned=pruned,
                outcomes=outcomes,
            )
        )
    keys = tuple(record.key for record in records[1:])
    return results_of(
        replace(
            RUN,
            settings=settings,
            dense=records[0].key,
            sparse=keys,
            finished=True,
        ),
        records,
    )


def within(factor, more=OPEN):
    return f"stays within your limit: perplexity {factor} × (limit 1.10 ×); {more}"


def beyond(factor):
    return f"costs too much: perplexity {factor} × (limit 1.10 ×)"


CLOSE = "is too close to call on 120 passages."


@pytest.mark.parametrize(
    ("sparse", "sentence"),
    [
        (
            (WITHIN, shifted(0.02, 200), BEYOND),
            f"Removing up to 20 % of the MLP channels {within(1.02)}. 30 % {beyond(1.35)}.",
        ),
        (
            (shifted(0.3, 100), shifted(0.02, 200)),
            f"Removing 20 % of the MLP channels {within(1.02)}. 10 % {beyond(1.35)}.",
        ),
        (
            (BEYOND, UNDECIDED, WITHIN),
            f"Removing up to 10 % of the MLP channels {within(1.01)}. 30 % {beyond(1.35)}. 20 % {CLOSE}",
        ),
        (
            (UNDECIDED, shifted(0.02, 300)),
            f"Removing 30 % of the MLP channels {within(1.02)}.",
        ),
        (
            (WITHIN, shifted(0.3, 200), shifted(0.09, 400, 1.0)),
            f"Removing up to 10 % of the MLP channels {within(1.01)}. 20 % {beyond(1.35)}.",
        ),
        (
            (UNDECIDED, BEYOND),
            f"Removing 30 % of the MLP channels {beyond(1.35)}. 20 % {CLOSE}",
        ),
        (
            (shifted(0.09, 100, spread=1.0), UNDECIDED),
            f"Removing 10 % or 20 % of the MLP channels {CLOSE} {LIMITS}",
        ),
        ((), "The dense model is evaluated; no sparse model was."),
    ],
    ids=[
        "within-beyond",
        "beyond-below-within",
        "undecided-between",
        "within-above-undecided",
        "undecided-above-beyond",
        "undecided-below",
        "undecided",
        "none",
    ],
)
def test_the_answer_names_the_largest_sparsity_within_the_smallest_beyond_and_what_is_undecided(
    sparse, sentence
):
    assert said(*sparse) == sentence


@pytest.mark.parametrize(
    ("reached", "note"),
    [
        (0.0, " (0.0 % after rounding the widths)"),
        (0.116, " (11.6 % after rounding the widths)"),
        (0.104, ""),
    ],
)
def test_a_share_that_the_widths_were_rounded_away_from_is_said(reached, note):
    gone = replace(WITHIN.pruned.reached, channels=reached)
    record = replace(WITHIN, pruned=replace(WITHIN.pruned, reached=gone))
    assert said(record).startswith(
        f"Removing up to 10 % of the MLP channels{note} stays within your limit"
    )


def test_the_figures_give_the_losses_of_the_models_that_the_answer_names():
    results = sweep_of(WITHIN, UNDECIDED, BEYOND)
    assert plain(answers.estimate_words(results)) == (
        "By linear interpolation perplexity reaches 1.10 × at 20 % of the MLP channels removed (by the intervals 14 to "
        "24 %)."
    )
    within, beyond = map(plain, answers.answer_figures(results))
    assert within.startswith(
        "10 % (measured 10.4 % of the MLP channels, 7.8 % of the blocks' weights, 6.2 % of the"
    )
    assert "6.2 % of the multiply-adds): perplexity 1.01 × dense's" in within
    assert "dense's (1.00 to 1.02), accuracy 0.0 points (" in within
    assert within.endswith("; intervals of 99.2 % and 98.8 %.")
    assert (
        beyond.startswith("30 % (measured 29.2 %")
        and "perplexity 1.35 × dense's" in beyond
    )
    assert (
        not answers.estimate_words(sweep_of())
        and answers.answer_figures(sweep_of()) == []
    )


def test_the_limit_is_met_on_straight_lines_through_dense_and_the_models():
    # 0.09 nats are lost at 20 % and 0.30 at 30 %, of which 0.0953 are allowed.
    results = estimate_limit(sweep_of(WITHIN, UNDECIDED, BEYOND))
    between = 20 + (log(1.1) - 0.09) / (0.30 - 0.09) * (30 - 20)
    assert (
        results.percent == pytest.approx(between)
        and results.low < results.percent < results.high
    )
    alone = estimate_limit(sweep_of(shifted(0.1, 200, spread=1.0)))
    assert alone.percent == pytest.approx(20 * log(1.1) / 0.1) and alone.high is None
    assert estimate_limit(sweep_of(WITHIN)) is None, "nothing is known of more"
    near, far = (sweep_of(shifted(nats, 900, method="random")) for nats in (0.95, 0.96))
    assert estimate_limit(near) and estimate_limit(far) is None, (
        "losses do not grow evenly so far"
    )
    assert (
        estimate_limit(sweep_of())
        is None
        is estimate_limit(run_of(1, 0, (30, 9.8, 0, 0)))
    )


def test_a_healed_model_has_what_healing_did_and_is_tested_again_beside_the_one_that_it_began_from():
    plain_one = shifted(0.3, 200)
    done = Healed(
        steps=8,
        kept_step=8,
        before=0.2,
        after=0.1,
        n_tokens=60,
        weights="x",
    )
    undecided = shifted(0.05, 200, spread=1.0)
    spec = replace(undecided.pruned.spec, heal_steps=8)
    pruned = replace(undecided.pruned, spec=spec, healed=done)
    results = sweep_of(
        plain_one,
        replace(undecided, key="healed", pruned=pruned),
    )
    figures = plain(" ".join(answers.answer_figures(results)))
    assert (
        "“least-squares (healed 8 steps)” at 20 %: 8 steps on calibration text; KL"
        in figures
    )
    assert "less likely: it follows" not in figures
    assert next_step(results).request.points == (spec.before_healing, spec)
    worse = sweep_of(
        shifted(0.01, 200), replace(undecided, key="healed", pruned=pruned)
    )
    figures = plain(" ".join(answers.answer_figures(worse)))
    assert "less likely: it follows" in figures


def test_an_unfinished_run_speaks_for_so_far():
    assert said(WITHIN, finished=False).startswith("So far: Removing up to 10 %")
    assert plain(
        answers.answer_sentence(
            sweep_of(WITHIN, finished=False),
            ended=True,
        )
    ).startswith("Removing up to 10 %")


def test_the_method_with_the_largest_sparsity_within_is_the_best():
    weak = [shifted(0.3, permille, method="random") for permille in (100, 200)]
    strong = [
        shifted(nats, permille, method="magnitude")
        for permille, nats in ((100, 0.01), (200, 0.3))
    ]
    results = sweep_of(*weak, *strong)
    assert [row.record.key for row in results.best] == [record.key for record in strong]
    assert (
        "Removing up to 10 % of the MLP channels with “magnitude” stays within"
        in plain(answers.answer_sentence(results))
    )


def race_words_of(results: RunResults) -> str:
    race = find_race(results)
    return plain(answers.race_words(race)) if race else ""


def race_of(**lost: float) -> RunResults:
    """Each method at 10 %, having lost so many nats; "magnitude" leads."""
    return sweep_of(
        *(
            shifted(nats, 100, method=name)
            for name, nats in ({"magnitude": 0.01} | lost).items()
        )
    )


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            race_of(random=0.6, flap=0.4),
            "“magnitude” wins at 10 % (perplexity, p < 0.001 after Holm): it beats “flap” and “random”.",
        ),
        (
            sweep_of(
                WITHIN,
                shifted(0.02, 100, 1.0, "magnitude"),
                shifted(0.4, 100, method="random"),
            ),
            "“least-squares” beats “random” at 10 % (perplexity, p < 0.001 after Holm), but cannot be told apart from "
            "“magnitude” on 120 passages.",
        ),
        (
            sweep_of(
                WITHIN,
                replace(
                    WITHIN,
                    key="same",
                    pruned=shifted(0.01, 100, method="flap").pruned,
                ),
            ),
            "“least-squares” cannot be told apart from “flap” at 10 % on 120 passages.",
        ),
        (
            sweep_of(
                WITHIN,
                shifted(0.4, 100, method="random"),
                shifted(0.4, 200, method="flap"),
            ),
            "“least-squares” beats “random” at 10 % (perplexity, p < 0.001 after Holm); not all methods have a model "
            "there.",
        ),
        (
            sweep_of(
                WITHIN,
                shifted(0.4, 100, method="random"),
                shifted(0.3, 100, method="magnitude-2:4"),
            ),
            "“least-squares” wins at 10 % (perplexity, p < 0.001 after Holm): it beats “random”.",
        ),
        (sweep_of(WITHIN, shifted(0.3, 200, method="flap")), ""),
        (sweep_of(WITHIN, shifted(0.3, 100, method="magnitude-2:4")), ""),
        (sweep_of(WITHIN), ""),
    ],
    ids=[
        "wins",
        "some",
        "identical",
        "some-missing",
        "beside-masks",
        "no-common-sparsity",
        "masks",
        "one-method",
    ],
)
def test_a_race_says_which_method_wins_or_that_they_cannot_be_told_apart(
    found, sentence
):
    assert race_words_of(found) == sentence
    whole = plain(answers.answer_sentence(found))
    assert whole.startswith("Removing ") and whole.endswith(sentence)
    raced = run_document(found, found.dense, found.sparse_records)["race"]
    assert [entry["is_shown"] for entry in raced] == [
        difference.is_shown for _, difference in found.race
    ]
    figures = " ".join(map(plain, answers.answer_figures(found)))
    assert figures.count("that of “") == len(found.race)
    assert "that of “" not in " ".join(answers.answer_figures(found, race=False))
    assert ("Not compared: “magnitude-2:4”." in figures) == any(
        not entry.method.is_structured for entry in found.sparse_models
    )


def test_a_race_of_several_is_a_table_with_each_method_s_own_level_and_one_p_value():
    table = race_table(race_of(random=0.6, flap=0.4))
    assert plain(table.caption).startswith(
        "Word perplexity as a multiple of that of “magnitude” at 10 %"
    )
    assert [[*map(plain, row)] for row in table.rows] == [
        ["flap", "1.48 ×\n1.48 to 1.48 (99.4 %)", "< 0.001"],
        ["random", "1.80 ×\n1.80 to 1.80 (99.4 %)", "< 0.001"],
    ]


def test_two_sparse_models_are_compared_without_limits_as_the_race_has_it():
    results = race_of(random=0.6, flap=0.4)
    best = results.sparse_models[0].record
    rival = results.race[0][0].record
    sides = [(best, "magnitude 10 %"), (rival, "flap 10 %")]
    for (first, left_name), (right, right_name) in (sides, sides[::-1]):
        pair = Pair(
            left_name=left_name,
            left=first,
            right_name=right_name,
            right=right,
        )
        sentence, lost, basis = map(plain, comparison_words(results, pair))
        assert (
            sentence
            == "magnitude 10 % has a lower perplexity than flap 10 %, tested on 120 passages."
        )
        factor = "1.48" if right is rival else "0.68"
        assert lost.startswith(
            f"{right_name}: perplexity {factor} × that of {left_name} (99.4 % interval "
        )
        assert "p < 0.001, Holm over 9 pairs)" in lost
        assert (
            "within" not in f"{sentence}{lost}{basis}"
            and "imit" not in f"{sentence}{lost}{basis}"
        )
    # Three pairs at three sparsities, of which one pair is shown already.
    assert results.race[0][1].level == 1 - 0.05 / 8


@pytest.mark.parametrize(
    ("found", "i", "begins", "ends", "verdict"),
    [
        (
            run_of(
                1,
                0,
                (30, 9.8, 0, 0),
                (60, 13.0, 0, 0),
            ),
            0,
            "Removing 30 % or 60 % of the MLP channels cannot be judged on 1 passage. Limit: perplexity 1.10 ×. 30 %",
            "(no interval); too few answers are right to judge accuracy.",
            {"verdict": "undecided", "points": None, "passages_needed": None},
        ),
        (
            run_of(
                10,
                1,
                (30, 7.3, 3.5, 0),
                (60, 16.0, 5.0, 0),
                (90, 23.0, 6.0, 0),
            ),
            -1,
            "Removing 30 % of the MLP channels costs too much: perplexity 1,480 × (limit 1.10 ×). Tested on 10 ",
            "too few answers are right to judge accuracy.",
            {"verdict": "beyond", "decided_by": ["word perplexity"]},
        ),
    ],
    ids=["one-passage", "ten-beyond"],
)
def test_runs_that_decide_little_are_judged_alike_in_sentences_report_table_and_document(
    found, i, begins, ends, verdict
):
    overview = plain(
        " ".join(
            [
                answers.answer_sentence(found),
                *answers.answer_figures(found),
            ]
        )
    )
    assert overview.startswith(begins) and overview.endswith(ends)
    judged = found.sparse_models[i]
    name = found.names[judged.record.key]
    pair = Pair(
        left_name="dense",
        left=found.dense,
        right_name=name,
        right=judged.record,
    )
    step = next_step(found)
    report = plain(
        html.unescape(
            html_report(
                found,
                pair,
                None,
                step=step,
            ).decode()
        )
    )
    assert all(
        plain(sentence) in report
        for sentence in model_verdict(
            name,
            judged.verdict,
            found.tolerance,
        )
    )
    assert ("no interval" in str(numbers_table(found))) == (
        found.dense.last_word.total == 1
    )
    document = run_document(
        found,
        found.dense,
        found.sparse_records,
        step,
    )
    assert document["sentence"] == plain(answers.answer_sentence(found))
    assert document["next"] == plain(step.sentence) and document["next"] in report
    assert list(run_table(found))[2:][i].endswith(judged.verdict.verdict)
    assert verdict.items() <= document["sparse"][i]["verdict"].items()


def test_a_model_against_itself_is_not_judged():
    results = run_of(132, 0, (30, 1.0, 0.5, 0))
    itself = "is compared with itself: nothing changes."
    for name, record in results.records.items():
        pair = Pair(
            left_name=name,
            left=record,
            right_name=name,
            right=record,
        )
        assert comparison_words(results, pair) == (
            f"{name} {itself}",
            "",
            "0 answers broke, 0 fixed.",
        )


def trial(permille, verdict, n=400):
    return Trial(
        permille=permille,
        record=f"record-{permille}",
        verdict=verdict,
        n_passages=n,
    )


def search(*trials, answer=None, finished=True, n=400):
    return FindResult(
        key="k", tolerance=Tolerance(), n_passages=n, steps=(100, 200, 300), trials=trials, answer=answer,
        finished=finished,
    )  # fmt: skip


def judged(nats, n=400, broke=0):
    falls = [nats + (0.3 if i % 2 else -0.3) for i in range(n)]
    lost = Losses(
        nats=moments(falls),
        broke=broke,
        fixed=0,
        n_right=n // 2,
        anytime=False,
        alpha=0.01,
    )
    return judge_all([lost], Tolerance())[0]


KEPT = within(1.02, "accuracy needs more than 400 passages")
FOUND = search(
    trial(200, "within"),
    trial(300, "beyond", 50),
    answer=200,
)
ENDS = {200: judged(0.02), 300: judged(0.9, 50)}


@pytest.mark.parametrize(
    ("result", "verdicts", "spec", "sentence"),
    [
        # On 400 and on 50 passages.
        (
            FOUND,
            ENDS,
            SparseSpec(CHANNELS, 100),
            f"Removing up to 20 % of the MLP channels {KEPT}. 30 % {beyond(2.46)}.",
        ),
        (
            FOUND,
            ENDS,
            SparseSpec(CHANNELS, 100, 8),
            "Removing up to 20 % of the MLP channels with “least-squares (healed 8 steps)” "
            f"{KEPT}. 30 % {beyond(2.46)}.",
        ),
        (
            FOUND,
            ENDS,
            SparseSpec(WEIGHTS, 100),
            f"Setting up to 20 % of the MLPs' weights to zero {KEPT}. 30 % {beyond(2.46)}.",
        ),
        (
            search(
                trial(200, "within"),
                trial(300, "within"),
                answer=300,
            ),
            {300: judged(0.02)},
            SparseSpec(CHANNELS, 100),
            f"Removing up to 30 % of the MLP channels {KEPT}. It is the largest sparsity that a search tries.",
        ),
        (
            search(trial(200, "beyond"), trial(100, "beyond")),
            {200: judged(0.9), 100: judged(0.9)},
            SparseSpec(CHANNELS, 100),
            f"No sparsity was found that stays within your limit. Removing 10 % of the MLP channels {beyond(2.46)}. "
            "Tested on 400 passages.",
        ),
        (
            search(
                trial(200, "within"),
                trial(300, "beyond"),
                answer=200,
            ),
            {300: judged(0.9)},
            SparseSpec(CHANNELS, 100),
            f"20 % stayed within your limit; its record is missing. Removing 30 % of the MLP channels {beyond(2.46)}. "
            "Tested on 400 passages.",
        ),
        (
            search(
                trial(200, "undecided", 8),
                trial(100, "undecided", 8),
                n=8,
            ),
            {},
            SparseSpec(CHANNELS, 100),
            "Fewer than 30 passages can never confirm a model.",
        ),
    ],
    ids=[
        "beyond",
        "healed",
        "weights",
        "most",
        "none",
        "lost",
        "eight",
    ],
)
def test_a_search_says_what_it_found_and_what_comes_after_it(
    result, verdicts, spec, sentence
):
    models = [
        ModelVerdict(
            spec=replace(spec, permille=permille),
            verdict=verdict,
        )
        for permille, verdict in verdicts.items()
    ]
    assert plain(answers.find_sentence(result, models)) == sentence


def test_a_result_whose_trials_are_none_of_its_steps_is_refused():
    for change in ({"trials": (trial(250, "within"),)}, {"answer": 150}):
        with pytest.raises(StoreError):
            replace(FOUND, **change)


def test_how_a_search_got_there_counts_trials_and_passages_and_names_what_stayed_undecided():
    result = search(
        trial(200, "within"),
        trial(300, "undecided", 400),
        answer=200,
    )
    assert plain(answers.find_steps(result)) == (
        "Tried 2 of 3 possible sparsities: 800 passages evaluated instead of 1,200. 30 % was undecided, so the "
        "search treated it as too much."
    )


def test_the_limit_of_accuracy_is_drawn_only_where_accuracy_is_judged():
    few, many = (run_of(132, n, (10, 0.04, 0.4, n)) for n in (12, 60))
    assert (
        list(loss_limits(few)) == ["word perplexity"] == list(run_tradeoff(few).limits)
    )
    assert loss_limits(many) == {
        "word perplexity": pytest.approx(log(1.1)),
        "accuracy": 2.0,
    }


def with_answers(
    swept: RunResults, dense: QuestionSet, *others: QuestionSet, **more
) -> RunResults:
    """The results with dense's answers, and those of the first sparse models."""
    sets = dict(zip("abcd", (dense, *others), strict=False))
    answers = {
        record: (key,) for record, key in zip(swept.run.records, sets, strict=False)
    }
    return results_of(
        replace(swept.run, answers=answers, **more),
        [model.record for model in swept.models],
        sets=sets,
    )


def test_a_model_that_has_not_answered_the_tasks_is_never_within_and_a_task_that_is_not_judged_is_named():
    swept = sweep_of(WITHIN, replace(WITHIN, key="two"))
    (dense, same) = verdicts(both=600)
    first, second = with_answers(swept, dense, same).sparse_models
    assert (first.verdict.verdict, second.verdict.verdict) == ("within", "undecided")
    assert (
        plain(verdict_words(second.verdict))
        == "is undecided: not all tasks were answered"
    )
    few, none = verdicts(both=3, wrong=50)
    results = with_answers(sweep_of(WITHIN), few, none)
    assert plain(verdict_words(results.sparse_models[0].verdict)).endswith(
        "(limit 1.10 ×); sums is not judged; " + OPEN
    )


def test_tasks_of_missing_models_count_as_comparisons_like_their_passages():
    swept = sweep_of(WITHIN)
    (dense, lost) = verdicts(both=595, broke=5)
    alone = {"settings": replace(swept.run.settings, sparsities_permille=(100,))}
    gone = with_answers(
        swept,
        dense,
        lost,
        sparse=(*swept.run.sparse, "gone"),
        **alone,
    )
    # Those to come count as well, so that no verdict is taken back once they are there.
    begun = with_answers(
        swept,
        dense,
        lost,
        finished=False,
    )
    (one,), (with_missing,), (early,) = (
        results.sparse_models[0].verdict.tasks
        for results in (
            with_answers(
                swept,
                dense,
                lost,
                **alone,
            ),
            gone,
            begun,
        )
    )
    assert (one.verdict, with_missing.verdict, early.verdict) == (
        "within",
        "undecided",
        "undecided",
    )


def test_too_few_passages_say_of_no_method_that_it_is_better_or_alike():
    whole = sweep_of(
        sparse := shifted(0.0, 100),
        beaten := shifted(2.0, 100, method="random"),
    )
    few = results_of(
        whole.run,
        [
            replace(model, outcomes=model.outcomes[:29])
            for model in (whole.dense, sparse, beaten)
        ],
    )
    one = results_of(
        whole.run,
        [
            replace(model, outcomes=model.outcomes[:1])
            for model in (whole.dense, sparse, beaten)
        ],
    )
    assert (
        race_words_of(one)
        == "1 passage is too few to rank methods; test on 30 or more."
    )
    assert (
        race_words_of(few)
        == "29 passages are too few to rank methods; test on 30 or more."
    )
    ((_, difference),) = few.race
    assert difference_p(difference) == "not tested on fewer than 30 passages"
    assert "are too few to say which is better" in difference_sentence(
        "a", "b", difference
    )
    ((_, alike),) = sweep_of(
        sparse,
        shifted(
            0.0,
            100,
            spread=0.1001,
            method="random",
        ),
    ).race
    assert difference_p(alike) == "p\u00a0>\u00a00.5, Holm over 3 pairs"


@pytest.mark.parametrize(
    ("state", "n_sparse", "sentence"),
    [
        ("cancelled", 1, "This run was stopped: 1 of its 3 sparse models is done."),
        (
            "crashed",
            0,
            "This run was interrupted (its worker process died): 0 of its 3 sparse models are done.",
        ),
        (None, 1, "This run did not finish: 1 of its 3 sparse models is done."),
        ("queued", 1, ""),
        ("running", 1, ""),
    ],
)
def test_an_unfinished_run_says_how_it_ended_and_what_there_is(
    state, n_sparse, sentence
):
    run, _ = specimens.run(finished=False, n_sparse=n_sparse)
    assert (
        answers.run_ending(
            run,
            job(specimens.SETTINGS, state) if state else None,
        )
        == sentence
    )
    whole, _ = specimens.run()
    assert (
        answers.run_ending(whole, job(specimens.SETTINGS, "failed"))
        == answers.run_ending(whole, None)
        == ""
    )


def test_what_is_still_to_come_is_not_on_its_way_while_it_waits_or_is_stopped():
    jobs = [
        job(specimens.SETTINGS, **more)
        for more in ({}, {"state": "queued"}, {"cancel_requested_at": 1.0})
    ]
    sentences = ["It is on its way.", "This run is queued.", "This run is stopping."]
    assert [
        answers.still_to_come(entry, "It is on its way.") for entry in jobs
    ] == sentences
