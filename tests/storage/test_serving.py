"""What a configuration of serving others may say."""

import pytest

from sparsedash.schema.errors import SettingsError
from sparsedash.storage.users import HeaderLogin, Quota, Serving, visitor_name

HTTPS = "https://sparsedash.example.org"


def rules(**changes):
    return Serving(**{"address": HTTPS, "login": "oidc", **changes})


@pytest.mark.parametrize(
    "address", ["", "sparsedash.example.org", f"{HTTPS}/", f"{HTTPS}/path", "ftp://example.org", "https://"]
)
def test_an_address_ends_before_the_first_slash(address):
    with pytest.raises(SettingsError, match="address"):
        rules(address=address)


def test_an_address_that_others_reach_needs_tls():
    with pytest.raises(SettingsError, match="https"):
        rules(address="http://sparsedash.example.org")
    assert rules(address="http://localhost:8501").host == "localhost:8501"


def test_one_visitor_has_one_name_however_it_is_spelt():
    assert visitor_name("  Ada@Example.ORG ") == "ada@example.org"
    assert visitor_name("Zoe\u0301") == visitor_name("Zo\u00e9")


@pytest.mark.parametrize("said", ["", "  ", "a\nb", "a\x00", "a\u202eb", "x" * 201])
def test_what_is_no_name_is_nobody(said):
    assert visitor_name(said) is None


def test_without_a_list_all_who_log_in_come_in_and_with_one_those_on_it_and_administrators():
    assert rules().lets_in("anybody@else.where")
    listed = rules(visitors=("*@Example.org",), administrators=("Root@ops.net",))
    assert [listed.lets_in(name) for name in ("ada@example.org", "root@ops.net", "eve@evil.org")] == [True, True, False]
    assert not listed.administers("ada@example.org")
    assert listed.administers("root@ops.net")


def test_models_of_the_hub_are_all_or_none_or_those_on_the_list_at_any_revision():
    assert rules().offers("any/model")
    assert not rules(hub=()).offers("any/model")
    some = rules(hub=("Org/*", "gpt2"))
    offered = [some.offers(name) for name in ("org/a@main", "gpt2", "gpt2-xl", "other/org", "x/org/y")]
    assert offered == [True, True, False, False, False]


def test_folders_are_named_in_full():
    with pytest.raises(SettingsError, match="folders"):
        rules(folders=("models",))


def test_a_proxy_is_named_by_its_address_and_a_header_by_its_name():
    for bad in ({"proxies": ("nginx",)}, {"proxies": ()}, {"name": "X Forwarded"}, {"name": ""}):
        with pytest.raises(SettingsError, match="header"):
            HeaderLogin(**bad)


def test_a_quota_is_a_whole_number():
    with pytest.raises(SettingsError, match=r"quota\.queued"):
        Quota(queued=-1)
