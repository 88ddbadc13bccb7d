"""The published tables, and the link that opens the form with just a row's settings."""

from dataclasses import replace
from urllib.parse import quote

import pytest

from sparsedash.catalog.published_results import (
    LAST_TOKEN,
    LAST_WORD,
    PUBLISHED_ROWS,
    RUNS_AT_SIZE,
    published_model,
)
from sparsedash.service.reproduction import (
    first_row,
    published_run_cost,
    published_run_settings,
)
from tests.ui import specimens
from tests.ui.conftest import button, links, markup, query_of, words


def test_the_page_counts_what_shows_a_difference_and_states_intervals_ratios_and_the_cost_of_a_row(
    open_page,
):
    text = words(open_page("prune", view="published", row=LAST_WORD[0].name))
    assert text.startswith(
        "None of 20 published results of pruning without retraining shows a difference from the dense model. Judged by "
        "the published totals"
    )
    assert (
        "7 of 8 published shares of removed weights can be computed from the models' configs."
        in text
    )
    assert "gpt-j-6b, 20 % lambada FP32 79.17 % 80.38 % 79.2 to 81.5 % +1.21" in text
    assert "0.1242 0.1286 0.1242" in text and "−1.78 % *" in text
    assert (
        "One passage is 0.019 points." in text
        and "One passage is 0.021 points." in text
    )
    assert (
        "24.2 GB to fetch, 26.0 GB of statistics, within SPARSEDASH_ARTEFACT_GB" in text
    )
    assert "at least 77.3 GB, 52.5 GB of it for calibration" in text
    assert "Time not known yet" in text
    assert "huggyllama/llama-7b is the usual substitute" in words(
        open_page("prune", view="published", row=LAST_TOKEN[5].name)
    )


def test_the_page_opens_on_a_row_that_fits_and_every_row_of_the_tables_is_a_link(
    open_page, monkeypatch
):
    large = published_run_cost(LAST_TOKEN[5]).memory.n_bytes
    assert first_row(None) == PUBLISHED_ROWS[0]
    fitting = first_row(large - 1)
    assert published_run_cost(fitting).memory.n_bytes < large
    least = min(published_run_cost(row).memory.n_bytes for row in PUBLISHED_ROWS)
    assert published_run_cost(first_row(1)).memory.n_bytes == least
    monkeypatch.setattr("sparsedash.ui.prune_published.main_memory", lambda: 1)
    page = markup(open_page("prune", view="published"))
    assert f"row={quote(LAST_WORD[0].name)}" in page


@pytest.mark.parametrize("row", PUBLISHED_ROWS[::4], ids=lambda r: r.name)
def test_a_row_says_what_is_known_of_it_and_its_link_opens_the_form_with_exactly_its_settings(
    open_page, backend, row
):
    run = RUNS_AT_SIZE.get(published_model(row.model).config)
    app = open_page("prune", view="published", row=row.name)
    text = words(app)
    assert ("does not follow from the two accuracies, which give" in text) == (
        not row.drop_follows
    )
    assert ("Tried at its size" in text) == (run is not None)
    if run:
        assert (
            f"by {run.method} on {run.n_tokens:,} tokens and {run.n_passages} passages; in BF16, with random"
            in text
        )
    (link,) = links(app).values()
    form = open_page("prune", **query_of(link))
    button(form, "Start").click().run()
    assert backend.submitted == [published_run_settings(row)]


def test_what_was_measured_here_stands_next_to_its_row(open_page, backend):
    settings = published_run_settings(LAST_WORD[0])
    run, records = specimens.run(settings)
    backend.add_run((replace(run, settings=settings), records))
    text = words(open_page("prune", view="published", row=LAST_WORD[0].name))
    dense, sparse = (record.last_word.accuracy for record in records[:2])
    assert (
        f"Measured here {100 * dense:.2f} % of 120 → {100 * sparse:.2f} % of 120"
        in text
    )
    assert "Measured here not yet" in words(
        open_page("prune", view="published", row=LAST_WORD[1].name)
    )
