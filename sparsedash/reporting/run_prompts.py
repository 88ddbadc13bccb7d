"""What the dense model of a run and the sparse one that the answer names write after each of the run's prompts."""

from collections.abc import Iterator
from dataclasses import dataclass

from sparsedash.reporting.run_results import Results, RunResults
from sparsedash.schema.pair_records import ContinuationSettings


@dataclass(frozen=True, kw_only=True)
class PromptTexts:
    """A prompt and its continuations. sparse: None where there is no such model yet, or its text is not stored."""

    prompt: str
    dense: str
    sparse: str | None


def prompt_texts(results: Results, found: RunResults) -> Iterator[PromptTexts]:
    """The texts of the run's prompts; none of a prompt that the dense model has not continued."""
    dense = found.dense.key
    for prompt in found.run.settings.prompts:
        asked = ContinuationSettings(left=dense, right=dense, prompt=prompt)
        if (own := results.written(asked)) is not None:
            sparse = found.headline and results.written(asked.by_one(found.headline.key))
            yield PromptTexts(prompt=prompt, dense=own.left, sparse=sparse.left if sparse else None)
