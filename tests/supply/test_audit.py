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


def test_without_a_weakness_it_succeeds(answered, capsys):
    assert answered(pypi=[row("torch"), row("diskcache", CVE)]) == 0
    assert "2 of 2 packages audited" in capsys.readouterr().out


def test_a_weakness_of_the_product_fails_and_is_named(answered, capsys):
    new = {"id": "CVE-1", "aliases": ["GHSA-1"], "fix_versions": ["2.1"]}
    assert answered(pypi=[row("torch", new)]) == 1
    assert "torch: CVE-1, GHSA-1; mended in 2.1" in capsys.readouterr().err


def test_a_known_one_is_said_with_its_reason_under_any_of_its_names(answered, capsys):
    assert answered(pypi=[row("diskcache", CVE)]) == 0
    assert "PlainDisk" in capsys.readouterr().out


def test_a_known_one_of_another_package_is_not_known(answered):
    assert answered(pypi=[row("torch", CVE)]) == 1


def test_a_weakness_of_a_tool_is_said_and_fails_nothing(answered, capsys):
    assert answered(pypi=[row("pytest", CVE)]) == 0
    assert "a tool, not the product: pytest" in capsys.readouterr().out


def test_an_entry_that_is_not_found_any_more_is_said(answered, capsys):
    assert answered(pypi=[row("diskcache")]) == 0
    assert "take it out" in capsys.readouterr().out


def test_what_nothing_is_known_about_is_named_and_does_not_count_as_sound(answered, capsys):
    assert answered(pypi=[row("torch"), unknown("diskcache")]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 packages audited" in said
    assert "about 1: diskcache" in said
    assert "take it out" not in said


def test_another_service_is_asked_where_one_knows_nothing(answered, capsys):
    assert answered(pypi=[unknown("torch")], osv=[row("torch", CVE)]) == 1
    assert "torch" in capsys.readouterr().err


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
