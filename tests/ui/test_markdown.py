"""Text that Streamlit reads as markdown is ours, or escaped: every call that shows any is looked
at.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    ROOT / "app.py",
    *sorted((ROOT / "pages").glob("*.py")),
    *sorted((ROOT / "sparsedash/ui").glob("*.py")),
]
_PLACES = {
    **dict.fromkeys(("link", "ask_to_delete"), 1),
    **dict.fromkeys(
        (
            "offer_file",
            "action_button",
            "popover",
            "file_popover",
            "expander",
            "toast",
            "button",
        ),
        0,
    ),
    **dict.fromkeys(
        (
            "download_button",
            "form_submit_button",
            "link_button",
            "checkbox",
            "toggle",
            "radio",
        ),
        0,
    ),
    **dict.fromkeys(
        (
            "selectbox",
            "multiselect",
            "select_slider",
            "pills",
            "segmented_control",
            "tabs",
        ),
        0,
    ),
    **dict.fromkeys(
        (
            "text_input",
            "text_area",
            "number_input",
            "slider",
            "file_uploader",
            "dialog",
            "metric",
        ),
        0,
    ),
    **dict.fromkeys(
        (
            "markdown",
            "caption",
            "write",
            "info",
            "error",
            "warning",
            "success",
            "status",
            "spinner",
        ),
        0,
    ),
    **dict.fromkeys(
        ("title", "header", "subheader", "progress", "badge", "page_link"), 0
    ),
}
"""Functions that show markdown, and the place of the text among their arguments."""
_NAMED = {"label", "text", "help", "body"}
_HARMLESS = {"widget_label", "len", "wording.size", "resume_advice"}
_OURS = {
    ("address_bar.py", "limit_factor(allowed.ratio)"): "a number",
    ("address_bar.py", "title"): "what a select box chooses, from callers",
    (
        "address_bar.py",
        "label",
    ): "a field of a table, or the name of a task, escaped where it is named",
    ("address_bar.py", "name"): "steps to other passages and pages",
    ("address_bar.py", "plural(allowed.points, 'point')"): "a noun of ours",
    ("compare_rows.py", "cells"): "escaped where a row is made, with stars of ours",
    ("compare_rows.py", "number"): "a number",
    ("compare_passage.py", "label"): "a field of _SETTINGS",
    ("compare_passage.py", "help_text"): "a field of _SETTINGS",
    ("compare_views.py", "KINDS[kind]"): "kinds of passages",
    ("compare_views.py", "helps[kind]"): "escaped where they are made",
    ("compare_views.py", "text"): "the blind choices",
    ("form_fields.py", "label"): "callers' literals",
    ("form_fields.py", "text"): "callers' literals",
    ("form_fields.py", "about"): "help of a setting, or callers' literals",
    ("form_model.py", "group"): "groups of suggested models",
    ("form_run.py", "title"): "callers' literals",
    ("form_run.py", "about"): "callers' literals",
    ("widgets.py", "text"): "callers' texts, which are looked at where they call",
    ("widgets.py", "help"): "callers' texts, which are looked at where they call",
    ("frame.py", "STATES[job.state][1].lower()"): "states of jobs",
    ("widgets.py", "page_file"): "files of pages",
    ("job_panel.py", "name"): "moves of a job",
    ("models_exports.py", "label"): "a literal, with another behind it",
    ("models_exports.py", "about"): "a literal, with another behind it",
    ("navigation.py", "name"): "files of pages",
    ("navigation.py", "title"): "titles of pages",
    ("prune.py", "check.takes"): "a duration",
    ("settings_storage.py", "gigabytes(holdings.room_bytes)"): "a number",
    ("settings_storage.py", "storage_words.cache_summary(emptied)"): "what was deleted",
}
"""Texts written elsewhere in the program, by file and expression, and what they are."""


def shown_texts(tree: ast.AST) -> Iterator[ast.expr]:
    """The texts of calls that show markdown."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            name = (
                call.func.attr
                if isinstance(call.func, ast.Attribute)
                else getattr(call.func, "id", "")
            )
            if name in _PLACES:
                place = _PLACES[name]
                yield from call.args[place : place + 1]
                yield from (
                    keyword.value for keyword in call.keywords if keyword.arg in _NAMED
                )


def foreign(text: ast.expr, known: dict[str, list[ast.expr]]) -> Iterator[str]:
    """What of the text is neither written in the file, nor a number, nor escaped. known: what names
    stand for.
    """
    match text:
        case ast.Constant() | ast.Lambda():
            return
        case ast.FormattedValue(
            format_spec=ast.JoinedStr(values=[ast.Constant(value=str(spec))])
        ) if spec[-1] in ",dfg":
            return
        case ast.Call(func=function) if ast.unparse(function) in _HARMLESS:
            return
        case ast.Attribute(attr=name) if name.startswith("n_") or ast.unparse(text) in (
            "row.label",
            "row.help",
        ):
            return
        case ast.JoinedStr(values=parts):
            inside = parts
        case ast.FormattedValue(value=value):
            inside = [value]
        case (
            ast.IfExp(body=one, orelse=other)
            | ast.BinOp(left=one, right=other)
            | ast.BoolOp(values=[one, other])
        ):
            inside = [one, other]
        case ast.Name(id=name) if known.get(name):
            inside = known[name]
            known = {**known, name: []}
        case _:
            yield ast.unparse(text)
            return
    for part in inside:
        yield from foreign(part, known)


def foreign_texts(source: str) -> set[str]:
    """Texts that a file shows as markdown although a model, a file or a user may have written
    them.
    """
    parts = set()
    tree = ast.parse(source)
    ours: dict[str, list[ast.expr]] = {}
    for scope in sorted(
        tree.body, key=lambda each: isinstance(each, ast.FunctionDef | ast.ClassDef)
    ):
        known = (
            ours if not isinstance(scope, ast.FunctionDef | ast.ClassDef) else {**ours}
        )
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    both = target, node.value
                    lists = [side.elts for side in both if isinstance(side, ast.Tuple)]
                    several = len(lists) == 2 and len(lists[0]) == len(lists[1])
                    for name, value in zip(*lists, strict=True) if several else [both]:
                        known[ast.unparse(name)] = [
                            *known.get(ast.unparse(name), []),
                            value,
                        ]
            elif isinstance(node, ast.arg):
                known[node.arg] = [ast.Name(node.arg)]
        for text in shown_texts(scope):
            parts.update(foreign(text, known))
    return parts


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_streamlit_reads_as_markdown_is_ours_or_escaped(path):
    ours = {text for name, text in _OURS if name == path.name}
    assert foreign_texts(path.read_text(encoding="utf-8")) <= ours


def test_a_foreign_text_is_found_wherever_it_comes_from():
    source = """
def draw(run, title):
    label = f"Run {run.name}"
    st.button(label, help=widget_label(run.name))
    st.toast(f"{len(run)}: {run.about}")
    widgets.link("runs", title or "x")
"""
    assert foreign_texts(source) == {"run.name", "run.about", "title"}
