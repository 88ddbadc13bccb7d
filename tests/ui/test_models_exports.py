"""Exports: the empty, running, failed and done states, what is asked for, and what is shown of
it.
"""

from dataclasses import replace

import pytest

from sparsedash.catalog import export_forms
from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.reporting.deployment import runtime_rows
from sparsedash.schema.export_settings import Export, ExportSettings
from sparsedash.schema.store_keys import model_shape_note
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.model_lookup import NamedModel
from tests.factories import PROOF
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, opened, query_of, words
from tests.ui.filled_backend import job

RUN, RECORDS = specimens.run()


@pytest.fixture(autouse=True)
def llama_cpp(monkeypatch):
    monkeypatch.setattr(export_forms, "find_spec", lambda name: True)


ASKED = ExportSettings(
    dense=RUN.dense,
    sparse=RUN.sparse[0],
    form="padded",
)
MADE = Export(
    key=ASKED.key(),
    settings=ASKED,
    folder="smol-best-10pct-padded-float32-abc123",
    layout="1,408 channels in every block, filled up with zeros where fewer are left",
    model=RUN.settings.model,
    model_identity=RUN.model_identity,
    model_type="llama",
    n_bytes=500_000_000,
    base_bytes=540_000_000,
    files={},
    proof=PROOF,
    made_at=1_764_000_300.0,
)
GGUF = replace(
    MADE,
    key="gguf",
    folder="smol-best-10pct-gguf-float32-abc123",
    settings=replace(ASKED, form="gguf"),
    layout="a width for each block, llama.cpp's architecture deci",
    proof=replace(PROOF, runtime="llama.cpp", version="b11739"),
)


def add(backend, *exports, folder=None):
    """Store these exports, with their folders, in the data folder unless another one is given."""
    stored = []
    for export in exports:
        path = (folder or backend.data_dir / "exports") / export.folder
        path.mkdir(parents=True, exist_ok=True)
        stored.append(replace(export, folder=str(path)))
    backend.put(*stored)
    return stored


def test_without_runs_the_page_invites(open_page):
    app = open_page("models")
    assert "Export a sparse model." in words(app) and "Prune a model" in links(app)


def test_a_sparse_model_is_exported_in_the_numbers_of_its_run(open_page, finished):
    app = open_page("models", run=RUN.key, right="10 %")
    assert "wherever the base does" in words(app)
    button(app, "Export").click().run()
    assert finished.submitted == [
        replace(
            ASKED,
            run=RUN.key,
            form="uniform",
            weights="float32",
        )
    ]


def test_the_model_that_the_answer_names_is_offered_with_its_verdict_and_exported_by_the_same_limits(
    open_page, finished
):
    add(finished, replace(MADE, settings=replace(ASKED, run=RUN.key)))
    app = open_page("models", run=RUN.key, limits="5,50,copying:8")
    assert app.selectbox(key="chosen-right").value == "30 %"
    page_text = words(app)
    assert (
        "30 % stays within your limits: perplexity 0.97 × (limit 5.00 ×)" in page_text
    )
    assert "Limits: perplexity 5.00 ×, accuracy −50 points." in page_text
    # An export has the verdict of its card.
    assert (
        "Model card: ? undecided. Limits: perplexity 1.10 ×, accuracy −2 points. This page uses other limits."
        in page_text
    )
    assert (
        replace(ASKED, tolerance=Tolerance(ratio=5.0, tasks=(("a", 1.0),))).key()
        == ASKED.key()
        != replace(ASKED, form="masked").key()
    )
    button(app, "Export").click().run()
    submitted = finished.submitted[0]
    assert submitted.tolerance == Tolerance(
        ratio=5.0,
        points=50.0,
        tasks=(("copying", 8.0),),
    )


def test_a_form_that_does_not_apply_is_not_offered_and_told_why(open_page, finished):
    finished._store.remember(
        model_shape_note(RUN.model_identity), shipped_shape("bloom-1b7").plain()
    )
    app = open_page("models", run=RUN.key, form="uniform")
    page_text = words(app)
    assert (
        "Not possible as uniform: stock code makes no narrower bloom model" in page_text
    )
    assert "is no form here" in page_text
    assert all(
        "uniform" not in option for option in app.selectbox(key="chosen-form").options
    )


def test_without_llama_cpp_no_gguf_file_is_offered_and_the_reason_is_said(
    open_page, backend, monkeypatch
):
    monkeypatch.setattr(export_forms, "find_spec", lambda name: None)
    backend.add_run((RUN, RECORDS))
    app = open_page("models", run=RUN.key)
    assert not any(
        "gguf" in option for option in app.selectbox(key="chosen-form").options
    )
    assert "Not possible as gguf: llama.cpp, which “" in words(
        app
    ) and "requirements-gguf.txt” installs" in words(app)


def test_padding_that_saves_nothing_is_offered_last_and_says_so(
    open_page, backend, monkeypatch
):
    def uneven(record):
        pruned = record.pruned
        return (
            record
            if pruned is None
            else replace(record, pruned=replace(pruned, widths=widths(pruned)))
        )

    def widths(pruned):
        return (
            pruned.dense_widths[0],
            *(width // 2 for width in pruned.dense_widths[1:]),
        )

    backend.add_run((RUN, list(map(uneven, RECORDS))))
    app = open_page("models", run=RUN.key)
    assert app.selectbox(
        key="chosen-form"
    ).value == "gguf" and "Saves nothing" not in words(app)
    app.selectbox(key="chosen-form").select("padded").run()
    assert "all blocks are padded to the dense width" in words(app)
    shape = replace(shipped_shape("smollm2-135m"), family="gemma3_text")
    monkeypatch.setattr(
        backend, "named_model", lambda _: NamedModel(family="gemma3_text", shape=shape)
    )
    assert "all blocks are padded to the dense width" in words(
        open_page("models", run=RUN.key, form="gguf")
    )


def test_of_a_quantised_model_it_is_said_which_one_is_exported_instead(
    open_page, backend
):
    def quantised(record):
        return replace(
            record,
            pruned=replace(
                record.pruned, spec=replace(record.pruned.spec, quantise="q4_0")
            ),
        )

    dense, *sparse = RECORDS
    backend.add_run((RUN, [dense, *map(quantised, sparse)]))
    app = open_page("models", run=RUN.key)
    assert (
        "Not possible: it is quantised already. A sparse one is exported as gguf in q4_0 from the model"
        in words(app)
    )
    assert "Export" not in [element.label for element in app.button]


def test_numbers_are_those_that_the_form_has(open_page, finished):
    app = open_page(
        "models",
        run=RUN.key,
        form="gguf",
        **{"export-weights": "q8_0"},
    )
    assert app.selectbox(key="export-weights").options == [
        "float32",
        "float16",
        "q8_0",
        "q6_k",
        "q4_k_m",
        "q4_0",
    ]
    assert "multiples of 256" in words(app)
    button(app, "Export").click().run()
    assert finished.submitted[0].weights == "q8_0"


def test_a_base_that_is_no_gguf_is_asked_for_one(open_page, backend, tmp_path):
    backend.add_run((RUN, [replace(record, model="owner/name") for record in RECORDS]))
    app = open_page("models", run=RUN.key, form="gguf")
    app.text_input(key="dense-gguf").input(" /models/dense.gguf ").run()
    button(app, "Export").click().run()
    assert backend.submitted[0].dense_gguf == "/models/dense.gguf"


def test_a_job_under_way_is_shown_and_one_that_failed_says_why(open_page, finished):
    finished.set_jobs(
        job(
            ASKED,
            stage="prove",
            message="Evaluating the files",
        )
    )
    assert "Loading the files in a fresh process · Evaluating the files" in words(
        open_page("models")
    )
    finished.set_jobs(job(ASKED, "failed", **FAILED))
    app = open_page("models")
    assert "Export of a sparse model" in words(
        app
    ) and "The model cannot be reached." in words(app)
    assert button(app, "Resume")


def test_an_export_is_listed_with_its_proof_and_the_command_to_the_hub(
    open_page, finished
):
    add(finished, MADE)
    app = open_page("models")
    page_text = words(app)
    assert page_text.startswith(
        "One model is exported; it takes 93 % of its dense model."
    )
    assert "padded with zeros · float32 · 500 MB, 93 % of the dense model" in page_text
    assert "of 50 answers 50 are as by the model in memory" in page_text
    assert (
        "transformers 5.24.0 ✓ proven here" in page_text
        and "llama.cpp ✕ cannot" in page_text
    )
    command = "hf upload YOUR-NAME/smol-best-10pct-padded-float32-abc123 ."
    assert command in [code.value for code in app.code]
    add(finished, GGUF)
    page_text = words(open_page("models"))
    assert "llama.cpp b11739 ✓ proven here" in page_text
    assert (
        "transformers, vLLM, OpenVINO ✕ cannot read one width for the whole model"
        in page_text
    )


def results(export, **settings):
    """By runtime what is said of these files."""
    settings = replace(ASKED, **settings)
    return {
        runtime: result
        for runtime, result, _ in runtime_rows(replace(export, settings=settings))
    }


def test_where_files_load_depends_on_the_form_and_the_family():
    assert results(MADE)["vLLM"] == results(MADE)["OpenVINO"] == "should load"
    falcon = replace(MADE, model_type="falcon")
    assert (
        results(falcon)["vLLM"] == "✕ cannot"
        and results(falcon, form="masked")["vLLM"] == "should load"
    )
    assert (
        results(replace(MADE, model_type="gpt_neo"), form="masked")["vLLM"]
        == "✕ cannot"
    )
    assert "OpenVINO GenAI" not in results(GGUF, form="gguf")
    even = replace(GGUF, layout="one width, architecture llama")
    assert (
        results(even, form="gguf")["OpenVINO GenAI"]
        == results(even, form="gguf")["transformers"]
        == "should load"
    )
    assert (
        results(replace(even, model_type="gemma3_text"), form="gguf")["OpenVINO GenAI"]
        == "✕ cannot"
    )
    assert (
        results(replace(even, model_type="olmo2"), form="gguf")["transformers"]
        == "✕ cannot"
    )


def test_an_export_of_the_data_folder_can_be_deleted_and_another_cannot(
    open_page, finished, tmp_path
):
    add(finished, MADE)
    (outside,) = add(finished, GGUF, folder=tmp_path / "elsewhere")
    app = open_page("models")
    refusal = "This export belongs to another user or lies outside the data folder, so it cannot be deleted here."
    assert refusal in words(app)
    (ask,) = [
        key
        for element in app.get("popover")
        if (key := element.proto.id.partition("delete-export")[2])
    ]
    app = opened(app, f"delete-export{ask}")
    assert (
        "This cannot be undone. The run stays." in words(app)
        and len(finished.exports.listed()) == 2
    )
    button(app, "Delete for good").click().run()
    assert finished.exports.listed() == [outside]


def test_a_page_about_a_sparse_model_leads_to_its_export(open_page, finished):
    (address,) = [
        to
        for label, to in links(open_page("compare", view="layers")).items()
        if label == "Export this model"
    ]
    assert address.startswith("models") and set(query_of(address)) == {"run", "right"}
    assert "is no model here" not in words(open_page("models", **query_of(address)))
