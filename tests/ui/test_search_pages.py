"""A search on the pages: its sentence, its trials, and the tolerance that it is judged by."""

from sparsedash.ui.form_address import SEARCH
from tests.ui import specimens
from tests.ui.conftest import links, menu_links, query_of, words
from tests.ui.filled_backend import job


def opened(open_page, backend, found, **address):
    app = open_page("overview", run=backend.add_run(found).key, **address)
    return app, words(app)


def test_a_search_opens_with_how_much_can_go(open_page, backend):
    _, _, result = search = specimens.search()
    _, text = opened(open_page, backend, search)
    assert result.answer is not None and result.next_step is not None
    assert (
        f"Removing up to {result.answer / 10:g} % of the MLP channels stays within your limits"
        in text
    )
    assert f"Tried {len(result.trials)} of 43 possible sparsities" in text
    assert text.startswith("SmolLM2 135M, least-squares, a search on Cloze passages · ")
    assert "search made for" in text
    _, text = opened(open_page, backend, specimens.search(slope=60.0))
    assert "No sparsity was found that stays within your limit. Removing 2.1 %" in text


def test_it_is_judged_by_its_own_tolerance_unless_the_address_has_another(
    open_page, backend
):
    search = specimens.search()
    app, _ = opened(open_page, backend, search)
    assert app.query_params["limits"] == "1.3,30"
    second, text = opened(open_page, backend, search, limits="1.05,30")
    assert second.query_params["limits"] == "1.05,30"
    assert "(limit 1.05 ×)" in text
    # The usual limits as well go along where they were named, or the next page would judge by the
    # search's own.
    usual, _ = opened(open_page, backend, search, limits="1.1,2")
    compare = query_of(menu_links(usual)["Compare"])
    assert compare["limits"] == "1.1,2"


def test_a_search_under_way_or_stopped_shows_its_trials_and_how_to_resume(
    open_page, backend
):
    run, *_ = search = specimens.search(n_trials=2)
    backend.set_jobs(
        job(
            run.find,
            "running",
            point=2,
            done=60,
            total=120,
            n_right=20,
            unit="passages",
        )
    )
    _, text = opened(open_page, backend, search)
    assert (
        "So far: 45.8 % of MLP channels can go. 68.8 % is too much." in text
        and "Evaluating · trial 3: 20 % sparse" in text
    )
    backend.set_jobs(
        job(run.find, "running", point=3, message="dense, Q8_0", quantised=True)
    )
    _, text = opened(open_page, backend, search)
    assert "Evaluating · after the search: dense, Q8_0" in text
    backend.set_jobs(job(run.find, "cancelled"))
    app, text = opened(open_page, backend, search)
    assert "2 trials" in text
    again = query_of(links(app)["Change the settings"])
    assert again["goal"] == SEARCH and again["limits"] == "1.3,30"
