"""`sparsedash cluster check`: what is said of a scheduler and its machines, and with which exit code."""

import socket
import threading

import pytest

from sparsedash.shell.commands import main
from tests.dask_house import Certificates, DaskHouse, eventually, free_port


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    house = DaskHouse(tmp_path_factory.mktemp("dask"))
    house.start_scheduler()
    yield house
    house.end()


@pytest.fixture
def check(capsys, monkeypatch):
    def checked(**environment):
        for name in ("SCHEDULER", "TLS_CA", "TLS_CERT", "TLS_KEY"):
            monkeypatch.delenv(f"SPARSEDASH_{name}", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        code = main(["cluster", "check"])
        told = capsys.readouterr()
        return code, told.out, told.err

    return checked


def test_without_a_scheduler_the_variable_is_named(check):
    code, _, err = check()
    assert (code, err.count("\n")) == (2, 1)
    assert "SPARSEDASH_SCHEDULER" in err


def test_a_scheduler_elsewhere_without_certificates_is_refused_before_anything_is_sent(check):
    code, _, err = check(SPARSEDASH_SCHEDULER="tcp://10.1.2.3:8786")
    assert code == 2
    assert "whoever reaches one without certificates runs code" in err


def test_where_nothing_listens_that_is_said(check):
    code, _, err = check(SPARSEDASH_SCHEDULER=f"tcp://127.0.0.1:{free_port()}")
    assert (code, err.count("\n")) == (1, 1)
    assert "No scheduler answers at" in err


def test_what_is_no_scheduler_is_not_waited_for_for_long(check):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(
            target=lambda: server.accept()[0].send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), daemon=True
        ).start()
        code, _, err = check(SPARSEDASH_SCHEDULER=f"tcp://127.0.0.1:{server.getsockname()[1]}")
    assert code == 1
    assert "No scheduler answers at" in err


def test_without_certificates_the_variables_are_named(check):
    code, _, err = check(SPARSEDASH_SCHEDULER=f"tls://127.0.0.1:{free_port()}")
    assert code == 1
    assert "SPARSEDASH_TLS_CA, SPARSEDASH_TLS_CERT and SPARSEDASH_TLS_KEY" in err


def test_a_file_that_is_no_certificate_is_told(check, tmp_path):
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    named = dict.fromkeys(("SPARSEDASH_TLS_CA", "SPARSEDASH_TLS_CERT"), str(broken))
    code, _, err = check(SPARSEDASH_SCHEDULER=f"tls://127.0.0.1:{free_port()}", **named)
    assert code == 1
    assert "SSLError" in err


def test_a_certificate_of_another_authority_is_let_nowhere(check, dask, tmp_path):
    foreign = Certificates(tmp_path / "foreign")
    code, _, err = check(SPARSEDASH_SCHEDULER=dask.address, **foreign.environment)
    assert code == 1
    assert "No scheduler answers at" in err
    assert "certificate" in err.lower()


def test_its_machines_are_listed_with_what_is_to_be_mended(check, dask):
    code, out, _ = check(**dask.environment)
    assert code == 4
    assert "No Dask worker is there" in out

    dask.start_worker("ann")
    eventually(lambda: "ann" in check(**dask.environment)[1])
    code, out, _ = check(**dask.environment)
    assert (code, dask.address in out) == (0, True)
    assert "certificates at both ends" in out
    head, row = out.splitlines()[1:]
    assert head.split()[:4] == ["machine", "host", "jobs", "sparsedash"]
    assert row.split()[0] == "ann"

    dask.start_worker("ben", n_slots=0)
    eventually(lambda: "ben" in check(**dask.environment)[1])
    code, out, _ = check(**dask.environment)
    assert code == 4
    assert "ben takes nothing: It was started without --resources SLOT=1." in out
