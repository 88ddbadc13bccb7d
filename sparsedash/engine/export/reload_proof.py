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
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
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

_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_ADVICE = (
    "The files were deleted; the run and its results are kept. Try another form or float32 weights, and please report "
    "this with the model, the method and the form."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpectedAnswers:
    """Answers that the files must give. questions: see `questions_of`. strict: see Proof.

    right, logits: of the expected model. run: verdicts of the run's record. gelu: whether its blocks have a GELU.
    """

    questions: list[dict[str, Any]]
    right: list[bool]
    logits: list[Tensor]
    run: list[bool]
    strict: bool
    gelu: bool


def expected_answers(loaded: LoadedModel, record: Record, passages: Passages, strict: bool) -> ExpectedAnswers:
    """Answers of the loaded model, as it is now, to the first passages of the record."""
    outcomes, place = record.outcomes[:N_VERDICTS], {index: row for row, index in enumerate(passages.indices)}
    rows = [place[outcome.index] for outcome in outcomes]
    questions = questions_of(loaded, [(passages.contexts[row], passages.targets[row]) for row in rows])
    right, logits = reloaded.answer_questions(loaded.model, questions, N_LOGITS)
    names, config = ("hidden_activation", "hidden_act", "activation_function", "activation"), loaded.model.config
    return ExpectedAnswers(
        questions=questions,
        right=right,
        logits=logits,
        run=[outcome.last_word_right for outcome in outcomes],
        strict=strict and loaded.dtype == "float32",
        # BLOOM's config does not name it: its code has no other.
        gelu=config.model_type == "bloom" or any("gelu" in str(getattr(config, name, "")) for name in names),
    )


def require_llama_cpp() -> None:
    """Raise SettingsError where llama.cpp is not installed: no GGUF file is exported without a proof."""
    if not find_spec("llama_cpp_py_sync"):
        advice = "A GGUF file is proven by llama.cpp, which is not installed. Run: pip install -r requirements-gguf.txt"
        raise SettingsError("form", "gguf", "uniform, padded, masked", advice)


def prove_files(what: Path, expected: ExpectedAnswers, weights: Weights, on_step: OnStep = ignore_steps) -> Proof:
    """Proof of a folder by stock transformers, or of a GGUF file by llama.cpp. Raises ExportError unless it holds."""
    is_gguf, allowed = what.is_file(), ALLOWED
    if is_gguf:
        allowed = max(ALLOWED_GGUF[weights], ALLOWED_GELU if expected.gelu else 0)
    n_allowed = round(_DIFFERING * len(expected.right)) if is_gguf and weights != "float32" else 0
    found, logits = _run_program(what, expected, on_step)

    def difference(own: Tensor, rows: Tensor) -> float:
        return float((own - rows).abs().max().nan_to_num(nan=inf)) if own.shape == rows.shape else inf

    proof = Proof(
        runtime="llama.cpp" if is_gguf else "transformers",
        version=str(found["version"]),
        n_logits=len(expected.logits),
        logit_difference=max(difference(logits[str(i)], rows) for i, rows in enumerate(expected.logits)),
        logit_allowed=allowed,
        n_verdicts=len(expected.right),
        n_meant=sum(a == b for a, b in zip(found["right"], expected.right, strict=True)),
        n_run=sum(a == b for a, b in zip(found["right"], expected.run, strict=True)),
        n_allowed=n_allowed,
        strict=expected.strict and n_allowed == 0,
        made_at=time.time(),
    )
    faults = {
        f"stock code finds tensors missing or left over: {', '.join(found['holes'][:5])}": found["holes"],
        "its tokenizer reads the passages otherwise": not found["same_tokens"],
        "it needed this program's own code": found["ours"],
        f"logits differ by up to {proof.logit_difference:.2g} ({allowed:g} is allowed), and {proof.n_meant} of "
        f"{proof.n_verdicts} passages are answered as meant, {proof.n_run} as in the run": not proof.holds,
    }
    if words := [fault for fault, is_fault in faults.items() if is_fault]:
        raise ExportError(f"The files are not the sparse model: {'; '.join(words)}.", _ADVICE)
    return proof


def _run_program(what: Path, expected: ExpectedAnswers, on_step: OnStep) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Answers of a fresh process; the job can be stopped while it runs. Raises ExportError if it fails."""
    asked = {"questions": expected.questions, "n_logits": len(expected.logits), "n_threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory(prefix="sparsedash-") as place, (Path(place) / "log").open("wb") as log:
        questions, answers = Path(place) / "questions.json", Path(place) / "answers.json"
        questions.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-I", reloaded.__file__, str(what), str(questions), str(answers)]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": place, "PYTHONIOENCODING": "utf-8"}
        with subprocess.Popen(  # noqa: S603 - our own program
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process:
            try:
                while process.poll() is None:
                    on_step(Step("prove", 1, 2, message="Asking the files"))
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=_LOOK_S)
            finally:
                process.kill()
        if process.returncode != 0:
            lines = (Path(place) / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = f"it ended with {process.returncode}: {lines[-1][:300] if lines else 'it said nothing'}"
            raise ExportError(f"A fresh process could not load the files: {reason}.", _ADVICE)
        # In memory, since the files are deleted.
        return json.loads(answers.read_text(encoding="utf-8")), load(Path(f"{answers}.safetensors").read_bytes())


@torch.no_grad()
def round_weights_(model: nn.Module, form: Form, weights: Weights) -> None:
    """Round every weight of the model to the type of the files, in place and kept in float32.

    Shared weights are rounded once; twice would change nothing.
    """
    model.float()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            plain = weight_of(module) if name == "weight" and is_projection(module) else parameter  # type: ignore[arg-type]
            if form == "gguf":
                plain.copy_(torch.from_numpy(gguf_rounded(plain.detach().float().cpu().numpy(), weights)))
            else:
                plain.copy_(plain.to(getattr(torch, weights)))
