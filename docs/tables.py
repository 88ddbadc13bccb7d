"""Writes the tables of docs/cli.md and docs/choices.md from METHODS and the field table.

Run by `make docs`; tests/test_papers.py holds that the files are what this writes.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from sparsedash.catalog.presets import METHODS, Method
from sparsedash.schema.fields import FieldRow, field_rows
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.shell.commands import COMMANDS
from sparsedash.shell.flags import add_flags

_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DATA_FOLDER = "SPARSEDASH_DATA_DIR, else as in deployment.md"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def flag_table(command: str) -> str:
    """The flags of a command with their defaults, as its parser has them."""
    parser = argparse.ArgumentParser(add_help=False)
    flags = next(row.flags for row in COMMANDS if row.name == command)
    add_flags(parser, command, flags)
    rows = []
    for action in parser._actions:
        default = _DATA_FOLDER if isinstance(action.default, Path) else action.default
        text = (action.help or "") % {**vars(action), "default": default}
        # The default is the last thing that the help says, in brackets.
        meaning, usual = re.fullmatch(
            r"(.*?)(?: \(([^()]*)\))?", text, re.DOTALL
        ).groups()
        if action.required:
            usual = "required"
        name = " ".join(filter(None, [action.option_strings[0], action.metavar]))
        rows.append([f"`{name}`", meaning, usual or ""])
    return _table(["flag", "meaning", "default"], rows)


def method_table(methods: Sequence[Method]) -> str:
    """The methods with what they do, and their four choices."""
    rows = []
    for method in methods:
        choices = method.settings
        names = [
            choices.saliency,
            choices.pattern,
            choices.compensation,
            choices.allocation,
        ]
        rows.append(
            [f"`{method.name}`", method.summary, *(f"`{name}`" for name in names)]
        )
    head = ["name", "what it does", "saliency", "pattern", "compensation", "allocation"]
    return _table(head, rows)


def _default(row: FieldRow) -> str:
    """The default of a method's setting, and the methods that have another one."""
    others: dict[object, list[str]] = {}
    if row.kind != "choice":
        for method in METHODS:
            value = getattr(method.settings, row.name)
            if value != row.default:
                others.setdefault(value, []).append(f"`{method.name}`")
    texts = [f"`{row.default}`"]
    texts += [f"`{value}` in {', '.join(names)}" for value, names in others.items()]
    return "; ".join(texts)


def setting_table() -> str:
    """The settings of a method, with their values and defaults."""
    rows = []
    for row in field_rows(MethodSettings).values():
        values = f"{row.low:,.10g} to {row.high:,.10g}"
        if row.kind == "choice":
            values = ", ".join(f"`{option}`" for option in row.options)
        meaning = ". ".join(filter(None, [row.label, row.help]))
        rows.append([f"`{row.name}`", meaning, values, _default(row)])
    return _table(["setting", "meaning", "values", "default"], rows)


def _methods_of(*patterns: str) -> list[Method]:
    return [method for method in METHODS if method.settings.pattern in patterns]


TABLES = {
    "run-flags": flag_table("run"),
    "channel-methods": method_table(_methods_of("channelx1")),
    "layer-methods": method_table(_methods_of("layer")),
    "expert-methods": method_table(_methods_of("expert", "expert-channel")),
    "weight-methods": method_table(_methods_of("1x1", "2:4", "4:8")),
    "method-settings": setting_table(),
}
"""The tables by the names in their markers."""


def with_tables(text: str) -> str:
    """The text of a document with its tables written anew."""
    return _BLOCK.sub(lambda block: block[1] + TABLES[block[2]] + block[3], text)


def main() -> None:
    """Write the tables of every document beside this file."""
    for path in sorted(Path(__file__).parent.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        path.write_text(with_tables(text), encoding="utf-8")


if __name__ == "__main__":
    main()
