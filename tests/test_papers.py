"""The papers name what there is, no more and no less, and point to what exists."""

import re
from dataclasses import replace
from itertools import chain, takewhile
from pathlib import Path

import pytest
import yaml

import sparsedash
from docs import tables
from sparsedash.catalog import choices
from sparsedash.shell.commands import COMMANDS, main
from tests.factories import RECORD, RUN
from tests.reporting.held_results import document_of

ROOT = Path(__file__).parents[1]
FOLDERS = [
    path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")
]
PAPERS = sorted(
    chain(
        ROOT.glob("*.md"),
        chain.from_iterable(folder.rglob("*.md") for folder in FOLDERS),
    )
)
MAX_README_LINES = 140
MAX_ADR_LINES = 40


def named(paper: Path) -> str:
    return str(paper.relative_to(ROOT))


def read(name: str) -> str:
    return (ROOT / name).read_text()


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of its kind."""
    assert f"\n## {title}\n" in text
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def named_in_tables(text: str) -> set[str]:
    """What stands in backticks in the first column of the tables."""
    first_columns = "\n".join(re.findall(r"^\|([^|]*)\|", text, re.MULTILINE))
    return set(re.findall(r"`([^`\n]+)`", first_columns))


def fields_of(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(fields_of, value.values()))
    return set().union(*map(fields_of, value)) if isinstance(value, list) else set()


def listed_in_tree(text: str) -> list[str]:
    """Paths of the folders below sparsedash/ in CONTRIBUTING's tree, by their indentation."""
    lines = (
        section(text, "The tree")
        .partition("    sparsedash/")[2]
        .partition("\n")[2]
        .splitlines()
    )
    result = list[str]()
    folders = dict[int, str]()
    for line in takewhile(lambda line: line.startswith(" " * 5), lines):
        depth = len(line) - len(line.lstrip())
        folders = {d: folder for d, folder in folders.items() if d < depth}
        result.append("".join(folders[d] for d in sorted(folders)) + line.split()[0])
        folders[depth] = line.split()[0]
    return result


def test_every_flag_is_described_and_every_described_flag_exists(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([command.name, "--help"])
    offered = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    described = {name.split()[0] for name in named_in_tables(read("docs/cli.md"))}
    assert {name for name in described if name.startswith("--")} == offered


def test_every_field_of_the_document_is_described():
    document = document_of(RUN, replace(RECORD, pruned=None), RECORD)
    text = section(read("docs/cli.md"), "The JSON document")
    described = set(re.findall(r"`([a-z_]+)`", text))
    within_settings = fields_of(document["settings"]) | fields_of(
        document["sparse"][0]["method"]
    )
    free = within_settings | set(RUN.versions) | set(RUN.seconds)
    assert fields_of(document) - free <= described
    assert set(document) <= named_in_tables(text)
    assert set(document["sparse"][0]) <= named_in_tables(text)


def test_the_tables_of_the_documents_are_those_of_the_code():
    for name in ("docs/cli.md", "docs/choices.md"):
        text = read(name)
        assert "<!-- generated: " in text
        assert tables.with_tables(text) == text, "run make docs"


def test_texts_are_the_ones_of_the_catalog():
    text = read("docs/choices.md")
    texts = {
        choice.name
        for choice in (*choices.EVALUATION_CORPORA, *choices.CALIBRATION_CORPORA)
    }
    assert texts == set(
        re.findall(r"^\|[^|]*\| *`([^`]+)`", section(text, "Texts"), re.MULTILINE)
    )


def test_every_variable_that_is_read_is_described_and_every_described_one_is_read():
    pattern = re.compile(r"SPARSEDASH_[A-Z_]+")
    files = [
        *ROOT.glob("*.py"),
        *ROOT.glob("pages/*.py"),
        *ROOT.glob("sparsedash/**/*.py"),
    ]
    read_by_code = set().union(*(pattern.findall(path.read_text()) for path in files))
    variables = section(read("docs/deployment.md"), "Environment variables")
    assert {
        name for name in named_in_tables(variables) if pattern.fullmatch(name)
    } == read_by_code
    for paper in PAPERS:
        assert set(pattern.findall(paper.read_text())) <= read_by_code, paper


def test_the_tree_names_every_package_once_and_none_that_does_not_exist():
    packages = (
        path.parent.relative_to(ROOT / "sparsedash")
        for path in ROOT.glob("sparsedash/**/*/__init__.py")
    )
    assert sorted(listed_in_tree(read("CONTRIBUTING.md"))) == sorted(
        f"{package}/" for package in packages
    )


def test_every_benchmark_and_every_adr_is_listed_and_adrs_and_the_readme_stay_short():
    benchmarks = set(
        re.findall(r"`(\w+\.py)`", section(read("CONTRIBUTING.md"), "Benchmarks"))
    )
    assert benchmarks == {path.name for path in ROOT.glob("benchmarks/*.py")} - {
        "__init__.py"
    }
    adrs = {
        path.name: len(path.read_text().splitlines())
        for path in ROOT.glob("docs/adr/*.md")
    }
    assert set(re.findall(r"\(adr/([^)]+)\)", read("docs/README.md"))) == set(adrs)
    assert max(adrs.values()) < MAX_ADR_LINES
    assert len(read("README.md").splitlines()) <= MAX_README_LINES


def anchors_of(text: str) -> set[str]:
    """The names under which a paper's headings can be linked to."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("paper", PAPERS, ids=named)
def test_every_relative_link_points_to_something_that_exists(paper):
    text = paper.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        pointed = paper.parent / name if name else paper
        assert pointed.exists(), target
        if anchor:
            assert anchor in anchors_of(pointed.read_text()), target


@pytest.mark.parametrize(
    "paper", [paper for paper in PAPERS if paper.name != "CHANGELOG.md"], ids=named
)
def test_every_module_that_is_named_by_its_path_exists(paper):
    ours = {
        path.name
        for path in (*FOLDERS, *(ROOT / "sparsedash").iterdir())
        if path.is_dir()
    }
    for name in re.findall(
        r"`((?:\w+/)+(?:\w+\.py|\w*))`(?! at [0-9a-f]{8}\b)", paper.read_text()
    ):
        # Of the repository or of the package; a module may lack its ending.
        paths = (name, f"{name}.py", f"sparsedash/{name}", f"sparsedash/{name}.py")
        is_found = any((ROOT / path).exists() for path in paths)
        assert is_found or name.split("/")[0] not in ours, name


@pytest.mark.parametrize("paper", PAPERS, ids=named)
def test_every_benchmark_that_a_paper_runs_exists(paper):
    for name in re.findall(
        r"\bbenchmarks[./](\w+)(?!\w|\.py` at [0-9a-f]{8}\b)", paper.read_text()
    ):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), name


def test_whoever_cites_the_program_cites_this_version():
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == sparsedash.__version__
    assert cited["license"] == "Apache-2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert "arXiv:2204.09656" in read("CITATION.cff").partition("references:")[2]
