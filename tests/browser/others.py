"""A server that serves others, a provider of logins on loopback, and two visitors with a run each."""

import json
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

from sparsedash.jobs.job_table import JobTable
from sparsedash.storage.store import Store
from tests import dies_with_us
from tests.browser.served import DEADLINE_S, Server, free_port
from tests.ui import specimens

NAMES = ("ada", "bob")


def run_of(name: str):
    """A finished run of this visitor's with its records and texts; its model is named after them."""
    run, records = specimens.run(replace(specimens.SETTINGS, model=f"org/model-of-{name}"))
    texts = replace(specimens.passages(), key=f"texts-of-{name}")
    own = [
        replace(each, key=f"{name}-{each.key}", model=run.settings.model, passages_key=texts.key) for each in records
    ]
    return replace(run, dense=own[0].key, sparse=tuple(each.key for each in own[1:])), own, texts


def fill(folder: Path) -> dict[str, str]:
    """Put both runs into the data folder; gives their keys by their owners' names."""
    store, keys = Store(folder), {}
    table = JobTable(folder / "jobs.sqlite")
    for name in NAMES:
        run, records, texts = run_of(name)
        for value in (*records, texts, run):
            store.put(value.key, value)
        table.owners.add(run.key, f"{name}@example.org")
        keys[name] = run.key
    table.close()
    store.close()
    return keys


class Provider:
    """A provider of logins on loopback, which lets everybody be whom they say. address: where it answers."""

    def __init__(self) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        people = [{"sub": name, "email": f"{name}@example.org"} for name in (*NAMES, "root", "eve")]
        claims = [part for person in people for part in ("--user-claims", json.dumps(person))]
        # Apart from the tests, in which its warnings would be errors.
        self.process = dies_with_us.start(["-m", "oidc_provider_mock", "--port", str(port), *claims])
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.address}/.well-known/openid-configuration", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the provider of logins did not come up")

    def stop(self) -> None:
        """End it."""
        dies_with_us.end(self.process, DEADLINE_S)


def serve(folder: Path, provider: Provider, more: str = "") -> Server:
    """The dashboard, serving others by OpenID Connect. more: lines of its configuration."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    rules, auth = folder.with_name(f"{folder.name}-serve.toml"), folder.with_name(f"{folder.name}-secrets.toml")
    rules.write_text(
        f'address = "{address}"\nlogin = "oidc"\nadministrators = ["root@example.org"]\n'
        f'visitors = ["ada@*", "bob@*"]\nhub = ["org/*"]\n{more}'
    )
    auth.write_text(
        f'[auth]\nredirect_uri = "{address}/oauth2callback"\ncookie_secret = "{"secret" * 6}"\n'
        f'client_id = "sparsedash"\nclient_secret = "s"\n'
        f'server_metadata_url = "{provider.address}/.well-known/openid-configuration"\n'
    )
    server = Server(
        folder, "--secrets.files", str(auth), port=port, SPARSEDASH_SERVE=str(rules), SPARSEDASH_WORKERS="0"
    )
    server.wait()
    return server


def log_in(page, name: str) -> None:
    """From the page that asks for it, by the provider, back to what was asked for."""
    page.get_by_role("link", name="Log in").click()
    page.get_by_placeholder("sub").fill(name)
    page.get_by_role("button", name="Authorize").click()


if __name__ == "__main__":
    at = Path(sys.argv[1])
    fill(at)
    given = Provider()
    print(serve(at, given, *sys.argv[2:]).address, flush=True)
    time.sleep(3600)
