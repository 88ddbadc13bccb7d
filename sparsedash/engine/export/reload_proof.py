"""Proof of an export: a fresh process loads the files with stock code and answers as the expected model.

The expected model is the run's sparse model in this process, its weights rounded as the files keep them. Both compute
in float32, so that the files are proven and not the rounding of another type's products; the verdicts of the run
itself, in its own type, are counted too. A process of its own, because what this one has loaded or changed must not
help.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sparsedash.engine.evaluation.questions import questions_of
from sparsedash.engine.export import reloaded
from sparsedash.engine.export.export_files import gguf_rounded
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.surgery import is_projection, weight_of
from sparsedash.schema.errors import ExportError, SettingsError
from sparsedash.schema.export_settings import Form, Proof, Weights
from sparsedash.schema.progress import OnStep, Step, ignore_steps
from sparsedash.schema.records import Passages, Record

N_LOGITS = 16
N_VERDICTS = 50
_LOOK_S = 0.5

ALLOWED = 1e-3
"""The largest difference of logits: other sums of the same numbers, no other model."""

ALLOWED_GGUF: dict[Weights, float] = {"float32": 2e-3, "float16": 0.25, "q8_0": 2.0}
"""llama.cpp rounds what it multiplies float16 and q8_0 weights with in the same way."""

ALLOWED_GELU = 0.05
"""Of any file in llama.cpp whose model has a GELU, which is looked up there in a table of float16 numbers."""

_DIFFERING = 0.1
"""Share of the verdicts that may differ where llama.cpp rounds more than the weights."""

_HERE = Path(__file__).parent
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_ADVICE = (
    "The files were deleted; the run and its results are kept. Try another form or float32 weights, and please report "
    "this with the model, the method and the form."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpectedAnswers:
    """What the files are to answer. questions: as `reloaded.answer` takes them, and their text. strict: see Proof.

    right, logits: of the model that was meant. run: verdicts of the run's record. gelu: whether its blocks have one.
    """

    questions: list[dict[str, Any]]
    right: list[bool]
    logits: list[Tensor]
    run: list[bool]
    strict: bool
    gelu: bool


def expected_answers(loaded: LoadedModel, record: Record, passages: Passages, strict: bool) -> ExpectedAnswers:
    """Ask the loaded model, which is the one meant just now, the first passages that the record has answered."""
    outcomes = record.outcomes[:N_VERDICTS]
    place = {index: row for row, index in enumerate(passages.indices)}
    rows = [place[outcome.index] for outcome in outcomes]
    questions = questions_of(loaded, [(passages.contexts[row], passages.targets[row]) for row in rows])
    right, logits = reloaded.answer_questions(loaded.model, questions, N_LOGITS)
    run = [outcome.last_word_right for outcome in outcomes]
    strict = strict and loaded.dtype == "float32"
    names = ("hidden_activation", "hidden_act", "activation_function", "activation")
    config = loaded.model.config
    # BLOOM's config does not name it: its code has no other.
    gelu = config.model_type == "bloom" or any("gelu" in str(getattr(config, name, "")) for name in names)
    return ExpectedAnswers(questions=questions, right=right, logits=logits, run=run, strict=strict, gelu=gelu)


def prove_folder(folder: Path, expected: ExpectedAnswers, on_step: OnStep = ignore_steps) -> Proof:
    """What stock transformers makes of the folder. Raises ExportError unless it holds."""
    told, logits = _run_program("reloaded.py", folder, expected, on_step)
    return _require_holds(
        Proof(runtime="transformers", **_proof_fields(told, logits, expected, ALLOWED, n_allowed=0)), told
    )


def prove_gguf(file: Path, expected: ExpectedAnswers, weights: Weights, on_step: OnStep = ignore_steps) -> Proof:
    """What llama.cpp makes of the file. Raises ExportError unless it holds."""
    told, logits = _run_program("reloaded_gguf.py", file, expected, on_step)
    n_allowed = 0 if weights == "float32" else round(_DIFFERING * len(expected.right))
    allowed = max(ALLOWED_GGUF[weights], ALLOWED_GELU if expected.gelu else 0)
    return _require_holds(Proof(runtime="llama.cpp", **_proof_fields(told, logits, expected, allowed, n_allowed)), told)


def require_llama_cpp() -> None:
    """Raise SettingsError where llama.cpp is not installed: a GGUF file that nobody has loaded is not given away."""
    try:
        version("llama-cpp-py-sync")
    except PackageNotFoundError:
        advice = "A GGUF file is proven by llama.cpp, which is not installed. Run: pip install -r requirements-gguf.txt"
        raise SettingsError("form", "gguf", "uniform, padded, masked", advice) from None


def _run_program(
    program: str, what: Path, expected: ExpectedAnswers, on_step: OnStep
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    asked = {"questions": expected.questions, "n_logits": len(expected.logits), "tokenizer": True}
    asked["n_threads"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
    with tempfile.TemporaryDirectory(prefix="sparsedash-") as place:
        questions, answers = Path(place) / "questions.json", Path(place) / "answers.json"
        questions.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-I", str(_HERE / program), str(what), str(questions), str(answers)]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": place, "PYTHONIOENCODING": "utf-8"}
        _wait_for(command, environment, Path(place) / "said", on_step)
        told = json.loads(answers.read_text(encoding="utf-8"))
        # Read before the folder goes; the tensors are copies.
        return told, {name: rows.clone() for name, rows in load_file(f"{answers}.safetensors").items()}


def _wait_for(command: list[str], environment: dict[str, str], log: Path, on_step: OnStep) -> None:
    """Wait for the process; who wants to stop meanwhile can. Raises ExportError where it fails."""
    with (
        log.open("wb") as said,
        subprocess.Popen(  # noqa: S603 - our own program
            command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        ) as process,
    ):
        try:
            while process.poll() is None:
                on_step(Step("prove", 1, 2, message="Asking the files"))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_LOOK_S)
        finally:
            process.kill()
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = f"it ended with {process.returncode}: {lines[-1][:300] if lines else 'it said nothing'}"
        raise ExportError(f"A fresh process could not load the files: {reason}.", _ADVICE)


def _proof_fields(
    told: dict[str, Any], logits: dict[str, Tensor], expected: ExpectedAnswers, allowed: float, n_allowed: int
) -> dict[str, Any]:
    """The fields of the proof."""
    return {
        "version": str(told["version"]),
        "n_logits": len(expected.logits),
        "logit_difference": max(_difference(logits[str(i)], rows) for i, rows in enumerate(expected.logits)),
        "logit_allowed": allowed,
        "n_verdicts": len(expected.right),
        "n_meant": _n_same(told["right"], expected.right),
        "n_run": _n_same(told["right"], expected.run),
        "n_allowed": n_allowed,
        "strict": expected.strict and n_allowed == 0,
        "made_at": time.time(),
    }


def _require_holds(proof: Proof, told: dict[str, Any]) -> Proof:
    faults = []
    if told["holes"]:
        faults.append(f"stock code finds tensors missing or left over: {', '.join(told['holes'][:5])}")
    if not told["same_tokens"]:
        faults.append("its tokenizer reads the passages otherwise")
    if told["ours"]:
        faults.append("it needed this program's own code")
    if not proof.holds:
        faults.append(
            f"logits differ by up to {proof.logit_difference:.2g} ({proof.logit_allowed:g} is allowed), and "
            f"{proof.n_meant} of {proof.n_verdicts} passages are answered as meant, {proof.n_run} as in the run"
        )
    if faults:
        raise ExportError(f"The files are not the sparse model: {'; '.join(faults)}.", _ADVICE)
    return proof


def _difference(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max().nan_to_num(nan=float("inf")))


def _n_same(one: Sequence[bool], other: Sequence[bool]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


@torch.no_grad()
def round_weights_(model: nn.Module, form: Form, weights: Weights) -> None:
    """Round every weight of the model, in place and kept in float32, which holds what each type rounds to.

    What is shared is rounded once; twice would change nothing.
    """
    model.float()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            plain = weight_of(module) if name == "weight" and is_projection(module) else parameter  # type: ignore[arg-type]
            plain.copy_(_as_gguf(plain, weights) if form == "gguf" else plain.to(getattr(torch, weights)))


def _as_gguf(weight: Tensor, weights: Weights) -> Tensor:
    values = gguf_rounded(weight.detach().float().cpu().numpy(), weights)
    return torch.from_numpy(values).to(weight.device, weight.dtype)
