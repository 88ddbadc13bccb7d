"""Blind mode: nothing on the page tells the sides apart until there is a choice; choices are
counted.
"""

import secrets

import pytest

from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.ui.compare_views import tally
from tests.factories import answered, plain
from tests.ui.conftest import button, markup, words


@pytest.fixture(params=[0, 1], ids=["in order", "turned"])
def drawn(request, monkeypatch):
    """The order that is drawn: 1 puts the right model first."""
    monkeypatch.setattr(secrets, "randbelow", lambda n: request.param)
    return request.param


@pytest.mark.parametrize(
    "address",
    [{"words": "true"}, {"sort": "file order"}, {"filter": "broke", "change": "x"}],
)
def test_the_blind_view_can_be_chosen_whatever_the_passages_are_sorted_and_filtered_by(
    open_compare, finished, address
):
    app = open_compare(**address)
    app.toggle(key="blind").set_value(True).run()
    assert not app.exception and "Which answer is better?" in words(app)
    assert not {"filter", "change", "sort", "words"} & set(app.query_params)


@pytest.fixture
def prompt(finished):
    """A prompt to the dense and the last sparse model, and what they wrote."""
    run = finished.runs()[0]
    request = ContinuationSettings(
        left=run.dense,
        right=run.sparse[-1],
        prompt="Once",
    )
    finished.user_data.keep_prompt(request)
    finished.put(
        Continuation(
            key=request.key(),
            prompt="Once",
            left=" of the dense",
            right=" of the sparse",
        )
    )
    return request


def labels(app):
    return [widget.label for widget in app.button]


def test_nothing_tells_the_sides_apart_before_the_choice_which_is_counted_and_can_be_taken_back(
    open_compare, finished, drawn
):
    run = finished.runs()[0]
    app = open_compare(blind="true", passage="14")
    page_text = words(app)
    page = markup(app).split("</style>")[-1]
    assert "Which answer is better?" in page_text
    names = ("sd-dense", "sd-sparse", "Dense", "Sparse", "log-probability")
    answers = ("sd-target", "sd-verdict", "sd-top", "sd-meter", "rank", "✓", "✕")
    assert not [telling for telling in (*names, *answers) if telling in page]
    assert not [
        text
        for text in labels(app)
        if text.startswith(("Broke", "Fixed", "Both right", "Show where"))
    ]
    assert not app.get("download_button")
    first, second = [
        finished.record(key).outcomes[13].answer for key in (run.dense, run.sparse[-1])
    ][:: 1 - 2 * drawn]
    assert f"went to fetch the … A {first} B {second}" in page_text
    rows = [widget.label for widget in app.button if widget.key.startswith("row-")]
    assert {row.removeprefix("`▸ ").partition(" ")[2] for row in rows} == {
        "**Mara had looked for it all morning: unde**"
    }
    button(app, "A is better").click().run()
    chosen = "30 %" if drawn else "dense"
    page_text = words(app)
    assert (
        "went to fetch the harbour" in page_text
        and "“harbour” gets" in page_text
        and "✓ right" in page_text
    )
    assert (
        f"Judged blind: {chosen} was chosen as better." in page_text
        and "Dense" in page_text
        and "Sparse, 30 %" in page_text
    )
    assert (
        f"1 judged: dense better {1 - drawn}, 30 % better {drawn}, the same 0."
        in page_text
    )
    button(app, "Undo this choice").click().run()
    assert "No choice yet." in words(app) and "A is better" not in labels(app)


def test_what_was_shown_with_names_is_not_judged_blind(open_compare, finished, prompt):
    app = open_compare(filter="both-right", passage="14", right="10 %")
    assert "Passage 14 " in words(app) and "Sparse, 10 %" in words(app)
    app.toggle(key="blind").set_value(True).run()
    assert "filter" not in app.query_params, "what it filters by would tell"
    app.query_params["right"] = "30 %"
    app.query_params["passage"] = "14"
    assert "shown with the models' names before, so it cannot be judged blind" in words(
        app.run()
    )
    assert "A is better-passage-13" not in [widget.key for widget in app.button]
    app.toggle(key="blind").set_value(False).run()
    assert "9 answers broke" in words(app)
    app.toggle(key="blind").set_value(True).run()
    assert f"B is better-{prompt.key()}" not in [widget.key for widget in app.button]
    assert "cannot be judged blind" in words(app).split("Try a prompt of your own")[1]


def test_a_prompt_of_the_run_that_a_user_tries_is_judged_once(open_compare, finished):
    run = finished.runs()[0]
    others = run.sparse[:-1]
    request = ContinuationSettings(
        left=run.dense,
        right=run.sparse[-1],
        others=others,
        prompt=run.settings.prompts[0],
    )
    finished.user_data.keep_prompt(request)
    finished.put(
        Continuation(
            key=request.key(),
            prompt=request.prompt,
            left=" a",
            right=" b",
            others=(" c", " d"),
        )
    )
    app = open_compare(blind="true")
    assert [widget.key for widget in app.button].count(
        f"A is better-{request.key()}"
    ) == 1


def test_swapped_sides_share_their_count_and_it_can_be_reset(open_compare, finished):
    button(open_compare(blind="true"), "Both the same").click().run()
    app = open_compare(blind="true", left="30 %", right="dense")
    assert "1 judged: 30 % better 0, dense better 0, the same 1." in words(app)
    button(app, "Forget all 1 choices").click().run()
    assert "No choice yet." in words(app)


def test_only_passages_with_different_answers_are_judged_in_file_order(
    open_compare, finished
):
    app = open_compare(blind="true", filter="fixed", sort="largest change first")
    run = finished.runs()[0]
    dense, sparse = (finished.record(key) for key in (run.dense, run.sparse[-1]))
    pairs = zip(dense.outcomes, sparse.outcomes, strict=True)
    different = [one.index for one, two in pairs if one.answer != two.answer]
    assert f"1 of {len(different)}" in words(
        app
    ) and f"Passage {different[0] + 1}" in words(app)
    assert (
        f"Offered: the {len(different)} of 120 passages that the two models answer with different words."
        in words(app)
    )
    searched = words(open_compare(blind="true", search="violin"))
    assert " passages with this text that the two models answer" in searched


def test_a_prompt_of_ones_own_is_judged_blind_too(
    open_compare, finished, prompt, drawn
):
    app = open_compare(blind="true")
    first, second = ("sparse", "dense") if drawn else ("dense", "sparse")
    assert words(app).index(f"of the ❘ {first}") < words(app).index(
        f"of the ❘ {second}"
    )
    next(
        widget for widget in app.button if widget.key == f"B is better-{prompt.key()}"
    ).click().run()
    chosen = "dense" if drawn else "30 %"
    assert f"Judged blind: {chosen} was chosen" in words(app)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("", "No choice yet."),
        ("==", "2 judged: dense better 0, 30 % better 0, the same 2."),
        (
            "l" * 5 + "r" * 4 + "===",
            "dense won 56 % (95 % interval 12 % to 93 %): no preference shown.",
        ),
        ("llll", "dense won 100 % (95 % interval 26 % to 100 %): no preference shown."),
        (
            "ll" + "r" * 18,
            "30 % won 90 % (95 % interval 60 % to 100 %): 30 % is preferred.",
        ),
    ],
)
def test_the_count_is_said_with_an_interval_that_holds_after_every_choice(
    chosen, expected
):
    pair = Pair(
        left_name="dense",
        left=answered("l", 1),
        right_name="30 %",
        right=answered("r", 1),
    )
    assert expected in plain(tally(pair, [better.strip("=") for better in chosen]))
