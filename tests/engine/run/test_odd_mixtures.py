"""Mixtures with an expert that no token reaches, on one passage, cancelled, or asked for too much."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import sparsedash
from sparsedash.catalog.presets import method_named
from sparsedash.engine.run.search import find_sparsity
from sparsedash.schema.errors import Cancelled, ModelError, SettingsError
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.storage.store import Store
from tests.engine.conftest import passages
from tests.engine.run.small_runs import MODEL_CACHE, ran, records
from tests.engine.run.test_experts import tiny_mixture
from tests.engine.tiny import IDS, small_run, tiny_tokenizer

# Texts so short refit few experts.
pytestmark = pytest.mark.filterwarnings("ignore:.*not refitted")
METHODS = tuple(
    map(method_named, ("experts", "reap", "expert-frequency", "random-experts"))
)
IDLE = 3
"""The expert that the router never chooses."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "idle-expert"
    model = tiny_mixture("glm4_moe")
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.mlp.gate.e_score_correction_bias[IDLE] = -100.0
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def settings(folder, passage_file):
    text = f"file:{passage_file}"
    return small_run(
        folder, text, f"{text}[20:]", methods=METHODS, sparsities_permille=(250,)
    )


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def test_an_expert_that_no_token_reaches_goes_first_on_a_single_passage(
    settings, store
):
    evaluation = replace(settings.evaluation, n_passages=1)
    run = ran(replace(settings, evaluation=evaluation), store)
    by_output, by_reap, by_frequency, _ = records(store, run)[1:]
    for record in (by_output, by_reap, by_frequency):
        assert len(record.outcomes) == 1
        for kept, use in zip(
            record.pruned.experts[1:], record.pruned.expert_use[1:], strict=True
        ):
            assert IDLE not in kept and use[IDLE] == 0
        assert record.pruned.kept_of_dense == ((0, 0), (6, 8), (6, 8), (6, 8))


def test_more_than_the_router_can_do_without_is_refused_before_anything_is_computed(
    settings, store
):
    settings = replace(settings, sparsities_permille=(900,))
    with pytest.raises(
        SettingsError, match=r"at most 75 % of the experts.*as the router chooses"
    ):
        ran(settings, store)
    assert store.keys(Run) == []


def test_a_cancelled_run_keeps_the_models_that_were_finished(settings, store):
    n_evaluated = 0

    def cancel(step):
        nonlocal n_evaluated
        n_evaluated += step.stage == "prune" and step.point == 2
        if n_evaluated:
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(settings, store, cancel)
    (run,) = (store.get(Run, key) for key in store.keys(Run))
    assert not run.finished and len(run.sparse) == 2
    assert store.get(Record, run.sparse[1]).pruned.method == METHODS[1]


def test_a_search_tries_numbers_of_experts(settings, store):
    settings = FindSettings(
        model=settings.model,
        method=METHODS[0],
        calibration=settings.calibration,
        evaluation=replace(settings.evaluation, n_passages=40),
    )
    search = find_sparsity(settings, store, ignore_steps, MODEL_CACHE)
    assert search.finished and search.steps == (125, 250, 375, 500, 625, 750)


def pruned_by_api(model, method, share=0.25):
    return sparsedash.prune(
        model, tiny_tokenizer(), passages(40), method=method, share=share, n_samples=40
    )


@pytest.mark.parametrize(("dtype", "width"), [("float32", 30), ("bfloat16", 12)])
def test_experts_that_the_product_of_all_at_once_refuses_are_computed_one_by_one(
    dtype, width, tmp_path
):
    tiny_mixture("qwen3_moe", moe_intermediate_size=width).save_pretrained(
        tmp_path / "dense"
    )
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "dense", dtype=dtype, trust_remote_code=False
    )
    with pytest.raises(RuntimeError, match="multiple of 16 bytes"):
        model(IDS)
    sparse = pruned_by_api(model, METHODS[0])
    assert sparse.pruned.kept.experts == (6,) * 4
    assert sparse.model(IDS).logits.isfinite().all()
    with pytest.warns(UserWarning, match="last words right"):
        proof = sparsedash.export(
            sparse, tiny_tokenizer(), tmp_path / "sparse", passages=passages(40)
        )
    assert proof.n_logits > 0
    narrower = replace(method_named("expert-channels"), width_multiple=8)
    assert pruned_by_api(model, narrower).pruned.kept.expert_widths in (
        (24,) * 4,
        (8,) * 4,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        (
            "qwen3_moe",
            {"num_experts": 1, "num_experts_per_tok": 1},
            "no mixture of experts that can be removed",
        ),
        # Eight experts in three groups.
        ("glm4_moe", {"n_group": 3}, "no mixture of experts that can be removed"),
        ("glm4_moe", {"n_group": 4, "topk_group": 2}, "No expert of this model can"),
    ],
)
def test_a_mixture_that_can_lose_no_expert_is_refused_in_a_sentence(
    model_type, changes, reason, method
):
    with pytest.raises(SettingsError, match=reason):
        pruned_by_api(tiny_mixture(model_type, **changes), method)


@pytest.mark.parametrize("method", ["experts", "best", None])
def test_fewer_experts_than_a_token_is_routed_to_are_refused_by_the_config(method):
    model = tiny_mixture("qwen3_moe", num_experts=2, num_experts_per_tok=4)
    with pytest.raises(
        ModelError, match="num_experts_per_tok = 4 of 2 experts; possible: 1 to 2"
    ):
        pruned_by_api(model, method)


@pytest.mark.parametrize("method", ["experts", "expert-channels", "best", None])
def test_in_python_a_mixture_is_not_healed_in_the_words_of_shell_and_form(method):
    with pytest.raises(SettingsError, match="narrower experts cannot be healed here"):
        sparsedash.prune(
            tiny_mixture("qwen3_moe"),
            tiny_tokenizer(),
            [],
            method=method,
            share=0.5,
            heal_steps=8,
        )


def test_one_expert_that_is_no_number_is_named():
    model = tiny_mixture("qwen3_moe")
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[2] = float("nan")
    with pytest.raises(ModelError, match=r"NaN.*layers\.1\.mlp\.experts\.down_proj"):
        pruned_by_api(model, METHODS[0])


def test_a_method_for_mlps_is_refused_where_a_model_has_experts_alone():
    with pytest.raises(SettingsError, match="channels of MLPs alone"):
        pruned_by_api(tiny_mixture("qwen3_moe"), "obs", share=0.5)


def test_best_means_channels_of_experts_where_a_model_has_no_others():
    sparse = sparsedash.prune(
        tiny_mixture("qwen3_moe"),
        tiny_tokenizer(),
        passages(40),
        method="best",
        share=0.5,
        width_multiple=8,
        n_samples=40,
    )
    assert sparse.pruned.kept.expert_widths == (16,) * 4


def test_a_method_for_mlps_says_how_little_of_a_mixture_it_reaches():
    with pytest.warns(UserWarning, match=r"Only 3\.0 % of the blocks' weights went"):
        pruned_by_api(tiny_mixture("glm4_moe"), "least-squares", share=0.5)


def test_in_python_experts_is_the_usual_method_of_a_mixture_and_the_verdict_is_paired():
    model = tiny_mixture("qwen3_moe")
    sparse = pruned_by_api(model, None)
    assert sparse.pruned.method == METHODS[0]
    with pytest.warns(UserWarning, match="last words right"):
        comparison = sparsedash.compare(
            model, sparse.model, tiny_tokenizer(), passages(40)
        )
    assert "The second model" in comparison.sentence
