"""From Python: the models, verdicts and files of a run, on models in memory, which stay as they
were.
"""

import copy
import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from math import nan

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

import sparsedash
from sparsedash.catalog.presets import method_named
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.matmul import float32_is_faster
from sparsedash.engine.run import pipeline, search
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.reporting.run_answer import answer_sentence
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.stored_results import StoredResults
from tests.engine.conftest import passages
from tests.engine.export.conftest import proofs  # noqa: F401 - a fixture
from tests.engine.tiny import tiny_model, tiny_tokenizer
from tests.factories import plain

# Of little text, which the tiny models are calibrated on.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EVEN = sparsedash.MethodSettings(width_multiple=8)
SWAPPED = (
    "The second model has more channels than the first: the dense model comes first."
)
UNEVEN = replace(method_named("best"), width_multiple=8)
IDS = torch.arange(12)[None]
TOKENIZER = tiny_tokenizer()
TEXTS = passages(40)[20:]
ASKED = passages(40)[:10]


def sparse_of(model, method=EVEN, share=0.25, **more):
    return sparsedash.prune(
        model,
        TOKENIZER,
        TEXTS,
        method=method,
        share=share,
        n_samples=40,
        length=32,
        **more,
    )


@pytest.fixture
def dense(model_folder):
    return AutoModelForCausalLM.from_pretrained(
        model_folder,
        trust_remote_code=False,
        dtype=torch.float32,
    )


def test_model_and_verdict_are_those_of_a_run_and_stock_code_generates_saves_and_loads(
    dense, settings, store, tmp_path
):
    run = pipeline.run(
        replace(
            settings,
            sparsities_permille=(250,),
            prompts=(),
        ),
        store,
    )
    record = store.get(Record, run.sparse[0])
    rebuilt = rebuild_model(record, store, ignore_steps, ModelCache())
    with rebuilt.sparse.applied():
        wanted = rebuilt.loaded.model(IDS).logits
    sparse = sparse_of(dense)
    assert torch.equal(sparse.model(IDS).logits, wanted)
    assert (sparse.pruned.widths, sparse.pruned.reached) == (
        record.pruned.widths,
        record.pruned.reached,
    )
    results = run_results(StoredResults(store), run)
    (judged,) = results.sparse_models
    compared = sparsedash.compare(dense, sparse.model, TOKENIZER, ASKED)
    assert (compared.losses, compared.paired) == (judged.verdict, judged.comparison)
    assert compared.sentence == plain(answer_sentence(results))
    assert compared.sparse.outcomes == record.outcomes
    assert sparse.model.generate(
        IDS,
        max_new_tokens=3,
        min_new_tokens=3,
    ).shape == (1, 15)
    sparse.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", trust_remote_code=False
    )
    assert torch.equal(again(IDS).logits, wanted)


def test_the_given_model_stays_as_it_was_and_shares_nothing_also_where_the_work_is_stopped(
    dense,
):
    dense.train()
    before = copy.deepcopy(dense)

    def stop(step):
        if step.stage == "prune":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sparse_of(dense, on_step=stop)
    sparse = sparse_of(dense).model
    assert sparse.training and all(
        weight.requires_grad for weight in sparse.parameters()
    )
    for weight in sparse.parameters():
        weight.data.zero_()
    assert dense.training and str(dense.config) == str(before.config)
    for weight, original in zip(
        dense.parameters(),
        before.parameters(),
        strict=True,
    ):
        assert torch.equal(weight, original) and weight.requires_grad


@pytest.mark.parametrize("mode", ["inference", "autocast", "dtype"])
def test_modes_of_torch_that_the_caller_is_in_change_nothing(dense, mode):
    wanted = sparse_of(dense, heal_steps=1).model
    modes = {
        "inference": torch.inference_mode(),
        "autocast": torch.autocast("cpu", torch.bfloat16),
    }
    torch.set_default_dtype(torch.float64 if mode == "dtype" else torch.float32)
    try:
        with modes.get(mode, nullcontext()):
            sparse = sparse_of(dense, heal_steps=1).model
        assert torch.get_default_dtype() == (
            torch.float64 if mode == "dtype" else torch.float32
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(
        torch.equal(expected, weight)
        for expected, weight in zip(
            sparse.parameters(),
            wanted.parameters(),
            strict=True,
        )
    )
    sparse(IDS, labels=IDS).loss.backward()


def test_what_is_left_of_a_model_trains_as_it_did_before_and_a_new_bias_as_its_weight(
    dense,
):
    dense.model.layers[0].requires_grad_(False)
    fewer = sparse_of(
        dense,
        method="random-layers",
        share=0.5,
    )
    first_left = next(i for i, width in enumerate(fewer.pruned.widths) if width)
    trains = [
        layer.mlp.down_proj.weight.requires_grad for layer in fewer.model.model.layers
    ]
    assert trains[0] == (first_left > 0) and all(trains[1:])
    biased = sparse_of(dense, method="flap").model.model.layers
    assert [projection.mlp.down_proj.bias.requires_grad for projection in biased] == [
        False
    ] + [True] * (len(biased) - 1)


def test_random_numbers_of_the_caller_are_left_alone(dense):
    half = dense.bfloat16()
    drawn = []
    for prune in (True, False):
        torch.manual_seed(7)
        float32_is_faster.cache_clear()
        if prune:
            sparse_of(half)
        drawn.append(torch.rand(1))
    assert drawn[0] == drawn[1]


def test_the_mix_of_a_method_counts_among_what_healing_holds_out(dense):
    few = TEXTS[:15]
    assert sparsedash.prune(
        dense,
        TOKENIZER,
        few,
        method=UNEVEN,
        heal_steps=1,
        n_samples=40,
        length=32,
    ).pruned.healed


def test_blocks_of_different_widths_are_not_saved_by_stock_code_but_exported_and_proven(
    dense, tmp_path
):
    sparse = sparse_of(dense, UNEVEN, 0.4)
    assert len(set(sparse.pruned.widths)) > 1 and sparse.forms == ("padded", "masked")
    with pytest.raises(
        sparsedash.SparseDashError,
        match=r"its blocks have different widths.*sparsedash\.export, as padded or",
    ):
        sparse.model.save_pretrained(tmp_path / "saved")
    for form, width in (("padded", max(sparse.pruned.widths)), ("masked", 96)):
        proof = sparsedash.export(
            sparse,
            TOKENIZER,
            tmp_path / form,
            form=form,
            passages=ASKED,
        )
        assert proof.holds and proof.n_run == len(ASKED)
        again = AutoModelForCausalLM.from_pretrained(
            tmp_path / form, trust_remote_code=False
        )
        assert again.config.intermediate_size == width
        torch.testing.assert_close(again(IDS).logits, sparse.model(IDS).logits)
    steps = []
    for form, folder, why in (
        (None, "padded", "already exists"),
        ("uniform", "new", r"different widths\. Possible: padded, masked\."),
    ):
        with pytest.raises(sparsedash.SparseDashError, match=why):
            sparsedash.export(
                sparse,
                TOKENIZER,
                tmp_path / folder,
                form=form,
                on_step=steps.append,
            )
    for second, why in (
        (sparse, r"Give its \.model"),
        (torch.nn.Linear(2, 2), "Linear is no model"),
    ):
        with pytest.raises(sparsedash.SparseDashError, match=why):
            sparsedash.compare(
                dense,
                second,
                TOKENIZER,
                ASKED,
                on_step=steps.append,
            )
    assert not steps
    with pytest.raises(
        sparsedash.SparseDashError, match=r"other widths.*Give the dense model"
    ):
        sparse_of(sparse.model)


@pytest.mark.parametrize(
    ("model", "given", "n_zero"),
    [
        (tiny_model("gpt2"), {"budget": "weights", "width_multiple": 8}, 0),
        (tiny_model("gpt2").bfloat16(), {"heal_steps": 1}, 0),
        (tiny_model("llama"), {"method": "wanda-2:4", "share": 0.5}, 48),
    ],
    ids=["tied weights, of weights", "bfloat16, healed", "2:4"],
)
def test_what_stock_code_can_hold_is_saved_and_read(model, given, n_zero, tmp_path):
    model.get_submodule("model.layers.1" if n_zero else "").train()
    sparse = sparse_of(model, **given)
    assert [module.training for module in sparse.model.modules()] == [
        module.training for module in model.modules()
    ]
    assert (sparse.pruned.healed is not None) == ("heal_steps" in given)
    assert sparse.pruned.reached[given.get("budget", "channels")] >= (
        0 if n_zero else 0.2
    )
    if n_zero:
        assert (sparse.model.model.layers[0].mlp.down_proj.weight == 0).sum(
            dim=1
        ).tolist() == [n_zero] * 32
    sparse.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    assert torch.equal(again(IDS).logits, sparse.model.eval()(IDS).logits)


def test_a_model_of_which_no_form_is_left_is_announced(tmp_path):
    with pytest.warns(
        UserWarning,
        match=r"were given a bias.*cannot be exported either: choose another method",
    ):
        sparse = sparse_of(tiny_model("qwen2"), "flap", width_multiple=8)
    assert sparse.forms == ()
    with pytest.raises(sparsedash.SparseDashError, match="No form is possible"):
        sparsedash.export(sparse, TOKENIZER, tmp_path / "new")


def test_a_bias_is_exported_where_the_config_has_one(tmp_path):
    sparse = sparse_of(tiny_model("llama"), "flap", width_multiple=8)
    assert "padded" in sparse.forms
    proof = sparsedash.export(sparse, TOKENIZER, tmp_path / "new", form="padded")
    assert proof.logit_difference <= proof.logit_allowed


def test_a_mix_that_stands_in_for_the_user_s_is_announced(dense):
    with pytest.warns(
        UserWarning,
        match=r"The texts give 634 of 1,\d+ .*the rest are the built-in mix",
    ):
        sparsedash.prune(
            dense,
            TOKENIZER,
            TEXTS,
            n_samples=80,
            length=32,
        )


@pytest.mark.parametrize(("kind", "n_warnings"), [("llama", 1), ("gpt2", 0)])
def test_a_second_model_that_was_not_pruned_from_the_first_is_not_called_so(
    kind, n_warnings, recwarn
):
    first = tiny_model(kind, **({"intermediate_size": 64} if n_warnings else {}))
    second = tiny_model("llama")
    verdict = sparsedash.compare(first, second, TOKENIZER, ASKED).sentence
    assert (
        verdict.startswith("The second model ")
        and verdict.count("imit") == verdict.count("10 passages") == 1
    )
    assert [str(warning.message) for warning in recwarn].count(SWAPPED) == n_warnings


def test_a_search_finds_what_that_of_a_folder_finds(dense, settings, store):
    tolerance = Tolerance(ratio=1.5, points=50.0)
    same = {"method": EVEN, "tolerance": tolerance}
    evaluation = replace(settings.evaluation, n_passages=None)
    searched = FindSettings(
        model=settings.model,
        calibration=settings.calibration,
        evaluation=evaluation,
        **same,
    )
    wanted = search.find_sparsity(replace(searched, prompts=()), store)
    search_result = sparsedash.find(
        dense,
        TOKENIZER,
        TEXTS,
        iter(passages(40)),
        n_samples=40,
        length=32,
        **same,
    )
    assert search_result.share == wanted.answer / 1000
    assert [trial.permille for trial in search_result.trials] == [
        trial.permille for trial in wanted.trials
    ]
    run = run_results(StoredResults(store), store.get(Run, wanted.key), tolerance)
    assert search_result.sentence == plain(answer_sentence(run))


@pytest.mark.parametrize(
    "passages_given",
    [passages(29), passages(29) * 2],
    ids=["few", "few, twice"],
)
def test_a_search_on_too_few_different_passages_is_refused(dense, passages_given):
    with pytest.raises(
        sparsedash.SparseDashError,
        match="A search needs at least 30 different passages, not 29",
    ):
        sparsedash.find(dense, TOKENIZER, TEXTS, passages_given)


def test_of_two_models_that_are_compared_each_warning_names_its_own(dense, recwarn):
    sparsedash.compare(dense, dense, TOKENIZER, passages(30))
    warnings = [
        str(warning.message)
        for warning in recwarn
        if "none of 30 last words" in str(warning.message)
    ]
    assert [line.partition(" has ")[0] for line in warnings] == [
        "The first model",
        "The second model",
    ]


def test_repeated_passages_are_left_out_with_a_warning_and_progress_is_told(dense):
    steps = []
    with pytest.warns(UserWarning, match="repeat an earlier one"):
        record = sparsedash.evaluate(
            dense,
            TOKENIZER,
            [*ASKED, ASKED[0]],
            on_step=steps.append,
        )
    assert record.last_word.total == len(ASKED) and steps[-1].done == len(ASKED)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {
                "model": MambaForCausalLM(
                    MambaConfig(hidden_size=8, num_hidden_layers=1)
                )
            },
            "at most 0 % of the layers",
        ),
        (
            {"model": torch.nn.Linear(2, 2)},
            r"no model of transformers\. Load it by AutoModelForCausalLM",
        ),
        (
            {"model": tiny_model("llama").model},
            r"LlamaModel cannot be pruned; possible: LlamaForCausalLM",
        ),
        (
            {"model": tiny_model("llama").half()},
            r"one of float32, bfloat16.*not float16 on cpu",
        ),
        ({"texts": "one text"}, "Texts must be a list of texts"),
        *(
            ({"share": share}, r"Share must be 0 to 0\.9, in steps of 0\.001")
            for share in (0.1234, 0.95, nan, "0.2")
        ),
        (
            {"method": "wanda-2:4"},
            r"Share must be 0\.5 with method wanda-2:4, not 0\.2",
        ),
        (
            {"method": "wanda", "width_multiple": 8},
            "Width multiple must be None with method wanda, not 8",
        ),
        ({"method": "bst"}, "one of best, "),
        (
            {"texts": iter(["a text", " "])},
            r"Texts\[1\] must be a text that is not empty",
        ),
        (
            {"texts": ["half \ud800"]},
            r"Texts\[0\] must be a text that is not empty, in whole characters",
        ),
        ({"tokenizer": "gpt2"}, "str is no tokenizer of transformers"),
        ({"texts": TEXTS[:1]}, "71 calibration tokens are too few"),
        (
            {
                "method": EVEN,
                "heal_steps": 1,
                "texts": [" ".join(TEXTS)] * 2,
            },
            "Healing needs at least 16 calibration samples, one of which is held out; there are 2.",
        ),
    ],
)
def test_what_is_missing_is_named(change, why):
    arguments = {
        "model": tiny_model("llama"),
        "tokenizer": TOKENIZER,
        "texts": TEXTS,
    } | change
    with pytest.raises(sparsedash.SparseDashError, match=why):
        sparsedash.prune(**arguments)


def with_old_weight_norm(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(model.model.layers[0].mlp.up_proj)
    return model


def with_weight_norm(model):
    torch.nn.utils.parametrizations.weight_norm(model.model.layers[1].mlp.up_proj)
    return model


def with_a_sequence(model):
    mlp = model.model.layers[0].mlp
    mlp.down_proj = torch.nn.Sequential(mlp.down_proj)
    return model


def without_an_mlp(model):
    del model.model.layers[0].mlp
    return model


def quantised(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(
            model,
            {torch.nn.Linear},
            dtype=torch.qint8,
        )


def with_another_forward(path, model):
    part = model.get_submodule(path)
    part.forward = part.forward
    return model


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            with_old_weight_norm,
            "cannot be copied: Only Tensors created explicitly.*remove what was added",
        ),
        (
            with_weight_norm,
            r"model\.layers\.1\.mlp\.up_proj of the given model is a .*ParametrizedLinear, not a torch",
        ),
        (
            with_a_sequence,
            r"model\.layers\.0\.mlp\.down_proj of the given model is a .*Sequential, not a torch",
        ),
        (
            without_an_mlp,
            r"model\.layers\.0\.mlp\.gate_proj of the given model is missing",
        ),
        (
            quantised,
            r"model\.layers\.0\.self_attn\.q_proj of the given model is a torch\.ao.*Linear, not a torch",
        ),
        (
            partial(with_another_forward, "model.layers.1.mlp"),
            r"The forward of model\.layers\.1\.mlp of the given model was replaced",
        ),
        (
            partial(with_another_forward, "model.layers.0"),
            r"The forward of model\.layers\.0 of the given model was replaced",
        ),
        (
            partial(with_another_forward, ""),
            "The forward of the given model was replaced",
        ),
    ],
)
def test_a_model_that_is_not_as_transformers_makes_it_is_refused_before_any_work(
    change, why
):
    steps = []
    model = change(tiny_model("llama"))
    for work in (sparsedash.prune, partial(sparsedash.find, passages=passages(40))):
        with pytest.raises(sparsedash.SparseDashError, match=why):
            work(
                model,
                TOKENIZER,
                TEXTS,
                on_step=steps.append,
            )
    assert not steps


def test_a_model_whose_own_forward_was_replaced_is_not_evaluated():
    with pytest.raises(
        sparsedash.SparseDashError, match="The forward of the given model was replaced"
    ):
        sparsedash.evaluate(
            with_another_forward("", tiny_model("llama")), TOKENIZER, ASKED
        )


def test_parts_that_answering_does_not_look_into_are_answered_as_they_are():
    wanted = sparsedash.evaluate(tiny_model("llama"), TOKENIZER, ASKED).outcomes
    for change in (
        with_a_sequence,
        partial(with_another_forward, "model.layers.0.mlp"),
    ):
        assert (
            sparsedash.evaluate(change(tiny_model("llama")), TOKENIZER, ASKED).outcomes
            == wanted
        )


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("", "Folder must be the name of a new folder, not ''"),
        (" ", "Folder must be the name of a new folder, not ' '"),
        (5, "Folder must be the name of a new folder, not 5"),
        ("a\0b", r"No folder can be made at '.*a\\x00b'"),
        ("\ud800", "No folder can be made at"),
    ],
)
def test_a_name_that_no_folder_has_is_refused_before_any_work(dense, folder, why):
    sparse = sparse_of(dense)
    steps = []
    with pytest.raises(sparsedash.SparseDashError, match=why) as refused:
        sparsedash.export(
            sparse,
            TOKENIZER,
            folder,
            on_step=steps.append,
        )
    assert not steps and str(refused.value).isprintable()
