"""An exported folder in another runtime beside stock transformers, token by token: where files load, and as what.

    python benchmarks/runtimes.py smol-10 --runtime vllm --texts lambada.jsonl --passages 20

Run it with the Python of an environment that has the runtime, the file by its path: it needs nothing of SparseDash.
Both compute in FP32 on the processor, without remote code. --widths-by-function: of vLLM, give it the folder's
`block_configs` as objects, which its class for DeciLM reads and a config of JSON cannot hold.
"""

import argparse
import json
import os
from importlib.metadata import packages_distributions, version
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

TEXTS = ("The fox saw the hen, and the hen saw the fox.", "One, two, three, four, five, six, seven, eight.")


def main():
    arguments = _arguments()
    folder, runtime = str(arguments.folder), arguments.runtime
    questions = _tokens(arguments.reference, _texts(arguments))
    if arguments.widths_by_function:
        theirs = by_vllm(folder, questions, hf_overrides=blocks_as_objects)
    else:
        theirs = RUNTIMES[runtime](folder, questions)
    ours = by_transformers(str(arguments.reference), questions)
    differences, firsts = [], []
    for (own, first), (other, other_first) in zip(ours, theirs, strict=True):
        differences += [abs(a - b) for a, b in zip(own, other, strict=True)]
        firsts += [a == b for a, b in zip(first, other_first, strict=True)]
    # A build of vLLM for the processor is a package of another name.
    packages = {name: packages_distributions().get(name, [name])[0] for name in (*PACKAGES[runtime], "transformers")}
    versions = ", ".join(f"{package} {version(package)}" for package in packages.values())
    print(
        f"{arguments.folder.name} by {versions}: {sum(firsts)} of {len(firsts)} first choices equal; "
        f"log-probabilities of the text differ by at most {max(differences):.1e}, n = {len(questions)} passages"
    )


def by_transformers(folder, questions):
    """Of each question the log-probabilities of its tokens from the second on, and the first choices there."""
    import torch
    from transformers import AutoModelForCausalLM

    file = next(Path(folder).glob("*.gguf"), None)
    gguf = {"gguf_file": file.name} if file else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, **gguf).eval()
    return _by_logits(model, questions)


def by_openvino(folder, questions):
    """The same, by the graph that optimum-intel exports."""
    from optimum.intel import OVModelForCausalLM

    how = {"load_in_8bit": False, "ov_config": {"INFERENCE_PRECISION_HINT": "f32"}, "trust_remote_code": False}
    return _by_logits(OVModelForCausalLM.from_pretrained(folder, export=True, **how), questions)


def by_onnxruntime(folder, questions):
    """The same, by the graph that optimum-onnx exports."""
    from optimum.onnxruntime import ORTModelForCausalLM

    return _by_logits(ORTModelForCausalLM.from_pretrained(folder, export=True, trust_remote_code=False), questions)


def by_vllm(folder, questions, **how):
    """The same, by vLLM."""
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    from vllm import LLM, SamplingParams

    longest = 1 + max(map(len, questions))
    size = {"max_model_len": longest, "max_num_batched_tokens": max(longest, 256), "max_num_seqs": 4}
    how |= {"enable_prefix_caching": False}
    model = LLM(folder, dtype="float32", enforce_eager=True, trust_remote_code=False, **size, **how)
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1)
    found = []
    answers = model.generate([{"prompt_token_ids": ids} for ids in questions], asked)
    for ids, answer in zip(questions, answers, strict=True):
        rows = list(zip(ids, answer.prompt_logprobs, strict=True))[1:]
        first = [next(token for token, each in row.items() if each.rank == 1) for _, row in rows]
        found.append(([row[token].logprob for token, row in rows], first))
    return found


def blocks_as_objects(config):
    """The config with its blocks as vLLM's DeciLM reads them; a function of its own, since it is sent to workers."""
    blocks = getattr(config, "block_configs", [])
    config.block_configs = [
        SimpleNamespace(**{name: SimpleNamespace(**part) for name, part in block.items()})
        if isinstance(block, dict)
        else block
        for block in blocks
    ]
    return config


RUNTIMES = {"transformers": by_transformers, "openvino": by_openvino, "onnxruntime": by_onnxruntime, "vllm": by_vllm}
PACKAGES = {
    "transformers": (),
    "openvino": ("openvino", "optimum-intel"),
    "onnxruntime": ("onnxruntime", "optimum-onnx"),
    "vllm": ("vllm",),
}


def _by_logits(model, questions):
    import torch

    found = []
    with torch.inference_mode():
        for ids in map(torch.tensor, questions):
            place = {"attention_mask": torch.ones_like(ids)[None], "position_ids": torch.arange(len(ids))[None]}
            rows = model(input_ids=ids[None], **place).logits[0, :-1].float().log_softmax(-1)
            found.append((rows.gather(1, ids[1:, None])[:, 0].tolist(), rows.argmax(-1).tolist()))
    return found


def _tokens(folder, texts):
    from tokenizers import Tokenizer

    # Not transformers': the 4th version knows no tokenizer class of the 5th, and reads the same file.
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in texts]


def _texts(arguments):
    if arguments.texts is None:
        return list(TEXTS)
    with arguments.texts.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in islice(lines, arguments.passages)]


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runtime", choices=RUNTIMES, default="transformers")
    parser.add_argument(
        "--reference", type=Path, help="what transformers loads beside it; without it the folder itself"
    )
    parser.add_argument("--texts", type=Path, help="a JSON object a line with the field text; without it two sentences")
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--widths-by-function", action="store_true")
    found = parser.parse_args()
    found.reference = found.reference or found.folder
    return found


if __name__ == "__main__":
    main()
