"""Prune a language model from Python, see what it lost, and write it as a folder: a notebook, cell
by cell.

    python examples/prune_from_python.py MODEL TEXTS NEW_FOLDER

MODEL: a folder or a name of the hub. TEXTS: a file with a text on each line. docs/python.md
explains each function.
"""

# %% A model of transformers, and texts.
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsedash import compare, export, prune

if len(sys.argv) != 4:
    sys.exit(__doc__)
reference, lines, folder = (
    sys.argv[1],
    Path(sys.argv[2]).read_text(encoding="utf-8").splitlines(),
    sys.argv[3],
)
model = AutoModelForCausalLM.from_pretrained(reference, trust_remote_code=False)
tokenizer = AutoTokenizer.from_pretrained(reference, trust_remote_code=False)
# What the model is asked must not be what it is calibrated on.
passages, texts = lines[: len(lines) // 3], lines[len(lines) // 3 :]

# %% Take a fifth of the MLPs' channels. The given model stays as it is.
sparse = prune(model, tokenizer, texts, share=0.2)
print("Channels of each block:", *sparse.pruned.widths)

# %% Ask both models the same passages.
comparison = compare(model, sparse.model, tokenizer, passages)
print(comparison.sentence, comparison.figures, sep="\n")
broke = [
    f"  {before.target}: {after.answer}"
    for before, after in zip(
        comparison.dense.outcomes, comparison.sparse.outcomes, strict=True
    )
    if before.last_word_right and not after.last_word_right
]
print(f"{len(broke)} answers broke", *broke[:10], sep="\n")

# %% It is a model of transformers, and a folder once it is exported.
words = tokenizer(passages[0], return_tensors="pt")
print(
    tokenizer.decode(
        sparse.model.generate(**words, max_new_tokens=10, do_sample=False)[0]
    )
)
proof = export(sparse, tokenizer, folder)
print(
    f"{folder}: a fresh process gives logits that differ by at most {proof.logit_difference:.1g}"
)
