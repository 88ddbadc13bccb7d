"""The file that says how others are served: whole, or refused in words."""

import pytest

from sparsedash.schema.errors import SettingsError
from sparsedash.storage.users import may_use_token, serving_rules

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
    assert (rules.login, rules.header.name, rules.header.proxies) == ("header", "X-Remote-User", ("10.0.0.2",))
    assert (rules.hub, rules.quota.queued, rules.quota.uploads) == (("org/*",), 2, 20)
    assert not rules.see_each_other


def test_the_token_serves_administrators_and_the_shell(written):
    written(WHOLE)
    assert [may_use_token(owner) for owner in ("", "ada@example.org", "bob@example.org")] == [True, True, False]


@pytest.mark.parametrize(
    "change",
    [
        ('login = "header"', 'login = "none"'),
        ('login = "header"', ""),
        ("folders =", "folder ="),
        ("queued = 2", "queue = 2"),
        ("queued = 2", 'queued = "two"'),
        ("[header]", "[header"),
        ("https:", "http:"),
    ],
)
def test_a_file_that_says_less_or_something_else_is_refused(written, change):
    written(WHOLE.replace(*change))
    with pytest.raises(SettingsError):
        serving_rules()


def test_a_file_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEDASH_SERVE", str(tmp_path / "nothing.toml"))
    with pytest.raises(SettingsError, match="SPARSEDASH_SERVE"):
        serving_rules()
