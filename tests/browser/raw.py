"""A visitor without a browser, who sends Streamlit's server what its pages never would."""

import urllib.error
import urllib.request
from contextlib import contextmanager

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.web.server.starlette.starlette_app_utils import generate_xsrf_token_string
from websockets.sync.client import connect

from tests.browser.served import DEADLINE_S


class Raw:
    """One visitor of the server at this address. cookies: as a header holds them."""

    def __init__(self, address, cookies=""):
        self._address, self._xsrf = address, generate_xsrf_token_string()
        self._headers = {"Cookie": f"{cookies}; _streamlit_xsrf={self._xsrf}"}

    @contextmanager
    def session(self, wanted="", xsrf=True):
        """The id of a session, while a connection to it is open. wanted: the one that is asked for."""
        said = ["streamlit", self._xsrf if xsrf else "none", *([wanted] if wanted else [])]
        address = f"{self._address.replace('http', 'ws')}/_stcore/stream"
        options = {"subprotocols": said, "max_size": None, "open_timeout": DEADLINE_S}
        with connect(address, origin=self._address, additional_headers=self._headers, **options) as opened:
            asked = BackMsg()
            asked.rerun_script.query_string = ""
            opened.send(asked.SerializeToString())
            said = ForwardMsg()
            while said.WhichOneof("type") != "new_session":
                said.ParseFromString(opened.recv(DEADLINE_S))
            yield said.new_session.initialize.session_id

    def upload(self, session, file, content=b"text", method="PUT"):
        """The status of an upload to this session, or of the deletion of one."""
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        asked = urllib.request.Request(
            f"{self._address}/_stcore/upload_file/{session}/{file}",
            data=head + content + b"\r\n--edge--\r\n",
            method=method,
            headers={
                **self._headers,
                "Origin": self._address,
                "X-Xsrftoken": self._xsrf,
                "Content-Type": "multipart/form-data; boundary=edge",
            },
        )
        try:
            with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
