"""Blind mode: nothing on the page tells the sides apart until there is a choice; choices are counted."""

import secrets

import pytest

from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.ui.compare_blind import tally
from tests.ui.conftest import button, markup, words


@pytest.fixture(params=[0, 1], ids=["in order", "turned"])
def drawn(request, monkeypatch):
    """The order that is drawn: 1 puts the right model first."""
    monkeypatch.setattr(secrets, "randbelow", lambda n: request.param)
    return request.param


def answers_of(backend, index):
    run = backend.stored_runs[0]
    records = [backend.record(key) for key in (run.dense, run.sparse[-1])]
    return [record.outcomes[index].answer for record in records]


def test_the_page_tells_neither_names_nor_colours_of_the_sides(open_page, finished, drawn):
    app = open_page("compare", mode="blind", passage="13")
    drawn_page = markup(app).split("</style>")[-1]
    assert "Which answer is better?" in words(app)
    for telling in ("sd-dense", "sd-sparse", "Dense", "Sparse", "log-probability"):
        assert telling not in drawn_page
    assert not [b for b in app.button if b.label.startswith(("Broke", "Fixed", "Both right"))]
    assert not app.get("download_button")
    assert "Show where the two differ" not in [b.label for b in app.button]
    shown = answers_of(finished, 13)
    said = words(app)
    first, second = (shown[1], shown[0]) if drawn else shown
    assert said.index(f"A {first}") < said.index(f"B {second}")


def test_before_the_choice_only_what_was_answered_is_shown_and_after_it_everything(open_page, finished):
    app = open_page("compare", mode="blind", passage="13")
    first, second = sorted(answers_of(finished, 13))
    drawn_page = markup(app).split("</style>")[-1]
    for telling in ("sd-target", "sd-verdict", "sd-top", "sd-meter", "rank", "✓", "✕"):
        assert telling not in drawn_page
    said = words(app)
    shown = said[said.index("went to fetch the … A ") :]
    answers = [f"… A {first} B {second}", f"… A {second} B {first}"]
    assert shown.removeprefix("went to fetch the ").startswith(tuple(answers))
    rows = [b.label for b in app.button if b.key.startswith("row-")]
    assert rows and all(
        row.removeprefix("`▸ ").partition(" ")[2] == "**Mara had looked for it all morning: unde**" for row in rows
    )
    button(app, "A is better").click().run()
    assert "went to fetch the harbour" in words(app)
    assert "“harbour” gets" in words(app) and "✓ right" in words(app)


def test_a_choice_reveals_the_sides_and_is_counted_for_the_right_one(open_page, finished, drawn):
    app = open_page("compare", mode="blind", passage="13")
    button(app, "A is better").click().run()
    said = words(app)
    chosen = "30 %" if drawn else "dense"
    assert f"Judged blind: {chosen} was chosen as better." in said
    assert "Dense" in said and "Sparse, 30 %" in said
    assert f"1 judged: dense better {1 - drawn}, 30 % better {drawn}, the same 0." in said
    again = open_page("compare", mode="blind", passage="13")
    assert f"Judged blind: {chosen}" in words(again)
    button(again, "Take the choice back").click().run()
    assert "Nothing has been judged yet." in words(again)
    assert "A is better" not in [b.label for b in again.button]


def test_what_was_shown_with_names_is_not_judged_blind(open_page, finished):
    app = open_page("compare", passage="13")
    assert "Sparse, 30 %" in words(app)
    app.query_params["mode"] = "blind"
    app.run()
    assert "shown with the models' names before, so it cannot be judged blind" in words(app)
    assert "A is better" not in [b.label for b in app.button]
    button(app, "Next").click().run()
    assert "A is better" in [b.label for b in app.button]


def test_a_passage_seen_beside_another_model_is_not_judged_blind_either(open_page, finished):
    app = open_page("compare", filter="both-right", passage="13", right="10 %")
    assert "Passage 14 " in words(app)
    app.query_params["right"], app.query_params["mode"] = "30 %", "blind"
    app.run()
    assert "cannot be judged blind" in words(app)


def test_swapped_sides_share_their_count_and_it_can_be_reset(open_page, finished):
    button(open_page("compare", mode="blind"), "Both the same").click().run()
    app = open_page("compare", mode="blind", left="30 %", right="dense")
    assert "1 judged: 30 % better 0, dense better 0, the same 1." in words(app)
    button(app, "Forget all 1 choices").click().run()
    assert "Nothing has been judged yet." in words(app)


def test_only_passages_with_different_answers_are_judged_in_file_order(open_page, finished):
    app = open_page("compare", mode="blind", filter="mended", sort="largest change first")
    run = finished.stored_runs[0]
    dense, sparse = (finished.record(key) for key in (run.dense, run.sparse[-1]))
    pairs = zip(dense.outcomes, sparse.outcomes, strict=True)
    different = [one.index for one, other in pairs if one.answer != other.answer]
    assert f"1 of {len(different)}" in words(app)
    assert f"{len(different)} of 120 passages are offered: those that the two models answer" in words(app)
    assert f"Passage {different[0] + 1}" in words(app)


def test_the_switch_changes_the_address_and_drops_what_tells(open_page, finished):
    app = open_page("compare", filter="mended", passage="40")
    app.toggle(key="blind-mode").set_value(True).run()
    assert app.query_params["mode"] == "blind"
    assert "filter" not in app.query_params
    app.toggle(key="blind-mode").set_value(False).run()
    assert "mode" not in app.query_params
    assert "9 answers broke" in words(app)


def test_a_prompt_of_ones_own_is_judged_blind_too(open_page, finished, drawn):
    run = finished.stored_runs[0]
    asked = ContinuationSettings(left=run.dense, right=run.sparse[-1], prompt="Once")
    finished.user_data.keep_prompt(asked)
    finished.stored_continuations[asked.key()] = Continuation(
        key=asked.key(), prompt="Once", left=" of the dense", right=" of the sparse"
    )
    app = open_page("compare", mode="blind")
    first, second = ("sparse", "dense") if drawn else ("dense", "sparse")
    said = words(app)
    assert said.index(f"of the ❘ {first}") < said.index(f"of the ❘ {second}")
    next(b for b in app.button if b.key == f"B is better-{asked.key()}").click().run()
    assert f"Judged blind: {'dense' if drawn else '30 %'} was chosen" in words(app)


def test_a_prompt_that_was_read_with_names_is_not_judged_blind(open_page, finished):
    run = finished.stored_runs[0]
    asked = ContinuationSettings(left=run.dense, right=run.sparse[-1], prompt="Once")
    finished.user_data.keep_prompt(asked)
    finished.stored_continuations[asked.key()] = Continuation(
        key=asked.key(), prompt="Once", left=" of the dense", right=" of the sparse"
    )
    app = open_page("compare")
    app.toggle(key="blind-mode").set_value(True).run()
    assert f"B is better-{asked.key()}" not in [b.key for b in app.button]
    assert "cannot be judged blind" in words(app).split("Try a prompt of your own")[1]


def test_a_search_is_told_in_what_is_offered(open_page, finished):
    said = words(open_page("compare", mode="blind", search="violin"))
    assert " passages that contain this text are offered: those that the two models answer" in said


@pytest.mark.parametrize(
    ("left", "right", "same", "expected"),
    [
        (0, 0, 0, "Nothing has been judged yet."),
        (0, 0, 2, "2 judged: dense better 0, 30 % better 0, the same 2."),
        (5, 4, 3, "dense won 56 % (95 % interval 27 % to 81 %): no preference shown."),
        (2, 18, 0, "30 % won 90 % (95 % interval 70 % to 97 %): 30 % is preferred."),
    ],
)
def test_the_count_is_said_with_its_interval(left, right, same, expected):
    assert expected in tally(("dense", left), ("30 %", right), same).replace("\u00a0", " ")
