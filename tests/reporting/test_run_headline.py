"""The headline of a run, the line under it, and its rulers, from verdicts made for them."""

import html
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import run_headline
from sparsedash.reporting.findings import LimitEstimate
from sparsedash.reporting.ruler import Mark, Ruler, rulers_html, rulers_svg, run_rulers
from sparsedash.reporting.run_pictures import (
    answer_dots,
    layer_strip,
    model_chip,
    strip_words,
)
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from tests.factories import MIXTURE, PRUNED, plain
from tests.reporting.held_results import results_of
from tests.reporting.test_quantised_words import found as quantised_run
from tests.reporting.test_run_answer import (
    BEYOND,
    UNDECIDED,
    WITHIN,
    run_of,
    shifted,
    sweep_of,
)
from tests.ui import specimens


def said(results, **more) -> str:
    return plain(run_headline.headline(results, **more))


def few_passages(*sparse):
    """The first 29 passages of a sweep."""
    results = sweep_of(*sparse)
    short = [
        replace(model.record, outcomes=model.record.outcomes[:29])
        for model in results.models
    ]
    return results_of(results.run, short)


def searched(**more):
    run, records, result = specimens.search(**more)
    return results_of(run, records, result, tolerance=run.find.tolerance)


RESULTS = {
    "between": (
        sweep_of(WITHIN, BEYOND),
        "10 % of MLP channels can go. 30 % is too much. Between them: not tested.",
    ),
    "undecided-between": (
        sweep_of(WITHIN, UNDECIDED, BEYOND),
        "10 % of MLP channels can go. 30 % is too much. 20 % is undecided.",
    ),
    "all-within": (
        sweep_of(WITHIN, shifted(0.02, 200)),
        "20 % of MLP channels can go. More: not tested.",
    ),
    "all-beyond": (
        sweep_of(BEYOND, shifted(0.6, 400)),
        "30 % of MLP channels is too much. Less: not tested.",
    ),
    "all-undecided": (
        sweep_of(*(shifted(0.09, share, spread=1.0) for share in (100, 200, 300))),
        "10 to 30 % of MLP channels are undecided.",
    ),
    "random": (
        sweep_of(shifted(12.0, 900, method="random")),
        "90 % of MLP channels is too much. Less: not tested.",
    ),
    "contradicting": (
        sweep_of(shifted(0.3, 100), shifted(0.01, 200)),
        "Results contradict: 10 % of MLP channels is too much, yet 20 % can go.",
    ),
    "zeros": (
        sweep_of(shifted(0.01, 500, method="magnitude-2:4")),
        "50 % of MLP weights can be set to zero.",
    ),
    "won": (
        sweep_of(shifted(0.01, 100), shifted(0.6, 100, method="random")),
        "“least-squares” keeps most: 10 % of MLP channels can go.",
    ),
    "tied": (
        sweep_of(
            WITHIN,
            shifted(0.02, 100, 1.0, "magnitude"),
            shifted(0.4, 100, method="random"),
        ),
        "“least-squares” and “magnitude” are tied: 10 % of MLP channels can go.",
    ),
    "unfinished": (
        sweep_of(WITHIN, finished=False),
        "So far: 10 % of MLP channels can go.",
    ),
    "waiting": (
        sweep_of(finished=False),
        "The dense model is evaluated; no sparse model yet.",
    ),
    "one-passage": (
        run_of(1, 1, (90, 0.0, 0.0, 1)),
        "1 passage cannot decide anything.",
    ),
    "few": (few_passages(WITHIN), "29 passages cannot decide anything."),
    "search": (
        searched(),
        "At least 58.3 % of MLP channels can go, probably 62 %; 68.8 % is too much.",
    ),
    "search-open": (
        searched(n_trials=2),
        "So far: 45.8 % of MLP channels can go. 68.8 % is too much.",
    ),
    "quantised": (
        quantised_run(),
        "Smallest file within: Q4_0 unpruned, 80 MB (dense 200 MB).",
    ),
    "quantised-pruned": (
        quantised_run(pruned_lost=0.02),
        "Smallest file within: Q4_0 with 10 % gone, 75 MB (dense 200 MB).",
    ),
    "quantised-again": (
        quantised_run(source_type="Q4_1"),
        "10 % of MLP channels is too much. Less: not tested.",
    ),
}


@pytest.mark.parametrize(("results", "sentence"), RESULTS.values(), ids=RESULTS)
def test_a_headline_says_how_much_can_go_in_fourteen_words(results, sentence):
    assert said(results) == sentence
    assert run_headline.n_words(sentence) <= run_headline.MAX_WORDS


def test_more_passages_are_asked_for_where_the_text_has_them():
    results = sweep_of(WITHIN, UNDECIDED, BEYOND)
    evaluation = replace(results.run.settings.evaluation, n_passages=120)
    settings = replace(results.run.settings, evaluation=evaluation)
    records = [model.record for model in results.models]
    part = results_of(replace(results.run, settings=settings), records)
    assert (
        said(part)
        == "10 % of MLP channels can go. 30 % is too much. 20 % needs more passages."
    )


def test_a_longer_headline_leaves_what_the_shares_are_of_to_the_line_under_it():
    results = quantised_run(pruned_lost=0.02)
    assert "MLP channels" not in said(results)
    assert "% of the MLP channels" in run_headline.basis_words(results)


def test_methods_that_tie_are_marked_on_their_rulers_and_best_is_explained():
    results = sweep_of(
        WITHIN,
        shifted(0.02, 100, 1.0, "magnitude"),
        shifted(0.02, 100, 1.0, "best"),
        shifted(0.4, 100, method="random"),
    )
    assert (
        said(results) == "“least-squares” ties 2 others: 10 % of MLP channels can go."
    )
    titles = [ruler.shown_title for ruler in run_rulers(results)]
    assert sorted(titles) == [
        "best, tied",
        "least-squares",
        "magnitude, tied",
        "random",
    ]
    words = run_headline.basis_words(results)
    assert words.endswith(" · best: our recommended method")


def test_a_stopped_run_is_not_said_to_go_on():
    assert (
        said(sweep_of(WITHIN, finished=False), ended=True)
        == "10 % of MLP channels can go. More: not tested."
    )


def test_widths_that_were_rounded_up_removed_nothing():
    unchanged = replace(
        WITHIN,
        pruned=replace(WITHIN.pruned, reached=replace(PRUNED.reached, channels=0.0)),
    )
    results = sweep_of(unchanged)
    assert (
        said(results)
        == "At 10 % of MLP channels nothing was removed: the widths were rounded up."
    )
    assert run_rulers(results) == []


def test_the_line_says_what_the_verdict_rests_on_and_what_the_shares_are_of():
    words = run_headline.basis_words(sweep_of(WITHIN, BEYOND))
    assert words == "120 passages · judged by perplexity; accuracy needs more passages"
    run, records, result = specimens.search()
    stricter = results_of(run, records, result, tolerance=Tolerance())
    assert run_headline.basis_words(stricter).endswith("searched for 1.30 ×")
    without = replace(result, answer=None)
    quantising = replace(run, find=replace(run.find, quantise=("q8_0",)))
    words = run_headline.basis_words(results_of(quantising, records, without))
    assert words.endswith("nothing was quantised")
    again = run_headline.basis_words(quantised_run(source_type="Q4_1"))
    assert again.endswith("files are not ranked: the source was quantised already")


def test_the_ruler_is_green_below_every_share_beyond_and_red_from_the_first_one():
    (ruler,) = run_rulers(sweep_of(WITHIN, UNDECIDED, BEYOND))
    assert [mark.label.split()[0] for mark in ruler.marks] == ["10", "20", "30"]
    assert [mark.verdict for mark in ruler.marks] == ["within", "undecided", "beyond"]
    assert (ruler.within, ruler.beyond) == (ruler.marks[0].place, ruler.marks[2].place)
    assert ruler.beyond < ruler.end and ruler.pin is not None
    (upside_down,) = run_rulers(sweep_of(shifted(0.3, 100), shifted(0.01, 200)))
    assert upside_down.within == 0.0
    assert upside_down.beyond == upside_down.marks[0].place, (
        "the one within is a mark alone"
    )


def test_marks_of_one_share_have_one_place_however_the_widths_were_rounded():
    rounded = shifted(0.3, 100, method="random")
    reached = replace(rounded.pruned.reached, channels=0.125)
    rounded = replace(rounded, pruned=replace(rounded.pruned, reached=reached))
    rulers = run_rulers(sweep_of(WITHIN, rounded))
    assert [ruler.marks[0].place for ruler in rulers] == [10.0, 10.0]


def test_a_ruler_goes_on_beyond_what_can_go_until_a_share_is_too_much():
    (small,) = run_rulers(sweep_of(shifted(0.01, 20)))
    assert (small.within, small.end) == (small.marks[0].place, 10.0)
    assert ("not known", small.end - small.within) == small.segments[1]
    (large,) = run_rulers(sweep_of(shifted(0.01, 400)))
    assert large.end == pytest.approx(1.5 * large.within)
    (open_ruler,) = run_rulers(sweep_of(UNDECIDED))
    assert open_ruler.end < 1.1 * open_ruler.marks[0].place
    run, records = specimens.run(finished=False, n_sparse=1)
    (live,) = run_rulers(results_of(run, records))
    assert live.end < 1.1 * live.marks[-1].place, (
        "shares that are to come may be too much"
    )


def test_a_race_has_a_ruler_a_method_the_best_first_and_all_are_as_long():
    results = sweep_of(
        shifted(0.4, 200, method="random"),
        WITHIN,
        shifted(0.01, 500, method="magnitude-2:4"),
    )
    first, second, files = run_rulers(results)
    assert [first.title, second.title] == ["least-squares", "random"]
    assert first.end == second.end > 20
    assert files.title == "File size" and files.within is None
    assert files.marks[0].place == 100.0, "zeros stay in the file"
    assert b"not known" not in rulers_svg("", "", "", [files]), (
        "its axis has no colours"
    )
    picture = rulers_svg("", "", "", [first, second, files]).decode()
    assert picture.count("% removed") == 1, "one axis for both"
    assert "of the dense model's file" in html.unescape(picture)


def test_a_long_label_at_the_end_of_a_ruler_stays_within_it():
    mark = Mark(key="a", place=87.0, label="16.7 %, Q8_0 again", verdict="within")
    short = replace(mark, label="16.7 %")
    drawn = []
    for one in (mark, short):
        ruler = Ruler(title="File size", axis="of the file", end=100.0, marks=(one,))
        drawn.append(rulers_html([ruler]))
    assert "--shift: -87%" in drawn[0] and "--shift: -50%" in drawn[1]


def test_healed_points_have_a_ruler_and_models_to_come_a_mark():
    healed = replace(
        shifted(0.01, 200),
        pruned=replace(
            WITHIN.pruned, spec=replace(WITHIN.pruned.spec, permille=200, heal_steps=9)
        ),
    )
    titles = [ruler.title for ruler in run_rulers(sweep_of(WITHIN, healed))]
    assert len(titles) == 2 and any("heal" in title for title in titles)
    run, records = specimens.run(finished=False, n_sparse=1)
    results = results_of(run, records)
    (ruler,) = run_rulers(results)
    assert [mark.verdict for mark in ruler.marks] == ["undecided", None, None]
    (ended,) = run_rulers(results, ended=True)
    assert len(ended.marks) == 1


def test_quantised_models_are_marks_by_the_size_of_their_files():
    _, files = run_rulers(quantised_run())
    assert [(plain(mark.label), round(mark.place, 1)) for mark in files.marks] == [
        ("10 %, Q4_0", 37.5),
        ("dense, Q4_0", 40.0),
    ]


def test_long_labels_that_are_near_stand_in_rows_of_their_own_and_short_ones_in_one():
    def n_rows(*labels):
        marks = [
            Mark(key="", place=50.0 + 8 * i, label=label, verdict="within")
            for i, label in enumerate(labels)
        ]
        drawn = rulers_html([Ruler(title="", axis="", end=100.0, marks=tuple(marks))])
        return re.search(r'sd-ruler-marks" style="--wide: (\d)', drawn)[1]

    assert n_rows("5 %", "10 %") == "1"
    assert n_rows("5 %, Q4_K_M", "10 %, Q4_K_M") == "2"


def test_a_search_estimates_where_the_limit_is_met():
    (ruler,) = run_rulers(searched())
    assert ruler.within < ruler.pin.percent < ruler.beyond


def test_a_ruler_is_drawn_with_a_link_a_mark_and_its_foreign_title_as_text():
    marks = (
        Mark(
            key="a",
            place=10.0,
            label="10 %",
            verdict="within",
            loss="perplexity 1.01 ×",
        ),
    )
    ruler = Ruler(
        title="<b>",
        axis="of the MLP channels removed",
        end=20.0,
        marks=marks,
        within=10.0,
        pin=LimitEstimate(15.0, 12.0, None),
    )
    drawn = rulers_html([ruler], {"a": "compare?run=1"})
    assert "&lt;b&gt;" in drawn and 'href="compare?run=1"' in drawn
    assert 'style="width: 50.00%"' in drawn and "left: 75.00%" in drawn
    assert "10 % within the limit, perplexity 1.01 ×" in drawn
    assert "15\u00a0% (12\u00a0% or more)" in drawn


def test_the_picture_of_rulers_is_an_svg_of_its_own_with_the_headline():
    results = sweep_of(WITHIN, UNDECIDED, BEYOND)
    picture = rulers_svg(
        "10 % can go <&>", "a model", "120 passages", run_rulers(results)
    )
    root = ET.fromstring(picture)
    assert root.tag.endswith("svg")
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:3] == ["10 % can go <&>", "a model", "120 passages"]
    assert {"✓ 10\u00a0%", "? 20\u00a0%", "✕ 30\u00a0%"} <= set(texts)


def test_labels_that_would_cover_each_other_stand_in_rows_of_their_own():
    marks = tuple(
        Mark(key=str(i), place=float(i), label=f"{i} %", verdict="beyond")
        for i in (2, 3, 20)
    )
    drawn = rulers_html([Ruler(title="", axis="", end=20.0, marks=marks, within=0.0)])
    assert (
        drawn.count("--wide: 1; --narrow: 1") == 2
        and drawn.count("--wide: 2; --narrow: 2") == 1
    )


def test_a_chip_says_why_a_model_is_open_that_its_own_interval_would_decide():
    (near,) = sweep_of(shifted(0.155, 200, spread=0.55)).sparse_models
    drawn = plain(model_chip(near, "20 %", ()))
    assert "perplexity, 95 % interval 1.11 to 1.23" in drawn
    assert "undecided: all models are judged together" in drawn
    (far,) = sweep_of(shifted(0.3, 200)).sparse_models
    assert "judged together" not in model_chip(far, "20 %", ())


def test_the_strip_shows_what_every_layer_kept_and_crosses_out_what_is_gone():
    drawn = layer_strip(replace(PRUNED, widths=(96, 0), dense_widths=(128, 64)))
    assert "height: 75.0%" in drawn and drawn.count("sd-gone") == 1
    assert "Layer 2: gone" in drawn and "1 layer of 2 gone." in drawn
    assert plain(strip_words(PRUNED)) == "Layers keep 75 to 100 %."


def test_the_strip_of_a_mixture_counts_experts():
    drawn = layer_strip(MIXTURE)
    assert "Layer 1: no experts, nothing removed" in drawn and "sd-gone" not in drawn
    assert "Layer 2: 2 of 4 experts kept" in drawn and drawn.count("height: 50.0%") == 2
    assert (
        strip_words(MIXTURE) == "2 layers of 3 with experts: each keeps 2 of 4 experts."
    )
    unequal = replace(MIXTURE, experts=((), (0, 2), (1, 2, 3)))
    assert strip_words(unequal) == "5 of 8 experts kept."
    narrower = SparseSpec(method_named("expert-channels"), 500)
    widths = {"expert_widths": (0, 8, 8), "dense_expert_widths": (0, 16, 16)}
    narrower = replace(MIXTURE, spec=narrower, experts=(), **widths)
    words = "2 layers of 3 with experts: each keeps 8 of 16 channels of each expert."
    assert strip_words(narrower) == words


def test_of_many_passages_a_dot_stands_for_several():
    few = answer_dots({"broke": [3, 7]}, {"broke": "compare?filter=broke"})
    assert 'href="compare?filter=broke&amp;passage=7"' in few and "Broke 2" in few
    many = answer_dots({"broke": list(range(1, 1001)), "fixed": []}, {})
    assert many.count("<span></span>") == 500 and "A dot: 2 passages." in many
