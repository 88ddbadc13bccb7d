"""Foreign text becomes markup in one place, and stays text there; tables as CSV."""

import csv
import io

import pytest

from sparsedash.reporting import html
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
    assert html.escape(foreign) == markup


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
    assert html.visible(foreign) == shown
    html.visible(foreign).encode()


@pytest.mark.parametrize(
    ("written", "shown"),
    [(" the", "␣the"), ("the", "the"), ("\n", "⏎"), ("  ", "␣␣"), ("", "∅"), ("a ", "a␣"), ("\ta", "⇥a")],
)
def test_a_token_shows_the_spaces_that_belong_to_it(written, shown):
    assert html.token(written) == shown


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
    assert html.widget_label(foreign) == shown


LINK = html.element("a", html.escape("<dense>"), href="compare?left=<dense>")


def test_elements_escape_their_text_and_a_heading_parts_no_number_from_its_sign():
    made = html.element("p", html.escape("x"), css="", aria_label='"><script>')
    assert made == '<p aria-label="&quot;&gt;&lt;script&gt;">x</p>'
    assert html.paragraph("<i>", css="a") == '<p class="a">&lt;i&gt;</p>'
    heading = html.heading("<b> 20 % of 4 layers, 1.1 × it", css="big")
    assert heading == f'<h1 class="big">&lt;b&gt; 20{NBSP}% of 4 layers, 1.1{NBSP}× it</h1>'


def test_a_table_has_headings_for_rows_and_columns_and_may_have_links():
    rows = [["<dense>", "<1>"]]
    made = html.table("Numbers", "What they are", ["Model", "Right"], rows).html
    assert '<th scope="col">Right</th>' in made and 'role="region"' in made
    assert '<th scope="row">&lt;dense&gt;</th><td>&lt;1&gt;</td>' in made
    linked = html.table("Numbers", "What they are", ["Model", "Right"], rows, [LINK]).html
    assert f'<th scope="row">{LINK}</th><td>&lt;1&gt;</td>' in linked


def test_every_cell_is_there_in_its_place_formulas_are_text_and_every_file_can_have_the_name():
    rows = [["=1+1", f"20.5{NBSP}%"], ['a "b", c', "@x"]]
    shown = html.table("Speed of 10 % / =evil", "What it is.", ["Model", "Right"], rows)
    lines = list(csv.reader(io.StringIO(html.table_csv(shown).decode())))
    assert lines == [["Model", "Right"], ["'=1+1", "20.5 %"], ['a "b", c', "'@x"]]
    assert html.table_file_name(shown) == "sparsedash-speed-of-10-evil.csv"
