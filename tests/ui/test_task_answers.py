"""Answers of other programs on Overview and Compare: opened from files, judged, read question by
question.
"""

import io
import json
import zipfile
from dataclasses import replace

import pytest

from sparsedash.service import request_checks
from sparsedash.ui import form_run
from tests.question_sets import CHOICE, WRITTEN, verdicts
from tests.ui import specimens
from tests.ui.conftest import (
    HOSTILE,
    links,
    markup,
    menu_links,
    query_of,
    shows_as_text,
    words,
)


def lines(sample, *rights, measure="exact_match", **changes):
    """A file of these answers to different questions."""
    text = ""
    for i, right in enumerate(rights):
        line = sample | {"doc_hash": str(i), measure: float(right)} | changes
        text += f"{json.dumps(line)}\n"
    return text.encode()


SUMS = "samples_sums_2026-01-02T03-04-05.6.jsonl"
MANY = [True] * 400
FEWER = [False] * 100 + [True] * 300


@pytest.fixture
def opened(backend):
    """The address of two files of sums, of which the second model lost a quarter."""
    dense = backend.answers.keep("dense.jsonl", lines(WRITTEN, *MANY))
    sparse = backend.answers.keep("small.jsonl", lines(WRITTEN, *FEWER))
    return {"models": ",".join([*dense, *sparse])}


def test_the_page_of_runs_leads_to_the_page_that_opens_files_and_a_file_taken_there_is_in_the_address(
    open_page, backend
):
    to = links(open_page("runs"))["Judge answer files"]
    app = open_page("overview", **query_of(to))
    assert words(app).startswith("How do models compare on your tasks?")
    upload = app.file_uploader(key="answers-files")
    upload.set_value([("dense.jsonl", lines(WRITTEN, *MANY), "text/plain")]).run()
    key = app.query_params["models"]
    assert backend.answers.get(key).n_questions == 400
    bad = ("bad.jsonl", b"{", "text/plain")
    small = (
        "small.zip",
        zipped({f"s/{SUMS}": lines(WRITTEN, *FEWER)}),
        "application/zip",
    )
    app.file_uploader(key="answers-files").set_value([bad, small]).run()
    assert "Line 1 of bad.jsonl is no answer that can be read" in words(app)
    assert words(app).startswith("s costs too much: questions")


def test_the_models_that_were_judged_last_stand_on_runs(open_page, backend, opened):
    open_page("overview", **opened)
    page = open_page("runs", view="answers")
    assert "small" in markup(page) and "−25.0" in words(page)
    to = query_of(links(page)["Ranking, slices and questions"])
    assert to["models"] == opened["models"]
    for key in opened["models"].split(","):
        backend._store.drop_entry("artefacts", f"answers/{key}")
    assert "were deleted" in words(open_page("runs", view="answers"))


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def test_several_models_are_ranked_beside_a_baseline_that_can_be_chosen(
    open_page, backend
):
    keys = []
    for name, rights in (
        ("base", MANY),
        ("near", [False] * 2 + [True] * 398),
        ("far", FEWER),
    ):
        keys += backend.answers.keep(f"{name}.jsonl", lines(WRITTEN, *rights))
    app = open_page("overview", models=",".join(keys))
    assert words(app).startswith(
        "base and near tie for first on 400 questions that all answered. Of 2 models against base: 1 beyond"
    )
    charts = [chart.proto.alt for chart in app.get("plotly_chart")]
    assert any("far rank 3, −25.0 points" in alt for alt in charts)
    assert "far 75.0 % ✕ −25.0" in words(app)
    app.selectbox(key="chosen-right").set_value("far").run()
    assert "far costs too much: questions −25.0 points (limit −2)." in words(app)
    to = query_of(links(app)["Compare the answers question by question"])
    questions = open_page("compare", **to)
    assert "far costs too much" in words(questions)
    app.selectbox(key="chosen-baseline").set_value("far").run()
    assert "Of 2 models against far" in words(app)


def test_the_overview_of_answers_has_verdict_chart_table_and_a_link_to_the_questions(
    open_page, opened
):
    app = open_page("overview", **opened, limits="1.1,5")
    assert "small costs too much: questions −25.0 points (limit −5)." in words(app)
    (chart,) = app.get("plotly_chart")
    assert "questions" in chart.proto.spec
    to = query_of(links(app)["Compare the answers question by question"])
    assert {name: to[name] for name in opened} == opened
    assert "task=questions" in markup(app)


def test_what_was_asked_differently_or_deleted_is_said_in_words(
    open_page, backend, opened
):
    (odd,) = backend.answers.keep(SUMS, lines(WRITTEN, *MANY, prompt_hash="another"))
    dense, _ = opened["models"].split(",")
    address = {"models": f"{dense},{odd}"}
    app = open_page("overview", **address)
    assert "the prompt differs in 400 of 400 questions" in words(app)
    assert "These answers cannot be compared." in words(open_page("compare", **address))
    backend._store.drop_entry("artefacts", f"answers/{odd}")
    assert "asked differently" not in words(open_page("overview", **address))


def test_questions_are_filtered_by_what_became_of_them_and_stepped_through(
    open_page, opened
):
    app = open_page("compare", **opened)
    assert app.selectbox(key="chosen-filter").options == [
        "All · 400",
        "Both right · 300",
        "Broke · 100",
    ]
    assert "1 of 100" in words(app) and "✕ wrong · answer found: 2" in words(app)
    app.button(key="step-Next").click().run()
    assert app.query_params["question"] == "2" and "Question 2" in words(app)
    app.button(key="row-3").click().run()
    assert app.query_params["question"] == "4" and "4 of 100" in words(app)
    assert app.button(key="row-3").label.startswith("`▸ 4` **")
    app.button(key="page-Later").click().run()
    assert "13 to 24 of 100" in words(app) and app.query_params["question"] == "13"
    app.selectbox(key="chosen-filter").set_value("both-right").run()
    assert "1 of 300" in words(app) and "Question 101" in words(app)


def test_questions_are_searched(open_page, backend):
    def asked(name, *rights):
        text = lines(WRITTEN, *rights).decode().splitlines()
        odd = [line.replace("1 + 1 =", f"{i} Apples") for i, line in enumerate(text)]
        return backend.answers.keep(name, "\n".join(odd).encode())

    keys = [*asked("a.jsonl", *MANY), *asked("b.jsonl", *FEWER)]
    app = open_page("compare", models=",".join(keys), search="99 apples")
    assert app.selectbox(key="chosen-filter").options == [
        "All · 4",
        "Both right · 3",
        "Broke · 1",
    ]
    app.text_input(key="search").set_value("pears").run()
    assert "No question or answer holds this text." in words(app)


def test_questions_are_sliced_by_a_task_s_own_fields(open_page, backend):
    def subject_lines(subject, *rights):
        text = lines(
            WRITTEN,
            *rights,
            doc={"subject": subject},
            prompt_hash=subject,
        )
        return text.replace(b'hash": "', b'hash": "' + subject[:1].encode())

    keys = []
    for rights in ((True,) * 3, (True, False, False)):
        text = subject_lines("cells", *rights) + subject_lines("stars", True, True)
        keys += backend.answers.keep(SUMS, text)
    app = open_page("compare", models=",".join(keys))
    assert app.selectbox(key="chosen-slice").options == [
        "All · 5",
        "subject: cells · 3, 2 broke",
        "subject: stars · 2",
    ]
    assert "1 of 2" in words(app)
    app.selectbox(key="chosen-slice").set_value("subject: stars").run()
    assert app.query_params["slice"] == "subject: stars"
    assert app.selectbox(key="chosen-filter").options == ["All · 2", "Both right · 2"]


def test_choices_are_shown_with_the_probabilities_of_both_models(open_page, backend):
    sure = CHOICE | {"resps": [[["-1.0", "False"]], [["-1.0", "False"]]]}
    (dense,) = backend.answers.keep(
        "samples_c.jsonl", lines(CHOICE, True, measure="acc")
    )
    (sparse,) = backend.answers.keep(
        "samples_c.jsonl", lines(sure, True, measure="acc")
    )
    app = open_page("compare", models=f"{dense},{sparse}")
    assert "rust ✓ 99.8 % 50.0 %" in words(app)
    assert "subject: colours" in words(app)


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\ud83d" not in text])
def test_foreign_text_is_shown_as_text(open_page, backend, text):
    hostile = WRITTEN | {
        "resps": [[text]],
        "filtered_resps": [text],
        "doc": {"subject": text},
        "target": text,
    }
    hostile["arguments"] = {"gen_args_0": {"arg_0": text, "arg_1": {}}}
    (dense,) = backend.answers.keep(f"{text}.jsonl", lines(hostile, *MANY))
    (sparse,) = backend.answers.keep(f"{text}.jsonl", lines(hostile, *FEWER))
    for page in ("overview", "compare"):
        drawn = markup(open_page(page, models=f"{dense},{sparse}"))
        assert "<img" not in drawn and "<style>*" not in drawn
        shows_as_text(drawn)


def test_each_task_has_a_limit_of_its_own_that_goes_along(open_page, opened):
    app = open_page("overview", **opened)
    assert app.number_input(key="limit-questions").value == 2.0
    app.number_input(key="limit-questions").set_value(40.0).run()
    assert app.query_params["limits"] == "1.1,2,questions:40"
    assert "small stays within the limit on questions." in words(app)
    assert "Limit on questions: 40 points." in words(app)
    assert query_of(menu_links(app)["Runs"])["limits"] == "1.1,2,questions:40"
    app.number_input(key="limit-questions").set_value(0.0).run()
    assert app.query_params["limits"] == "1.1,2,questions:40" and "must be" in words(
        app
    )
    wrong = open_page(
        "overview",
        **opened,
        limits="x,,questions,questions:x,:3,questions:nan,questions:9",
    )
    assert wrong.number_input(key="limit-questions").value == 9.0


def test_who_may_not_open_files_reads_that_and_cannot_clear(
    open_page, backend, opened, monkeypatch
):
    monkeypatch.setattr(type(backend), "administers", False)
    app = open_page("overview", models=opened["models"].split(",")[0])
    assert "An administrator opens the files." in words(app)
    assert not app.get("file_uploader")
    assert not [button for button in app.button if button.key == "answers-clear"]


# Of a run.


@pytest.fixture
def tasked(backend):
    """A run whose first sparse model lost a quarter of the sums, and whose others lost none."""
    run, records = specimens.run()
    answers = {}
    for record in records:
        pair = verdicts(both=400)
        if record.key == run.sparse[0]:
            pair = verdicts(both=300, broke=100)
        answered = replace(pair[record.key != run.dense], key=f"{record.key}-sums")
        backend._store.put(answered.key, answered)
        answers[record.key] = (answered.key,)
    backend.add_run((replace(run, answers=answers), records))
    return run


def test_a_run_says_what_its_models_lose_on_tasks_and_leads_to_the_questions(
    open_page, tasked
):
    app = open_page("overview", run=tasked.key, limits="1.1,5")
    assert "10 % of MLP channels is too much. Less: not tested." in words(app)
    assert "✕ sums −25.0 points (limit −5)" in words(app)
    assert "10 % costs too much: sums −25.0 points (limit −5)." in words(app)
    first, *_ = app.selectbox(key="chosen-right").options
    app.selectbox(key="chosen-right").set_value(first).run()
    to = query_of(links(app)["Compare the answers question by question"])
    assert to["view"] == "tasks" and to["right"] == first
    app = open_page("compare", **to)
    assert app.selectbox(key="chosen-filter").options == [
        "All · 400",
        "Both right · 300",
        "Broke · 100",
    ]
    assert "1 of 100" in words(app)
    gone = open_page("compare", run=tasked.key)
    assert "Tasks" in gone.get("button_group")[0].proto.options[-1].content


def test_the_chart_has_a_line_for_each_task_where_there_are_any(
    open_page, backend, tasked
):
    app = open_page("overview", run=tasked.key, measure="tasks", limits="1.1,5")
    (chart,) = [
        drawn
        for drawn in app.get("plotly_chart")
        if "Change of accuracy on tasks" in drawn.proto.alt
    ]
    assert (
        "sums at 10.4 % −25.0 points, beyond; sums at 20.8 % 0.0 points, within"
        in chart.proto.alt
    )
    plain, _ = specimens.run()
    backend.add_run((replace(plain, key="plain"), specimens.run()[1]))
    app = open_page("overview", run="plain", measure="tasks")
    assert not app.exception and "tasks" not in [
        option.content for option in app.get("button_group")[0].proto.options
    ]


def test_the_form_asks_tasks_where_the_harness_is_installed_and_says_so_where_it_is_not(
    open_page, backend, monkeypatch
):
    app = open_page("prune", tasks="piqa")
    assert app.multiselect(key="tasks").value == ["piqa"]
    assert {widget.label for widget in app.number_input} >= {
        "Questions of each task",
        "Examples before each question",
    }
    monkeypatch.setattr(form_run, "find_spec", lambda name: None)
    monkeypatch.setattr(request_checks, "find_spec", lambda name: None)
    app = open_page("prune", tasks="builtin:copying")
    assert app.multiselect(key="tasks").value == ["builtin:copying"]
    assert "need lm-evaluation-harness. To install it:" in words(app)
