"""Every benchmark once, on a tiny model and little text: that all of them still run. What they
measure means nothing.

python -m benchmarks.small              all of them, one after another, in about a minute
python -m benchmarks.small find pages   these only
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.engine.tiny import save_tiny
from tests.engine.tiny_gguf import write_tiny_gguf

OPTIONS = {
    "coverage": "--methods random --sparsity 30,50 --passages 40 --draws 100 --sizes 30,400 --power-draws 10 "
    "--model {model} --data-dir {folder}",
    "expert_block": "--model tiny --tokens 2048",
    "experts": "--minutes 0.05 --seeds 1 --samples 24 --shares 50 --methods reap,experts",
    "find": "--evaluation builtin:cloze --calibration builtin:cloze --passages 40 --samples 40 --length 32 --seeds 0,1 "
    "--within 100 --within-points 50 --model {model} --data-dir {folder}",
    "judged": "--draws 20",
    "llama_speed": "{gguf} {gguf} --passes 2 --prompt 8 --tokens 4",
    "mixes": "--evaluation builtin:cloze --passages 8 --calibration builtin:cloze --samples 40 --length 32 "
    "--sparsity 25 --method random --mixes none,default --task-limit 6 --divergence builtin:smollm2-text "
    "--tokens 512 --model {model} --keep {folder}",
    "look_up": "--types llama --published opt-2.7b",
    "model_coverage": "--types llama,gpt2,phi3,bloom,moshi,gemma3,bart,qwen3_5_text,qwen2_moe,qwen3_moe,glm4_moe "
    "--methods random",
    "pages": "--methods 1 --passages 200 --reruns 2 --steps 4 --questions 5",
    "protocol": "--evaluation builtin:cloze --passages 8 --samples 40 --length 32 --sparsity 25,50 "
    "--methods flap,random --divergence builtin:smollm2-text --tokens 512 --model {model} --keep {folder}",
    "pruning": "--evaluation builtin:cloze --passages 8 --samples 40 --length 32 --sparsity 25,50 --methods best "
    "--model {model}",
    "quantised": "--passages 12 --model {gguf} --data-dir {folder}",
    "speed": "--passages 8 --samples 8 --length 32 --side 512 --neighbour --model {model} --data-dir {folder}",
    "streaming": "--shape tiny --samples 60 --length 64 --passages 8 --sparsity 25 --export --folder {folder}",
    "tasks": "--passages 8 --model {model} --data-dir {folder}",
    "timing": "--dtypes float32 --sparsities 50 --prompt 32 --most-s 1 --rounds 3 --self-runs 2 --samples 40 "
    "--model {model} --data-dir {folder}",
}
"""Options with which each script ends in seconds; a test requires a row for every script and reads
the output.
"""


def main(names: list[str] | None = None) -> int:
    """Run them and print what they print. Returns how many failed."""
    names = names or list(OPTIONS)
    failed = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = save_tiny(Path(folder) / "tiny-llama")
        for name in names:
            words = command(name, model, Path(folder) / name)
            print(f"== python {' '.join(words[1:])}", flush=True)
            if subprocess.run(words, env=environment()).returncode:
                failed.append(name)
    ran = f"{len(names) - len(failed)} of {len(names)} benchmarks ran"
    print(", ".join([ran, *(f"{name} did not" for name in failed)]))
    return len(failed)


def command(name: str, model: Path, folder: Path) -> list[str]:
    """The command of this benchmark on the model. folder: its data folder, where it takes one."""
    if "{gguf}" in OPTIONS[name]:
        write_tiny_gguf(folder.with_suffix(".gguf"))
    options = OPTIONS[name].format(
        model=model, folder=folder, gguf=folder.with_suffix(".gguf")
    )
    return [sys.executable, "-m", f"benchmarks.{name}", *options.split()]


def environment() -> dict[str, str]:
    """Ours, with workers that end soon after their last job."""
    return os.environ | {"SPARSEDASH_LINGER_S": "2"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    # Without a name argparse looks for the empty list among the choices.
    choices = [*OPTIONS, []]
    parser.add_argument(
        "names", nargs="*", choices=choices, metavar="NAME", help=", ".join(OPTIONS)
    )
    sys.exit(main(parser.parse_args().names))
