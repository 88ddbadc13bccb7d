"""What the audit makes of what a service answers; a script stands in for pip-audit."""

import json
from datetime import date

import pytest

from supply import audit
from supply.audit import known_weaknesses, main
from supply.installed import product

CVE = {"id": "PYSEC-2026-1", "aliases": ["CVE-2025-69872"], "fix_versions": []}


@pytest.fixture
def answered(tmp_path, monkeypatch):
    """Runs the audit with these answers, a text or the rows of each service; one that gives None never ends."""

    def ran(**services):
        for name, answer in services.items():
            text = answer if isinstance(answer, str) else json.dumps({"dependencies": answer})
            (tmp_path / name).write_text(text)
        script = tmp_path / "pip-audit"
        # The service is named after its flag.
        script.write_text(f"""#!/bin/sh
while [ "$1" != --vulnerability-service ]; do shift; done
[ -f {tmp_path}/$2 ] || exec sleep 60
cat {tmp_path}/$2
""")
        script.chmod(0o755)
        monkeypatch.setattr(audit, "LIMIT_S", 0.5)
        return main(["--tools", str(tmp_path)])

    return ran


def row(name, *weaknesses, **more):
    return {"name": name, "version": "1", "vulns": list(weaknesses), **more}


def unknown(name):
    return {"name": name, "skip_reason": "not found"}


NEW = {"id": "CVE-1", "aliases": ["GHSA-1"], "fix_versions": ["2.1"]}


@pytest.mark.parametrize(
    ("pypi", "osv", "code", "out", "error"),
    [
        pytest.param([row("torch"), row("diskcache", CVE)], [], 0, "2 of 2 packages audited", "", id="nothing new"),
        pytest.param([row("torch", NEW)], [], 1, "", "torch: CVE-1, GHSA-1; mended in 2.1", id="new ones fail"),
        pytest.param([row("diskcache", CVE)], [], 0, "PlainDisk", "", id="a reason under any name"),
        pytest.param([row("torch", CVE)], [], 1, "", "torch", id="known of another package"),
        pytest.param([row("pytest", CVE)], [], 0, "a tool, not the product: pytest", "", id="of a tool"),
        pytest.param([row("diskcache")], [], 0, "take it out", "", id="not found any more"),
        pytest.param([row("torch"), unknown("diskcache")], [], 0, "1 of 2 packages audited", "", id="not sound"),
        pytest.param([row("torch"), unknown("diskcache")], [], 0, "about 1: diskcache", "", id="nothing known"),
        pytest.param([unknown("torch")], [row("torch", CVE)], 1, "", "torch", id="another service"),
    ],
)
def test_what_is_said_and_whether_it_fails(answered, capsys, pypi, osv, code, out, error):
    assert answered(pypi=pypi, osv=osv) == code
    said = capsys.readouterr()
    assert out in said.out and error in said.err
    assert "about 1: diskcache" not in said.out or "take it out" not in said.out


@pytest.mark.parametrize("answers", [{}, {"pypi": "", "osv": "<html>"}, {"pypi": [unknown("torch")], "osv": ""}])
def test_where_no_service_can_be_asked_it_says_so_in_a_line_and_succeeds(answered, capsys, answers):
    assert answered(**answers) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Not audited")


def test_every_known_weakness_is_of_the_product_and_has_its_reason_and_date():
    for (package, name), reason in known_weaknesses().items():
        assert package in product()
        assert name.startswith(("CVE-", "GHSA-", "PYSEC-"))
        assert date.fromisoformat(reason.rpartition("(")[2].rstrip(")"))
        assert len(reason) > 80
