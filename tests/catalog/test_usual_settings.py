"""What is recommended for a model, by what it is made of."""

from dataclasses import replace

from sparsedash.catalog.budgets import expert_steps
from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.usual_settings import (
    method_meant,
    refit_tokens,
    usual_method,
    usual_samples,
)
from tests.factories import MIXTURE_SHAPE

LLAMA = shipped_shape("llama-7b")


def with_structure(**changes):
    return replace(MIXTURE_SHAPE, structure=replace(MIXTURE_SHAPE.structure, **changes))


def test_a_mixture_loses_experts_unless_most_of_it_or_all_that_can_go_is_elsewhere():
    assert usual_method(None) == usual_method(LLAMA) == "best"
    assert usual_method(MIXTURE_SHAPE) == "experts"
    assert usual_method(replace(MIXTURE_SHAPE, widths=(640, 0, 0))) == "best"
    stuck = with_structure(experts_problem="it says so")
    assert usual_method(stuck) == "best", "its first block has an MLP"
    alone = replace(stuck, widths=(0, 0, 0))
    assert usual_method(alone) == "layers", "no expert has more than 32 channels"
    wide = replace(alone.structure.experts[1], width=64)
    structure = replace(alone.structure, experts=(None, wide, wide))
    assert usual_method(replace(alone, structure=structure)) == "expert-channels"
    all_chosen = replace(MIXTURE_SHAPE.structure.experts[1], n_chosen=4)
    assert (
        usual_method(with_structure(experts=(None, all_chosen, all_chosen))) == "best"
    )


def test_best_means_channels_of_experts_where_a_model_has_no_others():
    assert method_meant("best", None) == method_meant("best", MIXTURE_SHAPE) == "best"
    alone = replace(MIXTURE_SHAPE, widths=(0, 0, 0))
    assert method_meant("best", alone) == "expert-channels"
    assert method_meant("obs", alone) == "obs", "which is named for what it does"
    structure = replace(alone.structure, expert_width_problem="it says so")
    assert method_meant("best", replace(alone, structure=structure)) == "best", (
        "and is refused"
    )


def test_a_search_tries_every_number_of_experts_that_the_router_can_choose_from():
    assert expert_steps(MIXTURE_SHAPE, method_named("experts")) == (250, 500)
    narrower = replace(method_named("expert-channels"), width_multiple=8)
    assert expert_steps(MIXTURE_SHAPE, narrower) == (251,), (
        "from there 8 channels are nearer"
    )


def test_a_refit_needs_ten_tokens_a_channel_of_each_expert():
    methods = [method_named("experts")]
    # 4 experts of 16 channels, of which each token is routed to two.
    assert refit_tokens(methods, MIXTURE_SHAPE) == 4 * 16 * 10 // 2
    assert refit_tokens([method_named("reap")], MIXTURE_SHAPE) == 0
    assert refit_tokens(methods, LLAMA) == refit_tokens(methods, None) == 0
    assert usual_samples(methods, MIXTURE_SHAPE, 256) == 128
    assert usual_samples(methods, MIXTURE_SHAPE, 1) == 320
