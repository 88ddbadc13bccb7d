"""A finished run of a mixture on every page that shows it: experts are never called channels."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import model_shape_note
from tests.factories import MIXTURE, MIXTURE_SHAPE
from tests.ui import specimens
from tests.ui.conftest import words
from tests.ui.test_runs_table import listed


def mixture_run(settings):
    """A run by the method `experts` with the shape of its model, its records and settings."""
    run, (dense, *sparse) = specimens.run(
        replace(settings, methods=(method_named("experts"),))
    )
    models = []
    for record in sparse:
        spec = SparseSpec(method_named("experts"), record.sparsity_permille)
        models.append(replace(record, pruned=replace(MIXTURE, spec=spec)))
    return run, [dense, *models]


@pytest.fixture
def mixture(backend):
    settings = replace(specimens.SETTINGS, model="owner/mixture")
    run, records = mixture_run(settings)
    records = [replace(record, model="owner/mixture") for record in records]
    backend._store.remember(
        model_shape_note(records[0].model_identity), MIXTURE_SHAPE.plain()
    )
    backend.add_run((run, records))
    return run


@pytest.mark.parametrize(
    ("page", "address", "said"),
    [
        ("overview", {}, "2 layers of 3 with experts: each keeps 2 of 4 experts."),
        ("overview", {}, "multiply-adds as dense"),
        ("overview", {}, "of experts are undecided"),
        ("overview", {}, "weights 0.1 million → 0.1 million"),
        ("models", {}, "active 0.1 million → 0.1 million"),
        ("compare", {}, ""),
        (
            "compare",
            {"view": "layers"},
            "4 of 8 experts removed. Before: 0.1 million weights",
        ),
        ("models", {}, "or fewer blocks or experts"),
        ("runs", {}, "1 undecided"),
        ("runs", {"tasks": "1"}, ""),
    ],
)
def test_pages_of_a_mixture_speak_of_experts(page, address, said, open_page, mixture):
    app = open_page(page, run=mixture.key, **address)
    text = words(app)
    assert not app.exception and said in text
    for wrong in ("MLP channels", "channels removed", "channels kept", "Channels kept"):
        assert wrong not in text


def test_the_row_of_a_run_names_the_method_of_its_experts(open_page, mixture):
    assert listed(open_page("runs")) == [
        "owner/mixture, experts 10, 20, 30 % on Cloze passages"
    ]


def test_two_runs_of_a_mixture_lie_over_each_other(open_page, backend, mixture):
    in_bfloat16 = replace(specimens.SETTINGS, model="owner/mixture", dtype="bfloat16")
    run, records = mixture_run(in_bfloat16)
    backend.add_run(
        (run, [replace(record, model="owner/mixture") for record in records])
    )
    app = open_page("runs", runs=f"{mixture.key},{run.key}")
    assert not app.exception
    app = open_page("compare", run=mixture.key)
    assert not app.exception and len(app.selectbox) > 1
