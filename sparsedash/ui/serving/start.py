"""What is looked at before the server answers anybody: whether it would listen to strangers, and whether it could."""

import os
import sys
from importlib.util import find_spec
from ipaddress import ip_address

from streamlit import config
from streamlit.auth_util import get_redirect_uri, get_secrets_auth_section

from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.hosting.serving import Serving
from sparsedash.storage.serving_file import VARIABLE, serving
from sparsedash.ui.serving import visitor

_LEAST_SECRET = 32
_DOCS = "docs/deployment.md says how, under “Serving others”."


def rules() -> Serving | None:
    """How others are served; None where only this machine is. Ends the program, in words, where that cannot be.

    It also names the public host to Streamlit, which would refuse its WebSocket else, and makes the visitor a part of
    whose session is whose: Streamlit gives a session back only to whom it began with.
    """
    try:
        found = serving()
    except SparseDashError as error:
        sys.exit(f"SparseDash is not served. {error}")
    problem = _of_address(config.get_option("server.address")) if found is None else _of_login(found)
    if problem:
        sys.exit(f"SparseDash is not served. {problem} {_DOCS}")
    if found is not None:
        name = found.host.rpartition(":")[0] if found.host.rpartition(":")[2].isdecimal() else found.host
        config.set_option("server.allowedHosts", [name, "localhost", "127.0.0.1"])
        config.set_option("server.trustedUserHeaders", {visitor.HEADER: "visitor"})
    return found


def is_this_machine(address: str) -> bool:
    """Whether nobody but this machine reaches a server that listens there."""
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def _of_address(address: str | None) -> str:
    if address and is_this_machine(address):
        return ""
    where = f"at {address}" if address else "at every address of this machine, since server.address names none"
    return (
        f"It would listen {where}, and whoever reached it could read this user's files and delete every run: there is "
        f"no login. Let it listen at 127.0.0.1, or name a file with a login in {VARIABLE}."
    )


def _of_login(found: Serving) -> str:
    return _of_header() if found.login == "header" else _of_oidc(found)


def _of_header() -> str:
    # The server under Streamlit would put the browser's address, as the header says it, in the proxy's place.
    if os.environ.get("FORWARDED_ALLOW_IPS") == "":
        return ""
    return (
        "A proxy's word counts only where its own address can be seen. Start with the environment variable "
        "FORWARDED_ALLOW_IPS set, and set to nothing."
    )


def _of_oidc(found: Serving) -> str:
    if find_spec("authlib") is None or find_spec("httpx") is None:
        return "Logins need packages that are not installed. Run: pip install -r requirements-serve.txt."
    section = get_secrets_auth_section()
    if len(str(section.get("cookie_secret", ""))) < _LEAST_SECRET:
        return f"[auth] of .streamlit/secrets.toml needs a cookie_secret of {_LEAST_SECRET} random characters or more."
    provider = section if found.oidc.provider == "default" else section.get(found.oidc.provider, {})
    for name in ("client_id", "client_secret", "server_metadata_url"):
        if not provider.get(name):
            return f"The provider of logins in .streamlit/secrets.toml has no {name}."
    meant = f"{found.origin}/oauth2callback"
    if get_redirect_uri(section) != meant:
        return (
            f"redirect_uri under [auth] of .streamlit/secrets.toml must be {meant}, as the address in {VARIABLE} says."
        )
    return ""
