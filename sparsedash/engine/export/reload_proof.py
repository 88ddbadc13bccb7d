"""Proof of an export: a fresh process loads the files and answers as the expected model.

The expected model is the run's sparse model in this process, its weights rounded as the files keep
them. Both compute in float32, so that the files are proven and not the rounding of another type's
products; the verdicts of the run itself, in its own type, are counted too. A process of its own,
because what this one has loaded or changed must not help.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor, nn

from sparsedash.catalog.model_sizes import WEIGHT_BYTES
from sparsedash.engine.evaluation.questions import questions_of
from sparsedash.engine.export import reloaded
from sparsedash.engine.models.fresh_process import run_program
from sparsedash.engine.models.gguf_quantising import MADE_BY_LLAMA_CPP
from sparsedash.engine.models.gguf_writing import gguf_rounded
from sparsedash.engine.models.loading import ONE_BY_ONE, ModelCache, has_ragged_experts
from sparsedash.engine.pruning.surgery import is_projection, weight_of
from sparsedash.engine.run.model_making import RebuiltModel
from sparsedash.schema.errors import ExportError
from sparsedash.schema.export_settings import ExportSettings, Form, Proof, Weights
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Passages, Record

N_VERDICTS = 50

ALLOWED = 1e-3
"""The largest difference of logits: other sums of the same numbers, no other model."""

ALLOWED_GGUF = 2e-3
ALLOWED_TIMES = 4.0
"""Times the change of the logits when this process rounds as llama.cpp does: by some 1 % of their
range, and by a third of it where the model is ruined.
"""

ALLOWED_GELU = 0.05
"""Of any file in llama.cpp whose model has a GELU, which is looked up there in a table of float16
numbers.
"""

_DIFFERING = 0.1
"""Share of the verdicts that may differ where llama.cpp rounds more than the weights."""

_ADVICE = (
    "The files were deleted; the run and its results are kept. Try another form or float32 weights, and please report "
    "this with the model, the method and the form."
)


class _Expected(NamedTuple):
    """Answers of the model in memory. right: verdicts. logits: of the first questions.

    rounded: those logits where this process rounds the inputs of products as llama.cpp does.
    """

    right: Sequence[bool]
    logits: Sequence[Tensor]
    rounded: Sequence[Tensor]


def prove_files(
    what: Path,
    settings: ExportSettings,
    record: Record,
    passages: Passages,
    rebuilt: RebuiltModel,
    model_cache: ModelCache,
    on_step: OnStep,
) -> Proof:
    """Proof of a folder by transformers, or of a GGUF file by llama.cpp.

    Raises ExportError unless it holds.

    record: of the sparse model. rebuilt: that model in memory; its weights are rounded in place
    where the files round them.
    """
    loaded = rebuilt.loaded
    outcomes = record.outcomes[:N_VERDICTS]
    places = {index: row for row, index in enumerate(passages.indices)}
    rows = [places[outcome.index] for outcome in outcomes]
    texts = [(passages.contexts[row], passages.targets[row]) for row in rows]
    questions = questions_of(loaded, texts)
    expected = _expected(what, settings, rebuilt, questions, model_cache, on_step)
    is_gguf = what.is_file()
    weight_bytes = WEIGHT_BYTES.get(settings.weights, 2)
    is_ragged = not is_gguf and has_ragged_experts(loaded.model, weight_bytes)
    answers, logits = _run_program(
        what, questions, on_step, ONE_BY_ONE if is_ragged else ""
    )
    differences = []
    for number, rows_in_memory in enumerate(expected.logits):
        differences.append(_difference(logits[str(number)], rows_in_memory))
    n_meant = 0
    n_run = 0
    for answer, meant, outcome in zip(
        answers["right"], expected.right, outcomes, strict=True
    ):
        n_meant += answer == meant
        n_run += answer == outcome.last_word_right
    allowed = ALLOWED
    n_allowed = 0
    if is_gguf:
        allowed = gguf_allowed(loaded.model.config, expected.logits, expected.rounded)
        if settings.weights != "float32":
            n_allowed = round(_DIFFERING * len(outcomes))
    proof = Proof(
        runtime="llama.cpp" if is_gguf else "transformers",
        version=str(answers["version"]),
        n_logits=len(differences),
        logit_difference=max(differences),
        logit_allowed=allowed,
        n_verdicts=len(outcomes),
        n_meant=n_meant,
        n_run=n_run,
        n_allowed=n_allowed,
        strict=loaded.dtype == settings.weights == "float32",
        made_at=time.time(),
    )
    faults = _faults(proof, answers)
    if faults:
        raise ExportError(
            f"The files are not the sparse model: {'; '.join(faults)}.", _ADVICE
        )
    return proof


def _expected(
    what: Path,
    settings: ExportSettings,
    rebuilt: RebuiltModel,
    questions: Sequence[dict[str, Any]],
    model_cache: ModelCache,
    on_step: OnStep,
) -> _Expected:
    """Answers of the sparse model in memory, its weights rounded as the files keep them."""
    model = rebuilt.loaded.model
    step = Step(
        "prove", 0, 2 * len(questions), message="Evaluating the model in memory"
    )
    on_step(step)
    is_rounded = settings.weights not in (rebuilt.loaded.dtype, "float32")
    assert rebuilt.sparse is not None
    with rebuilt.sparse.applied(), torch.inference_mode():
        if is_rounded and settings.weights not in (*MADE_BY_LLAMA_CPP, "as-stored"):
            # In place, since a second model may not fit; the dense one is read again when it is
            # needed.
            model_cache.clear()
            routers = [mixture.router for mixture in rebuilt.loaded.experts.values()]
            round_weights_(model, settings.form, settings.weights, routers)
        right, logits = reloaded.answer_questions(
            model, questions, lambda n: on_step(replace(step, done=n))
        )
        rounded = logits
        if what.is_file() and settings.weights != "float32":
            answered = replace(step, done=len(questions))
            with _rounded_inputs(model, settings.weights):
                first = questions[: reloaded.N_LOGITS]
                _, rounded = reloaded.answer_questions(
                    model, first, lambda n: on_step(answered)
                )
    return _Expected(right, logits, rounded)


def _faults(proof: Proof, answers: Mapping[str, Any]) -> list[str]:
    """Differences from the sparse model, in words; none if the proof holds."""
    faults = []
    if answers["holes"]:
        tensors = ", ".join(answers["holes"][:5])
        faults.append(f"stock code finds tensors missing or left over: {tensors}")
    if not answers["same_tokens"]:
        faults.append("its tokenizer reads the passages differently")
    if answers["ours"]:
        faults.append("it needed SparseDash's code")
    if not proof.holds:
        faults.append(
            f"logits differ by up to {proof.logit_difference:.2g} ({proof.logit_allowed:.2g} is allowed), and "
            f"{proof.n_meant} of {proof.n_verdicts} passages are answered as by the model in memory, "
            f"{proof.n_run} as in the run"
        )
    return faults


def _difference(own: Tensor, rows: Tensor) -> float:
    return (
        float((own - rows).abs().max().nan_to_num(nan=inf, posinf=inf))
        if own.shape == rows.shape
        else inf
    )


def gguf_allowed(
    config: Any, logits: Sequence[Tensor], rounded: Sequence[Tensor]
) -> float:
    """The largest difference of logits that is no fault of a file.

    logits, rounded: (rows, vocabulary) each, as expected, and with inputs rounded as in
    `_rounded_inputs`.
    """
    # BLOOM's config does not name its GELU: its code has no other function.
    names = ("hidden_activation", "hidden_act", "activation_function", "activation")
    is_gelu = config.model_type == "bloom" or any(
        "gelu" in str(getattr(config, name, "")) for name in names
    )
    change = max(_difference(*pair) for pair in zip(rounded, logits, strict=True))
    # What overflows shows nothing.
    by_rounding = ALLOWED_TIMES * change if isfinite(change) else 0.0
    return max(ALLOWED_GGUF, ALLOWED_GELU if is_gelu else 0.0, by_rounding)


@contextmanager
def _rounded_inputs(model: nn.Module, weights: Weights) -> Iterator[None]:
    """Inside, every projection rounds its input as llama.cpp does for weights of this type."""

    def round_input(
        module: nn.Module, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        return rounded_activations(inputs[0], weights), *inputs[1:]

    with ExitStack() as hooks:
        for module in model.modules():
            if is_projection(module):
                hooks.callback(module.register_forward_pre_hook(round_input).remove)
        yield


def rounded_activations(activations: Tensor, weights: Weights) -> Tensor:
    """Activations (..., n) rounded as llama.cpp rounds them for weights of this type.

    To 16 bits, or to 8 with a scale for each block of neighbours.
    """
    if weights == "float16":
        return activations.half().to(activations)
    block = 256 if weights in ("q6_k", "q4_k_m") else 32
    width = activations.shape[-1]
    padded = nn.functional.pad(activations, (0, -width % block))
    blocks = padded.reshape(*padded.shape[:-1], -1, block)
    scales = (blocks.abs().amax(dim=-1, keepdim=True) / 127).clamp_min(
        torch.finfo(blocks.dtype).tiny
    )
    rounded: Tensor = ((blocks / scales).round() * scales).flatten(-2)
    return rounded[..., :width]


def _run_program(
    what: Path, questions: list[dict[str, Any]], on_step: OnStep, experts: str = ""
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Answers of a fresh process, which can be stopped. Raises ExportError if it fails."""
    n_threads = torch.get_num_threads()
    request = {"questions": questions, "n_threads": n_threads, "experts": experts}
    with tempfile.TemporaryDirectory(prefix="sparsedash-") as place:
        question_file = Path(place) / "questions.json"
        answers = Path(place) / "answers.json"
        count = Path(f"{answers}.count")
        question_file.write_text(json.dumps(request), encoding="utf-8")

        def report() -> None:
            n_answered = count.stat().st_size if count.exists() else 0
            on_step(
                Step(
                    "prove",
                    len(questions) + n_answered,
                    2 * len(questions),
                    message="Evaluating the files",
                )
            )

        run_program(
            reloaded.__file__,
            [str(what), str(question_file), str(answers)],
            on_look=report,
            failed="A fresh process could not load the files",
            advice=_ADVICE,
            environment={
                "HF_HUB_OFFLINE": "1",
                "HF_HOME": place,
                "PYTHONIOENCODING": "utf-8",
            },
        )
        # In memory, since the files are deleted.
        return json.loads(answers.read_text(encoding="utf-8")), load(
            Path(f"{answers}.safetensors").read_bytes()
        )


@torch.no_grad()
def round_weights_(
    model: nn.Module, form: Form, weights: Weights, routers: Sequence[nn.Module] = ()
) -> None:
    """Round every weight of the model to the type of the files, in place, kept in float32.

    GPT-2's learned positions, too, which a GGUF file keeps as they are; but no routers, which it
    keeps in float32.

    Shared weights are rounded once; twice would change nothing.
    """
    model.float()
    for module in model.modules():
        if form == "gguf" and module in routers:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            plain: torch.Tensor = parameter
            if name == "weight" and is_projection(module):
                plain = weight_of(module)  # type: ignore[arg-type]
            if form == "gguf":
                plain.copy_(
                    torch.from_numpy(
                        gguf_rounded(plain.detach().float().cpu().numpy(), weights)
                    )
                )
            else:
                plain.copy_(plain.to(getattr(torch, weights)))
