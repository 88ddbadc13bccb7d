"""The rules of serving others."""

import pytest

from sparsedash.schema.errors import SettingsError
from sparsedash.storage.serving import Serving, may_use_token, serving_rules, user_name

WHOLE = """
address = "https://sparsedash.example.org"
login = "header"
administrators = ["ada@example.org"]
folders = ["/srv/models"]
hub = ["org/*"]

[header]
name = "X-Remote-User"
proxies = ["10.0.0.2"]

[quota]
queued = 2
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    def write(text):
        path = tmp_path / "serve.toml"
        path.write_text(text)
        monkeypatch.setenv("SPARSEDASH_SERVE", str(path))

    return write


def test_without_the_variable_nobody_else_is_served_and_the_token_is_used(monkeypatch):
    monkeypatch.delenv("SPARSEDASH_SERVE", raising=False)
    assert serving_rules() is None
    assert [may_use_token(owner) for owner in ("", "whoever")] == [True, False]


def test_what_the_file_says_counts_and_the_rest_has_its_usual_value(written):
    written(WHOLE)
    rules = serving_rules()
    assert (rules.login, rules.header.name, rules.header.proxies) == (
        "header",
        "X-Remote-User",
        ("10.0.0.2",),
    )
    assert (rules.hub, rules.quota.queued, rules.quota.uploads) == (("org/*",), 2, 20)
    assert not rules.see_each_other
    assert [
        may_use_token(owner) for owner in ("", "ada@example.org", "bob@example.org")
    ] == [
        True,
        True,
        False,
    ]


HTTPS = "https://sparsedash.example.org"


@pytest.mark.parametrize(
    "change",
    [
        ('login = "header"', 'login = "none"'),
        ("folders =", "folder ="),
        ('["/srv/models"]', '["models"]'),
        ("queued = 2", "queue = 2"),
        ("queued = 2", "queued = -1"),
        ("[header]", "[header"),
        ("10.0.0.2", "nginx"),
        ('["10.0.0.2"]', "[]"),
        ("X-Remote-User", "X Remote"),
        (HTTPS, ""),
        (HTTPS, "sparsedash.example.org"),
        (HTTPS, f"{HTTPS}/"),
        (HTTPS, "ftp://a.org"),
        (HTTPS, "https://"),
        (HTTPS, "http://a.org"),
        (HTTPS, "https://A.org"),
        (HTTPS, "https://a.org:443"),
        (HTTPS, "https://me@a.org"),
    ],
)
def test_a_file_that_says_less_or_something_else_is_refused(written, change):
    assert change[0] in WHOLE
    written(WHOLE.replace(*change))
    with pytest.raises(SettingsError, match=r"deployment\.md|^Address must be "):
        serving_rules()


def rules(**changes):
    return Serving(**{"address": HTTPS, "login": "oidc", **changes})


def test_this_machine_needs_no_tls():
    assert rules(address="http://localhost:8501").host == "localhost:8501"


def test_one_user_has_one_name_however_it_is_spelt():
    assert user_name("  Ada@Example.ORG ") == "ada@example.org"
    assert user_name("Zoe\u0301") == user_name("Zo\u00e9")
    assert user_name("groß@x.org") != user_name("gross@x.org")


@pytest.mark.parametrize("said", ["", "  ", "a\nb", "a\x00", "a\u202eb", "x" * 201])
def test_what_is_no_name_is_nobody(said):
    assert user_name(said) is None


def test_without_a_list_all_who_log_in_come_in_and_with_one_those_on_it_and_administrators():
    assert rules().allows_user("anybody@else.where")
    listed = rules(users=("*@Example.org",), administrators=("Root@ops.net",))
    assert [
        listed.allows_user(name)
        for name in ("ada@example.org", "root@ops.net", "eve@evil.org")
    ] == [True, True, False]
    assert not listed.administers("ada@example.org")
    nobody = rules(users=(), administrators=("root",))
    assert [nobody.allows_user(name) for name in ("root", "ada")] == [True, False]
    assert listed.administers("root@ops.net")


def test_models_of_the_hub_are_all_or_none_or_those_on_the_list_at_any_revision():
    assert rules().offers("any/model")
    assert not rules(hub=()).offers("any/model")
    some = rules(hub=("Org/*", "gpt2"))
    offered = [
        some.offers(name)
        for name in ("org/a@main", "gpt2", "gpt2-xl", "other/org", "x/org/y")
    ]
    assert offered == [True, True, False, False, False]
