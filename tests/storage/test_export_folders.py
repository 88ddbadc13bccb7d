"""Folders of exports: two at once, a kill, and what is swept."""

import subprocess
import sys
import threading

from sparsedash.schema.errors import ExportError
from sparsedash.storage.model_folders import is_being_written, new_folder, sweep_exports, unfinished_exports


def test_of_two_at_the_same_time_one_wins_and_the_other_says_so(tmp_path):
    out, both, said = tmp_path / "out", threading.Barrier(2), []

    def write(name):
        try:
            with new_folder(out) as inside:
                (inside / name).write_text(name)
                both.wait(timeout=60)
        except ExportError as error:
            said.append(error.message)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (message,) = said
    assert "out exists" in message or "made by somebody else meanwhile" in message
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(list(out.iterdir())) == 1


KILLED = """
import sys, time
from pathlib import Path
from sparsedash.storage.model_folders import new_folder
with new_folder(Path(sys.argv[1])) as inside:
    (inside / "model.safetensors").write_bytes(bytes(1000))
    print("written", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_has_another_name_and_is_swept_at_once(tmp_path):
    out, command = tmp_path / "out", [sys.executable, "-c", KILLED, str(tmp_path / "out")]
    living = subprocess.Popen(command, stdout=subprocess.PIPE)
    killed = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert living.stdout.readline() == killed.stdout.readline() == b"written\n"
        assert [is_being_written(left) for left in unfinished_exports(tmp_path)] == [True, True]
        killed.kill()
        killed.wait()
        assert not out.exists()
        sweep_exports(tmp_path)
        assert [is_being_written(left) for left in unfinished_exports(tmp_path)] == [True], "the living one's"
    finally:
        for process in (living, killed):
            process.kill()
            process.wait()
            process.stdout.close()
