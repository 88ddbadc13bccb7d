"""What experts' methods lose, on a mixture that is trained here in minutes: KL from dense on held-out text.

    python -m benchmarks.experts --text file:a.jsonl,file:b.txt --minutes 14 --top 4 --seeds 3

Beside each method's KL its ratio to REAP's, with a 95 % interval over pairs of held-out passages (bootstrap). Channels
of experts are compared at equal shares of their weights. The seed decides which calibration texts are drawn.
"""

import time
from dataclasses import replace
from math import cos, pi
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

import sparsedash
from benchmarks.arguments import parser_of
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.engine.texts.corpora import read_texts

BASELINE = "reap"
NAMES = [method.name for method in METHODS if method.settings.prunes_experts]
_VOCABULARY = 2048
_LENGTH = 128
_BATCH = 12
_RATE = 2e-3
_WARM_SHARE = 0.05
_SIZES = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "moe_intermediate_size": 64,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
    "router_aux_loss_coef": 0.01,
    "tie_word_embeddings": True,
}
_KINDS = {
    "qwen3_moe": {"num_experts": 16, "norm_topk_prob": True, "mlp_only_layers": []},
    # With a shared expert in every block.
    "qwen2_moe": {"num_experts": 16, "shared_expert_intermediate_size": 128},
}


def main():
    """Train, prune, and print a row a method."""
    arguments = parser_of(
        __doc__,
        text=(
            "builtin:mixed",
            "corpora, with commas between; a tenth of each is held out",
        ),
        kind=("qwen3_moe", f"of mixture: {', '.join(_KINDS)}"),
        minutes=(14.0, "of training"),
        top=(4, "experts chosen for a token"),
        shares=("25,50", "percent removed"),
        seeds=(3, "of the calibration texts"),
        samples=(240, f"calibration texts, of {_LENGTH} tokens each"),
        methods=(",".join(NAMES), "run"),
    ).parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    training, held_out = _texts(arguments.text.split(","))
    tokenizer = _tokenizer(training)
    windows = _windows(tokenizer, held_out)
    model = _model(arguments.kind, arguments.top)
    n_steps = _train(model, _windows(tokenizer, training), 60 * arguments.minutes)
    dense = _log_probabilities(model, windows)
    nats = _nats(dense, windows)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{arguments.kind}, top {arguments.top} of 16, {n_parameters:,} parameters, {n_steps} steps; held out: "
        f"{len(windows)} passages of {_LENGTH} tokens, {nats:.2f} nats a token"
    )
    print(
        "KL from dense in thousandths of a nat, by seed; ratio to REAP's, 95 % interval"
    )
    for share in map(int, arguments.shares.split(",")):
        _print_share(arguments, model, tokenizer, training, windows, dense, share)


def _print_share(arguments, model, tokenizer, training, windows, dense, share):
    """A row a method at this share."""
    losses = {}
    for name in arguments.methods.split(","):
        losses[name] = []
        for seed in range(arguments.seeds):
            texts = Random(seed).sample(
                training, min(len(training), 4 * arguments.samples)
            )
            sparse = _pruned(
                model, tokenizer, texts, name, share, arguments.samples, seed
            )
            log_probabilities = _log_probabilities(sparse, windows)
            losses[name].append(_divergences(dense, log_probabilities))
    print(f"{share} %")
    for name, by_seed in losses.items():
        figures = " / ".join(f"{1000 * passages.mean():.1f}" for passages in by_seed)
        ratio = _ratio_words(by_seed, losses[BASELINE]) if BASELINE in losses else ""
        print(f"  {name:18} {figures:24} {ratio}", flush=True)


def _texts(references):
    """Texts to train on and held-out ones: every tenth."""
    training = []
    held_out = []
    for reference in references:
        for number, text in enumerate(read_texts(reference).texts):
            (held_out if number % 10 == 9 else training).append(text)
    return training, held_out


def _tokenizer(texts):
    """Byte-level BPE trained on these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )


def _windows(tokenizer, texts):
    """All tokens (n, length) of the texts, one after another."""
    ids = []
    for text in texts:
        ids += [*tokenizer(text).input_ids, 0]
    n = len(ids) // _LENGTH
    return torch.tensor(ids[: n * _LENGTH]).view(n, _LENGTH)


def _model(kind, top):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, **_SIZES, **_KINDS[kind], num_experts_per_tok=top
    )
    return AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, trust_remote_code=False
    )


def _train(model, windows, seconds):
    """Train for so long; the number of steps."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=_RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
    start = time.monotonic()
    n_steps = 0
    model.train()
    while (share := (time.monotonic() - start) / seconds) < 1:
        rate = min(1.0, share / _WARM_SHARE) * (1 + cos(pi * share)) / 2
        for group in optimiser.param_groups:
            group["lr"] = _RATE * max(0.02, rate)
        rows = torch.randint(len(windows), (_BATCH,), generator=generator)
        output = model(
            input_ids=windows[rows], labels=windows[rows], output_router_logits=True
        )
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        n_steps += 1
    model.eval().requires_grad_(False)
    return n_steps


def _pruned(model, tokenizer, texts, name, share, n_samples, seed):
    """The model without this share, by the method of this name."""
    method = method_named(name)
    if method.uses("seed"):
        method = replace(method, seed=seed)
    width_multiple = 8 if method.uses("width_multiple") else None
    return sparsedash.prune(
        model,
        tokenizer,
        texts,
        method=method,
        share=share / 100,
        width_multiple=width_multiple,
        n_samples=n_samples,
        length=_LENGTH,
    ).model


@torch.no_grad()
def _log_probabilities(model, windows):
    """Of every next token, (n, length - 1, vocabulary)."""
    parts = []
    for rows in windows.split(8):
        parts.append(model(input_ids=rows).logits[:, :-1].log_softmax(-1))
    return torch.cat(parts)


def _nats(log_probabilities, windows):
    right = log_probabilities.gather(2, windows[:, 1:, None])
    return -float(right.mean())


def _divergences(dense, sparse):
    """Mean KL of each passage, (n,)."""
    return (dense.exp() * (dense - sparse)).sum(-1).mean(-1).numpy()


def _ratio_words(by_seed, baseline):
    """The ratio to the baseline's mean, with its interval over passages."""
    losses = np.mean(by_seed, axis=0)
    base = np.mean(baseline, axis=0)
    draws = np.random.default_rng(0).integers(len(losses), size=(2000, len(losses)))
    ratios = losses[draws].mean(1) / base[draws].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return f"{losses.mean() / base.mean():.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
