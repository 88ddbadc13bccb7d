"""`sparsedash cluster check`: what is said of a scheduler and its machines, and with which exit
code.
"""

import pytest

from sparsedash.shell.commands import main
from tests.dask_cluster import Certificates, DaskHouse, eventually, free_port


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
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return checked


@pytest.mark.parametrize(
    ("address", "certificates", "code", "said"),
    [
        ("", {}, 2, "SPARSEDASH_SCHEDULER"),
        (
            "tcp://10.1.2.3:8786",
            {},
            2,
            "Any client of one without certificates runs code",
        ),
        ("tcp://127.0.0.1:PORT", {}, 1, "No scheduler answers at"),
        (
            "tls://127.0.0.1:PORT",
            {},
            1,
            "SPARSEDASH_TLS_CA, SPARSEDASH_TLS_CERT and SPARSEDASH_TLS_KEY",
        ),
        ("tls://127.0.0.1:PORT", {"CA": "BROKEN", "CERT": "BROKEN"}, 1, "SSLError"),
    ],
    ids=[
        "none",
        "without certificates",
        "nothing listens",
        "no certificates named",
        "broken certificate",
    ],
)
def test_a_scheduler_that_cannot_be_used_is_an_error(
    check, tmp_path, monkeypatch, address, certificates, code, said
):
    monkeypatch.setattr("sparsedash.jobs.cluster.CONNECT_S", 0.5)
    (tmp_path / "BROKEN").write_text("no certificate")
    named = {
        f"SPARSEDASH_TLS_{name}": str(tmp_path / file)
        for name, file in certificates.items()
    }
    ended, _, err = check(
        SPARSEDASH_SCHEDULER=address.replace("PORT", str(free_port())), **named
    )
    assert (ended, said in err) == (code, True), err


def test_a_certificate_of_another_authority_is_let_nowhere(check, dask, tmp_path):
    foreign = Certificates(tmp_path / "foreign")
    code, _, err = check(SPARSEDASH_SCHEDULER=dask.address, **foreign.environment)
    assert (code, "No scheduler answers at" in err, "certificate" in err.lower()) == (
        1,
        True,
        True,
    )


def test_its_machines_are_listed_with_what_is_to_be_mended(check, dask):
    code, out, _ = check(**dask.environment)
    assert code == 4
    assert "There is no Dask worker" in out

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
