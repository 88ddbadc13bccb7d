"""What is refused before the server answers anybody, and in which words."""

import pytest
from streamlit import config

from sparsedash.ui import current_user, middleware

HEADER = 'address = "https://sparse.example.org:8443"\nlogin = "header"\n'
OIDC = 'address = "http://localhost:8501"\nlogin = "oidc"\n'
AUTH = {
    "redirect_uri": "http://localhost:8501/oauth2callback",
    "cookie_secret": "x" * 32,
    "client_id": "sparsedash",
    "client_secret": "s",
    "server_metadata_url": "http://localhost:9400/.well-known/openid-configuration",
}


@pytest.fixture
def options(monkeypatch):
    """Options of Streamlit, as a test has set them."""
    kept = {"server.address": "127.0.0.1"}
    monkeypatch.setattr(config, "get_option", kept.get)
    monkeypatch.setattr(config, "set_option", kept.__setitem__)
    monkeypatch.delenv("SPARSEDASH_SERVE", raising=False)
    return kept


@pytest.fixture
def configured(options, monkeypatch, tmp_path):
    def write(text, auth=None):
        path = tmp_path / "serve.toml"
        path.write_text(text)
        monkeypatch.setenv("SPARSEDASH_SERVE", str(path))
        monkeypatch.setattr(middleware, "get_secrets_auth_section", lambda: auth or {})

    return write


def refused():
    with pytest.raises(SystemExit) as ended:
        middleware.checked_serving_rules()
    return str(ended.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_the_machine_itself_is_served_without_a_login(options, address):
    options["server.address"] = address
    assert middleware.checked_serving_rules() is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.0.9", "example.org", "", None])
def test_without_a_login_it_listens_nowhere_else(options, address):
    options["server.address"] = address
    assert "there is no login" in refused()


def test_a_configuration_that_cannot_be_read_ends_it_in_words(configured):
    configured('login = "header"')
    assert refused().startswith("SparseDash is not served.")


def test_a_proxy_s_word_needs_its_own_address_to_be_seen(configured, monkeypatch):
    configured(HEADER)
    for value in (None, "127.0.0.1", "*"):
        monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
        if value is not None:
            monkeypatch.setenv("FORWARDED_ALLOW_IPS", value)
        assert "FORWARDED_ALLOW_IPS" in refused()


def test_with_a_login_it_listens_anywhere_and_streamlit_knows_the_public_name(configured, options, monkeypatch):
    configured(HEADER)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")
    options["server.address"] = "0.0.0.0"
    assert middleware.checked_serving_rules().login == "header"
    assert options["server.allowedHosts"] == ["sparse.example.org", "localhost", "127.0.0.1"]
    assert list(options["server.trustedUserHeaders"]) == [current_user.USER_HEADER], (
        "a session is given back to its visitor alone"
    )


def test_a_provider_of_logins_is_described_whole(configured):
    configured(OIDC, AUTH)
    assert middleware.checked_serving_rules().login == "oidc"
    for missing in AUTH:
        configured(OIDC, {name: value for name, value in AUTH.items() if name != missing})
        assert missing in refused()
    configured(OIDC, AUTH | {"cookie_secret": "short"})
    assert "32" in refused()
    configured(OIDC, AUTH | {"redirect_uri": "http://localhost:9999/oauth2callback"})
    assert "http://localhost:8501/oauth2callback" in refused()


def test_a_provider_with_a_name_has_a_part_of_its_own(configured):
    own = {name: AUTH[name] for name in ("client_id", "client_secret", "server_metadata_url")}
    common = {name: AUTH[name] for name in ("redirect_uri", "cookie_secret")}
    named = OIDC + '[oidc]\nprovider = "work"\n'
    configured(named, common | {"work": own})
    assert middleware.checked_serving_rules().oidc.provider == "work"


def test_a_provider_with_a_name_that_is_not_described_is_refused(configured):
    configured(OIDC + '[oidc]\nprovider = "work"\n', AUTH)
    assert "client_id" in refused()
