"""The overview in its empty, running, failed and done state."""

import html
import json
import re
from dataclasses import replace

import msgspec
import pytest

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from sparsedash.reporting.kind_words import forgotten_sentence
from sparsedash.reporting.next_step import next_step
from sparsedash.reporting.run_answer import answer_figures, answer_sentence
from sparsedash.reporting.run_reports import run_document
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.pair_records import (
    NOT_CONTINUED,
    Continuation,
    ContinuationSettings,
    PromptTexts,
)
from sparsedash.schema.progress import StageTime
from sparsedash.schema.records import KindLoss
from sparsedash.schema.settings import CalibrationSettings, RunSettings
from sparsedash.schema.store_keys import hub_commit_note
from sparsedash.service.estimates import Duration
from sparsedash.service.hub_revisions import NotedCommit
from sparsedash.ui.run_sharing import headline_pair, run_report
from tests.factories import STOPPED, plain
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, markup, query_of, words
from tests.ui.filled_backend import FilledBackend, job

SETTINGS = specimens.SETTINGS
OTHER = replace(SETTINGS, sparsities_permille=(400,))


def test_a_newcomer_finds_one_button_that_submits_the_default_run_and_shows_it_there(
    open_page, backend, example
):
    app = open_page("overview")
    text = words(app)
    assert (
        "Nothing has run here yet." in text
        and "Takes about 4 min (from earlier runs)" in text
    )
    assert "an example 10 to 30 % of MLP channels are undecided." in text
    assert (
        markup(app).count('class="sd-ruler"')
        == markup(app).count('class="sd-layers"')
        == 1
    )
    assert query_of(links(app)["Look at an example"]) == {"run": EXAMPLE}
    assert [element.label for element in app.button] == ["Try the built-in model"]
    button(app, "Try the built-in model").click().run()
    written = CalibrationSettings(corpus="builtin:mixed", n_samples=48)
    first = {
        "methods": (method_named("quick"),),
        "sparsities_permille": (20, 300),
        "calibration": written,
    }
    assert backend.submitted == [RunSettings(**first)]
    assert app.query_params["run"] == backend.submitted[0].key()
    assert "Waiting SmolLM2 135M, quick 2, 30 % on Cloze passages" in words(app)


@pytest.mark.parametrize(
    ("duration", "measuring", "expected"),
    [
        (Duration(seconds=9.0, unknown=("pruning",)), True, "Time: being estimated."),
        (Duration(seconds=9.0, unknown=("pruning",)), False, "Time: not known yet."),
        (
            Duration(seconds=130.0, counted=("pruning",)),
            False,
            "Takes about 2 min (from this machine's measured speed)",
        ),
    ],
)
def test_the_button_says_how_long_it_takes(
    duration, measuring, expected, open_page, backend, monkeypatch
):
    monkeypatch.setattr(type(backend), "is_measuring", lambda self: measuring)
    backend.before = replace(backend.before, duration=duration)
    assert expected in words(open_page("overview"))


def test_the_example_is_marked_and_neither_timed_nor_exported(
    open_page, backend, example
):
    app = open_page("overview", run=EXAMPLE, against="reading")
    text = words(app)
    assert text.startswith("Example. ")
    assert "Computed on 24 November 2025 on another machine (a mainframe)" in text
    assert "The example's models cannot be timed" in text
    files = open_page("models", run=EXAMPLE)
    assert "The example's models cannot be exported" in words(files)
    pressed = {element.label for element in (*app.button, *files.button)}
    assert not any("Measure speed" in label or label == "Export" for label in pressed)
    backend.add_run(specimens.run())
    assert "Example" not in words(open_page("overview"))


def test_a_run_whose_model_has_moved_says_so_and_offers_the_newer_revision(
    open_page, backend
):
    read = "a" * 40
    newer = "b" * 40
    settings = replace(
        SETTINGS, model="owner/model", revisions=(("owner/model", read),)
    )
    run, *more = specimens.run(settings)
    backend.add_run((replace(run, model_identity=f"owner/model@{read}"), *more))
    app = open_page("overview", run=run.key)
    assert "revision aaaaaaa" in words(app)
    assert "newer revision" not in words(app)
    note = NotedCommit(commit=newer, asked_at=0.0)
    backend._store.remember(
        hub_commit_note("owner/model"), msgspec.json.encode(note).decode()
    )
    app = open_page("overview", run=run.key)
    assert "The hub has a newer revision of owner/model: bbbbbbb." in words(app)
    button(app, "Run on the newer one").click().run()
    (request,) = backend.submitted
    assert request == replace(settings, revisions=())
    (submitted,) = backend.jobs()
    assert submitted.settings["revisions"] == [["owner/model", newer]]
    assert app.query_params["run"] == submitted.key


def test_a_refresh_finds_the_running_job_by_the_address(open_page, backend):
    backend.expected = {"load": 2.0, "continue": 1.0, "evaluate": 12.0}
    backend.set_jobs(job(SETTINGS, n_right=21))
    text = words(open_page("overview", run=SETTINGS.key()))
    assert "Evaluating · 20 % sparse" in text and "1,234 of 2,880 tokens" in text
    assert "412 tokens a second" in text and "21 right so far" in text
    assert "% of the run · time left unknown: pruning not measured here yet" in text


def test_progress_is_a_progress_bar_to_assistive_technology(open_page, backend):
    backend.expected = {"load": 2.0, "prune": 4.0, "continue": 0.0, "evaluate": 12.0}
    spent = [
        ("start", None, 8.0),
        ("load", None, 2.0),
        ("prune", 0, 5.0),
        ("evaluate", 0, 15.0),
    ]
    spent += [
        ("prune", 1, 5.0),
        ("evaluate", 1, 15.0),
        ("prune", 2, 5.0),
        ("evaluate", 2, 5.0),
    ]
    backend.set_jobs(
        job(
            SETTINGS,
            point=2,
            done=0,
            rate=None,
            stage_times=tuple(StageTime(*entry) for entry in spent),
        )
    )
    drawn = markup(open_page("overview"))
    # 60 s are over. Of the last model's answers, by the two before it, 10 s are left.
    assert 'role="progressbar"' in drawn and 'aria-valuenow="70"' in drawn
    assert 'aria-valuetext="70\u00a0% of the run · about 10\u00a0s left"' in drawn
    waiting = job(replace(SETTINGS, sparsities_permille=(600,)), "queued", id=2)
    running = backend.jobs()
    backend.set_jobs(*running, waiting)
    text = words(open_page("runs", view="jobs"))
    assert "Starts as soon as a worker is free, in about 10 s" in text
    backend.set_jobs(waiting)
    assert "worker is free, in about" not in words(open_page("runs", view="jobs"))


def test_a_run_that_failed_says_why_and_what_to_do(open_page, backend):
    backend.set_jobs(job(SETTINGS, "failed", **FAILED))
    app = open_page("overview")
    assert "The model cannot be reached. Name a local folder." in words(app)
    button(app, "Resume").click().run()
    assert (backend.job(1).state, backend.job(1).attempt) == ("queued", 2)


def test_a_run_that_ended_early_offers_its_settings_once_and_the_page_follows_where_it_is_resumed(
    open_page, backend
):
    run = backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.put(replace(run, key="f" * 64))
    app = open_page("overview", run="f" * 64)
    assert [link.proto.label for link in app.get("page_link")].count(
        "Change the settings"
    ) == 1
    button(app, "Resume").click().run()
    assert app.query_params["run"] == run.settings.key() == backend.submitted[0].key()
    backend.set_jobs(job(OTHER, "failed", **FAILED))
    assert "Change the settings" in links(open_page("overview", run=OTHER.key()))


def test_where_results_were_deleted_or_never_were_the_page_says_so(open_page, backend):
    backend.set_jobs(job(SETTINGS, "done"))
    assert "Nothing has run here yet." in words(open_page("overview"))
    text = words(open_page("overview", run=SETTINGS.key()))
    assert (
        "The results of this run are gone: its own record is no longer stored." in text
    )
    assert "There is no run with this address." in words(
        open_page("overview", run="gone")
    )


def test_a_finished_run_shows_a_number_a_model_a_chart_a_table_and_the_next_step(
    open_page, finished
):
    app = open_page("overview")
    drawn = markup(app)
    text = words(app)
    assert drawn.count('class="sd-figure"') == 3 and "<table" in drawn
    assert (
        drawn.count('class="sd-ruler"') == 1 and drawn.count('class="sd-layers"') == 1
    )
    assert "10 to 30 % of MLP channels are undecided." in text
    assert app.get("plotly_chart")[0].proto.alt.startswith(
        "Word perplexity over 120 passages"
    )
    assert (
        "Removing 10 %, 20 % or 30 % of the MLP channels is too close to call on 120 passages."
        in text
    )
    following = app.button(key="take-next-step")
    assert following.label.endswith("about 4 min")
    following.click().run()
    assert app.query_params["sparsity"] in ("10", "20", "30")
    assert app.query_params["text"] == "lambada_openai"


def test_every_sparse_model_in_the_table_is_a_link_and_its_head_says_once_what_cells_count(
    open_page, finished
):
    app = open_page("overview")
    drawn = markup(app)
    text = words(app)
    for name, address in (("10 %", "10+%25"), ("20 %", "20+%25"), ("30 %", "30+%25")):
        link = f'href="compare?run={SETTINGS.key()}&amp;right={address}" aria-label="{name} against dense">{name}</a>'
        assert link in drawn
    assert (
        "Right of 120 Accuracy Word perplexity Times dense Change, points p Broke Fixed Verdict"
        in text
    )
    losses = (
        r"[\d.]+ × [\d.]+ to [\d.]+ [−+]?[\d.]+ [−+][\d.]+ to [−+][\d.]+ \S+ \d+ \d+"
    )
    assert len(re.findall(rf"{losses} \? undecided", text)) == 3


def test_a_model_that_answered_fewer_passages_says_how_many_and_has_a_hollow_mark(
    open_page, backend
):
    run, (dense, *more, last) = specimens.run()
    stopped = replace(STOPPED, decision="open", p_value=0.5, interval=(-0.3, 0.1))
    few = replace(last, outcomes=last.outcomes[:40], stopping=stopped)
    backend.add_run((replace(run, source_type="Q4_1"), [dense, *more, few]))
    text = words(open_page("overview"))
    assert (
        "unpacked from Q4_1" in text
        and "What pruning costs the original weights is not measured" in text
    )
    assert "Hollow marks: evaluated on fewer passages" in text
    # Its change is beside the accuracy of dense on the same passages.
    right = sum(outcome.last_word_right for outcome in dense.outcomes[:40])
    assert (
        f"dense, same 40 0 0 {right} of 40 {right / 0.4:.1f} % " in text
        and text.count(" of 40 ") == 2
    )


def test_results_are_shown_while_the_rest_still_runs_with_places_for_what_comes(
    open_page, backend
):
    backend.add_run(specimens.run(finished=False, n_sparse=0))
    backend.set_jobs(job(SETTINGS))
    app = open_page("overview")
    assert "The dense model is evaluated" in words(app)
    assert "All answers" not in links(app)
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    app = open_page("overview")
    text = words(app)
    assert (
        "So far: Removing 10 % of the MLP channels is too close to call on 120 passages."
        in text
    )
    assert (
        "Evaluating" in text and app.get("plotly_chart") and text.count("to come") == 2
    )
    assert text.count("… 20 %") == 2, "a chip and a mark on the ruler"
    backend.set_jobs(job(SETTINGS, "crashed"))
    text = words(open_page("overview"))
    assert "to come" not in text and "… 20 %" not in text


def test_the_live_point_stands_in_the_chart_while_its_model_answers(open_page, backend):
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.set_jobs(job(SETTINGS, done=60, n_right=21, unit="passages", point=1))
    app = open_page("overview")
    app.get("button_group")[0].set_value("share right").run()
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    (point,) = [trace for trace in figure["data"] if trace["name"] == "live"]
    assert (point["x"], point["y"]) == ([20.0], [35.0])


def test_a_run_that_is_not_shown_is_mentioned_while_it_lives_but_no_prompt(
    open_page, finished
):
    prompt = ContinuationSettings(left="a", right="b", prompt="Once")
    finished.set_jobs(job(OTHER, point=0), job(prompt, "queued", id=2))
    app = open_page("overview")
    link = links(app)[
        "Another run is under way: SmolLM2 135M, least-squares 40 % on Cloze passages"
    ]
    assert query_of(link) == {"run": OTHER.key()}
    text = words(app)
    assert text.index("perplexity, 95 % interval") < text.index("% of the run")
    finished.set_jobs(job(OTHER, "done"), job(prompt, "queued", id=2))
    assert not any("Another run" in name for name in links(app.run()))
    finished.set_jobs(
        *(
            job(replace(OTHER, sparsities_permille=(p,)), "queued", id=p)
            for p in (400, 300, 200, 100)
        )
    )
    results = links(open_page("overview"))
    assert [name for name in results if "Another run" in name] == [
        "Another run is waiting: SmolLM2 135M, least-squares 10 % on Cloze passages"
    ]
    assert results["3 more"] == "runs?view=jobs"


def test_the_address_chooses_among_runs(open_page, backend):
    settings = replace(SETTINGS, methods=(method_named("magnitude"),))
    backend.add_run(specimens.run(settings))
    backend.add_run(specimens.run())
    app = open_page("overview", run=settings.key())
    assert "magnitude · needs no calibration text" in words(app)


@pytest.mark.parametrize(
    ("measure", "said", "bands"),
    [
        ("word perplexity", "Word perplexity over 120 passages", {"allowed"}),
        ("flips", "Answers of 120 that broke or were", set()),
        (
            "share right",
            "Share of last words right over 120 passages",
            {"dense interval"},
        ),
    ],
)
def test_the_measure_of_the_chart_can_be_chosen(
    measure, said, bands, open_page, finished
):
    app = open_page("overview")
    app.get("button_group")[0].set_value(measure).run()
    chart = app.get("plotly_chart")[0].proto
    assert chart.alt.startswith(said)
    assert {
        trace["name"]
        for trace in json.loads(chart.spec)["data"]
        if trace.get("fill") == "toself"
    } == bands
    assert words(app).count(" band") == len(bands)


def test_masks_are_not_called_removed_and_do_not_outrun_what_is(open_page, backend):
    masks = method_named("magnitude-2:4")
    run, records = specimens.run(replace(SETTINGS, methods=(*SETTINGS.methods, masks)))
    mask = specimens.record(
        [outcome.last_word_right for outcome in records[0].outcomes], 500, masks
    )
    backend.add_run(
        (replace(run, sparse=(*run.sparse[:3], mask.key)), [*records[:4], mask])
    )
    app = open_page("overview")
    assert "of the MLP channels with “least-squares” is too close to call" in words(app)
    results = links(app)
    name = "least-squares 10 %"
    assert query_of(results["Loss by layer"]) == {
        "run": run.key,
        "right": name,
        "view": "layers",
    }
    assert query_of(results["All answers"]) == {
        "run": run.key,
        "right": name,
    }
    alone = replace(
        run, settings=replace(SETTINGS, methods=(masks,)), sparse=(mask.key,)
    )
    backend.add_run((alone, [records[0], mask]))
    text = words(open_page("overview"))
    assert (
        "Setting 50 % of the decoder's weights to zero" in text
        and "MLP weights removed or zero" in text
    )


def test_the_tolerance_is_chosen_judges_the_run_and_goes_along_to_the_answers(
    open_page, finished
):
    app = open_page("overview")
    app.number_input(key="tolerance-ratio").set_value(5.0).run()
    app.number_input(key="tolerance-points").set_value(50.0).run()
    assert (
        "Removing up to 30 % of the MLP channels stays within your limits: "
        in words(app)
    )
    request = query_of(links(app)["All answers"])
    assert request["limits"] == "5,50"


def test_both_models_texts_stand_side_by_side_as_text_and_the_others_are_on_the_compare_page(
    open_page, backend
):
    run = backend.add_run(
        specimens.run(replace(SETTINGS, prompts=("Once <b>", "Twice")))
    )
    keys = list(run.continuations)
    assert "What the models write" not in markup(open_page("overview"))
    texts = [" upon **a** time", " is two", *(" upon\n<i>no</i> time", " is two") * 3]
    backend.put(
        *(
            Continuation(key=k, prompt="", left=t, right=t)
            for k, t in zip(keys, texts, strict=True)
        )
    )
    app = open_page("overview")
    text = words(app)
    assert (
        "Once <b> upon ❘ **a** time upon ❘ <i>no</i> time Twice is two is two Greedy;"
        in text
    )
    assert (
        query_of(links(app)["Other models, and prompts of your own"])["right"] == "10 %"
    )
    compared = words(open_page("compare", right="20 %"))
    assert (
        "Once <b> Greedy, 24 tokens Dense upon **a** time Sparse, 20 % upon ❘ <i>no</i> time"
        in compared
    )


def test_texts_that_were_not_written_have_no_column_and_a_reason(open_page, backend):
    settings = replace(SETTINGS, prompts=("Once",), residency="streamed")
    run, records = specimens.run(settings)
    backend.add_run((replace(run, warnings=(NOT_CONTINUED,)), records))
    key = next(iter(run.continuations))
    backend.put(Continuation(key=key, prompt="", left=" upon", right=" upon"))
    app = open_page("overview")
    assert (
        words(app).count(
            f"Once upon Greedy decoding, by the dense model alone. {NOT_CONTINUED}"
        )
        == words(app).count("not continued")
        == 1
    )
    assert "Sparse, 10 %</th>" not in markup(app)


def test_a_run_that_ended_before_its_first_sparse_model_has_no_chart_and_nothing_of_two_texts(
    open_page, backend
):
    run = backend.add_run(
        specimens.run(replace(SETTINGS, prompts=("Once",)), finished=False, n_sparse=0)
    )
    backend.put(
        *(
            Continuation(key=key, prompt="", left=" upon", right=" upon")
            for key in run.continuations
        )
    )
    app = open_page("overview", run=run.key)
    assert (
        "Once upon Greedy decoding, by the dense model alone." in words(app)
        and "diverge" not in words(app)
        and "…" not in words(app)
    )
    assert not app.get("plotly_chart") and "Resume" in [
        element.label for element in app.button
    ]


def test_a_race_shows_the_paired_difference_beside_its_claim(open_page, backend):
    backend.add_run(
        specimens.run(
            replace(SETTINGS, methods=(*SETTINGS.methods, method_named("magnitude")))
        )
    )
    text = words(open_page("overview"))
    assert (
        "“least-squares” and “magnitude” are tied: 10 to 30 % of MLP channels are undecided."
        in text
    )
    assert "“magnitude” at 10 %: perplexity " in text and "98.3 % interval" in text
    overlap = "Methods whose bars overlap may still differ"
    assert overlap in text and overlap not in words(
        open_page("overview", measure="flips")
    )


def test_a_text_to_come_has_its_place(open_page, backend):
    run = backend.add_run(
        specimens.run(replace(SETTINGS, prompts=("Once",)), finished=False, n_sparse=0)
    )
    backend.set_jobs(job(run.settings))
    backend.put(
        *(
            Continuation(key=key, prompt="", left=" upon", right=" upon")
            for key in run.continuations
        )
    )
    assert "Once upon …" in words(open_page("overview", run=run.key))


def test_the_first_texts_stand_on_the_page_of_a_run_without_results(
    open_page, backend, monkeypatch
):
    texts = (PromptTexts("Once", " upon a time", " upon a hill"),)
    monkeypatch.setattr(FilledBackend, "first_texts", lambda *_: texts)
    waiting = job(replace(SETTINGS, prompts=("Once",)))
    backend.set_jobs(waiting)
    app = open_page("overview", run=waiting.key)
    assert "Once upon a ❘ time upon a ❘ hill" in words(app)
    assert "Sparse, 10 %</th>" in markup(app)


def test_what_left_the_first_screen_stands_in_the_fold_in_the_report_and_in_json(
    open_page, backend
):
    run, records = specimens.run()
    losses = {"prose": 0.1, "sums": 0.7, "code": 0.1}
    kinds = tuple(KindLoss(kind=kind, blocks=(kl, kl)) for kind, kl in losses.items())
    records = [records[0], *(replace(record, by_kind=kinds) for record in records[1:])]
    backend.add_run((run, records))
    results = run_results(backend, run)
    step = next_step(results, backend.request_rules)
    sentences = [
        answer_sentence(results),
        *answer_figures(results),
        forgotten_sentence(results.headline),
        step.sentence,
    ]
    assert all(sentences)
    app = open_page("overview")
    folds = " ".join(words(fold) for fold in app.expander)
    pair = headline_pair(backend, results)
    report = run_report(
        backend, results, pair, backend.passages(pair.left.passages_key)
    )
    for shown in (folds, plain(html.unescape(report.decode()))):
        for sentence in sentences:
            assert plain(sentence) in shown
        assert wording.stored_run_details(run).split(" · ")[0] in shown
        assert "KL, nats a token" in shown
    document = run_document(results, results.dense, results.sparse_records, step)
    assert document["sentence"] == plain(sentences[0]) and document[
        "headline"
    ] in words(app)
    assert (len(document["sparse"]), document["next"]) == (3, plain(step.sentence))
    assert document["sparse"][0]["by_kind"][0]["title"] == "Sums and counting"


def test_prompts_take_the_whole_width_where_no_answer_broke(open_page, backend):
    run, (dense, broken) = specimens.run(replace(SETTINGS, sparsities_permille=(100,)))
    right = [outcome.last_word_right for outcome in dense.outcomes]
    n_columns = []
    for sparse in (broken, replace(specimens.record(right, 100), key=broken.key)):
        backend.add_run((run, [dense, sparse]))
        app = open_page("overview")
        n_columns.append(len(app.columns))
    assert "Broke 0" in words(app)
    assert n_columns[0] - n_columns[1] == 2


@pytest.mark.parametrize(
    ("n_bytes", "line"),
    [
        (None, ""),
        (100_000_000, " quantised source: 100 MB"),
        (600_000_000, " 15.9 % smaller than the 600 MB source"),
    ],
)
def test_what_is_saved_stands_beside_the_file_that_the_model_was_unpacked_from(
    open_page, backend, tmp_path, n_bytes, line
):
    file = tmp_path / "small.gguf"
    if n_bytes is not None:
        with file.open("wb") as stream:
            stream.truncate(n_bytes)
    run, records = specimens.run(replace(SETTINGS, model=str(file)))
    backend.add_run((replace(run, source_type="Q4_1"), records))
    text = words(open_page("overview")).replace("\xa0", " ")
    assert f"smaller: 538 → 505 MB{line}" in text and ("source" in text) == bool(line)
    assert "float32 file " in text


@pytest.mark.parametrize(("ratio", "is_offered"), [(1.1, False), (9.0, True)])
def test_a_model_beyond_the_limit_is_not_offered_for_export_beside_the_headline(
    open_page, finished, ratio, is_offered
):
    settings = replace(SETTINGS, sparsities_permille=(100,))
    run, (dense, sparse) = specimens.run(settings)
    lost = [
        replace(outcome, log_likelihood=outcome.log_likelihood - 1.0)
        for outcome in dense.outcomes
    ]
    worse = replace(sparse, outcomes=tuple(lost))
    finished.add_run((run, [dense, worse]))
    app = open_page("overview", run=run.key, limits=f"{ratio:g},90")
    assert ("Export this model" in links(app)) == is_offered
