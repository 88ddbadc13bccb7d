"""Which schedulers may be talked to, and in which words others are refused."""

import pytest

from sparsedash.jobs.cluster_parts import CA, KEY, SCHEDULER, Scheduler, named_scheduler
from sparsedash.schema.errors import SettingsError


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    for name in (SCHEDULER, CA, KEY, "SPARSEDASH_TLS_CERT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("refused", "addresses"),
    [
        (
            "",
            "tcp://127.0.0.1:8786 tcp://localhost:8786 tcp://[::1]:8786 tcp://127.8.9.1:1 tls://gpu-box:1",
        ),
        (
            "runs code on every machine",
            "tcp://10.0.0.7:8786 tcp://gpu-box:8786 tcp://0.0.0.0:1 tcp://[2001:db8::1]:1",
        ),
        (
            r"as in tls://127\.0\.0\.1:8786",
            "gpu-box:8786 tls://gpu-box ws://127.0.0.1:8786 tls://a:99999 tls://a:0 tls://a_b!:1",
        ),
    ],
)
def test_a_scheduler_is_on_this_machine_or_has_certificates(refused, addresses):
    for address in addresses.split():
        if not refused:
            assert Scheduler(address=address).encrypted == address.startswith("tls")
        else:
            with pytest.raises(SettingsError, match=refused):
                Scheduler(address=address)


def test_the_scheduler_and_its_certificates_are_those_of_the_environment(
    monkeypatch, tmp_path
):
    for address in (None, "  "):
        assert named_scheduler() is None
        monkeypatch.setenv(SCHEDULER, address or "  ")
    monkeypatch.setenv(SCHEDULER, "tls://gpu-box:8786")
    monkeypatch.setenv(CA, str(tmp_path / "ca.pem"))
    with pytest.raises(SettingsError, match=CA):
        named_scheduler()
    (tmp_path / "ca.pem").touch()
    scheduler = named_scheduler()
    assert (scheduler.ca, scheduler.certificate, scheduler.key) == (
        str(tmp_path / "ca.pem"),
        "",
        "",
    )
