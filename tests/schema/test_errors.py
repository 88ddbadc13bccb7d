"""Secrets in texts and errors are hidden, and nothing else is."""

import subprocess
import sys

import pytest

from sparsedash.schema.errors import (
    HIDDEN,
    ModelError,
    SettingsError,
    encodable,
    looks_secret,
    redacted,
)
from sparsedash.schema.settings import RunSettings

HUB_TOKEN = "hf_" + "aB3" * 11
SECRETS = [
    (f"sent {HUB_TOKEN}.", f"sent {HIDDEN}."),
    ("Authorization: Bearer 0123456789abcdef", f"Authorization: Bearer {HIDDEN}"),
    (
        "{'authorization': 'Basic dXNlcjpwYXNzd29yZA=='}",
        f"{{'authorization': 'Basic {HIDDEN}'}}",
    ),
    ("https://me:my-word@127.0.0.1/x", f"https://{HIDDEN}@127.0.0.1/x"),
    ("see http://a/b?x=1&token=abc&y=2", f"see http://a/b?x=1&token={HIDDEN}&y=2"),
    ("http://a/b?X-Amz-Signature=0f0f", f"http://a/b?X-Amz-Signature={HIDDEN}"),
]
PLAIN = [
    "EleutherAI/gpt-neo-125m@main",
    "/models/hf_transformers_cache/llama",
    "upload:novel.txt@0123456789abcdef",
    "file:/texts/passages.jsonl@0.5",
    "The bearer of bad news",
    "https://127.0.0.1:8501/?run=3&compare=a@b",
    "last token, basic accuracy",
]


@pytest.mark.parametrize(
    ("text", "shown"), [*SECRETS, *[(text, text) for text in PLAIN]]
)
def test_what_looks_like_a_secret_is_hidden_and_the_rest_is_kept(text, shown):
    assert redacted(text) == shown
    assert looks_secret(text) == (text != shown)


def test_secrets_of_the_environment_are_hidden_however_they_look_the_longer_whole_and_nothing_else(
    monkeypatch,
):
    for number, name in enumerate(
        ("HF_TOKEN", "client_secret", "DB_PASSWORD", "SOME_API_KEY")
    ):
        monkeypatch.setenv(name, f"open sesame {number}")
        assert redacted(f"he said open sesame {number}!") == f"he said {HIDDEN}!"
    monkeypatch.setenv("OTHER_TOKEN", "open sesame 0 seed")
    assert redacted("open sesame 0 seed") == HIDDEN
    for name, value in (
        ("A_TOKEN", "true"),
        ("TOKENIZERS_PARALLELISM", "parallel-words"),
    ):
        monkeypatch.setenv(name, value)
        assert redacted(f"this is {value}") == f"this is {value}"


def test_no_error_of_ours_holds_a_secret():
    error = ModelError(f"refused {HUB_TOKEN}", f"try https://me:{HUB_TOKEN}@host/")
    assert error.message == f"refused {HIDDEN}"
    assert error.advice == f"try https://{HIDDEN}@host/"
    assert HUB_TOKEN not in str(error) + repr(error)


def test_a_reference_that_holds_a_secret_is_refused_before_it_is_kept():
    for secret in (
        f"https://me:{HUB_TOKEN}@127.0.0.1/maker/name",
        f"maker/name?token={HUB_TOKEN}",
    ):
        with pytest.raises(SettingsError, match="without a token") as refused:
            RunSettings(model=secret)
        assert HUB_TOKEN not in str(refused.value)
        assert "HF_TOKEN" in refused.value.advice


OUTPUT = """\
import logging, sys, warnings
from sparsedash.schema.errors import redact_output
redact_output()
redact_output()
logging.basicConfig()
print("print", sys.argv[1])
sys.stdout.writelines(["lines ", sys.argv[1]])
logging.warning("log %s", sys.argv[1])
warnings.warn(sys.argv[1])
raise ValueError(sys.argv[1]) from KeyError(sys.argv[1])
"""


def test_what_is_printed_logged_warned_of_or_raised_passes_through(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OUTPUT, HUB_TOKEN], capture_output=True, text=True
    )
    assert done.stdout == f"print {HIDDEN}\nlines {HIDDEN}"
    assert done.stderr.count(HIDDEN) == 4
    assert HUB_TOKEN not in done.stdout + done.stderr
    assert "Traceback" in done.stderr


def test_a_half_of_a_character_becomes_a_question_mark_and_the_rest_stays():
    assert (
        encodable("kettle \ud83d 👩‍🚀 “naïve” \n\x00") == "kettle ? 👩‍🚀 “naïve” \n\x00"
    )
