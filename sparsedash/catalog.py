"""What a person can choose, by name, with one line on each. The engine's tables implement these; a test holds them equal."""

from dataclasses import asdict, dataclass
from functools import lru_cache

from sparsedash import families
from sparsedash.errors import SettingsError
from sparsedash.method_settings import MethodSettings

BUILTIN_MODEL = "builtin:smollm2-135m"
BUILTIN_CLOZE = "builtin:cloze"
DOWNLOADED = "downloaded once, then read from the local cache"
STREAMED = "its first 10,000 documents are streamed once, then read from the local cache"
LAMBADA_SIZE = "552 MB, nearly all of it the novels of the training split"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A name as it is typed, a title as it is shown, and one line on it.

    Of a text set also the licence, the size of all its splits as they are fetched, and how it is read; of one of the hub the
    first two as its card and its list of files say.
    """

    name: str
    title: str
    summary: str
    licence: str = ""
    size: str = ""
    reading: str = ""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A named method: a preset of the four choices."""

    name: str
    summary: str
    settings: MethodSettings


MODELS: tuple[Choice, ...] = (
    Choice(
        name=BUILTIN_MODEL,
        title="SmolLM2 135M (built in)",
        summary="ships with the installation, needs no network; Apache-2.0",
    ),
    Choice(name="EleutherAI/gpt-j-6b", title="GPT-J 6B", summary="published; 24 GB in FP32"),
    Choice(name="facebook/opt-1.3b", title="OPT 1.3B", summary="published; 5 GB in FP32"),
    Choice(name="facebook/opt-2.7b", title="OPT 2.7B", summary="published; 11 GB in FP32"),
    Choice(name="huggyllama/llama-7b", title="LLaMA 7B", summary="published; 27 GB in FP32"),
    Choice(name="bigscience/bloom-1b7", title="BLOOM 1.7B", summary="published; 7 GB in FP32"),
    Choice(name="bigscience/bloom-7b1", title="BLOOM 7.1B", summary="published; 28 GB in FP32"),
)

FAMILIES: tuple[str, ...] = tuple(families.FAMILIES)
"""Values of `model_type` in a model's config.json that can be pruned."""

EVALUATION_CORPORA: tuple[Choice, ...] = (
    Choice(
        name=BUILTIN_CLOZE,
        title="Cloze passages (built in)",
        summary="132 passages written for this project in LAMBADA's manner; not LAMBADA, not comparable with it",
        licence="Apache-2.0",
        size="65 kB",
        reading="ships with the program",
    ),
    Choice(
        name="lambada_openai",
        title="LAMBADA, OpenAI variant",
        summary="5,153 passages, the text the common harness uses",
        licence="MIT",
        size="1.8 MB",
        reading=DOWNLOADED,
    ),
    Choice(
        name="lambada",
        title="LAMBADA, original",
        summary="5,153 lower-case passages, the test split",
        licence="CC BY 4.0",
        size=LAMBADA_SIZE,
        reading=DOWNLOADED,
    ),
    Choice(
        name="lambada-validation",
        title="LAMBADA, original, validation",
        summary="4,869 lower-case passages, those of the published last-token table",
        licence="CC BY 4.0",
        size=LAMBADA_SIZE,
        reading=DOWNLOADED,
    ),
)

CALIBRATION_CORPORA: tuple[Choice, ...] = (
    Choice(
        name="self",
        title="Written by the model itself",
        summary="sampled from the dense model after short story openings; needs no data",
        licence="the model's",
        size="what is asked for",
        reading="written on this machine, then kept",
    ),
    Choice(
        name="pile-10k",
        title="Pile, 10k documents",
        summary="the published calibration text",
        licence="BigScience BLOOM RAIL 1.0",
        size="33 MB",
        reading=DOWNLOADED,
    ),
    Choice(
        name="the_pile",
        title="Pile, without Books3 and the like",
        summary="web, code, papers and more; the published name, without the parts that had to go",
        licence="other, says its card: that of each part",
        size="30 compressed files",
        reading=STREAMED,
    ),
    Choice(
        name="c4",
        title="C4, English",
        summary="cleaned web pages",
        licence="ODC-BY",
        size="305 GB",
        reading=STREAMED,
    ),
    Choice(
        name="wikitext-2",
        title="WikiText-2",
        summary="encyclopaedia articles",
        licence="CC BY-SA 3.0 and GFDL",
        size="8 MB",
        reading=DOWNLOADED,
    ),
    Choice(
        name="lambada-train",
        title="LAMBADA, original, training",
        summary="2,662 lower-case novels",
        licence="CC BY 4.0",
        size=LAMBADA_SIZE,
        reading=DOWNLOADED,
    ),
)

METHODS: tuple[Method, ...] = (
    Method(
        name="least-squares",
        summary="channels by weight times activation; what stays is refitted to make up for what went",
        settings=MethodSettings(),
    ),
    Method(
        name="best",
        summary="channels by weight times activation, most from blocks that the model minds least; then refitted; one backward pass over little text",
        settings=MethodSettings(allocation="sensitivity"),
    ),
    Method(
        name="obs-by-sensitivity",
        summary="channels that the others make up for best, most from blocks that the model minds least; then refitted",
        settings=MethodSettings(saliency="obs", allocation="sensitivity", damping=0.1),
    ),
    Method(
        name="obs-sequential",
        summary="obs-by-sensitivity, refitted once more block after block on the sparse model's own activations; two more passes over the text",
        settings=MethodSettings(
            saliency="obs", compensation="sequential", allocation="sensitivity", damping=0.1
        ),
    ),
    Method(
        name="retrain-free (published)",
        summary="channels by the Fisher information of their mask, rearranged, in six rounds, nothing refitted; for every sparsity a backward pass over all text",
        settings=MethodSettings(
            saliency="fisher", compensation="none", allocation="global", rounds=6
        ),
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
        summary="channels by lot, nothing refitted: the floor every method must beat",
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
        settings=MethodSettings(
            saliency="magnitude", compensation="none", pattern="1x1", scope="decoder"
        ),
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
        settings=MethodSettings(
            saliency="magnitude", compensation="none", pattern="2:4", scope="decoder"
        ),
    ),
)

DEFAULT_METHOD = "least-squares"


def method_named(name: str) -> MethodSettings:
    """The four choices behind a name. Raises SettingsError with the names there are."""
    for method in METHODS:
        if method.name == name:
            return method.settings
    raise SettingsError("method", name, ", ".join(m.name for m in METHODS))


@lru_cache(maxsize=256)
def method_name(settings: MethodSettings) -> str:
    """The name of these choices, or the choices themselves where they have none; then each parameter that is unusual."""
    own = asdict(settings)
    chosen = {name: value for name, value in own.items() if isinstance(value, str)}
    alike = [method for method in METHODS if chosen.items() <= asdict(method.settings).items()]
    named = next((method for method in alike if method.settings == settings), None)
    usual = (named or alike[0]).settings if alike else MethodSettings()
    words = [(named or alike[0]).name] if alike else _choices(chosen)
    changed = [
        name for name, value in own.items() if name not in chosen and value != getattr(usual, name)
    ]
    words += [f"{_PARAMETERS.get(name, name)} {own[name]:g}" for name in changed]
    return ", ".join(words)


_PARAMETERS = {"width_multiple": "multiples of"}
"""What parameters are called where their own name would not be understood."""


def _choices(chosen: dict[str, str]) -> list[str]:
    """The choices in words; those that nearly every method shares only where they are others."""
    usual = asdict(MethodSettings())
    always = ("saliency", "compensation", "allocation")
    others = [name for name in chosen if name not in always and chosen[name] != usual[name]]
    return [chosen[name] for name in (*always, *others)]
