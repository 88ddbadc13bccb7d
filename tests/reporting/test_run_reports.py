"""The report: everything in one file, nothing that runs, nothing that asks the network."""

import html
import itertools
import re
from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting.charts.chart_style import COLOUR_PAIRS
from sparsedash.reporting.charts.tradeoff_chart import tradeoff_chart
from sparsedash.reporting.figure_svg import figure_svg
from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.run_reports import (
    POLICY,
    continuations_section,
    html_report,
    sampling_words,
)
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.tradeoff_points import run_tradeoff
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.records import KindLoss
from tests.reporting.charts.test_tradeoff_chart import FAR_RACE
from tests.reporting.held_results import document_of
from tests.ui import specimens
from tests.ui.conftest import shows_as_text
from tests.ui.filled_backend import job

HOSTILE = (
    "<img src=x onerror=alert(1)></style><script>alert(1)</script>abc\u202egnp nul\x00 👩‍🚀 https://evil.example/"
    + "w" * 5_000
)


@pytest.fixture
def stored(backend):
    """Stores a run with changes of its own; its results, and its first and last record beside each
    other.
    """

    def put(records=None, n_sparse=None, **changes):
        run, usual = specimens.run(n_sparse=n_sparse)
        records = records or usual
        run = backend.add_run((replace(run, **changes), records))
        name = f"{10 * len(run.sparse)} %"
        return run_results(backend, run), Pair(
            left_name="dense", left=records[0], right_name=name, right=records[-1]
        )

    return put


def plain(page: bytes) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.decode())).split())


def test_it_holds_the_verdict_the_chart_the_flips_the_settings_and_the_versions(stored):
    page = html_report(*stored(), specimens.passages())
    for text in (
        "is too close to call on 120 passages.",
        "30 % is too close to call on 120 passages.",
        "9 answers broke, 2 fixed. ",
        "accuracy −5.8 points (",
        "Broke: 9",
        "Fixed: 2",
        "10 to 30 % of MLP channels are undecided.",
        "Where it was cut: 10 %",
        "calibration: The model's own text, 128 × 256 tokens",
        "torch 2.13.0",
    ):
        assert text in plain(page)
    for words in (
        "Word perplexity over 120 passages",
        "Change of accuracy over 120 passages",
    ):
        assert f'role="img" aria-label="{words}' in page.decode()


def svg_of(backend, *methods):
    """The report's chart of word perplexity for a run of these methods, by presets' names."""
    settings = replace(
        specimens.SETTINGS,
        methods=tuple(map(method_named, methods)),
    )
    results = run_results(backend, backend.add_run(specimens.run(settings)))
    return figure_svg(tradeoff_chart(run_tradeoff(results)), "<words>")


def test_its_charts_are_the_page_s_own_figures(backend):
    svg = svg_of(backend, "best")
    assert 'aria-label="&lt;words&gt;"' in svg
    for text in ("dense", "sparse", "MLP channels removed", "1.00 ×", "10", "30 %"):
        assert f">{text}</tspan>" in svg
    # For each width three marks of a line, each with a verdict, the dense point and the band.
    assert (
        svg.count("<svg") == 2 and svg.count(">?<") == 6 and svg.count("<polygon") == 10
    )
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg)) - {"none"}
    assert colours <= {light for light, _ in COLOUR_PAIRS}
    svg = svg_of(backend, "best", "magnitude")
    assert "● best" in svg and "■ magnitude" in svg and 'stroke-dasharray="7 4"' in svg


def test_on_a_phone_its_charts_have_text_of_eleven_pixels_and_numbers_with_room_between(
    backend,
):
    narrow = svg_of(backend, "best", "magnitude").partition('viewBox="0 0 358 ')[2]
    assert (
        min(float(size) for size in re.findall(r'font-size="([\d.]+)"', narrow)) >= 11
    )
    row = re.findall(
        r'text-anchor="middle"><tspan x="([\d.]+)" y="[\d.]+">\d+(?: %)?<',
        narrow,
    )
    assert len(row) >= 3 and all(
        b - a >= 30 for a, b in itertools.pairwise(map(float, row))
    )


def test_the_line_to_a_far_point_is_clipped():
    svg = figure_svg(tradeoff_chart(FAR_RACE), "Word perplexity")
    assert 'clip-path="url(#plot-word-narrow)"' in svg


def test_nothing_in_it_runs_or_asks_the_network_text_stays_text_and_the_file_small(
    stored,
):
    text = HOSTILE
    (_, records) = specimens.run()
    records = [
        replace(
            r,
            outcomes=tuple(
                replace(o, target=text, answer=f"{text}{i}") for o in r.outcomes
            ),
        )
        for i, r in enumerate(records)
    ]
    passages = replace(specimens.passages(), contexts=(text,) * 120)
    page = html_report(
        *stored(
            records,
            warnings=(text,),
            versions={"torch": text},
        ),
        passages,
    ).decode()
    shows_as_text(page)
    assert len(page) < 1_000_000
    assert not set(re.findall(r"<(\w+)", page)) & {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "a",
        "base",
    }
    names = set(re.findall(r'([\w-]+)="', page))
    styles = re.findall(r'style="([^"]*)"', page)
    assert all(re.fullmatch(r"[\w.%,:; ()-]*", style) for style in styles)
    assert not names & {"src", "href", "srcdoc"} and not any(
        name.startswith("on") for name in names
    )
    policy = (
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">'
    )
    assert page.count(policy) == 1 and POLICY.startswith("default-src 'none'")


def test_the_report_has_what_was_forgotten_by_kind_of_text(stored):
    results, pair = stored(n_sparse=1)
    forgot = (KindLoss(kind="sums", blocks=(0.2, 0.3, 0.25, 0.21)),)
    pair = replace(pair, right=replace(pair.right, by_kind=forgot))
    assert "Sums and counting" in html_report(results, pair, None).decode()


def test_the_report_says_how_a_run_ended_where_the_example_was_made_and_what_the_model_was_unpacked_from(
    stored,
):
    results, pair = stored(
        n_sparse=1, finished=False, made_on="a <mainframe>", source_type="Q4_<1>"
    )
    page = html_report(
        results,
        pair,
        None,
        job(results.run.settings, "cancelled"),
    ).decode()
    for text in (
        "This run was stopped: 1 of its 3 sparse models is done.",
        "Computed on 24 November 2025 on another machine (a &lt;mainframe&gt;)",
        "unpacked from Q4_&lt;1&gt;",
        "What pruning costs the original weights is not measured",
    ):
        assert text in page
    unfinished = html_report(
        results,
        pair,
        None,
        job(results.run.settings, "running"),
    ).decode()
    assert (
        "This run was" not in unfinished
        and "So far: " in unfinished
        and "So far: " not in page
    )
    for run, source in (
        (results.run, "Q4_<1>"),
        (replace(results.run, source_type=""), None),
    ):
        assert (
            document_of(run, results.dense, *results.sparse_records)["model"][
                "source_type"
            ]
            == source
        )


@pytest.fixture
def house(backend, stored):
    """A backend with a run, the results, and its first and last record beside each other."""
    return backend, *stored()


def store(house, prompt, left="a", right="b", others=(), wrote=(), **more):
    """Put in what both wrote after a prompt."""
    backend, _, pair = house
    request = ContinuationSettings(
        left=pair.left.key, right=pair.right.key, prompt=prompt, others=others
    )
    backend.put(
        Continuation(
            key=request.key(),
            prompt=prompt,
            left=left,
            right=right,
            others=tuple(wrote),
            **more,
        )
    )
    return request


def written(house):
    """What the report shows, one text a prompt, after the heading and the legend."""
    backend, results, pair = house
    section = continuations_section(
        backend,
        results.run,
        pair,
        specimens.passages(),
    )
    page = plain(
        html_report(
            results,
            pair,
            specimens.passages(),
            None,
            section,
        )
    ).partition("What the models wrote ")[2]
    for drawn in section:
        shows_as_text(drawn)
    return re.split(
        r"(?=A prompt of a user|Passage \d+, )",
        page.partition(" Settings ")[0],
    )


def test_prompts_stand_first_with_every_model_that_wrote_and_marks(house):
    backend, results, _ = house
    settings = {"others": results.run.sparse[:1], "wrote": ("x",)}
    backend.user_data.keep_prompt(
        store(
            house,
            "<b>Once\u202e",
            "the door <i>",
            "the wall <i>",
            **settings,
        )
    )
    store(
        house,
        specimens.passages().contexts[0],
        stopped=True,
    )
    legend, first, passage, *more = written(house)
    assert legend.startswith("❘ marks where a text diverges from that of dense.")
    how = "A prompt of a user, greedy, 24 tokens"
    assert (
        first.strip()
        == f"{how} <b>Once⟨U+202E⟩ dense the door <i> 30 % the ❘ wall <i> 10 % ❘ x"
    )
    kinds = house[2].kinds(range(120))
    assert passage.startswith(f"Passage {kinds['broke'][0] + 1}, broke, stopped early")
    assert len(more) + 1 == len(kinds["broke"]) + len(kinds["fixed"])


def test_a_prompt_of_the_run_that_a_user_tried_is_printed_once(house):
    backend, results, pair = house
    prompt = results.run.settings.prompts[0]
    others = results.run.sparse[:1]
    backend.user_data.keep_prompt(
        store(
            house,
            prompt,
            others=others,
            wrote=("x",),
        )
    )
    store(house, prompt)
    section = continuations_section(
        backend,
        results.run,
        pair,
        None,
    )
    assert sum(prompt in part for part in section) == 1


def test_without_texts_or_anything_written_there_is_no_section_and_a_long_one_is_cut(
    house, monkeypatch
):
    backend, results, pair = house
    assert (
        continuations_section(
            backend,
            results.run,
            pair,
            specimens.passages(),
        )
        == []
    )
    store(house, specimens.passages().contexts[0])
    assert (
        continuations_section(
            backend,
            results.run,
            pair,
            None,
        )
        == []
    )
    monkeypatch.setattr("sparsedash.reporting.run_reports.MAX_CONTINUATIONS", 3)
    assert len(written(house)) == 1 + 3


def test_settings_are_said_as_they_were():
    drawn = ContinuationSettings(
        left="l", right="r", prompt="p", temperature_percent=70, seed=5, n_tokens=12
    )
    assert sampling_words(drawn) == "temperature 0.7, seed 5, 12 tokens"
