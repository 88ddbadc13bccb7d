"""How long the first look at a model's config takes, and what memory: each in a process of its own, as the pages do it.

    python -m benchmarks.look_up [--types qwen3,deepseek_v3]

The sizes are those of transformers' default config of a type, but where this project ships a published one: 671B of
DeepSeek-V3's. `import` is the same process for a config that describes no model: what Python and its
libraries cost before any model is made.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from transformers import AutoConfig

from benchmarks.arguments import parser_of

TYPES = (
    "qwen2,qwen3,qwen3_moe,qwen3_next,qwen3_5,gemma2,gemma3,gemma4,llama4_text,mistral,ministral3,mixtral,phi3,"
    "phimoe,olmo2,olmo3,olmoe,smollm3,glm4,glm4_moe,gpt_oss,deepseek_v2,deepseek_v3,exaone4,lfm2,granite,"
    "granitemoehybrid,nemotron_h,falcon_h1,cohere2,starcoder2,gpt2,gpt_neox"
)
PUBLISHED = "llama-7b,bloom-7b1,gpt-j-6b,opt-2.7b,smollm2-135m"
_LEFT_OPEN = {"deepseek_v2": {"num_experts_per_tok": 6}}
"""What a default config leaves open, as published for a model of the type (DeepSeek-V2-Lite)."""
_MB = 1024
"""Units of `ru_maxrss` in one."""


def main():
    """Print a row a config: weights, seconds, memory."""
    arguments = parser_of(
        __doc__,
        types=(TYPES, "of transformers, with commas between"),
        published=(
            PUBLISHED,
            "configs that ship with this project, with commas between",
        ),
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text('{"model_type": "none such"}', encoding="utf-8")
        _report("import", file)
        for name in arguments.published.split(","):
            source = files("sparsedash.catalog") / "configs" / f"{name}.json"
            file.write_bytes(source.read_bytes())
            _report(name, file)
        for kind in arguments.types.split(","):
            config = AutoConfig.for_model(kind, **_LEFT_OPEN.get(kind, {}))
            file.write_text(config.to_json_string(), encoding="utf-8")
            _report(kind, file)


def _report(name, file):
    """Print how this look-up went."""
    command = [sys.executable, "-m", "sparsedash.engine.models.look_up", str(file)]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    answer = json.loads(process.stdout.read() or "{}")
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    shape = answer.get("shape")
    outcome = (
        f"{shape['n_parameters'] / 1e9:8.1f}B"
        if shape
        else answer.get("problem", "ended")
    )
    print(
        f"{name:20} {seconds:5.1f} s {usage.ru_maxrss / _MB:6.0f} MB  {outcome}",
        flush=True,
    )


if __name__ == "__main__":
    main()
