"""Named methods: presets of the four choices, which are what a form and the shell offer. One row adds a name."""

from dataclasses import asdict, dataclass
from functools import lru_cache

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings


@dataclass(frozen=True, kw_only=True)
class Method:
    """A named method: a preset of the four choices."""

    name: str
    summary: str
    settings: MethodSettings

    @property
    def searchable(self) -> bool:
        """Whether the largest sparsity can be looked for; not so where the pattern decides it."""
        return self.settings.pattern not in FIXED_PERMILLE


METHODS: tuple[Method, ...] = (
    Method(
        name="best",
        summary="channels that the others make up for best, most from blocks that the model minds least; then "
        "refitted; half of the calibration tokens are plain stories, so that ordinary text is not forgotten",
        settings=MethodSettings(saliency="obs", allocation="sensitivity", damping=0.1, plain_text=0.5),
    ),
    Method(
        name="least-squares",
        summary="channels by weight times activation; what stays is refitted to make up for what went; the quickest "
        "that refits",
        settings=MethodSettings(),
    ),
    Method(
        name="least-squares-by-sensitivity",
        summary="least-squares, but most from blocks that the model minds least; one backward pass over little text",
        settings=MethodSettings(allocation="sensitivity"),
    ),
    Method(
        name="obs-by-sensitivity",
        summary="as best, but on the calibration text alone: channels that the others make up for best, most from "
        "blocks that the model minds least; then refitted",
        settings=MethodSettings(saliency="obs", allocation="sensitivity", damping=0.1),
    ),
    Method(
        name="obs-sequential",
        summary="obs-by-sensitivity, refitted once more block after block on the sparse model's own activations; "
        "three more passes over the text",
        settings=MethodSettings(saliency="obs", compensation="sequential", allocation="sensitivity", damping=0.1),
    ),
    Method(
        name="retrain-free (published)",
        summary="channels by the Fisher information of their mask, rearranged, in six rounds, nothing refitted; for "
        "every sparsity a backward pass over all text",
        settings=MethodSettings(saliency="fisher", compensation="none", allocation="global", rounds=6),
    ),
    Method(
        name="obs",
        summary="channels one by one, each time the one that the others make up for best; then refitted",
        settings=MethodSettings(saliency="obs"),
    ),
    Method(
        name="flap",
        summary="channels that vary least, across blocks; their mean goes into a bias",
        settings=MethodSettings(saliency="wifv", compensation="bias", allocation="standardised"),
    ),
    Method(
        name="wanda-channels",
        summary="channels by weight times activation, nothing refitted",
        settings=MethodSettings(compensation="none"),
    ),
    Method(
        name="magnitude",
        summary="channels by the size of their weights, nothing refitted",
        settings=MethodSettings(saliency="magnitude", compensation="none"),
    ),
    Method(
        name="random",
        summary="channels at random, nothing refitted: what every method must beat",
        settings=MethodSettings(saliency="random", compensation="none"),
    ),
    Method(
        name="sparsegpt",
        summary="single weights of all projections, those that their row makes up for best; then made up for",
        settings=MethodSettings(saliency="obs", pattern="1x1", scope="decoder"),
    ),
    Method(
        name="wanda",
        summary="single weights of all projections by weight times input, row by row, nothing made up for",
        settings=MethodSettings(compensation="none", pattern="1x1", scope="decoder"),
    ),
    Method(
        name="magnitude-weights",
        summary="single weights of all projections by their size, nothing made up for",
        settings=MethodSettings(saliency="magnitude", compensation="none", pattern="1x1", scope="decoder"),
    ),
    Method(
        name="sparsegpt-2:4",
        summary="as sparsegpt, two of every four neighbours: always 50 %",
        settings=MethodSettings(saliency="obs", pattern="2:4", scope="decoder"),
    ),
    Method(
        name="wanda-2:4",
        summary="as wanda, two of every four neighbours: always 50 %",
        settings=MethodSettings(compensation="none", pattern="2:4", scope="decoder"),
    ),
    Method(
        name="magnitude-2:4",
        summary="as magnitude-weights, two of every four neighbours: always 50 %",
        settings=MethodSettings(saliency="magnitude", compensation="none", pattern="2:4", scope="decoder"),
    ),
)

DEFAULT_METHOD = "best"
"""What the form and the shell begin with, and recommend; chosen by a protocol, see docs/adr/0032."""


def method_named(name: str) -> MethodSettings:
    """The four choices behind a name. Raises SettingsError with the names there are."""
    for method in METHODS:
        if method.name == name:
            return method.settings
    raise SettingsError("method", name, ", ".join(m.name for m in METHODS))


@lru_cache(maxsize=256)
def method_name(settings: MethodSettings) -> str:
    """The name of these choices, or the choices themselves where they have none; then each parameter that is
    unusual.
    """
    own = asdict(settings)
    chosen = {name: value for name, value in own.items() if isinstance(value, str)}
    alike = [method for method in METHODS if chosen.items() <= asdict(method.settings).items()]

    def changes(usual: MethodSettings) -> list[str]:
        return [field for field, value in own.items() if field not in chosen and value != getattr(usual, field)]

    nearest = min(alike, key=lambda method: len(changes(method.settings)), default=None)
    name = nearest.name if nearest else " + ".join(_choices(chosen))
    changed = changes(nearest.settings if nearest else MethodSettings())
    if not changed:
        return name
    words = [f"{_PARAMETERS.get(field, field)} {own[field]:g}" for field in changed]
    return f"{name} ({', '.join(words)})"


_PARAMETERS = {"width_multiple": "multiples of", "plain_text": "plain text"}
"""What parameters are called where their own name would not be understood."""


def _choices(chosen: dict[str, str]) -> list[str]:
    """The choices in words; those that nearly every method shares only where they are others."""
    usual = asdict(MethodSettings())
    always = ("saliency", "compensation", "allocation")
    others = [name for name in chosen if name not in always and chosen[name] != usual[name]]
    return [chosen[name] for name in (*always, *others)]
