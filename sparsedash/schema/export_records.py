"""What came out of taking a sparse model away: where it is, how large, and what its reload has shown."""

from dataclasses import dataclass

from sparsedash.schema.export_settings import ExportSettings, Form, Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What a fresh process has seen that loaded the files with stock code, beside the model that they were made of.

    The model meant is the run's sparse one, with its weights rounded as the files keep them. version: of the runtime.
    n_logits: passages whose logits were compared. logit_difference: the largest absolute one; logit_allowed: the
    largest that is no fault. n_verdicts: passages that were answered. n_meant: answered right or wrong as the model
    meant answers them. n_run: as the run's record says. n_allowed: verdicts that may differ from the model meant.
    strict: the weights are those of the run, not rounded, so that every verdict must be the run's too.
    """

    runtime: Runtime
    version: str
    n_logits: int
    logit_difference: float
    logit_allowed: float
    n_verdicts: int
    n_meant: int
    n_run: int
    n_allowed: int = 0
    strict: bool = True
    made_at: float

    @property
    def holds(self) -> bool:
        """Whether the files are the model that was meant."""
        as_meant = self.n_verdicts - self.n_meant <= self.n_allowed
        as_run = not self.strict or self.n_run == self.n_verdicts
        return self.logit_difference <= self.logit_allowed and as_meant and as_run


@dataclass(frozen=True, kw_only=True)
class Export:
    """One sparse model in files. It is kept when its proof has held.

    folder: where. layout: how they hold the widths of the blocks, in words for a person. model, model_identity: the
    base. n_bytes: of all files; base_bytes: of the dense model's weights in the same numbers. files: sha256 by name.
    """

    key: str
    settings: ExportSettings
    folder: str
    layout: str
    model: str
    model_identity: str
    model_type: str
    n_bytes: int
    base_bytes: int
    files: dict[str, str]
    proof: Proof
    made_at: float

    @property
    def form(self) -> Form:
        """The form that was asked for."""
        return self.settings.form
