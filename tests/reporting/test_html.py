"""Foreign text becomes markup in one place, and stays text there; tables as CSV."""

import re
from dataclasses import replace
from math import inf

import pytest

from sparsedash.reporting import html
from sparsedash.reporting.wording import NBSP

WJ = "\N{WORD JOINER}"


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
    [
        (" the", "␣the"),
        ("the", "the"),
        ("\n", "⏎"),
        ("  ", "␣␣"),
        ("", "∅"),
        ("a ", "a␣"),
        ("\ta", "⇥a"),
    ],
)
def test_a_token_shows_the_spaces_that_belong_to_it(written, shown):
    assert html.token(written) == shown


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("EleutherAI/gpt-j-6b@main.1", f"EleutherAI/gpt-j-6b@{WJ}main.1"),
        ("facebook/opt_1.3b", "facebook/opt_1.3b"),
        ("**bold** __x__ ~y~", r"\*\*bold\*\* \_\_x\_\_ \~y\~"),
        ("www.evil.example", f"ww{WJ}w.evil.example"),
        ("[click](https://evil.example)", rf"\[click\](https:{WJ}//evil.example)"),
        (
            ":material/delete: :red[x] $y$ `z`",
            rf":{WJ}material/delete: :{WJ}red\[x\] \$y\$ \`z\`",
        ),
        ("“tea”, builtin:x: it's 9.", f"“tea”, builtin:{WJ}x: it's 9."),
        ("<b>x</b>\n&amp;", r"\<b\>x\</b\> \&amp;"),
        ("a -> b -- c", rf"a -{WJ}\> b -{WJ}- c"),
        ("100. - #", rf"100{WJ}. - \#"),
        ("- \u202e", r"\- ⟨U+202E⟩"),
    ],
)
def test_in_a_label_nothing_is_markdown(foreign, shown):
    assert html.widget_label(foreign) == shown


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("", "(nothing)"),
        (" \n ", "(a line break)"),
        (" ", "(a space)"),
        ("   ", "(spaces)"),
        ('"', '‘"’'),
        ("”", "‘”’"),
        (" ,", "“,”"),
        ("'", "“'”"),
        (" tea ", "tea"),
    ],
)
def test_an_answer_without_letters_can_be_told_apart(answer, shown):
    assert html.readable(answer) == shown


LINK = html.element(
    "a",
    html.escape("<dense>"),
    href="compare?left=<dense>",
)


def test_elements_escape_their_text_and_a_heading_parts_no_number_from_its_sign():
    markup = html.element(
        "p",
        html.escape("x"),
        css="",
        aria_label='"><script>',
    )
    assert markup == '<p aria-label="&quot;&gt;&lt;script&gt;">x</p>'
    assert html.paragraph("<i>", css="a") == '<p class="a">&lt;i&gt;</p>'
    heading = html.heading("<b> 20 % of 4 layers, 1.1 × it", css="big")
    assert (
        heading
        == f'<h1 class="big">&lt;b&gt; 20{NBSP}% of 4 layers, 1.1{NBSP}× it</h1>'
    )


def test_a_table_has_headings_for_rows_and_columns_and_may_have_links():
    rows = [["<dense>", "<1>"]]
    markup = html.Table(
        "Numbers",
        "What they are",
        ["Model", "Right"],
        rows,
    ).html
    assert '<th scope="col">Right</th>' in markup and 'role="region"' in markup
    assert '<th scope="row">&lt;dense&gt;</th><td>&lt;1&gt;</td>' in markup
    linked = html.Table(
        "Numbers",
        "What they are",
        ["Model", "Right"],
        rows,
        [LINK],
    ).html
    assert f'<th scope="row">{LINK}</th><td>&lt;1&gt;</td>' in linked


def test_a_file_holds_numbers_as_numbers_and_no_text_is_a_formula():
    shown = html.Table(
        "Speed of 10 % / =evil",
        "",
        ["Model", "Right"],
        [["=1+1", f"20.5{NBSP}%"]],
    )
    assert html.table_csv(shown).decode() == '"Model","Right"\n"\'=1+1","20.5 %"\n'
    assert html.table_file_name(shown) == "sparsedash-speed-of-10-evil.csv"
    data = [
        {"model": 'a "b", c', "n": 1234},
        {
            "model": "-\ud83d",
            "change_points": -2.5,
            "p": inf,
            "shown": True,
        },
    ]
    assert html.table_csv(replace(shown, data=data)).decode().splitlines() == [
        '"model","n","change_points","p","shown"',
        '"a ""b"", c",1234,,,',
        '"\'-?",,-2.5,,true',
    ]


@pytest.mark.parametrize("name", ["../a/b?c&d#e", "<b>x</b>\u202e", "w" * 300, "👩‍🚀"])
def test_every_machine_can_have_a_file_of_this_name(name):
    assert re.fullmatch(
        r"[a-z0-9][a-z0-9.-]{0,100}", html.file_name(name, "3fa9c1d2", ending=".csv")
    )
