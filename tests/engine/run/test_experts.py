"""Whole experts that are gone: which ones, what the others take over, and that the files have no
more of them.
"""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import sparsedash
from sparsedash.catalog.model_sizes import active_count
from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration import expert_pruning
from sparsedash.engine.calibration.expert_pruning import (
    best_of_each_group,
    prune_experts,
)
from sparsedash.engine.calibration.statistics import WalkCheckpoint
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.engine.models.structure_proof import tiny_random_model
from sparsedash.engine.models.tiny_config import tiny_config
from sparsedash.engine.pruning.experts import KeptExperts
from sparsedash.engine.run import sparse_blocks
from sparsedash.schema.errors import Cancelled, SettingsError
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.storage.checkpoint import StageCheckpoint
from sparsedash.storage.store import Store
from tests.engine.conftest import passages
from tests.engine.export.conftest import exported, proofs  # noqa: F401 - a fixture
from tests.engine.run.small_runs import (
    MODEL_CACHE,
    count_calls,
    fresh_records,
    ran,
    records,
)
from tests.engine.tiny import IDS, as_loaded, seeded, small_run, tiny_tokenizer

EXPERTS, REAP, FREQUENCY, RANDOM = (
    method_named(name)
    for name in ("experts", "reap", "expert-frequency", "random-experts")
)
CHANNELS = replace(method_named("expert-channels"), width_multiple=8)
TYPES = ("qwen3_moe", "mixtral", "glm4_moe")
"""Gates over the chosen experts, over all of them, and by a sigmoid beside a dense block."""
TEXT = torch.randint(5, 400, (16, 24), generator=seeded(0)).tolist()


def tiny_mixture(model_type, **changes):
    config = tiny_config(AutoConfig.for_model(model_type))
    for key, value in changes.items():
        setattr(config, key, value)
    return tiny_random_model(config)


@pytest.fixture(scope="module")
def mixture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-mixture"
    tiny_mixture("qwen3_moe").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def mixture_settings(mixture_folder, passage_file):
    text = f"file:{passage_file}"
    return small_run(
        mixture_folder,
        text,
        f"{text}[20:]",
        methods=(EXPERTS, CHANNELS),
        sparsities_permille=(250, 500),
    )


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def kept_by(loaded, method, n_kept, store):
    """What `prune_experts` keeps of each block."""
    checkpoint = WalkCheckpoint(
        StageCheckpoint(store, "tiny"), "key", lambda index: True
    )
    counts = [
        n_kept if index in loaded.experts else 0 for index in range(len(loaded.blocks))
    ]
    walk = prune_experts(loaded, TEXT, [(method, counts)], ignore_steps, checkpoint)
    return {index: narrow for index, (narrow,) in walk}


def reap_by_hand(model, loaded, sequences):
    """S_j = mean over the tokens routed to expert j of its gate times the length of its output
    (arXiv:2510.13999), from what the model itself hands to its experts.
    """
    scores = {}
    for index, mixture in loaded.experts.items():
        module = mixture.module
        seen = []
        hook = module.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args), with_kwargs=False
        )
        for sequence in sequences:
            model(torch.tensor([sequence]))
        hook.remove()
        totals = torch.zeros(mixture.layout.n, dtype=torch.float64)
        counts = torch.zeros(mixture.layout.n)
        for hidden, chosen, gates in seen:
            for token in range(len(hidden)):
                for expert, gate in zip(chosen[token], gates[token], strict=True):
                    alone = expert.reshape(1, 1)
                    output = module(hidden[token : token + 1], alone, torch.ones(1, 1))
                    totals[expert] += float(gate) * float(output.norm())
                    counts[expert] += 1
        scores[index] = totals / counts.clamp_min(1)
    return scores


@pytest.mark.parametrize("model_type", TYPES)
def test_reap_keeps_the_experts_of_its_published_formula(
    model_type, store, monkeypatch
):
    loaded = as_loaded(tiny_mixture(model_type))
    computed = {}
    score = expert_pruning._scores

    def note(*args):
        computed[args[-1]] = score(*args)
        return computed[args[-1]]

    monkeypatch.setattr(expert_pruning, "_scores", note)
    kept = kept_by(loaded, REAP, 5, store)
    fitted = [sequence for row, sequence in enumerate(TEXT) if row % 16 != 15]
    by_hand = reap_by_hand(loaded.model, loaded, fitted)
    assert by_hand.keys() == computed.keys() == set(loaded.experts)
    for index, scores in by_hand.items():
        assert computed[index] == pytest.approx(scores, rel=1e-4)
        best = scores.topk(5).indices.sort().values
        assert kept[index].kept.tolist() == best.tolist() and kept[index].outs is None


def test_of_each_group_as_many_are_kept():
    scores = torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 3.0])
    assert best_of_each_group(scores, 4, 1).tolist() == [0, 1, 2, 5]
    assert best_of_each_group(scores, 4, 2).tolist() == [0, 1, 4, 5]
    assert best_of_each_group(torch.zeros(4), 2, 1).tolist() == [0, 1]


@pytest.mark.parametrize("model_type", [*TYPES, "gpt_oss"])
def test_a_refit_takes_most_of_the_loss_and_nothing_is_left_to_gain(
    model_type, store, monkeypatch
):
    monkeypatch.setattr(expert_pruning, "MIN_REFIT_TOKENS_PER_CHANNEL", 1)
    monkeypatch.setattr(expert_pruning, "EXPERT_PASSES", 60)
    loaded = as_loaded(tiny_mixture(model_type))
    dense = loaded.model(IDS).logits
    kept = kept_by(loaded, replace(EXPERTS, damping=0.001), 4, store)
    for index in loaded.experts:
        assert kept[index].lost < 0.6 * kept[index].lost_without
        assert kept[index].n_few_tokens == 0
    assert torch.equal(loaded.model(IDS).logits, dense), (
        "the loaded model stays the dense one"
    )
    # All together solved at once can be no better than one by one.
    index = max(loaded.experts)
    assert kept[index].lost == pytest.approx(
        lost_together(loaded, index, kept[index]), rel=0.05
    )


def lost_together(loaded, index, narrow):
    """What is lost of one block where all its kept experts are fitted at once, by least squares."""
    mixture = loaded.experts[index]
    seen = []
    hooks = (
        mixture.module.register_forward_pre_hook(
            lambda _, args, more: seen.append((*args, *more.values())), with_kwargs=True
        ),
        mixture.module.register_forward_hook(lambda _, __, output: seen.append(output)),
    )
    targets = []
    features = []
    energies = []
    for row, sequence in enumerate(TEXT):
        if row % 16 == 15:
            continue
        seen.clear()
        loaded.model(torch.tensor([sequence]))
        (hidden, _, _), output = seen
        router_input = hidden
        with mixture.without(KeptExperts(narrow.kept)):
            seen.clear()
            block_again(mixture, router_input)
            (_, chosen, gates), _ = seen
        bias = torch.zeros_like(output)
        columns = []
        for number in narrow.kept.tolist():
            gate = (gates * (chosen == number)).sum(dim=1, keepdim=True)
            columns.append(gate * mixture.activations(number, hidden))
            bias += gate * mixture.out_bias(number)
        features.append(torch.cat(columns, dim=1))
        targets.append(output - bias)
        energies.append(output.double().square().sum())
    for hook in hooks:
        hook.remove()
    x = torch.cat(features).double()
    y = torch.cat(targets).double()
    fitted = x @ torch.linalg.lstsq(x, y).solution
    return float((y - fitted).square().sum() / sum(energies))


def block_again(mixture, hidden):
    """Run what holds the router and the experts, once more."""
    parent = mixture.layout.path.rpartition(".")[0]
    mixture.block.get_submodule(parent)(hidden[None])


def test_too_few_tokens_leave_an_expert_as_it_is(store, monkeypatch):
    monkeypatch.setattr(expert_pruning, "MIN_REFIT_TOKENS_PER_CHANNEL", 3)
    loaded = as_loaded(tiny_mixture("qwen3_moe"))
    kept = kept_by(loaded, EXPERTS, 6, store)
    n_unfitted = sum(narrow.n_few_tokens for narrow in kept.values())
    assert 0 < n_unfitted < 24
    for index, narrow in kept.items():
        same = [
            torch.equal(out, loaded.experts[index].out_weight(int(number)))
            for out, number in zip(narrow.outs, narrow.kept, strict=True)
        ]
        assert sum(same) == narrow.n_few_tokens


def test_a_run_counts_its_experts_and_is_the_same_streamed(
    mixture_settings, store, tmp_path
):
    run = ran(mixture_settings, store)
    sparse = records(store, run)[1:]
    assert [record.pruned.kept.experts for record in sparse[:2]] == [(6,) * 4, (4,) * 4]
    assert [record.pruned.expert_widths for record in sparse[2:]] == [
        (24,) * 4,
        (16,) * 4,
    ]
    # The weights of so many channels are gone, and of half as many multiply-adds for each.
    assert (
        sparse[3].pruned.reached.channels == 0.5 and sparse[3].pruned.reached.macs > 0.2
    )
    for numbers, use in zip(
        sparse[0].pruned.experts, sparse[0].pruned.expert_use, strict=True
    ):
        assert (
            len(numbers) == 6
            and len(use) == 8
            and sum(use) == pytest.approx(1, abs=1e-3)
        )
    shape = inspect_model(AutoConfig.from_pretrained(mixture_settings.model), "tiny")
    assert (
        active_count(shape, shape.whole)
        == shape.n_parameters - 4 * 6 * shape.per_expert
    )
    reached = sparse[1].pruned.reached
    assert (reached.channels, reached.macs, reached.kv_cache) == (0.5, 0, 0)
    assert reached.bytes == pytest.approx(4 * 4 * shape.per_expert / shape.n_parameters)
    assert any("not refitted" in warning for warning in run.warnings)
    elsewhere = Store(tmp_path / "streamed")
    streamed = records(
        elsewhere, ran(replace(mixture_settings, residency="streamed"), elsewhere)
    )
    for record, twin in zip(sparse, streamed[1:], strict=True):
        assert (record.outcomes, record.pruned) == (twin.outcomes, twin.pruned)
    elsewhere.close()


def test_one_walk_makes_all_models_of_a_run(mixture_settings, store, monkeypatch):
    walks = count_calls(monkeypatch, sparse_blocks, "prune_experts")
    run = ran(mixture_settings, store)
    assert len(run.sparse) == 4 and len(walks) == 1


def test_experts_lose_less_by_their_channels_than_by_their_number(
    mixture_settings, store
):
    sparse = records(store, ran(mixture_settings, store))[1:]
    for fewer, narrower in zip(sparse[:2], sparse[2:], strict=True):
        assert sum(narrower.pruned.layer_errors) < 0.6 * sum(fewer.pruned.layer_errors)
        assert sum(narrower.pruned.layer_errors) < sum(
            narrower.pruned.uncompensated_errors
        )


@pytest.mark.parametrize(("number", "n_experts", "width"), [(1, 4, 32), (3, 8, 16)])
def test_an_export_has_fewer_or_narrower_experts_and_answers_as_the_sparse_model(
    mixture_settings, store, tmp_path, number, n_experts, width
):
    run = ran(mixture_settings, store)
    folder = tmp_path / "exported"
    export = exported((store, MODEL_CACHE, run), number, "uniform", folder)
    proof = export.proof
    assert proof.n_meant == proof.n_run == proof.n_verdicts == 10
    config = json.loads((folder / "config.json").read_text())
    counts = {config.get("num_experts"), config.get("num_local_experts")} - {None}
    assert (counts, config["moe_intermediate_size"]) == ({n_experts}, width)
    again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    assert again.model.layers[0].mlp.experts.down_proj.shape == (n_experts, 32, width)


# A tiny text; the next test looks at the warning.
@pytest.mark.filterwarnings("ignore:.*not refitted")
@pytest.mark.parametrize(
    ("model_type", "method", "experts", "widths"),
    [
        ("glm4_moe", REAP, (0, 4, 4, 4), ()),
        ("gpt_oss", CHANNELS, (), (32,) * 4),
        ("nemotron_h", CHANNELS, (), (0, 16, 0, 0)),
        # With a shared expert that is as narrow.
        ("deepseek_v3", CHANNELS, (), (0, 16, 16, 16)),
    ],
)
def test_the_api_gives_a_model_that_saves_and_loads(
    model_type, method, experts, widths, tmp_path
):
    sparse = sparsedash.prune(
        tiny_mixture(model_type),
        tiny_tokenizer(),
        passages(40),
        method=method,
        share=0.5,
        n_samples=40,
    )
    kept = sparse.pruned.kept
    assert (kept.experts, kept.expert_widths) == (experts, widths)
    assert sparse.forms == ("uniform",)
    sparse.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", trust_remote_code=False
    )
    assert torch.allclose(again(IDS).logits, sparse.model(IDS).logits, atol=1e-5)


def test_the_api_warns_of_experts_that_too_few_tokens_reached():
    with pytest.warns(UserWarning, match="not refitted"):
        sparsedash.prune(
            tiny_mixture("qwen3_moe"),
            tiny_tokenizer(),
            passages(8),
            method="experts",
            share=0.25,
        )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"methods": (method_named("least-squares"),)}, "channels of MLPs alone"),
        (
            {"methods": (replace(REAP, budget="macs"),)},
            "frees nothing of the multiply-adds",
        ),
        (
            {"methods": (EXPERTS,), "heal_steps": (4,)},
            "narrower experts cannot be healed here",
        ),
        ({"quantise": ("q8_0",)}, "narrower experts cannot be quantised here"),
        ({"methods": (replace(CHANNELS, width_multiple=4),)}, "a multiple of 8"),
        (
            {"methods": (replace(CHANNELS, width_multiple=32),)},
            "less than the 32 channels",
        ),
    ],
)
def test_what_a_mixture_cannot_lose_is_refused(
    mixture_settings, store, changes, reason
):
    with pytest.raises(SettingsError, match=reason):
        ran(replace(mixture_settings, **changes), store)


def test_a_dense_model_has_no_experts_to_lose(settings, store):
    with pytest.raises(SettingsError, match="no mixture"):
        ran(replace(settings, methods=(REAP,)), store)


@pytest.mark.parametrize("n_steps", [6, 10])
def test_a_run_that_was_killed_resumes_to_the_same_records(
    mixture_settings, store, tmp_path, n_steps, monkeypatch
):
    settings = replace(mixture_settings, methods=(EXPERTS,))
    monkeypatch.setattr("sparsedash.storage.checkpoint.CHECKPOINT_INTERVAL_S", 0.0)
    expected = fresh_records(settings, tmp_path / "whole")
    n_pruned = 0

    def kill(step):
        nonlocal n_pruned
        n_pruned += step.stage == "prune"
        if n_pruned == n_steps:
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(settings, store, kill)
    chosen = count_calls(monkeypatch, expert_pruning, "_scores")
    assert records(store, ran(settings, store)) == expected
    assert len(chosen) < 8


def test_never_fewer_are_left_than_the_router_chooses(mixture_settings, store):
    run = ran(
        replace(
            mixture_settings, methods=(RANDOM, FREQUENCY), sparsities_permille=(750,)
        ),
        store,
    )
    for key in run.sparse:
        assert store.get(Record, key).pruned.kept.experts == (2,) * 4
    assert SparseSpec(REAP, 250).key != SparseSpec(EXPERTS, 250).key
