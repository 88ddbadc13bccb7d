"""Every published model, from its row's link to a finished result beside the row: the real pages,
backend and worker, and a stand-in for the hub that serves the models in small, in the layouts and
with the tokenizers they have there.
"""

import pytest

from sparsedash.catalog.published_results import LAST_TOKEN, LAST_WORD
from sparsedash.service.backend import Backend
from sparsedash.service.reproduction import published_run_settings
from sparsedash.ui import frame
from tests.engine.hub_client import environment
from tests.engine.hub_layouts import (
    PUBLISHED_FAMILIES,
    save_for_a_row,
    serve_texts_of_rows,
)
from tests.engine.hub_stand_in import Hub
from tests.jobs.conftest import end_workers, ended
from tests.ui.conftest import button, links, query_of, words

RUN_HERE = (*LAST_TOKEN, LAST_WORD[1])
"""The rows by the last token, among which are all models and texts, and one in BF16."""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A backend whose worker fetches from the stand-in."""
    folder = tmp_path_factory.mktemp("rows")
    hub = Hub()
    for number, reference in enumerate(PUBLISHED_FAMILIES):
        hub.add(
            "models", reference, save_for_a_row(folder / f"model-{number}", reference)
        )
    serve_texts_of_rows(hub, folder / "texts")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment(hub.url, folder / "home").items():
            patched.setenv(name, value)
        patched.setenv("SPARSEDASH_LINGER_S", "60")
        opened = Backend(folder / "data")
        yield opened
        opened.close()
    end_workers(opened)
    hub.stop()


@pytest.mark.parametrize("row", RUN_HERE, ids=lambda row: row.name)
def test_a_rows_link_leads_to_a_result_beside_the_row(
    open_page, real, monkeypatch, row
):
    # The size of the real models decides before they are loaded: the largest takes 26 GB.
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "30")
    monkeypatch.setattr(frame, "backend", lambda: real)
    published = open_page("prune", view="published", row=row.name)
    assert "Measured here not yet" in words(published)
    (address,) = links(published).values()

    form = open_page("prune", **query_of(address))
    button(form, "Start").click().run()
    job = ended(real, real.newest_job(str(form.query_params["run"])))
    assert job.state == "done", f"{job.error_text} {job.error_advice}"

    run = real.run(job.key)
    assert run.settings == published_run_settings(row)
    assert run.model_identity.startswith(f"{run.settings.model}@")
    (sparse,) = (real.record(key) for key in run.sparse)
    assert sparse.pruned.reached.channels == pytest.approx(
        row.sparsity_permille / 1000, abs=0.01
    )
    layout = PUBLISHED_FAMILIES[run.settings.model][1]
    assert any("no safetensors" in warning for warning in run.warnings) == (
        "bin" in layout
    )

    text = words(open_page("prune", view="published", row=row.name))
    score = sparse.last_word if row.measure == "last-word" else sparse.last_token
    assert "Measured here not yet" not in text
    assert f"→ {100 * score.accuracy:.2f} % of {score.total}" in text
