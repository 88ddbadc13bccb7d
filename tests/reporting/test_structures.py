"""What is said of fewer layers beside narrower ones: which to choose, which went, and by what name
they are shares.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.reporting import wording
from sparsedash.reporting.charts import bar_charts
from sparsedash.reporting.deployment import structure_sentence
from sparsedash.reporting.next_step import next_step
from sparsedash.reporting.run_answer import estimate_words, rounding_note
from sparsedash.schema.method_settings import with_budget
from sparsedash.schema.pair_records import TimingSettings
from sparsedash.schema.records import Reached
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.ui.compare_layers import layers_sentence
from sparsedash.ui.form_address import form_address
from tests.factories import RUN, THREE_LAYERS, losing, plain
from tests.reporting.charts.drawn import drawn, trace
from tests.reporting.held_results import results_of

NARROWER, FEWER = with_budget(
    [method_named("least-squares"), method_named("layers")],
    "weights",
)
UNMEASURED = {
    "layer_errors": (),
    "held_out_errors": (),
    "uncompensated_errors": (),
    "passage_errors": (),
    "alone": (),
}
GONE = replace(
    THREE_LAYERS,
    **UNMEASURED,
    spec=SparseSpec(FEWER, 125),
    widths=(128, 0, 0),
    dense_widths=(128, 128, 128),
)


def found(lost=(0.1, 0.5), method=FEWER, beside=NARROWER):
    reached = Reached(
        channels=0.2,
        weights=0.2,
        bytes=0.15,
        macs=0.15,
        kv_cache=0.2,
    )
    pruned = [
        replace(
            THREE_LAYERS,
            spec=SparseSpec(beside, 200),
            reached=replace(reached, kv_cache=0.0),
        ),
        replace(
            GONE,
            spec=SparseSpec(method, 200),
            reached=reached,
        ),
    ]
    settings = RunSettings(
        methods=(beside, method),
        sparsities_permille=(200,),
    )
    run = replace(
        RUN,
        settings=settings,
        dense="d",
        sparse=("n", "f"),
        finished=True,
    )
    sparse = [
        losing(
            key,
            fall,
            60,
            pruned=extra,
        )
        for key, fall, extra in zip(
            "nf",
            lost,
            pruned,
            strict=True,
        )
    ]
    return results_of(run, [losing("d", 0.0, 60), *sparse])


def said(results, *ratios):
    """The sentence, where each model writes so much faster, as (value, low, high)."""
    speeds = dict(zip("nf", ratios, strict=False))

    def timing(kind, key):
        sparse = next(method for method in "nf" if key == timing_keys[method])
        if sparse not in speeds:
            return None
        value, low, high = speeds[sparse]
        ratio = SimpleNamespace(value=value, low=low, high=high)
        return SimpleNamespace(timed=lambda phase: SimpleNamespace(ratio=ratio))

    timing_keys = {
        key: TimingSettings(dense=results.dense.key, sparse=key).key() for key in "nf"
    }
    return plain(structure_sentence(SimpleNamespace(result=timing), results))


@pytest.mark.parametrize(
    ("lost", "ratios", "expected"),
    [
        (
            (0.1, 0.5),
            (),
            "At 20 % of the blocks' weights: narrower layers (“least-squares”, perplexity 1.11 ×) or fewer "
            "(“layers”, 1.65 ×). "
            "Both cost more than your limits allow. For size “least-squares”: the word perplexity of “layers” is 1.49 "
            "× as high, 95 % interval 1.49 to 1.49. For the KV cache “layers”: it is 20.0 % smaller. For speed: not "
            "measured yet; “Plot loss against” offers it.",
        ),
        (
            (0.5, 0.1),
            ((1.1, 1.05, 1.15), (1.2, 1.18, 1.22)),
            "At 20 % of the blocks' weights: narrower layers (“least-squares”, perplexity 1.65 ×) or fewer "
            "(“layers”, 1.11 ×). "
            "Both cost more than your limits allow. For size “layers”: the word perplexity of “least-squares” is 1.49 "
            "× as high, 95 % interval 1.49 to 1.49. For the KV cache “layers”: it is 20.0 % smaller. For speed "
            "“layers”: they write 1.10 × and 1.20 × as fast as dense.",
        ),
        (
            (0.02, 0.02),
            ((1.1, 1.05, 1.15), (1.12, 1.08, 1.16)),
            "At 20 % of the blocks' weights: narrower layers (“least-squares”, perplexity 1.02 ×) or fewer "
            "(“layers”, 1.02 ×). "
            "For size: which loses less is undecided on 60 passages. For the KV cache “layers”: it is 20.0 % "
            "smaller. For speed either: they write 1.10 × and 1.12 × as fast as dense.",
        ),
    ],
)
def test_which_structure_to_choose_is_said_by_the_runs_own_numbers(
    lost, ratios, expected
):
    assert said(found(lost), *ratios) == expected


def test_a_pair_at_one_of_several_sparsities_counts_all_pairs_of_the_two_structures():
    one = found()
    run = replace(
        one.run,
        settings=replace(one.run.settings, sparsities_permille=(200, 300)),
        sparse=tuple("nfop"),
    )
    more = [
        replace(
            method.record,
            key=key,
            pruned=replace(
                method.record.pruned,
                spec=replace(method.spec, permille=300),
            ),
        )
        for key, method in zip(
            "op",
            sorted(
                one.sparse_models,
                key=lambda own: own.record.key,
                reverse=True,
            ),
            strict=True,
        )
    ]
    assert "97.5 % interval 1.49 to 1.49" in said(
        results_of(run, [method.record for method in one.models] + more)
    )


def test_where_one_layer_more_costs_too_much_the_next_step_asks_for_no_part_of_a_layer():
    pruned = replace(
        GONE,
        widths=(128, 128, 0),
        removed_layers=(2,),
        spec=SparseSpec(FEWER, 30),
    )
    settings = RunSettings(methods=(FEWER,), sparsities_permille=(30,))
    run = replace(
        RUN,
        settings=settings,
        dense="d",
        sparse=("f",),
        finished=True,
    )
    swept = results_of(
        run,
        [
            losing("d", 0.0, 60),
            losing(
                "f",
                0.3,
                60,
                pruned=pruned,
            ),
        ],
    )
    assert estimate_words(swept) == ""
    step = next_step(swept)
    assert "search for the largest share within your limit with “best”" in step.sentence
    assert step.request.method == replace(method_named("best"), budget="weights")
    run = replace(
        run,
        settings=replace(settings, sparsities_permille=(30, 60)),
        sparse=("f", "g"),
    )
    two = losing(
        "g",
        0.3,
        60,
        pruned=replace(GONE, spec=SparseSpec(FEWER, 60)),
    )
    step = next_step(
        results_of(
            run,
            [
                losing("d", 0.0, 60),
                losing(
                    "f",
                    0.01,
                    60,
                    pruned=pruned,
                ),
                two,
            ],
        )
    )
    assert step.kind == "export"


def test_a_share_that_was_rounded_to_layers_is_said_to_be():
    fewer = next(model for model in found().sparse_models if model.method == FEWER)
    pruned = replace(
        fewer.record.pruned,
        reached=replace(fewer.record.pruned.reached, weights=0.3),
    )
    rounded = replace(fewer, record=replace(fewer.record, pruned=pruned))
    assert plain(rounding_note(rounded)) == " (30.0 % after rounding to whole layers)"


def test_nothing_is_said_without_both_structures_or_of_two_sizes():
    assert said(found(method=replace(NARROWER, damping=0.1))) == ""
    of_channels = (replace(method, budget="channels") for method in (FEWER, NARROWER))
    assert said(found((0.1, 0.5), *of_channels)) == ""


def test_shares_of_layers_are_called_so_and_the_kv_cache_is_told_where_some_is_gone():
    only = method_named("shortgpt")
    assert (
        plain(wording.model_words(SparseSpec(only, 200)))
        == "shortgpt, 20 % of the layers removed"
    )
    assert wording.sparsity_axis_title([only]) == "Layers removed"
    assert (
        wording.sparsity_axis_title([only, method_named("flap")])
        == "MLP channels removed"
    )
    (narrower, fewer) = (model.record.pruned for model in found().sparse_models)
    assert "KV cache" not in wording.measured_sparsity(narrower)
    assert plain(wording.measured_sparsity(fewer)).endswith("20.0 % of the KV cache")


def test_the_layers_that_are_gone_are_named_and_drawn():
    assert layers_sentence(GONE) == "Layers 2 and 3 of 3 are gone, attention and MLP."
    assert (
        layers_sentence(replace(GONE, widths=(128, 0, 128), removed_layers=(1,)))
        == "Layer 2 of 3 is gone, attention and MLP."
    )
    figure = drawn(bar_charts.layers_chart(GONE))
    (bars,) = figure["data"]
    assert trace(figure, "y1")["y"] == [100, 0, 0] and "yaxis2" not in figure["layout"]
    assert bars["customdata"][1] == "layer 2<br>the whole layer is gone"


def test_the_form_has_a_place_for_methods_that_take_layers():
    names = [method.name for method in METHODS if method.settings.removes_layers]
    settings = RunSettings(methods=tuple(map(method_named, ("best", *names))))
    address = form_address(settings)
    assert address["layers"] == names and address["method"] == ["best"]
