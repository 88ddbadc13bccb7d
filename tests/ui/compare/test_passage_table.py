"""The table of passages and the histogram above it."""

from dataclasses import replace

import pytest

from sparsedash.ui.compare_passage import ROWS
from tests.ui.conftest import button, words


def rows(app):
    return [b for b in app.button if b.key.startswith("row-")]


def numbers(app):
    return [int(row.label.replace("`", "").lstrip("▸ ").split()[0]) for row in rows(app)]


def test_a_row_says_the_right_word_both_answers_and_the_change_and_the_chosen_one_is_marked(open_page, finished):
    app = open_page("compare", sort="file order")
    assert "Passage Right word dense 30 % Change" in words(app)
    first, second, *_ = [row.label for row in rows(app)]
    assert first.startswith("`▸ 14` **harbour** *✓* *✕ violin* −")
    assert "▸" not in second
    assert len(rows(app)) == 9


def test_a_row_opens_its_passage_and_the_address_says_so(open_page, finished):
    app = open_page("compare", sort="file order")
    rows(app)[4].click().run()
    assert f"Passage {numbers(app)[4]} " in words(app)
    assert app.query_params["passage"] == str(numbers(app)[4] - 1)
    assert rows(app)[4].label.startswith("`▸")


def test_the_table_has_pages_and_shows_the_one_of_the_passage_that_is_read(open_page, finished):
    app = open_page("compare", filter="all", sort="file order")
    assert numbers(app) == list(range(1, ROWS + 1))
    assert f"1 to {ROWS} of 120" in words(app)
    assert button(app, "Earlier").disabled
    button(app, "Later").click().run()
    assert numbers(app)[0] == ROWS + 1 and f"Passage {ROWS + 1} " in words(app)
    button(app, "Previous").click().run()
    assert numbers(app)[0] == 1 and f"Passage {ROWS} " in words(app)
    last = open_page("compare", filter="all", sort="file order", passage="119")
    assert button(last, "Later").disabled
    assert numbers(last)[-1] == 120


@pytest.mark.parametrize("text", ["**b** :red[x] `c` [l](u)", "\u202eabc nul\x00", "", "<b>"])
def test_words_from_models_do_not_become_markup(text, open_page, finished):
    for key, record in list(finished.stored_records.items()):
        changed = tuple(replace(o, target=text, answer=text, last_word_right=False) for o in record.outcomes)
        finished.stored_records[key] = replace(record, outcomes=changed)
    (first, *_) = rows(open_page("compare", filter="all", sort="file order"))
    inside = first.label.removeprefix("`▸ 1`").replace("*", "")
    assert not set(inside) & set("`[]<>\u202e\x00")
    assert first.label.count("*") == 8


def test_a_range_of_changes_in_the_address_leaves_its_passages_in_table_kinds_and_count(open_page, finished):
    app = open_page("compare", filter="all")
    box = app.selectbox(key="chosen-change")
    offered = {option.partition(" · ")[0]: int(option.partition(" · ")[2]) for option in box.options}
    assert offered.pop("Any change") == sum(offered.values()) == 120
    most = next(label for label in offered if label.startswith("Fell by") and offered[label] > 1)
    box.select(f"{most} · {offered[most]}").run()
    assert f"1 of {offered[most]}" in words(app)
    asked = app.query_params["change"]
    again = open_page("compare", filter="all", change=asked)
    assert f"1 of {offered[most]}" in words(again)
    assert [b.label for b in again.button if b.key == "flip-all"] == [f"All · {offered[most]}"]
    # The other ranges still say what they would leave.
    assert again.selectbox(key="chosen-change").options == box.options


def test_a_range_that_is_none_is_said_to_be_none(open_page, finished):
    said = words(open_page("compare", change="<b>7..8"))
    assert "asks for “<b>7..8”; there is no such range of changes here. Shown instead is Any change" in said


def test_where_nothing_is_left_it_is_said_what_can_be_undone(open_page, finished):
    app = open_page("compare", filter="broke", search="no such words", change="0..")
    assert "Choose another kind" in words(app) and "or clear the search." in words(app)
    assert rows(app) == []
