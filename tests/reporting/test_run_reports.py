"""The report: everything in one file, nothing that runs, nothing that asks the network."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting.charts.chart_style import COLOUR_PAIRS
from sparsedash.reporting.charts.tradeoff_chart import tradeoff_chart
from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.run_reports import (
    MOST_CONTINUATIONS,
    POLICY,
    continuations_section,
    figure_svg,
    html_report,
    run_document,
    sampling_words,
    stored_continuations,
)
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from tests.reporting.charts.test_tradeoff_chart import FAR_RACE, GOOD
from tests.ui import specimens
from tests.ui.conftest import shows_as_text
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
    assert "is too close to call on 120 passages." in said and "30 % is too close to call on 120 passages." in said
    assert "10 % is undecided. About" in said and "passages would settle it" in said
    assert "9 answers broke, 2 were fixed. " in said and "accuracy −5.8 points (" in said
    assert "Broke: 9" in said and "Fixed: 2" in said
    assert '"sparsities_permille":[100,200,300]' in said
    assert "torch 2.13.0" in said
    assert 'role="img" aria-label="Word perplexity over 120 passages' in page
    assert 'role="img" aria-label="Change of accuracy over 120 last words' in page


def svg_of(*methods):
    """The report's chart of word perplexity for a run of these methods, by presets' names."""
    backend = FakeBackend()
    settings = replace(specimens.SETTINGS, methods=tuple(map(method_named, methods)))
    found = run_results(backend, backend.add_run(specimens.run(settings)))
    return figure_svg(tradeoff_chart(found.tradeoff()), "<words>")


def test_its_charts_are_the_page_s_own_figures():
    svg = svg_of("best")
    assert 'aria-label="&lt;words&gt;"' in svg
    for text in ("dense", "sparse", "MLP channels removed", "1.00 ×", "10 %"):
        assert f">{text}</tspan>" in svg
    # Three marks of a line, each with an error bar and a verdict, and the dense point.
    assert svg.count(">●<") == 4 and svg.count(">?<") == 3
    assert svg.count("<polygon") == 1
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg)) - {"none"}
    assert colours <= {light for light, _ in COLOUR_PAIRS}


def test_methods_are_told_apart_by_mark_and_dash_and_no_point_covers_another():
    svg = svg_of("best", "magnitude")
    assert "● best" in svg and "■ magnitude" in svg and 'stroke-dasharray="7 4"' in svg
    across = re.findall(r'font-size="16"[^>]*><tspan x="([\d.]+)" y="[\d.]+">[●■]<', svg)
    assert len(set(across)) == len(across) == 6


def test_a_far_point_has_its_arrow_and_the_line_is_clipped():
    figure = tradeoff_chart(FAR_RACE)
    svg = figure_svg(figure, "Word perplexity")
    assert "&gt;1M×" in svg and 'clip-path="url(#plot-word)"' in svg
    assert "&gt;1M×" not in figure_svg(tradeoff_chart(replace(FAR_RACE, lines={"good": GOOD})), "Word perplexity")


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


@pytest.fixture
def house():
    """A backend with a run, the run, and its first and last record beside each other."""
    backend = FakeBackend()
    run, records = specimens.run()
    backend.add_run((run, records))
    return backend, run, Pair(left_name="dense", left=records[0], right_name="30 %", right=records[-1])


def store(backend, pair, prompt, left, right, others=(), wrote=(), **more):
    """Put in what both wrote after a prompt."""
    request = ContinuationSettings(left=pair.left.key, right=pair.right.key, prompt=prompt, others=others)
    backend.stored_continuations[request.key()] = Continuation(
        key=request.key(), prompt=prompt, left=left, right=right, others=tuple(wrote), **more
    )
    return request


def found_in(house):
    backend, run, pair = house
    return stored_continuations(backend, run, pair, specimens.passages())


def test_prompts_stand_first_with_every_model_that_wrote(house):
    backend, run, pair = house
    request = store(backend, pair, "Once", "a b", "a c", others=run.sparse[:1], wrote=("x",))
    backend.user_data.keep_prompt(request)
    (found,) = found_in(house)
    assert found.texts == {"dense": "a b", "30 %": "a c", "10 %": "x"}
    assert found.how == "A user's prompt, first choices, 40 tokens"


def test_a_passage_that_broke_and_was_continued_is_there_and_others_are_not(house):
    backend, _, pair = house
    context = specimens.passages().contexts[0]
    store(backend, pair, context, "a", "b", stopped=True)
    found = found_in(house)
    kinds = pair.kinds(range(120))
    assert len(found) == len(kinds["broke"]) + len(kinds["mended"])
    assert found[0].how == f"Passage {kinds['broke'][0] + 1}, broke, stopped before the end"


def test_without_texts_or_anything_written_there_is_no_section(house):
    backend, run, pair = house
    assert stored_continuations(backend, run, pair, None) == [] == found_in(house)
    assert continuations_section([]) == []


def test_the_report_shows_them_with_the_mark_and_nothing_in_them_is_markup(house):
    backend, run, pair = house
    request = store(backend, pair, "<b>Once\u202e", "the door <i>", "the wall <i>")
    backend.user_data.keep_prompt(request)
    page = html_report(run_results(backend, run), pair, specimens.passages(), None, found_in(house)).decode()
    said = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.partition("What the models wrote")[2])).split())
    assert said.startswith("The mark ❘ stands where a text parts from that of dense.")
    assert "<b>Once⟨U+202E⟩ dense the door <i> 30 % the ❘ wall <i>" in said
    shows_as_text(page)


def test_a_long_list_is_cut(house):
    backend, _, pair = house
    contexts = specimens.passages().contexts
    store(backend, pair, contexts[0], "a", "b")
    for number in range(50):
        backend.user_data.keep_prompt(store(backend, pair, f"prompt {number}", "a", "b"))
    assert len(found_in(house)) == min(MOST_CONTINUATIONS, 50 + 9 + 2)


def test_settings_are_said_as_they_were():
    drawn = ContinuationSettings(left="l", right="r", prompt="p", temperature_percent=70, seed=5, n_tokens=12)
    assert sampling_words(drawn) == "temperature 0.7, seed 5, 12 tokens"
