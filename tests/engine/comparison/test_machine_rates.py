"""The measurement of this machine: products a second in both types of number, and bytes from the
disk.
"""

import os

from sparsedash.engine.comparison import machine_rates
from sparsedash.engine.comparison.machine_rates import measure_machine


def test_a_measurement_is_some_operations_and_bytes_a_second_and_leaves_nothing(
    tmp_path,
):
    rates = measure_machine(tmp_path, bursts=1)
    assert rates.keys() == {"float32", "bfloat16", "disk"}
    assert min(rates["float32"], rates["bfloat16"], rates["disk"]) > 1e6
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_measured_is_not(tmp_path, monkeypatch):
    assert machine_rates._disk_rate(tmp_path / "missing") == 0.0
    monkeypatch.setattr(machine_rates, "_ROOM", 10**12)
    assert machine_rates._disk_rate(tmp_path) == 0.0
    monkeypatch.undo()
    monkeypatch.delattr(os, "posix_fadvise")
    assert machine_rates._disk_rate(tmp_path) == 0.0
