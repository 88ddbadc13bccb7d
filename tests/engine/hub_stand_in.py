"""A stand-in for the model hub on 127.0.0.1: the part of its HTTP interface that fetching models
and text sets uses.

It serves folders as repositories with commits and branches, and can be gated, break off a download,
repeat the token that it was sent, or be stopped.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class Repository:
    """Files by commit, and commits by the branches and tags that name them."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.commits: dict[str, dict[str, Path]] = {}
        self.refs: dict[str, str] = {}
        self.gated = False
        self.breaks_off: dict[str, int] = {}
        """Files of which nothing is sent from this byte on: the connection is closed instead."""

    def commit(self, folder: Path, *refs: str) -> str:
        """Add a folder's files as a commit that these names lead to. Returns the commit."""
        files = {
            str(p.relative_to(folder)): p
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }
        whole = hashlib.sha1(usedforsecurity=False)
        for path, file in files.items():
            whole.update(path.encode() + file.read_bytes())
        self.commits[whole.hexdigest()] = files
        self.refs |= dict.fromkeys(refs or ("main",), whole.hexdigest())
        return whole.hexdigest()

    def resolved(self, revision: str) -> str:
        """The commit; a KeyError ends the request."""
        commit = self.refs.get(revision, revision)
        if commit not in self.commits:
            raise KeyError("RevisionNotFound")
        return commit


class Hub:
    """The server. asked: method and path of every request, in order."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: list[str] = []
        self.refuses_with = 0
        """A status: every request gets it, with the header that it was authorised by, as a careless
        hub would.
        """
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def add(self, kind: str, name: str, folder: Path, *refs: str) -> Repository:
        """Serve a folder as a repository, or as one more commit of it."""
        repository = self.repositories.setdefault((kind, name), Repository(kind, name))
        repository.commit(folder, *refs)
        return repository

    def start(self) -> None:
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(0.02,),
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections until it is started again, on the same port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def log_message(self, *_: object) -> None:
        return None

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        self.served.asked.append(f"{self.command} {address.path}")
        if self.served.refuses_with:
            self._repeat_what_came()
            return
        try:
            if parts[0] == "api":
                self._api(parts[1:], parse_qs(address.query))
            else:
                kind = "datasets" if parts[0] == "datasets" else "models"
                owner, name, _, revision, *path = (
                    parts[1:] if kind == "datasets" else parts
                )
                self._file(kind, f"{owner}/{name}", revision, "/".join(path))
        except (KeyError, ValueError, IndexError) as error:
            # As the real one: it does not tell strangers what is missing from what is private.
            code = (
                str(error.args[0]) if isinstance(error, KeyError) else "EntryNotFound"
            )
            self._refuse(
                401 if code in ("RepoNotFound", "GatedRepo") else 404,
                code,
                f"Refused: {code}",
            )

    do_HEAD = do_POST = do_GET

    def _api(self, parts: list[str], query: dict[str, list[str]]) -> None:
        kind, owner, name, *address = parts
        repository = self._repository(kind, f"{owner}/{name}")
        what, revision, *path = address or ["revision", "main"]
        commit = repository.resolved(revision)
        files = repository.commits[commit]
        match what:
            case "revision":
                siblings = [
                    {"rfilename": file, "size": f.stat().st_size}
                    for file, f in files.items()
                ]
                about = {
                    "id": repository.name,
                    "sha": commit,
                    "siblings": siblings,
                }
                self._json(
                    about
                    | {
                        "private": False,
                        "gated": False,
                        "tags": [],
                        "downloads": 0,
                    }
                )
            case "tree":
                deep = query.get("recursive", ["False"])[0].lower() in ("true", "1")
                self._json(_tree(files, "/".join(path), deep))
            case "paths-info":
                requested = self._body()["paths"]
                self._json(
                    [
                        entry
                        for entry in _tree(files, "", True)
                        if entry["path"] in requested
                    ]
                )
            case _:
                raise KeyError("EntryNotFound")

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name)
        commit = repository.resolved(revision)
        if path not in repository.commits[commit]:
            self._refuse(404, "EntryNotFound", f"No {path}", {"X-Repo-Commit": commit})
            return
        data = repository.commits[commit][path].read_bytes()
        start, stop = self._range(len(data))
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{_blob(data)}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        sent = data[start : min(stop, repository.breaks_off.get(path, stop))]
        self._send(206 if "Range" in self.headers else 200, sent, headers, stop - start)

    def _range(self, size: int) -> tuple[int, int]:
        byte_range = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
        first, _, last = byte_range.partition("-")
        return int(first or 0), min(size, int(last) + 1) if last else size

    def _repository(self, kind: str, name: str) -> Repository:
        repository = self.served.repositories.get((kind, name))
        if repository is None or repository.gated:
            raise KeyError("GatedRepo" if repository else "RepoNotFound")
        return repository

    def _body(self) -> dict[str, list[str]]:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "json" in self.headers.get("Content-Type", ""):
            return dict(json.loads(text))
        return parse_qs(text)

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self._send(200, data, {"Content-Type": "application/json"}, len(data))

    def _refuse(
        self, status: int, code: str, message: str, more: dict[str, str] | None = None
    ) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message} | (more or {})
        self._send(status, b"", headers, 0)

    def _repeat_what_came(self) -> None:
        message = f"Refused: Authorization: {self.headers.get('Authorization')}"
        data = json.dumps({"error": message}).encode()
        headers = {
            "X-Error-Message": message,
            "X-Request-Id": message,
            "Content-Type": "application/json",
        }
        self._send(self.served.refuses_with, data, headers, len(data))

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], size: int
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _blob(data: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(
        b"blob %d\0" % len(data) + data, usedforsecurity=False
    ).hexdigest()


def _tree(files: dict[str, Path], under: str, deep: bool) -> list[dict[str, object]]:
    entries: dict[str, dict[str, object]] = {}
    prefix = f"{under}/" if under else ""
    for path, file in files.items():
        if not path.startswith(prefix):
            continue
        inside = path.removeprefix(prefix).split("/")
        for depth in range(1, len(inside)):
            folder = prefix + "/".join(inside[:depth])
            if deep or depth == 1:
                entries[folder] = {
                    "type": "directory",
                    "path": folder,
                    "oid": "0" * 40,
                    "size": 0,
                }
        if deep or len(inside) == 1:
            data = file.read_bytes()
            entries[path] = {
                "type": "file",
                "path": path,
                "oid": _blob(data),
                "size": len(data),
            }
    if not entries:
        raise KeyError("EntryNotFound")
    return list(entries.values())
