"""Scores of continuations and written texts, by the plain forward of the model."""

from itertools import product

import pytest
import torch

from sparsedash.engine.evaluation import continuations
from sparsedash.engine.evaluation.continuations import score_continuations
from sparsedash.engine.evaluation.greedy_texts import write_greedily
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import CorpusError
from tests.engine.tiny import CONFIGS, tiny_loaded

CONTEXTS = (list(range(5, 14)), list(range(5, 9)))
CHOICES = list(product(CONTEXTS, ([7], [8], [7, 9, 11], [7, 9], [3, 1, 4, 1, 5])))
REQUESTS = [*CHOICES, ([1], [2, 3]), ([1], [2, 3]), (list(range(60)), [61, 62])]


def plain_scores(loaded, requests):
    scores = []
    for context, continuation in requests:
        whole = [*context, *continuation][-loaded.max_length - 1 :]
        logits = (
            loaded.model(torch.tensor([whole[:-1]]))
            .logits[0, -len(continuation) :]
            .float()
            .log_softmax(-1)
        )
        chosen = logits.argmax(-1).tolist() == list(continuation)
        scores.append(
            (
                float(sum(logits[i, token] for i, token in enumerate(continuation))),
                chosen,
            )
        )
    return scores


def require_plain_scores(loaded, requests):
    (scores,) = score_continuations(
        loaded, [torch.inference_mode], requests, lambda n: None
    )
    values = [value for value, _ in plain_scores(loaded, requests)]
    assert [score.log_likelihood for score in scores] == pytest.approx(values, abs=2e-4)


def first_choices(loaded, context, n):
    ids = list(context)
    for _ in range(n):
        ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(context) :]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_continuation_scores_as_in_the_plain_forward_whether_its_context_is_shared_or_not(
    family, monkeypatch
):
    # Several batches, and several of what goes on from each.
    monkeypatch.setattr(continuations, "BATCH_TOKENS", 16)
    loaded = tiny_loaded(family)
    seen = list[int]()
    firsts = [first_choices(loaded, context, 3) for context, _ in CHOICES[::5]]
    requests = [
        *REQUESTS,
        *zip(
            (context for context, _ in CHOICES[::5]),
            firsts,
            strict=True,
        ),
    ]
    (scores,) = score_continuations(
        loaded, [torch.inference_mode], requests, seen.append
    )
    for scored, (value, greedy) in zip(
        scores,
        plain_scores(loaded, requests),
        strict=True,
    ):
        assert scored.log_likelihood == pytest.approx(value, abs=2e-4)
        assert scored.greedy == greedy
    assert all(scored.greedy for scored in scores[len(REQUESTS) :])
    assert seen[-1] == len(requests) and seen == sorted(seen)


@pytest.mark.parametrize("context", [[1], [1, 2]])
def test_what_many_continuations_share_does_not_make_a_batch_larger(
    context, monkeypatch
):
    monkeypatch.setattr(continuations, "BATCH_TOKENS", 64)
    loaded = tiny_loaded("gpt2", n_positions=16)
    sizes = list[int]()
    real = LoadedModel.walk

    def walk(model, batches, caches):
        sizes.extend(batch.ids.numel() for batch in batches)
        return real(model, batches, caches)

    monkeypatch.setattr(LoadedModel, "walk", walk)
    requests = [
        (context, [3 + i % 50, *range(5, 5 + i % 9), 7 + i // 50]) for i in range(200)
    ]
    requests += [(list(range(14)), [5, 6]), (list(range(14)), [7, 8])]
    require_plain_scores(loaded, requests)
    assert max(sizes) <= 64 and len(sizes) > 10


def test_a_context_that_is_too_long_loses_its_beginning_and_a_longer_continuation_is_refused():
    loaded = tiny_loaded("llama", max_position_embeddings=16)
    requests = [(list(range(20)), [5, 6]), (list(range(20)), [7, 8])]
    require_plain_scores(loaded, requests)
    with pytest.raises(CorpusError, match="longer than the model can read"):
        score_continuations(
            loaded, [torch.inference_mode], [([1], list(range(17)))], lambda n: None
        )


def test_continuations_that_fit_one_by_one_fit_together():
    # GPT-Neo's mask has as many columns as it reads tokens; the longest context and continuation
    # have more.
    loaded = tiny_loaded("gpt_neo", max_position_embeddings=16)
    long = list(range(13))
    short = list(range(20, 29))
    requests = [
        (long, [5, 6]),
        (long, [7, 8]),
        (short, [5, 6, 7, 8, 9, 10, 11]),
        (short, [7, 8, 9, 10, 11, 12, 13]),
    ]
    require_plain_scores(loaded, requests)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "opt"])
def test_texts_are_the_first_choices_of_the_plain_forward_up_to_a_stop_text(family):
    loaded = tiny_loaded(family)
    prompts = [list(range(3, 12)), [9, 8, 7]]
    whole = []
    for prompt in prompts:
        new = first_choices(loaded, prompt, 10)
        whole.append(loaded.tokenizer.decode(new[: new.index(0)] if 0 in new else new))
    assert write_greedily(
        loaded,
        [torch.inference_mode],
        prompts,
        10,
        [],
        lambda n: None,
    ) == [whole]
    longest = max(whole, key=len)
    stop = longest[len(longest) // 2 :][:2]
    written = write_greedily(
        loaded,
        [torch.inference_mode],
        prompts,
        10,
        [stop],
        lambda n: None,
    )
    assert written == [[text.split(stop)[0] for text in whole]]
