"""What somebody may ask of two records' models beside a run: what they write, and how far they are apart."""

from dataclasses import asdict, dataclass

from sparsedash.schema.hashing import stage_key
from sparsedash.schema.validation import text, whole


@dataclass(frozen=True, kw_only=True)
class ContinuationSettings:
    """A request for what two records' models write after a prompt. left, right: record keys.

    temperature_percent: 0: each model's first choice; 100: drawn as the model says. seed: of the drawing, for both
    alike.
    """

    left: str
    right: str
    prompt: str
    n_tokens: int = 40
    temperature_percent: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        whole("tokens to write", self.n_tokens, 1, 400)
        whole("temperature (percent)", self.temperature_percent, 0, 200)
        whole("seed", self.seed, 0, 2**31 - 1)
        text("prompt", self.prompt)

    def key(self) -> str:
        """The name of this request and of what it produces; without a seed where nothing is drawn."""
        values = asdict(self)
        if self.temperature_percent == 0:
            del values["temperature_percent"], values["seed"]
        return stage_key("continuation", **values)


@dataclass(frozen=True, kw_only=True)
class DivergenceSettings:
    """A request for how far two records' models are apart at every token of a text. left, right: record keys."""

    left: str
    right: str
    text: str

    def __post_init__(self) -> None:
        text("text", self.text)

    def key(self) -> str:
        """The name of this request and of what it produces."""
        return stage_key("divergence", **asdict(self))
