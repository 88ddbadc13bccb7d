"""Every benchmark once, on a tiny model and little text: that all of them still run. What they measure means nothing.

python -m benchmarks.small              all of them, one after another, in about a minute
python -m benchmarks.small rules pages  these only
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = {
    "coverage": "--methods random --sparsity 30,50 --passages 40 --draws 100 --sizes 30,400 --power-draws 10 "
    "--model {model} --data-dir {folder} --picture {folder}.svg",
    "early_stopping": "--n 400 --runs 5 --evaluation builtin:cloze --passages 20 --model {model}",
    "find": "--evaluation builtin:cloze --calibration builtin:cloze --passages 40 --samples 40 --length 32 --seeds 0,1 "
    "--within 100 --within-points 50 --model {model} --data-dir {folder}",
    "find_draws": "--calibration builtin:cloze --samples 40 --length 32 --drawn 40 --draws 2 --model {model} "
    "--data-dir {folder}",
    "growth": "--doublings 1 --hidden 64 --shrink 16 --side 256 --picture {folder}.svg",
    "freed_memory": "--rounds 1 --share 8 --model {model}",
    "llama_speed": "{gguf} {gguf} --passes 2 --prompt 8 --tokens 4",
    "off_grid": "--evaluation builtin:cloze --passages 12 --calibration builtin:cloze --samples 40 --length 32 "
    "--method random --sparsity 50 --types q8_0 --model {gguf} --data-dir {folder} --files {folder}/files",
    "pages": "--methods 1 --passages 200 --reruns 2 --steps 4 --questions 5",
    "precision": "--passages 12 --piece 6 --model {model} --data-dir {folder}",
    "prompts": "--model {model} --data-dir {folder}",
    "protocol": "--evaluation builtin:cloze --passages 8 --samples 40 --length 32 --sparsity 25,50 "
    "--methods flap,random --divergence builtin:smollm2-text --tokens 512 --model {model} --keep {folder}",
    "pruning": "--evaluation builtin:cloze --passages 8 --samples 40 --length 32 --sparsity 25,50 --methods best "
    "--model {model}",
    "quantised": "--passages 12 --model {gguf} --data-dir {folder}",
    "rules": "--passages 12 --model {model} --data-dir {folder}",
    "runtimes": "{model}",
    "sessions": "--sessions 4 --seconds 3 --settle 0 --runs 5 --jobs 8 --reruns 3 --model {model}",
    "speed": "--passages 8 --samples 8 --length 32 --side 512 --neighbour --model {model} --data-dir {folder}",
    "statistics_size": "--width 1024 --hidden 256 --blocks 32",
    "streaming": "--shape tiny --samples 60 --length 64 --passages 8 --sparsity 25 --export --folder {folder}",
    "task_power": "--questions 500 --flips 10 --lost 0,2 --tasks 3 --draws 20",
    "tasks": "--passages 8 --model {model} --data-dir {folder}",
    "timing": "--dtypes float32 --sparsities 50 --prompt 32 --most-s 1 --rounds 3 --self-runs 2 --samples 40 "
    "--model {model} --data-dir {folder}",
}
"""What each script is told to be done in seconds; a test holds that none is missing and reads what each prints."""


def main(names: list[str] | None = None) -> int:
    """Run them and print what they print. Returns how many failed."""
    names = names or list(OPTIONS)
    failed = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = _tiny_model(Path(folder))
        for name in names:
            asked = command(name, model, Path(folder) / name)
            print(f"== python {' '.join(asked[1:])}", flush=True)
            started = time.perf_counter()
            if subprocess.run(asked, env=environment()).returncode:
                failed.append(name)
            print(f"== {'FAILED' if name in failed else 'done'} in {time.perf_counter() - started:.0f} s\n", flush=True)
    ran = f"{len(names) - len(failed)} of {len(names)} benchmarks ran"
    print(", ".join([ran, *(f"{name} did not" for name in failed)]))
    return len(failed)


def command(name: str, model: Path, folder: Path) -> list[str]:
    """What runs this benchmark on the model. folder: its data folder, where it takes one."""
    if "{gguf}" in OPTIONS[name]:
        from tests.engine.tiny_gguf import write_tiny_gguf

        write_tiny_gguf(folder.with_suffix(".gguf"))
    names = {"model": model, "folder": folder, "gguf": folder.with_suffix(".gguf")}
    words = [word.format(**names) for word in OPTIONS[name].split()]
    return [sys.executable, "-m", f"benchmarks.{name}", *words]


def environment() -> dict[str, str]:
    """Ours, and that a worker ends soon after its last job."""
    return os.environ | {"SPARSEDASH_LINGER_S": "2"}


def _tiny_model(folder: Path) -> Path:
    from tests.engine.tiny import save_tiny

    return save_tiny(folder / "tiny-llama")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    # Without a name argparse looks for the empty list among the choices.
    choices = [*OPTIONS, []]
    parser.add_argument("names", nargs="*", choices=choices, metavar="NAME", help=", ".join(OPTIONS))
    sys.exit(main(parser.parse_args().names))
