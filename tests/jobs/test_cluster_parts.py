"""Which schedulers may be talked to, and in which words others are refused."""

import pytest

from sparsedash.jobs.cluster_parts import CA, KEY, SCHEDULER, Scheduler, named_scheduler
from sparsedash.schema.errors import SettingsError


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    for name in (SCHEDULER, CA, KEY, "SPARSEDASH_TLS_CERT"):
        monkeypatch.delenv(name, raising=False)


def test_without_an_address_there_is_none(monkeypatch):
    assert named_scheduler() is None
    monkeypatch.setenv(SCHEDULER, "  ")
    assert named_scheduler() is None


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:8786", "tcp://localhost:8786", "tcp://[::1]:8786", "tcp://127.8.9.1:1"]
)
def test_on_this_machine_certificates_are_not_asked_for(address):
    assert not Scheduler(address=address).encrypted


@pytest.mark.parametrize(
    "address",
    [
        "tcp://10.0.0.7:8786",
        "tcp://gpu-box:8786",
        "tcp://0.0.0.0:8786",
        "tcp://[2001:db8::1]:8786",
        "tcp://127.0.0.1.nip:1",
    ],
)
def test_elsewhere_they_are_and_the_reason_is_said(address):
    with pytest.raises(SettingsError, match="without certificates runs code on every machine"):
        Scheduler(address=address)
    assert Scheduler(address=address.replace("tcp", "tls")).encrypted


@pytest.mark.parametrize(
    "address",
    [
        "gpu-box:8786",
        "tls://gpu-box",
        "ws://127.0.0.1:8786",
        "inproc://a",
        "tls://a:99999",
        "tls://a:0",
        "tls://a b:1",
        "x" * 9999,
    ],
)
def test_what_is_no_address_is_refused_with_an_example(address):
    with pytest.raises(SettingsError, match=r"as in tls://127\.0\.0\.1:8786"):
        Scheduler(address=address)


def test_a_certificate_that_cannot_be_read_is_refused_by_the_name_of_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv(SCHEDULER, "tls://gpu-box:8786")
    monkeypatch.setenv(CA, str(tmp_path / "missing.pem"))
    with pytest.raises(SettingsError, match=CA):
        named_scheduler()


def test_certificates_are_those_of_the_variables(monkeypatch, tmp_path):
    (tmp_path / "ca.pem").touch()
    monkeypatch.setenv(SCHEDULER, "tls://gpu-box:8786")
    monkeypatch.setenv(CA, str(tmp_path / "ca.pem"))
    found = named_scheduler()
    assert (found.ca, found.certificate, found.key) == (str(tmp_path / "ca.pem"), "", "")
