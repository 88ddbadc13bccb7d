"""Foreign text becomes markup in one place, and stays text there; tables as CSV."""

import csv
import io

import pytest

from sparsedash.reporting.html import (
    element,
    escape,
    heading,
    paragraph,
    table,
    table_csv,
    table_file_name,
    token,
    visible,
    widget_label,
)
from sparsedash.reporting.wording import NBSP


@pytest.mark.parametrize(
    ("foreign", "markup"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ('"onload="x', "&quot;onload=&quot;x"),
        ("a & b", "a &amp; b"),
        ("**bold** [x](y) :red[z] $x$", "**bold** [x](y) :red[z] $x$"),
        ("👩‍🚀 naïve", "👩‍🚀 naïve"),
    ],
)
def test_tags_are_escaped_and_everything_else_stays_as_it_is(foreign, markup):
    assert escape(foreign) == markup


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("a\x00b", "a␀b"),
        ("\x1b[31mred", "␛[31mred"),
        ("abc\u202egnp.exe", "abc⟨U+202E⟩gnp.exe"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("zero\u200bwidth", "zero⟨U+200B⟩width"),
        ("\x85", "⟨U+0085⟩"),
        ("half \ud83d surrogate", "half \N{REPLACEMENT CHARACTER} surrogate"),
        ("line\nbreak\tand tab", "line\nbreak\tand tab"),
        ("עברית", "עברית"),
    ],
)
def test_what_could_not_be_seen_or_turns_the_reading_direction_is_shown(foreign, shown):
    assert visible(foreign) == shown
    visible(foreign).encode()


@pytest.mark.parametrize(
    ("written", "shown"),
    [(" the", "␣the"), ("the", "the"), ("\n", "⏎"), ("  ", "␣␣"), ("", "∅"), ("a ", "a␣"), ("\ta", "⇥a")],
)
def test_a_token_shows_the_spaces_that_belong_to_it(written, shown):
    assert token(written) == shown


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("EleutherAI/gpt-j-6b@main.1", "EleutherAI/gpt-j-6b @main.1"),
        ("facebook/opt_1.3b", "facebook/opt_1.3b"),
        ("**bold**", "bold"),
        ("www.evil.example", "evil.example"),
        ("_leaning_", "leaning"),
        ("[click](https://evil.example)", "click (https //evil.example)"),
        (":material/delete: :red[x] $y$ `z`", "material/delete: red x y z"),
        ("prompt: '' is not possible; allowed: 1 to 9.", "prompt: '' is not possible; allowed: 1 to 9."),
        ("<b>x</b>", "b x /b"),
    ],
)
def test_a_label_keeps_only_what_is_no_markdown(foreign, shown):
    assert widget_label(foreign) == shown


def test_attributes_are_escaped_and_empty_ones_left_out():
    made = element("p", escape("x"), css="", aria_label='"><script>')
    assert made == '<p aria-label="&quot;&gt;&lt;script&gt;">x</p>'


def test_a_heading_never_parts_a_number_from_its_sign():
    shown = heading("<b> 20 % of 4 layers, 1.1 × it", css="big")
    assert shown == '<h1 class="big">&lt;b&gt; 20\N{NO-BREAK SPACE}% of 4 layers, 1.1\N{NO-BREAK SPACE}× it</h1>'


def test_a_paragraph_escapes_its_text():
    assert paragraph("<i>", css="a") == '<p class="a">&lt;i&gt;</p>'


def test_a_table_has_headings_for_rows_and_columns():
    made = table("Numbers", "What they are", ["Model", "Right"], [["dense", "<1>"]]).html
    assert '<th scope="col">Right</th>' in made
    assert '<th scope="row">dense</th><td>&lt;1&gt;</td>' in made
    assert 'role="region"' in made


def test_the_first_cells_of_a_table_can_be_links():
    link = element("a", escape("<dense>"), href="compare?left=<dense>")
    made = table("Numbers", "What they are", ["Model", "Right"], [["<dense>", "1"]], [link]).html
    assert f'<th scope="row">{link}</th><td>1</td>' in made


SHOWN = table(
    "Speed of 10 % / =evil", "What it is.", ["Model", "Right"], [["=1+1", f"20.5{NBSP}%"], ['a "b", c', "@x"]]
)


def test_every_cell_is_there_in_its_place_and_formulas_are_text():
    lines = list(csv.reader(io.StringIO(table_csv(SHOWN).decode())))
    assert lines == [["Model", "Right"], ["'=1+1", "20.5 %"], ['a "b", c', "'@x"]]


def test_the_file_has_a_name_that_every_file_can_have():
    assert table_file_name(SHOWN) == "sparsedash-speed-of-10-evil.csv"
