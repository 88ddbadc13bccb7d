"""Shapes and bytes before and after, by hand, as table and CSV."""

from dataclasses import replace

from sparsedash.reporting.deployment import block_shapes, shapes_table
from sparsedash.reporting.html import table_csv
from sparsedash.schema.model_shape import MlpLayout, ModelStructure
from tests.catalog import test_model_sizes
from tests.factories import PRUNED

# Two gated blocks, d = 4, with 128 and 64 channels, of which 96 and 64 are kept.
SHAPE = replace(
    test_model_sizes.SHAPE, widths=(128, 64), n_matmul=3000, n_head=100, n_parameters=3100
)


def test_each_projection_is_told_as_outputs_by_inputs():
    first, _ = block_shapes(SHAPE, PRUNED)
    assert first == [
        ("gate_proj", (128, 4), (96, 4)),
        ("up_proj", (128, 4), (96, 4)),
        ("down_proj", (4, 128), (4, 96)),
    ]
    layout = MlpLayout(inner=("mlp.gate_up_proj",), out="mlp.down_proj", width=128, fused=2)
    fused = replace(SHAPE, structure=ModelStructure(blocks="model.layers", mlps=(layout, layout)))
    assert block_shapes(fused, PRUNED)[0][0] == ("gate_up_proj", (256, 4), (192, 4))


def test_the_sizes_of_another_model_give_nothing():
    assert block_shapes(replace(SHAPE, widths=(128, 128)), PRUNED) == []


def test_its_file_has_every_projection_and_the_whole_model():
    rows = shapes_table(SHAPE, PRUNED, "float32").data
    assert (rows[0]["rows_before"], rows[0]["rows_after"]) == (128, 96)
    assert sum(row["bytes_after"] for row in rows if row["part"] == "MLP") == (96 + 64) * 12 * 4
    with_bias = table_csv(
        shapes_table(
            replace(SHAPE, bias_per_channel=1),
            PRUNED,
            "bfloat16",
        )
    ).decode()
    assert f'1,"MLP",,,,,{128 * 13 * 2},{96 * 13 * 2}\n' in with_bias
    assert (rows[-1]["bytes_before"], rows[-1]["bytes_after"]) == (3100 * 4, (3100 - 32 * 12) * 4)


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
        "every matrix keeps its shape and its bytes" in shapes_table(SHAPE, masked, "float32").html
    )
