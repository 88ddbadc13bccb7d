"""A child process that fetches from the hub it was started for: the hub's address is read when its
client is imported.

Reads one JSON request a line, answers with one JSON line: what was found, or the error's message
and advice.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer
from typing import Any

ANSWER_S = 240.0


def environment(url: str, home: Path) -> dict[str, str]:
    """What sends the hub's own client to this address, with its cache in this folder."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
    }


class HubClient:
    """The other end of the pipe. home: where the client keeps its caches."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.hub_client", str(home / "store")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment(url, home),
            cwd=Path(__file__).parents[2],
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        # A client that waits for the hub for ever must end the test, not hold it.
        guard = Timer(ANSWER_S, self._child.kill)
        guard.start()
        line = self._child.stdout.readline()
        guard.cancel()
        return dict(json.loads(line))

    def close(self) -> None:
        self._child.communicate(timeout=30)


def _model(reference: str, store: Any) -> dict[str, Any]:
    import torch

    from sparsedash.engine.models.loading import load_model
    from sparsedash.engine.models.locating import locate_model

    source = locate_model(reference, store)
    loaded = load_model(source, "float32")
    logits = loaded.model(torch.tensor([[1, 2, 3]])).logits
    return {
        "identity": source.identity,
        "files": sorted(file.name for file in source.folder.iterdir()),
        "warnings": loaded.warnings,
        "logits": logits[0, -1, :8].tolist(),
        "tokenizer": type(loaded.tokenizer).__name__,
        "tokens": loaded.tokenizer("the lamp").input_ids,
    }


def _texts(reference: str, row: dict[str, Any] | None) -> dict[str, Any]:
    from sparsedash.catalog.choices import HUB_TEXTS, HubCorpus
    from sparsedash.engine.texts.corpora import read_texts

    if row:
        HUB_TEXTS[reference] = HubCorpus(**row)
    texts = read_texts(reference)
    return {
        "texts": texts.texts,
        "identity": texts.identity,
        "running": texts.running,
    }


def _do_not_wait() -> None:
    """The clients' pauses between attempts are not what is tested."""
    import datasets
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
    clock = type("Clock", (), {"sleep": lambda _: None, "time": time.time})
    for module in (file_download, _http):
        module.time = clock  # type: ignore[attr-defined]


def _serve(folder: Path) -> None:
    from sparsedash.schema.errors import SparseDashError
    from sparsedash.shell.commands import main
    from sparsedash.storage.store import Store

    store = Store(folder)
    _do_not_wait()
    # Everything else that is printed must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            match request:
                case {"model": reference}:
                    answer = _model(reference, store)
                case {"texts": reference}:
                    answer = _texts(reference, request.get("row"))
                case {"shell": arguments}:
                    answer = {"code": main(arguments)}
        except SparseDashError as error:
            answer = {"error": error.message, "advice": error.advice}
        print(
            json.dumps(answer),
            file=answers,
            flush=True,
        )
    store.close()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
