"""A server that serves others, a provider of logins on loopback, and two users with a run each."""

import itertools
import json
import urllib.error
import urllib.request
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.web.server.starlette.starlette_app_utils import (
    generate_xsrf_token_string,
)
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sparsedash.jobs.job_table import JobTable
from sparsedash.storage.store import Store
from tests import child_processes
from tests.browser.runs import run_of
from tests.browser.served import DEADLINE_S, Server, answers, free_port

NAMES = ("ada", "bob")


def fill(folder: Path) -> dict[str, str]:
    """Put both runs into the data folder; gives their keys by their owners' names."""
    store = Store(folder)
    keys = {}
    table = JobTable(folder / "jobs.sqlite")
    for name in NAMES:
        run, records, texts = run_of(f"org/model-of-{name}", name)
        for value in (*records, texts, run):
            store.put(value.key, value)
        table.owners.add(run.key, f"{name}@example.org")
        keys[name] = run.key
    table.close()
    store.close()
    return keys


class Provider:
    """A provider of logins on loopback, which lets everybody be whom they say. address: where it
    answers.
    """

    def __init__(self) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        claims = []
        for name in (*NAMES, "root", "eve"):
            person = {"sub": name, "email": f"{name}@example.org"}
            claims += ["--user-claims", json.dumps(person)]
        # Apart from the tests, in which its warnings would be errors.
        self.process = child_processes.start(
            ["-m", "oidc_provider_mock", "--port", str(port), *claims]
        )
        assert answers(
            self.process, f"{self.address}/.well-known/openid-configuration"
        ), "no provider came up"

    def stop(self) -> None:
        """End it."""
        child_processes.end(self.process, DEADLINE_S)


def serve(folder: Path, provider: Provider) -> Server:
    """The dashboard, serving others by OpenID Connect; files are read in a folder `allowed` beside
    its own.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    rules = folder.with_name(f"{folder.name}-serve.toml")
    auth = folder.with_name(f"{folder.name}-secrets.toml")
    rules.write_text(
        f'address = "{address}"\nlogin = "oidc"\nadministrators = ["root@example.org"]\n'
        f'visitors = ["ada@*", "bob@*"]\nhub = ["org/*"]\nfolders = ["{folder.parent / "allowed"}"]\n'
    )
    auth.write_text(
        f'[auth]\nredirect_uri = "{address}/oauth2callback"\ncookie_secret = "{"secret" * 6}"\n'
        f'client_id = "sparsedash"\nclient_secret = "s"\n'
        f'server_metadata_url = "{provider.address}/.well-known/openid-configuration"\n'
    )
    server = Server(
        folder,
        "--secrets.files",
        str(auth),
        port=port,
        SPARSEDASH_SERVE=str(rules),
        SPARSEDASH_WORKERS="0",
    )
    server.wait()
    return server


def log_in(page, name: str) -> None:
    """From the page that asks for it, by the provider, back to what was asked for."""
    page.get_by_role("link", name="Log in").click()
    page.get_by_placeholder("sub").fill(name)
    page.get_by_role("button", name="Authorize").click()


class RawUser:
    """A user without a browser, who sends what Streamlit's pages never would.

    name: to be logged in; without one this is nobody. headers: sent along with every request.
    """

    def __init__(self, address: str, name: str = "", **headers: str) -> None:
        self._address = address
        self._xsrf = generate_xsrf_token_string()
        self.cookies = self._logged_in(name) if name else {}
        cookies = self.cookies | {"_streamlit_xsrf": self._xsrf}
        self.headers = {
            "Cookie": "; ".join(f"{key}={value}" for key, value in cookies.items()),
            **headers,
        }

    def _logged_in(self, name: str) -> dict[str, str]:
        jar = CookieJar()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        with opener.open(f"{self._address}/login", timeout=DEADLINE_S) as form:
            url = form.url
        opener.open(
            url,
            data=f"sub={name}".encode(),
            timeout=DEADLINE_S,
        ).close()
        return {cookie.name: cookie.value or "" for cookie in jar}

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and body of a request. path: or a whole address."""
        return self._answer(
            urllib.request.Request(
                urljoin(self._address, path), headers=self.headers | headers
            )
        )

    @contextmanager
    def connected(
        self,
        page: str = "",
        query: str = "",
        wanted: str = "",
        xsrf: bool = True,
        **headers: str,
    ):
        """An open connection that has asked for a page, and the messages that come. wanted: the
        session asked for.
        """
        protocols = [
            "streamlit",
            self._xsrf if xsrf else "none",
            *([wanted] if wanted else []),
        ]
        address = f"{self._address.replace('http', 'ws')}/_stcore/stream"
        options = {
            "subprotocols": protocols,
            "max_size": None,
            "open_timeout": DEADLINE_S,
            "close_timeout": 0.5,
        }
        headers = {"Origin": self._address} | self.headers | headers
        with connect(
            address,
            additional_headers=headers,
            **options,
        ) as opened:
            rerun = BackMsg()
            rerun.rerun_script.query_string = query
            rerun.rerun_script.page_name = page
            opened.send(rerun.SerializeToString())
            yield (
                ForwardMsg.FromString(opened.recv(DEADLINE_S))
                for _ in itertools.count()
            )

    def connects(self, **headers: str) -> bool:
        """Whether a WebSocket opens with these headers."""
        try:
            with self.connected(**headers):
                return True
        except InvalidStatus as error:
            assert error.response.status_code == 403
            return False

    @contextmanager
    def session(self, wanted: str = "", xsrf: bool = True):
        """The id of a session, while a connection to it is open. wanted: the one that is asked
        for.
        """
        with self.connected(wanted=wanted, xsrf=xsrf) as messages:
            new = next(
                message
                for message in messages
                if message.WhichOneof("type") == "new_session"
            )
            yield new.new_session.initialize.session_id

    def shown(self, page: str, query: str = "") -> str:
        """All that is sent to a browser which opens this page; fails where the page raises."""
        sent = []
        with self.connected(page, query) as messages:
            for message in messages:
                sent.append(str(message))
                assert message.delta.new_element.WhichOneof("type") != "exception", (
                    sent[-1]
                )
                if message.WhichOneof("type") == "script_finished":
                    return "".join(sent)
        raise AssertionError("the page did not come to its end")

    def upload(
        self, session: str, file: str, content: bytes = b"text", method: str = "PUT"
    ) -> int:
        """The status of an upload to this session, or of the deletion of one."""
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        headers = {"Origin": self._address, "X-Xsrftoken": self._xsrf}
        path = f"/_stcore/upload_file/{session}/{file}"
        body = head + content + b"\r\n--edge--\r\n"
        with closing(
            HTTPConnection(urlsplit(self._address).netloc, timeout=DEADLINE_S)
        ) as connection:
            # A refusal may come, and the server hang up, before all has been sent.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    method, path, body, {**self.headers, **headers, **kind}
                )
            return connection.getresponse().status

    def _answer(self, url: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
