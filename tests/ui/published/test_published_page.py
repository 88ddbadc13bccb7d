"""The published tables as a visitor sees them, and the link that opens the form with just a row's settings."""

from dataclasses import replace

import pytest

from sparsedash.catalog.published_results import LAST_TOKEN, LAST_WORD, PUBLISHED_ROWS, RUNS_AT_SIZE, published_model
from sparsedash.reporting.html import widget_label
from sparsedash.service.reproduction import published_run_settings
from tests.ui import specimens
from tests.ui.conftest import links, query_of, words


def test_the_sentence_counts_what_was_computed(open_page):
    said = words(open_page("published"))
    assert said.startswith(
        "None of 20 published results of pruning without retraining shows a difference from the dense model. Judged by "
        "the published totals alone"
    )
    assert "7 of 8 published shares of removed weights follow from the models' configs." in said


def test_both_tables_state_accuracies_intervals_and_ratios(open_page):
    text = words(open_page("published"))
    assert "gpt-j-6b, 20 % lambada FP32 79.17 % 80.38 % 79.2 to 81.5 % +1.21" in text
    assert "0.1242 0.1286 0.1242" in text
    assert "−1.78 % *" in text


def test_a_row_that_is_inconsistent_says_so(open_page):
    found = [words(open_page("published", row=row.name)) for row in PUBLISHED_ROWS]
    said = ["does not follow from the two accuracies, which give" in text for text in found]
    assert said == [not row.drop_follows for row in PUBLISHED_ROWS]


def test_a_model_that_is_gone_is_named_with_its_stand_in(open_page):
    llama = LAST_TOKEN[5]
    said = words(open_page("published", row=llama.name))
    assert "huggyllama/llama-7b is the usual stand-in" in said


def test_a_row_says_what_repeating_it_takes(open_page):
    text = words(open_page("published", row=LAST_WORD[0].name))
    assert "24.2 GB to fetch, 26.0 GB of statistics, for which SPARSEDASH_ARTEFACT_GB must" in text
    assert "at least 77.3 GB, 52.5 GB of it for calibration" in text
    assert "One passage is 0.019 points." in text and "One passage is 0.021 points." in text
    assert "not known before this method has run here" in text


@pytest.mark.parametrize("row", PUBLISHED_ROWS, ids=lambda r: r.name)
def test_a_row_says_with_what_its_model_was_run_at_its_real_size(open_page, row):
    run = RUNS_AT_SIZE.get(published_model(row.model).config)
    text = words(open_page("published", row=row.name))
    assert ("Tried at its size" in text) == (run is not None)
    if run:
        assert f"by {run.method} on {run.n_tokens:,} tokens and {run.n_passages} passages; in BF16, with random" in text


def test_the_row_that_is_chosen_stands_in_the_address(open_page):
    page = open_page("published", row="no such row")
    assert page.selectbox[0].value == PUBLISHED_ROWS[0].name
    assert "The address asks for “no such row”; there is no such row here. Shown instead is gpt-j-6b" in words(page)
    page.selectbox[0].select(LAST_WORD[3].name).run()
    assert page.query_params["row"] == LAST_WORD[3].name
    (title,) = links(page)
    assert title == "Prune opt-1.3b, pile_10k, 10 %, last word, BF16"


@pytest.mark.parametrize("row", PUBLISHED_ROWS, ids=lambda r: r.name)
def test_the_link_opens_the_form_with_exactly_the_rows_settings(open_page, backend, row):
    (link,) = links(open_page("published", row=row.name)).values()
    form = open_page("prune", **query_of(link))
    next(b for b in form.button if b.label == "Start").click().run()
    assert backend.submitted == [published_run_settings(row)]


def test_what_was_measured_here_stands_beside_its_row(open_page, backend):
    settings = published_run_settings(LAST_WORD[0])
    run, records = specimens.run(settings)
    backend.add_run((replace(run, settings=settings), records))
    text = words(open_page("published", row=LAST_WORD[0].name))
    dense, sparse = (record.last_word.accuracy for record in records[:2])
    assert f"Measured here {100 * dense:.2f} % of 120 → {100 * sparse:.2f} % of 120" in text
    assert "Measured here not yet" in words(open_page("published", row=LAST_WORD[1].name))


def test_labels_lose_nothing():
    assert widget_label("gpt-j-6b, pile_10k, 10 %, last token, FP32").startswith("gpt-j-6b, pile_10k")
