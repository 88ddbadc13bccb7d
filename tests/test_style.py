"""How densely the code is written: no figure may rise above its ceiling. Nodes and lines are free."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = {"product": ("sparsedash", "pages", "app.py"), "tests": ("tests",)}
CEILINGS = {
    "product": {
        "nested comprehensions": 0,
        "several assignments in one line": 0,
        "choices inside f-strings": 0,
        "empty names": 9,
    },
    "tests": {
        "nested comprehensions": 5,
        "several assignments in one line": 0,
        "choices inside f-strings": 0,
        "empty names": 2,
    },
}
"""To be lowered whenever a figure falls."""

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
EMPTY = {
    *(
        "found",
        "each",
        "own",
        "said",
        "asked",
        "made",
        "given",
        "told",
        "taken",
        "left",
        "held",
    ),
    *("going", "rest", "other", "at", "of", "by", "now", "so"),
}
"""Names of variables that do not say what they hold."""


def faults(tree: ast.AST) -> Iterator[str]:
    """The names in CEILINGS of what a module has of each."""
    for node in ast.walk(tree):
        match node:
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                inner = [x for x in ast.walk(node) if isinstance(x, COMPREHENSIONS)]
                if len(inner) > 1 or len(node.generators) > 1:
                    yield "nested comprehensions"
            case ast.Assign(
                targets=[ast.Tuple(), *_], value=ast.Tuple(elts=[_, _, *_])
            ):
                yield "several assignments in one line"
            case ast.JoinedStr() if any(
                isinstance(x, ast.IfExp) for x in ast.walk(node)
            ):
                yield "choices inside f-strings"
            case ast.Name(id=name, ctx=ast.Store()) if name in EMPTY:
                yield "empty names"


@pytest.mark.parametrize("part", PLACES)
def test_no_figure_of_dense_writing_rises(part):
    counts = {name: Counter[str]() for name in CEILINGS[part]}
    for place in PLACES[part]:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            for fault in faults(ast.parse(file.read_text(encoding="utf-8"))):
                counts[fault][str(file.relative_to(ROOT))] += 1
    for name, files in counts.items():
        worst = ", ".join(f"{file} {n}" for file, n in files.most_common(5))
        print(f"{name}: {files.total()} of {CEILINGS[part][name]}; most in {worst}")
    totals = {name: files.total() for name, files in counts.items()}
    assert {
        name for name, total in totals.items() if total > CEILINGS[part][name]
    } == set()


def test_the_figures_count_what_they_name():
    packed = "a, b = 1, 2\nc, d = f()\nfor each in [[x for x in y] for y in z]: f'{1 if each else 2}'"
    assert sorted(faults(ast.parse(packed))) == [
        "choices inside f-strings",
        "empty names",
        "nested comprehensions",
        "several assignments in one line",
    ]
