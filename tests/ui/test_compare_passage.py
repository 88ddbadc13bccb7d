"""The heat strip of a passage in each of its states, and the table of passages with the histogram
above it.
"""

from dataclasses import replace

from sparsedash.schema.pair_records import (
    Divergence,
    DivergenceSettings,
    TokenDivergence,
)
from sparsedash.ui.compare_rows import ROWS
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, markup, shows_as_text, words
from tests.ui.filled_backend import job

RUN, RECORDS = specimens.run()
TEXT = f"{specimens.passages().contexts[13]} {RECORDS[0].outcomes[13].target}"
STRIP = DivergenceSettings(left=RUN.dense, right=RUN.sparse[-1], text=TEXT)


def opened(open_compare):
    return open_compare(passage="14", sort="file order")


def strip_of(backend, *places):
    backend.put(Divergence(key=STRIP.key(), opening="Mara", places=places))


def test_the_strip_is_computed_when_it_is_asked_for_and_its_job_shown_where_it_will_be(
    open_compare, finished
):
    app = opened(open_compare)
    button(app, "Show where the two differ").click().run()
    assert finished.submitted == [STRIP] and "Waiting" in words(app)
    for state, more, expected in (
        ("running", {"stage": "diverge"}, "Comparing token by token"),
        ("failed", FAILED, "The model cannot be reached."),
        ("cancelled", {}, "Cancelled"),
    ):
        finished.set_jobs(job(STRIP, state, **more))
        assert expected in words(app.run())


def test_each_place_says_its_number_and_what_each_model_expects(open_compare, finished):
    strip_of(
        finished,
        TokenDivergence(text=" had", nats=0.004, left=" had", right=" had"),
        TokenDivergence(text=" looked", nats=1.234, left=" been", right=" seen"),
        TokenDivergence(text="", nats=0.0, left="\n", right="b"),
    )
    app = opened(open_compare)
    assert '<span class="sd-heat sd-heat-0"' in markup(app)
    assert 'title="1.23 nats: dense predicts “ been”, 30 % “ seen”"' in markup(app)
    table = "“ looked” 1.23 “ been” “ seen” “ had” 0.00 “ had” “ had” a part of a character 0.00 “⏎”"
    assert table in words(
        app
    ) and "KL(dense ‖ 30 %) of the two predictions, in nats" in words(app)


def test_the_largest_places_are_reached_by_the_keyboard_the_stronger_the_larger_and_all_are_text(
    open_compare, finished
):
    foreign = [
        TokenDivergence(text=text, nats=9.0, left=text, right=text)
        for text in ("<img src=x>", "a\u202eb\x00", '"><script>x')
    ]
    nats = [i / 100 for i in range(50)]
    strip_of(
        finished,
        *foreign,
        *(TokenDivergence(text=" x", nats=size, left="a", right="b") for size in nats),
    )
    drawn = markup(opened(open_compare))
    assert (
        drawn.count('data-tip="') == 20
        and "9.00 nats" in drawn.partition('data-tip="')[2]
    )
    levels = [drawn.count(f'class="sd-heat sd-heat-{level}"') for level in range(5)]
    assert levels == [1 + 1, 4 + 1, 15 + 1, 30 + 1, 3 + 1], (
        "each with its mark in the legend"
    )
    assert "<img" not in drawn and '"><script>x' not in drawn
    shows_as_text(drawn)


def test_a_passage_that_is_too_long_is_said_to_be(open_compare, finished):
    finished.put(replace(specimens.passages(), contexts=("w" * 100_001,) * 120))
    assert "cannot be compared token by token" in words(opened(open_compare))


def rows(app):
    return [widget for widget in app.button if widget.key.startswith("row-")]


def numbers(app):
    return [
        int(row.label.replace("`", "").lstrip("▸ ").split()[0]) for row in rows(app)
    ]


def test_a_row_says_the_right_word_both_answers_and_the_change_and_opens_its_passage(
    open_compare, finished
):
    app = open_compare(sort="file order")
    assert "Passage Right word dense 30 % Change" in words(app)
    first, second, *_ = [row.label for row in rows(app)]
    assert first.startswith("`▸ 14` **harbour** *✓* *✕ violin* −")
    assert "▸" not in second and len(rows(app)) == 9
    rows(app)[4].click().run()
    assert f"Passage {numbers(app)[4]} " in words(app) and rows(app)[
        4
    ].label.startswith("`▸")
    assert app.query_params["passage"] == str(numbers(app)[4])


def test_the_table_has_pages_and_shows_the_one_of_the_passage_that_is_read(
    open_compare, finished
):
    app = open_compare(filter="all", sort="file order")
    assert numbers(app) == list(range(1, ROWS + 1)) and f"1 to {ROWS} of 120" in words(
        app
    )
    assert button(app, "Earlier").disabled
    button(app, "Later").click().run()
    assert numbers(app)[0] == ROWS + 1 and f"Passage {ROWS + 1} " in words(app)
    button(app, "Previous").click().run()
    assert numbers(app)[0] == 1 and f"Passage {ROWS} " in words(app)
    last = open_compare(filter="all", sort="file order", passage="120")
    assert button(last, "Later").disabled and numbers(last)[-1] == 120


def test_a_range_of_changes_in_the_address_leaves_its_passages_in_table_kinds_and_count(
    open_compare, finished
):
    app = open_compare(filter="all")
    box = app.selectbox(key="chosen-change")
    offered = {
        option.partition(" · ")[0]: int(option.partition(" · ")[2])
        for option in box.options
    }
    assert offered.pop("Any change") == sum(offered.values()) == 120
    most = next(
        label for label in offered if label.startswith("Fell by") and offered[label] > 1
    )
    box.select(f"{most} · {offered[most]}").run()
    assert f"1 of {offered[most]}" in words(app)
    again = open_compare(filter="all", change=app.query_params["change"])
    assert f"1 of {offered[most]}" in words(again)
    assert [widget.label for widget in again.button if widget.key == "flip-all"] == [
        f"All · {offered[most]}"
    ]
    # The other ranges still say what they would leave.
    assert again.selectbox(key="chosen-change").options == box.options


def test_a_range_that_is_none_and_choices_that_leave_nothing_are_answered_in_words(
    open_compare, finished
):
    text = words(open_compare(change="<b>7..8", search="no such words"))
    assert "“<b>7..8” is no range of changes here. Showing Any change" in text
    assert "Choose another kind" in text and "or clear the search." in text
