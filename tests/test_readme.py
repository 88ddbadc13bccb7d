"""The README names what there is, no more and no less."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sparsedash.__main__ import main
from sparsedash.catalog import choices, presets
from sparsedash.reporting.run_json import run_document
from sparsedash.schema.settings import BUILTIN_MODEL
from tests.examples import RECORD, RUN

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def named_in_tables(text: str) -> set[str]:
    """What stands in backticks in the first column of the tables."""
    rows = re.findall(r"^\|([^|]*)\|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def fields_of(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {name for part in value.values() for name in fields_of(part)}
    if isinstance(value, list):
        return {name for part in value for name in fields_of(part)}
    return set()


def test_every_flag_is_described_and_every_described_flag_exists(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    offered = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    described = {name.split()[0] for name in named_in_tables(section("From a shell"))}
    assert {name for name in described if name.startswith("--")} == offered


def test_every_field_of_the_document_is_described():
    document = run_document(RUN, replace(RECORD, pruned=None), [RECORD])
    text = section("From a shell")
    described = set(re.findall(r"`([a-z_]+)`", text))
    within_settings = fields_of(document["settings"]) | fields_of(document["sparse"][0]["method"])
    free = within_settings | set(RUN.versions) | set(RUN.seconds)
    assert fields_of(document) - free <= described
    assert set(document) <= named_in_tables(text)
    assert set(document["sparse"][0]) <= named_in_tables(text)


def test_models_methods_families_and_texts_are_the_ones_of_the_catalog():
    text = section("What you can choose")
    texts = {choice.name for choice in (*choices.EVALUATION_CORPORA, *choices.CALIBRATION_CORPORA)}
    named = set(re.findall(r"`([^`]+)`", text))
    assert texts | {method.name for method in presets.METHODS} | {BUILTIN_MODEL} <= named
    families = text.partition("must be one of: ")[2].partition(".")[0]
    assert tuple(re.findall(r"\w+", families)) == choices.FAMILIES


def test_every_variable_that_is_read_is_described_and_every_described_one_is_read():
    pattern = re.compile(r"SPARSEDASH_[A-Z_]+")
    files = [*ROOT.glob("*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("sparsedash/**/*.py")]
    read = {name for path in files for name in pattern.findall(path.read_text())}
    assert set(pattern.findall(README)) == read


def test_every_file_that_the_documents_point_to_exists():
    for document in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"\]\(([^)#:]+)\)", document):
            assert (ROOT / target).exists(), target
