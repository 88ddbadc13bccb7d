"""The grid of a mixture's experts: order, colours, and what the pointer shows."""

from dataclasses import replace

from sparsedash.reporting.charts.experts_chart import experts_chart
from sparsedash.reporting.experts_table import layer_experts_table
from sparsedash.schema.records import Pruned
from sparsedash.stats.expert_use import expert_uses, removed_choices
from tests.factories import MIXTURE


def test_each_layer_begins_with_its_most_chosen_expert_and_removed_ones_are_drawn_apart():
    figure = experts_chart(MIXTURE, expert_uses(MIXTURE))
    kept, removed = figure.data
    assert list(kept.z[0]) == list(removed.z[0]) == [None] * 4, (
        "the first layer has no experts"
    )
    # Powers of two of 0.5 and 0.4 times four experts; 0.1 and 0 are of removed ones.
    assert list(kept.z[1]) == [1.0, 0.68, None, None]
    assert list(removed.z[1]) == [None, None, -1.32, -3.0]
    assert list(removed.customdata[1][2]) == [4, 10.0, 0.4]
    assert removed.ygap > kept.ygap and "removed" in removed.hovertemplate


def test_128_experts_in_48_layers_stay_small_and_low():
    shares = tuple(round(2 * (128 - i) / (128 * 129), 5) for i in range(128))
    big = Pruned(
        spec=MIXTURE.spec,
        calibration=MIXTURE.calibration,
        reached=MIXTURE.reached,
        widths=(0,) * 48,
        dense_widths=(0,) * 48,
        layer_errors=(),
        held_out_errors=(),
        experts=(tuple(range(64)),) * 48,
        expert_use=(shares,) * 48,
    )
    figure = experts_chart(big, expert_uses(big), "dark")
    assert figure.layout.height < 500 and len(figure.to_json()) < 400_000


def test_the_table_shows_a_layer_and_its_file_has_all():
    experts = expert_uses(MIXTURE)
    shown = layer_experts_table(experts, 1)
    assert shown.name == "Experts of layer 2"
    assert [row[:2] for row in shown.rows] == [
        ["1", "kept"],
        ["3", "kept"],
        ["4", "✕ removed"],
        ["2", "✕ removed"],
    ]
    assert len(shown.data) == 8 and shown.data[-1]["layer"] == 3
    assert abs(removed_choices(experts) - (0.1 + 0.5) / 2) < 1e-12


def test_where_only_channels_of_experts_go_all_are_kept():
    experts = expert_uses(replace(MIXTURE, experts=()))
    for layer in experts:
        assert all(expert.is_kept for expert in layer)
    assert removed_choices(experts) == 0
