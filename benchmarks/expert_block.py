"""One block of a large mixture at its real size, with random weights: seconds and memory of choosing and refitting.

    python -m benchmarks.expert_block --model qwen3-30b-a3b --tokens 0 --experts 16

Before it, the whole model's structure and sizes from its config alone, on the meta device. The hours of the whole model
are those of one block times the number of its mixtures, for as many tokens as a refit needs: ten a channel of each
expert. A part of the experts takes its part of the time and sees as many tokens each; the hours then count the block's
attention too often.
"""

import copy
import time

import torch
from transformers import AutoConfig
from transformers.utils import logging

import sparsedash
from benchmarks.arguments import parser_of
from sparsedash.catalog.model_sizes import active_count
from sparsedash.engine.calibration.expert_pruning import MIN_REFIT_TOKENS_PER_CHANNEL
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.engine.models.structure import model_of
from sparsedash.storage.local_machine import peak_memory_bytes
from tests.engine.tiny import VOCABULARY, tiny_tokenizer

_CONFIGS = {
    # Sizes of the published config.json.
    "qwen3-30b-a3b": (
        "qwen3_moe",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "vocab_size": 151936,
        },
    ),
    "gpt-oss-20b": (
        "gpt_oss",
        {
            "hidden_size": 2880,
            "num_hidden_layers": 24,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 2880,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
            "vocab_size": 201088,
        },
    ),
    "tiny": (
        "qwen3_moe",
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "moe_intermediate_size": 16,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "vocab_size": 1000,
        },
    ),
}
_LENGTH = 256


def main():
    """Print the sizes of the model, and a row a method."""
    arguments = parser_of(
        __doc__,
        model=("qwen3-30b-a3b", f"one of {', '.join(_CONFIGS)}"),
        tokens=(16384, "read; 0: as many as a refit of all experts needs"),
        experts=(
            0,
            "of the block that is timed, chosen in the same proportion; 0: all",
        ),
        methods=("reap,experts", "run at a half"),
        dtype=("bfloat16", "of the weights"),
    ).parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind, sizes = _CONFIGS[arguments.model]
    config = AutoConfig.for_model(kind, **sizes)
    start = time.monotonic()
    shape = inspect_model(config, arguments.model)
    layout = next(iter(shape.structure.mixtures.values()))
    needed = MIN_REFIT_TOKENS_PER_CHANNEL * layout.width * layout.n // layout.n_chosen
    n_active = active_count(shape, shape.whole)
    print(
        f"{arguments.model}: {shape.n_parameters / 1e9:.1f} billion parameters, {n_active / 1e9:.1f} active; "
        f"{layout.n} experts of {layout.width} channels, {layout.n_chosen} chosen; structure and proof in "
        f"{time.monotonic() - start:.1f} s"
    )
    n_experts = arguments.experts or layout.n
    times = layout.n // n_experts
    n_chosen = layout.n_chosen // times
    model = _one_block(config, n_experts, n_chosen, getattr(torch, arguments.dtype))
    n_samples = -(-(arguments.tokens or needed) // _LENGTH)
    print(
        f"One block of {n_experts} experts, {n_chosen} chosen, {arguments.dtype}, {n_samples * _LENGTH:,} tokens"
    )
    for name in arguments.methods.split(","):
        seconds = _timed(model, name, n_samples)
        blocks_s = seconds * times * len(shape.structure.mixtures)
        hours = blocks_s * needed / (n_samples * _LENGTH) / 3600
        print(
            f"  {name:16} {seconds:7.1f} s, {peak_memory_bytes() / 1e9:.1f} GB at most; "
            f"the whole model on {needed:,} tokens {hours:.1f} h",
            flush=True,
        )


def _one_block(config, n_experts, n_chosen, dtype):
    """A model of one block at its real size, with the vocabulary of the tests' tokenizer."""
    small = copy.deepcopy(config)
    small.num_experts_per_tok = n_chosen
    for key in ("num_experts", "num_local_experts"):
        if hasattr(small, key):
            setattr(small, key, n_experts)
    small.num_hidden_layers = 1
    small.vocab_size = VOCABULARY
    small.pad_token_id = small.eos_token_id = small.bos_token_id = 0
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    torch.manual_seed(0)
    model = model_of(small).to(dtype)
    return model.eval().requires_grad_(False)


def _timed(model, name, n_samples):
    """Seconds that a method takes for half of the experts."""
    generator = torch.Generator().manual_seed(1)
    tokenizer = tiny_tokenizer()
    texts = []
    for _ in range(n_samples):
        ids = torch.randint(5, VOCABULARY, (2 * _LENGTH,), generator=generator)
        texts.append(tokenizer.decode(ids))
    start = time.monotonic()
    sparsedash.prune(
        model,
        tokenizer,
        texts,
        method=name,
        share=0.5,
        n_samples=n_samples,
        length=_LENGTH,
    )
    return time.monotonic() - start


if __name__ == "__main__":
    main()
