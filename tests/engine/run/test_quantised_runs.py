"""Runs with quantised models: points of their own, answered with the weights of a file that
llama.cpp made.
"""

from dataclasses import replace

import pytest
import torch

from sparsedash.catalog import export_forms
from sparsedash.engine.run import model_making, pipeline
from sparsedash.engine.run import search as search_module
from sparsedash.engine.run.search import find_sparsity
from sparsedash.schema.errors import JobError, ModelError, SettingsError
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Run
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from tests.engine.run.small_runs import (
    RANDOM,
    must_not_run,
    ran,
    rebuilt_model,
    records,
)
from tests.engine.tiny import IDS, save_tiny
from tests.engine.tiny_gguf import write_tiny_gguf

pytest.importorskip("llama_cpp_py_sync")
BIASED = MethodSettings(
    saliency="random",
    compensation="bias",
    width_multiple=8,
)
WIDE = {"hidden_size": 256, "intermediate_size": 1024}


@pytest.fixture
def quantised_settings(settings, tmp_path):
    """Dense and one sparse model, plain, in 8 and in 4 bits, of rows that are multiples of 256."""
    model = str(write_tiny_gguf(tmp_path / "wide.gguf", **WIDE))
    plain = replace(
        settings,
        model=model,
        methods=(RANDOM,),
        sparsities_permille=(500,),
        prompts=(),
    )
    return replace(plain, quantise=("q8_0", "q4_k_m"))


def test_dense_and_every_sparse_model_are_also_points_of_each_type(
    quantised_settings, store, tmp_path
):
    run = ran(quantised_settings, store)
    dense, dense_8, dense_4, plain, sparse_8, sparse_4 = records(store, run)
    assert dense.pruned is None and plain.pruned.quantised is None
    quantised = [
        record.pruned.quantised for record in (dense_8, dense_4, sparse_8, sparse_4)
    ]
    for record, figures in zip(
        (dense_8, dense_4, sparse_8, sparse_4),
        quantised,
        strict=True,
    ):
        assert record.pruned.reached.bytes == pytest.approx(
            1 - figures.n_bytes / figures.dense_bytes
        )
        assert figures.n_tokens > 0
    assert (
        0 < quantised[0].divergence < quantised[1].divergence < quantised[2].divergence
    )
    assert sparse_8.pruned.widths == plain.pruned.widths == (512, 512, 512)
    assert quantised[3].n_bytes < quantised[2].n_bytes < quantised[0].n_bytes
    types = sparse_4.pruned.quantised.tensors
    assert (
        types["Q4_K"]
        and types["Q6_K"]
        and set(types) <= {"F32", "Q4_K", "Q6_K", "Q5_0", "Q8_0"}
    )
    assert (
        0 < sparse_4.pruned.quantised.full_bytes < dense_4.pruned.quantised.full_bytes
    )
    assert [file.name for file in tmp_path.glob("**/*.gguf")] == ["wide.gguf"]
    assert not list(store.folder.glob("**/*.gguf"))


def test_a_method_of_any_budget_is_also_quantised_and_dense_once_whatever_the_calibration(
    settings, store, tmp_path
):
    method = replace(BIASED, budget="weights")
    model = str(write_tiny_gguf(tmp_path / "narrow.gguf"))
    plain = replace(
        settings,
        model=model,
        methods=(method,),
        sparsities_permille=(200,),
        prompts=(),
    )
    variant = replace(plain, quantise=("q8_0",))
    of_dense, *others = records(store, ran(variant, store))[1:]
    assert [record.pruned.spec.quantise for record in others] == ["", "q8_0"]
    more = replace(
        variant,
        calibration=replace(variant.calibration, seed=variant.calibration.seed + 1),
    )
    again, *reseeded = records(store, ran(more, store))[1:]
    assert again.key == of_dense.key and not {record.key for record in others} & {
        record.key for record in reseeded
    }


def test_a_quantised_model_is_made_again_from_its_record_by_the_same_quantiser(
    quantised_settings, store, monkeypatch
):
    run = ran(quantised_settings, store)
    rebuilt = rebuilt_model(run.sparse[-1], store)
    model = rebuilt.loaded.model
    dense = rebuilt.loaded.model(IDS).logits
    head = model.get_output_embeddings().weight.clone()
    with rebuilt.sparse.applied():
        assert len(rebuilt.loaded.mlps[0].inner[0].weight[0, :32].unique()) <= 16, (
            "4 bits"
        )
        rounded = model.get_output_embeddings().weight
        assert 0 < (rounded - head).norm() < 0.1 * head.norm()
        assert not torch.equal(model(IDS).logits, dense)
    assert torch.equal(model(IDS).logits, dense)
    monkeypatch.setattr(model_making, "quantiser_version", lambda: "0.2")
    with pytest.raises(JobError, match="here is 0"):
        rebuilt_model(run.sparse[-1], store)


@pytest.mark.parametrize(
    ("missing", "model", "why"),
    [
        (True, None, "pip install -r requirements-gguf.txt"),
        (False, "folder", "cannot hold hidden_act = gelu"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_anything_is_computed(
    missing, model, why, quantised_settings, store, tmp_path, monkeypatch
):
    if missing:
        monkeypatch.setattr(export_forms, "find_spec", lambda name: None)
    monkeypatch.setattr(pipeline, "dense_record", must_not_run)
    with pytest.raises((ModelError, SettingsError), match=why):
        ran(
            replace(
                quantised_settings,
                model=str(save_tiny(tmp_path / model, hidden_act="gelu"))
                if model
                else quantised_settings.model,
            ),
            store,
        )
    biased = replace(
        quantised_settings,
        model=str(write_tiny_gguf(tmp_path / "q.gguf", family="qwen3")),
        methods=(BIASED,),
    )
    with pytest.raises(
        SettingsError, match=why if missing else "graph of qwen3 has no place"
    ):
        ran(replace(biased, quantise=("q8_0",)), store)
    with pytest.raises(SettingsError, match="nothing with pattern 2:4"):
        SparseSpec(
            MethodSettings(pattern="2:4"),
            500,
            quantise="q8_0",
        )


def test_a_search_quantises_dense_and_its_answer_and_no_other_trial(
    quantised_settings, store, passage_file
):
    search = FindSettings(
        model=quantised_settings.model,
        method=RANDOM,
        quantise=("q8_0", "q4_k_m"),
        calibration=quantised_settings.calibration,
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}"),
        tolerance=Tolerance(ratio=1000.0, points=50.0),
        prompts=(),
    )
    steps = []
    n_shown = set()

    def on_step(step):
        steps.append(step)
        if step.quantised:
            n_shown.add(len(store.get(Run, "search").sparse))

    result = find_sparsity(search, store, on_step, run_key="search")
    assert n_shown == {len(result.trials)}, "all are there while files are quantised"
    assert {step.point for step in steps if step.quantised} == {2, 3, 4, 5}
    assert {step.point for step in steps if not step.quantised} == {None, 0, 1}
    assert result.steps == (250, 500, 750) and result.answer == 750
    run = store.get(Run, result.key)
    specs = [record.pruned.spec for record in records(store, run)[1:]]
    trials = sorted(trial.permille for trial in result.trials)
    assert [(spec.permille, spec.quantise) for spec in specs] == [
        (0, "q8_0"),
        (0, "q4_k_m"),
        *((permille, "") for permille in trials),
        (750, "q8_0"),
        (750, "q4_k_m"),
    ]
    assert specs == list(run.settings.points) and run.finished
    assert all(record.stopping for record in records(store, run)[1:])


def test_a_search_that_finds_nothing_within_says_that_nothing_was_quantised(
    quantised_settings, store, passage_file, monkeypatch
):
    monkeypatch.setattr(search_module, "search_bounds", lambda *_: (-1, 0))
    search = FindSettings(
        model=quantised_settings.model,
        method=RANDOM,
        quantise=("q8_0",),
        calibration=quantised_settings.calibration,
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}"),
        prompts=(),
    )
    run = store.get(Run, find_sparsity(search, store).key)
    assert not run.settings.quantises
    assert "Nothing was quantised: no share is shown within the limits." in run.warnings
