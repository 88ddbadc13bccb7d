"""Shapes and bytes before and after, by hand, as table and CSV."""

from dataclasses import replace

from sparsedash.catalog.model_sizes import active_count, parameter_count
from sparsedash.reporting.deployment import block_shapes, shapes_table
from sparsedash.reporting.html import table_csv
from sparsedash.reporting.wording import percent
from sparsedash.schema.model_shape import MlpLayout, ModelStructure
from tests.catalog import test_model_sizes
from tests.factories import MIXTURE, MIXTURE_SHAPE, PER_EXPERT, PRUNED

# Two gated blocks, d = 4, with 128 and 64 channels, of which 96 and 64 are kept.
SHAPE = replace(
    test_model_sizes.SHAPE,
    widths=(128, 64),
    n_matmul=3000,
    n_head=100,
    n_parameters=3100,
)


def test_each_projection_is_told_as_outputs_by_inputs():
    first, _ = block_shapes(SHAPE, PRUNED)
    assert first == [
        ("gate_proj", (128, 4), (96, 4)),
        ("up_proj", (128, 4), (96, 4)),
        ("down_proj", (4, 128), (4, 96)),
    ]
    layout = MlpLayout(
        inner=("mlp.gate_up_proj",), out="mlp.down_proj", width=128, fused=2
    )
    fused = replace(
        SHAPE, structure=ModelStructure(blocks="model.layers", mlps=(layout, layout))
    )
    assert block_shapes(fused, PRUNED)[0][0] == ("gate_up_proj", (256, 4), (192, 4))


def test_the_sizes_of_another_model_give_nothing():
    assert block_shapes(replace(SHAPE, widths=(128, 128)), PRUNED) == []


def test_its_file_has_every_projection_and_the_whole_model():
    rows = shapes_table(SHAPE, PRUNED, "float32").data
    assert (rows[0]["rows_before"], rows[0]["rows_after"]) == (128, 96)
    assert (
        sum(row["bytes_after"] for row in rows if row["part"] == "MLP")
        == (96 + 64) * 12 * 4
    )
    with_bias = table_csv(
        shapes_table(
            replace(SHAPE, bias_per_channel=1),
            PRUNED,
            "bfloat16",
        )
    ).decode()
    assert f'1,"MLP",,,,,{128 * 13 * 2},{96 * 13 * 2}\n' in with_bias
    assert (rows[-1]["bytes_before"], rows[-1]["bytes_after"]) == (
        3100 * 4,
        (3100 - 32 * 12) * 4,
    )


def test_the_table_shows_both_shapes_where_they_differ_and_one_where_not():
    drawn = shapes_table(SHAPE, PRUNED, "float32").html
    assert "128 × 4 → 96 × 4" in drawn and "<td>64 × 4</td>" in drawn
    assert "Whole model" in drawn and "32 of 192 inner channels removed" in drawn


def test_zeros_alone_change_no_shape():
    masked = replace(
        PRUNED,
        spec=replace(
            PRUNED.spec,
            method=replace(
                PRUNED.method,
                pattern="1x1",
                compensation="none",
            ),
        ),
        widths=(128, 64),
    )
    assert (
        "every matrix keeps its shape and its bytes"
        in shapes_table(SHAPE, masked, "float32").html
    )


def test_of_a_mixture_the_experts_of_each_layer_are_counted_and_what_stays_active():
    shown = shapes_table(MIXTURE_SHAPE, MIXTURE, "bfloat16")
    assert [row[0] for row in shown.rows[:3]] == [
        "Whole model",
        "All MLPs and experts",
        "Layer 1",
    ]
    assert shown.rows[3][3] == percent(0.5) and shown.rows[2][3] == percent(0)
    assert (
        "4 of 8 experts removed." in shown.caption and "of them active" in shown.caption
    )
    layer = next(row for row in shown.data if row["layer"] == 2)
    assert layer == {
        "layer": 2,
        "part": "MLP or experts",
        "bytes_before": 8 * PER_EXPERT,
        "bytes_after": 4 * PER_EXPERT,
    }
    kept = MIXTURE.kept
    assert parameter_count(MIXTURE_SHAPE, kept) == 60_000 - 4 * PER_EXPERT
    assert active_count(MIXTURE_SHAPE, kept) == 60_000 - 4 * PER_EXPERT
    assert active_count(MIXTURE_SHAPE, MIXTURE_SHAPE.whole) == 60_000 - 4 * PER_EXPERT
    narrower = replace(kept, experts=(), expert_widths=(0, 8, 8))
    assert active_count(MIXTURE_SHAPE, narrower) == 60_000 - 4 * PER_EXPERT - 4 * 8 * 96
