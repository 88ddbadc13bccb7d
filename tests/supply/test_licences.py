"""Every package that SparseDash runs on may be built on."""

from email.message import Message

import pytest

from supply.installed import BUILT_IN_MODEL, others, product
from supply.licences import is_allowed, licence_of, refused


class Package:
    """A distribution with this metadata."""

    def __init__(self, *fields: tuple[str, str]) -> None:
        self.metadata = Message()
        for name, value in fields:
            self.metadata[name] = value


def test_every_licence_of_the_product_is_allowed():
    assert refused({name: licence_of(each) for name, each in product().items()}) == []


def test_the_product_is_what_requirements_bring_along_and_not_the_tools():
    ours, tools = set(product()), set(others())
    assert {"torch", "streamlit", "tokenizers", "markupsafe", BUILT_IN_MODEL} <= ours
    assert {"pytest", "ruff", "playwright"} <= tools
    assert not ours & tools


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ([("License-Expression", "MIT"), ("License", "GPL-3.0")], "MIT"),
        ([("License", "Apache 2.0 License")], "Apache-2.0"),
        (
            [("License", "Copyright (c) 2015 ...\n" * 40), ("Classifier", "License :: OSI Approved :: BSD License")],
            "BSD-3-Clause",
        ),
        ([("License", "GPL-3.0"), ("Classifier", "Topic :: Text")], "GPL-3.0"),
        ([("Classifier", "Topic :: Text")], ""),
    ],
)
def test_a_licence_is_read_where_a_package_says_it(fields, licence):
    assert licence_of(Package(*fields)) == licence


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-2.0-only OR MIT", True),
        ("(MIT OR Apache-2.0) AND PSF-2.0", True),
        ("", False),
        ("GPL-3.0", False),
        ("MIT AND GPL-3.0", False),
        ("(MIT OR GPL-3.0) AND ISC", False),
        ("GPL-2.0 WITH x", False),
        ("MIT or so", False),
    ],
)
def test_what_an_expression_allows(expression, allowed):
    assert is_allowed(expression) == allowed


def test_a_refused_package_is_named_with_what_it_says():
    licences = {"good": "MIT", "bad": "AGPL-3.0", "mute": "", "nvidia-cublas": "LicenseRef-NVIDIA"}
    assert refused(licences) == ["bad: AGPL-3.0", "mute: says nothing"]
