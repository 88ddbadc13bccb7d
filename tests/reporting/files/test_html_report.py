"""The report: everything in one file, nothing that runs, nothing that asks the network."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.run_reports import POLICY, html_report, run_document
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.svg_chart import tradeoff_svg
from tests.ui import specimens
from tests.ui.fake_backend import FakeBackend, job

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</style><script>alert(1)</script>",
    "abc\u202egnp",
    "nul\x00",
    "👩‍🚀 \ud83d",
    "https://evil.example/",
    "w" * 100_000,
)


class Tags(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def made(text: str = "") -> str:
    backend = FakeBackend()
    run, records = specimens.run()
    passages = specimens.passages()
    if text:
        changed = [
            tuple(replace(o, target=text, answer=f"{text}{i}") for o in record.outcomes)
            for i, record in enumerate(records)
        ]
        records = [replace(r, outcomes=o) for r, o in zip(records, changed, strict=True)]
        passages = replace(passages, contexts=(text,) * 120)
        run = replace(run, warnings=(text,), versions={"torch": text})
    backend.add_run((run, records))
    found = run_results(backend, run)
    assert found is not None
    pair = Pair(left_name="dense", left=records[0], right_name="30 %", right=records[-1])
    return html_report(found, pair, passages).decode()


def test_it_holds_the_verdict_the_chart_the_flips_the_settings_and_the_versions():
    page = made()
    said = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert said.count("Undecided: 120 passages cannot tell whether") == 2
    assert "10 % is undecided: about" in said and "passages would decide it" in said
    assert "9 answers broke, 2 were mended. " in said and "accuracy −5.8 points (" in said
    assert "Broke: 9" in said and "Mended: 2" in said
    assert '"sparsities_permille":[100,200,300]' in said
    assert "torch 2.13.0" in said
    assert page.count('class="point"') == 6
    assert 'role="img" aria-label="Word perplexity over 120 passages' in page
    assert 'role="img" aria-label="Change of accuracy over 120 last words' in page
    assert page.count('class="allowed"') == 2


def test_the_axes_of_its_charts_have_round_numbers():
    of_perplexity, of_accuracy = re.findall(r"<svg.*?</svg>", made(), re.DOTALL)
    for drawn in (of_perplexity, of_accuracy):
        percents = re.findall(r">([\d.]+) %<", drawn)
        assert len(percents) >= 4
        assert all(float(percent) % 5 == 0 for percent in percents)
    assert ">1.00 ×<" in of_perplexity
    assert {"0", "−5"} <= set(re.findall(r">([−+]?\d+)<", of_accuracy))


def test_points_of_two_methods_at_one_sparsity_do_not_cover_each_other():
    backend = FakeBackend()
    methods = (*specimens.SETTINGS.methods, method_named("magnitude"))
    run, records = specimens.run(replace(specimens.SETTINGS, methods=methods))
    backend.add_run((run, records))
    found = run_results(backend, run)
    assert found is not None
    across = re.findall(r'<text x="([\d.]+)"[^>]*class="point"', tradeoff_svg(found.tradeoff(), "word perplexity"))
    assert len(set(across)) == len(across) == 6


@pytest.mark.parametrize("text", ["", *HOSTILE])
def test_nothing_in_it_runs_or_asks_the_network(text):
    tags = Tags(made(text)).found
    assert not {tag for tag, _ in tags} & {"script", "img", "link", "iframe", "object", "a", "base"}
    names = {name for _, attributes in tags for name in attributes}
    assert not names & {"src", "href", "style", "srcdoc"}
    assert not any(name.startswith("on") for name in names)
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == POLICY
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text_and_the_file_stays_small(text):
    page = made(text)
    assert not set(page) & set("\u202e\x00")
    assert len(page) < 1_000_000


def test_the_report_of_a_run_that_was_stopped_says_so():
    backend = FakeBackend()
    run, records = specimens.run(finished=False, n_sparse=1)
    backend.add_run((run, records))
    found = run_results(backend, run)
    pair = Pair(left_name="dense", left=records[0], right_name="10 %", right=records[1])
    said = "This run was stopped: 1 of its 3 sparse models is there."
    assert said in html_report(found, pair, None, job(run.settings, "cancelled")).decode()
    assert "This run" not in html_report(found, pair, None, job(run.settings, "running")).decode()


def test_the_report_of_the_example_says_where_it_was_made():
    backend = FakeBackend()
    run, records = specimens.run()
    backend.add_run((replace(run, made_on="a <mainframe>"), records))
    found = run_results(backend, backend.stored_runs[0])
    pair = Pair(left_name="dense", left=records[0], right_name="30 %", right=records[-1])
    said = html_report(found, pair, None).decode()
    assert "Example: this run ships with SparseDash. It was made on 24 November 2025 on another machine" in said
    assert "a &lt;mainframe&gt;" in said


def test_the_report_and_the_document_name_the_quantised_file_that_the_model_is_unpacked_from():
    backend = FakeBackend()
    run, records = specimens.run()
    backend.add_run((replace(run, source_type="Q4_<1>"), records))
    found = run_results(backend, backend.stored_runs[0])
    said = html_report(
        found, Pair(left_name="dense", left=records[0], right_name="30 %", right=records[-1]), None
    ).decode()
    assert "unpacked from Q4_&lt;1&gt;" in said
    assert "What pruning costs the original weights is another number" in said
    assert run_document(found.run, found.dense, list(found.sparse))["model"]["source_type"] == "Q4_<1>"
    assert run_document(run, found.dense, list(found.sparse))["model"]["source_type"] is None
