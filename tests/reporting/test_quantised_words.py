"""What is said of quantised points: names, sizes, and where quantising alone does better."""

from dataclasses import replace
from functools import partial
from itertools import chain
from math import log
from types import SimpleNamespace

import pytest

from sparsedash.reporting import run_answer
from sparsedash.reporting.charts.tradeoff_chart import gain_chart
from sparsedash.reporting.deployment import QUANTISED, UNTIMED, run_gains
from sparsedash.reporting.findings import estimate_limit
from sparsedash.reporting.quantised_words import quantised_figures
from sparsedash.reporting.run_reports import run_document
from sparsedash.reporting.tradeoff_points import run_tradeoff
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import TimingSettings
from sparsedash.schema.records import Quantised
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.shell.terminal import run_table
from tests.factories import PRUNED, RUN, losing, plain
from tests.reporting.held_results import results_of
from tests.reporting.test_deployment import SHAPE

METHOD = MethodSettings()
SETTINGS = RunSettings(
    methods=(METHOD,),
    sparsities_permille=(100,),
    quantise=("q4_0",),
)
N = 120


def found(dense_lost=0.02, pruned_lost=0.3, source_type=""):
    """Dense quantised to 80 of 200 MB; 10 % pruned in 16 bits, 188 MB, and quantised, 75 MB."""

    def made(spec, n_mb=0):
        tensors = {"F32": 7, "Q4_0": 20, "Q8_0": 2}
        sizes = {
            "n_bytes": n_mb * 10**6,
            "full_bytes": 190 * 10**6,
            "dense_bytes": 200 * 10**6,
        }
        sized = Quantised(
            **sizes,
            tensors=tensors,
            fell_back={"Q8_0": 1},
        )
        gone = replace(PRUNED.reached, bytes=1 - n_mb / 200 if n_mb else 0.06)
        quantised = replace(sized, divergence=0.04, n_tokens=500) if n_mb else None
        return replace(
            PRUNED,
            spec=spec,
            reached=gone,
            quantised=quantised,
        )

    sparse = [
        losing(
            "d4",
            dense_lost,
            N,
            pruned=made(SparseSpec(quantise="q4_0"), 80),
        ),
        losing(
            "s",
            pruned_lost,
            N,
            pruned=made(SparseSpec(METHOD, 100)),
        ),
        losing(
            "s4",
            pruned_lost,
            N,
            pruned=made(SparseSpec(METHOD, 100, quantise="q4_0"), 75),
        ),
    ]
    run = replace(
        RUN,
        settings=SETTINGS,
        dense="d",
        sparse=("d4", "s", "s4"),
        finished=True,
        source_type=source_type,
    )
    return results_of(run, [losing("d", 0.0, N), *sparse])


def test_quantising_alone_is_said_to_be_better_where_it_beats_every_pruned_file_that_is_not_smaller():
    sentence, figures = map(plain, quantised_figures(found()))
    assert sentence == (
        "Quantising alone does better: dense, Q4_0 (80 MB) beats every pruned file that is not smaller. The best of "
        "them, 10 % in 16 bits (190 MB), loses 0.280 nats a word more (95 % interval 0.280 to 0.280); dense, Q4_0 has "
        "as many right of 120."
    )
    assert figures == (
        "Q4_0: dense 80 MB, KL 0.040; 10 % 75 MB, KL 0.040 (mean KL divergence from dense on 500 tokens of the "
        "passages, without an interval). Tensors: 7 in F32, 20 in Q4_0, 1 in Q8_0; fallback for the length of "
        "their rows: 1 to Q8_0."
    )
    assert len(quantised_figures(found(dense_lost=0.3, pruned_lost=0.02))) == 1
    whole = found()
    assert (
        len(quantised_figures(replace(whole, run=replace(whole.run, finished=False))))
        == 1
    )
    assert len(quantised_figures(replace(whole, missing={"20 %": "gone"}))) == 1


def test_a_base_that_was_quantised_is_labelled_and_not_ranked():
    again = found(source_type="Q4_1")
    assert list(again.names.values()) == [
        "dense",
        "dense, Q4_0 again",
        "10 %",
        "10 %, Q4_0 again",
    ]
    first, second = quantised_figures(again)
    assert (
        first.startswith("Quantised again: the dense model comes from a Q4_1 file")
        and "better" not in first + second
    )


def test_answer_race_and_next_step_are_about_unquantised_models():
    results = found()
    assert [model.record.key for model in results.best] == ["s"] and not results.race
    assert run_answer.answer_sentence(results).startswith(
        "Removing 10\u00a0% of the MLP channels"
    )
    lines = run_tradeoff(results).lines
    assert lines.keys() == {"sparse", "sparse, Q4_0"}
    points = chain(lines["sparse"], lines["sparse, Q4_0"])
    assert [(p.key, round(p.sparsity)) for p in points] == [
        ("s", 5),
        ("d4", 60),
        ("s4", 62),
    ]


def test_they_win_the_bytes_of_their_files_and_are_not_timed():
    backend = SimpleNamespace(
        model_shape=lambda _: SHAPE,
        result=lambda kind, key: None,
    )
    gained, omitted = run_gains(
        backend,
        found(),
        "bytes",
        partial(TimingSettings, dense="d"),
    )
    assert {key: gained.gains[key].value for key in ("d4", "s4")} == {
        "d4": 200 / 80,
        "s4": 200 / 75,
    } and not omitted
    notes = [
        note.text
        for note in gain_chart(
            run_tradeoff(found()),
            gained,
            "word perplexity",
        ).layout.annotations
    ]
    assert any(text.startswith("dense<br>") for text in notes) and not any(
        text.startswith("0 %") for text in notes
    ), notes
    _, omitted = run_gains(
        backend,
        found(),
        "reading",
        partial(TimingSettings, dense="d"),
    )
    assert list(omitted) == [QUANTISED, UNTIMED]
    models = chain.from_iterable(omitted.values())
    assert [model.record.key for model in models] == ["d4", "s4", "s"]
    _, omitted = run_gains(
        backend,
        found(),
        "reading",
        partial(
            TimingSettings,
            dense="d",
            runtime="llama.cpp",
        ),
    )
    assert [(why, len(models)) for why, models in omitted.items()] == [(UNTIMED, 3)]


def test_each_has_its_line_in_the_table_of_the_shell_and_in_the_document():
    results = found(source_type="Q4_1")
    records = [model.record for model in results.models]
    document = run_document(results, records[0], records[1:])
    assert [line.split("  ")[0] for line in run_table(results)][1:] == [
        "dense",
        "dense, Q4_0 again",
        "10 %",
        "10 %, Q4_0 again",
    ]
    # Of files of one kind.
    assert [round(model["bytes_removed_percent"]) for model in document["sparse"]] == [
        60,
        5,
        62,
    ]
    assert (
        document["sparse"][0]["quantised"]["n_bytes"] == 80 * 10**6
        and document["sparse"][1]["quantised"] is None
    )


def test_the_best_estimate_is_a_share_of_the_budget_whatever_the_chart_s_axis_is():
    results = found(pruned_lost=0.3)
    assert (results.run.settings.axis, results.run.settings.budget) == (
        "bytes",
        "channels",
    )
    share = results.best[0].permille / 10 * log(1.1) / 0.3
    assert estimate_limit(results).percent == pytest.approx(share)


def test_dense_quantised_answers_nothing_until_a_model_is_pruned():
    results = found()
    begun = replace(results, models=results.models[:2])
    assert (
        [model.permille for model in begun.sparse_models] == [0]
        and begun.headline is None
        and begun.best == []
    )
    assert (
        run_answer.answer_sentence(begun)
        == "The dense model is evaluated; no sparse model was."
    )
    assert run_tradeoff(begun).leader == ""
