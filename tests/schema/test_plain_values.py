"""A value has one canonical text, and what is not plain has none."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.schema.plain_values import canonical_json, digest


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_canonical_json_ignores_the_order_of_keys_and_loses_nothing(value):
    assert json.loads(canonical_json(value)) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_a_value_that_is_not_plain_is_refused_and_never_turned_into_text():
    for value in (
        Path("/x"),
        {1, 2},
        b"x",
        object(),
        1j,
        {1: "x"},
        [{None: 1}],
        {"a": ({True: 1},)},
    ):
        with pytest.raises(TypeError):
            canonical_json(value)
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            digest({"x": number})
