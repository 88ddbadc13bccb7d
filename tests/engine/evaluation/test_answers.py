"""The word a model writes instead: the same alone and in a batch with longer passages; target
scores.
"""

from contextlib import nullcontext
from itertools import chain, pairwise

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from sparsedash.engine.evaluation.answers import (
    finish_answers_,
    first_word,
    target_scores,
    unfinished_answers,
)
from sparsedash.schema.errors import CalibrationError
from tests.engine.tiny import CONFIGS, as_loaded, tiny_loaded

WINDOW = 6
WINDOWED = ("gemma2", "gemma3_text", "mistral", "starcoder2", "gpt_neo")


def loaded_of(model_type):
    """A tiny model whose every window is far shorter than the batch's padding."""
    torch.manual_seed(1)
    window = (
        {"window_size": WINDOW}
        if model_type == "gpt_neo"
        else {"sliding_window": WINDOW}
    )
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type] | window)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return as_loaded(model.eval().requires_grad_(False))


def begun_in_one_batch(loaded, contexts):
    """The first tokens of the answers to contexts that are read in one batch, and what is left to
    be finished.
    """
    ids = [loaded.tokenizer(context).input_ids for context in contexts]
    longest = max(map(len, ids))
    read = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    cache = DynamicCache()
    logits = loaded.model(
        input_ids=read,
        cache=cache,
        use_cache=True,
    ).logits
    begun = [
        [int(logits[row, len(token_ids) - 1].argmax())]
        for row, token_ids in enumerate(ids)
    ]
    return begun, unfinished_answers(
        loaded,
        nullcontext,
        cache,
        ids,
        begun,
    )


def words(loaded, *batches):
    """The words that a model answers contexts with that are read batch by batch and finished
    together.
    """
    read = [begun_in_one_batch(loaded, contexts) for contexts in batches]
    begun, unfinished = (list(chain(*lists)) for lists in zip(*read, strict=True))
    finish_answers_(loaded, unfinished)
    return [first_word(loaded, tokens) for tokens in begun]


def greedy(loaded, context, n_tokens):
    """The next tokens, with the whole text read anew for each."""
    ids = loaded.tokenizer(context).input_ids
    for _ in range(n_tokens):
        ids = [*ids, int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax())]
    return loaded.tokenizer.decode(ids[-n_tokens:])


SHORT = [
    f"the {word}"
    for word in ("lamp", "boat", "letter", "and", "went", "home", "b", "x")
]
LONG = "the lamp and the boat and the letter went home " * 5


@pytest.mark.parametrize("model_type", WINDOWED)
def test_padding_counts_for_nothing_in_a_window_and_batches_are_finished_together_as_by_themselves(
    model_type,
):
    loaded = loaded_of(model_type)
    alone = [words(loaded, [context])[0] for context in SHORT]
    assert words(loaded, [*SHORT, LONG])[:-1] == alone
    together = words(loaded, SHORT[:3], [LONG, SHORT[3]], SHORT[4:])
    assert together[:3] + together[4:] == alone
    for context, word in zip(SHORT[:4], alone, strict=False):
        if word != "(part of a character)":
            assert greedy(loaded, context, 16).strip().startswith(word.strip())


def speller(word):
    """A model that goes on to spell this word, a letter at a time: its blocks change nothing, and
    its head maps each letter to the next.
    """
    loaded = tiny_loaded("llama")
    spelled = [loaded.tokenizer(letter).input_ids[0] for letter in f" {word} "]
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        embeddings = loaded.model.get_input_embeddings().weight
        head = loaded.model.get_output_embeddings().weight
        for place, (letter, following) in enumerate(pairwise(spelled)):
            embeddings[letter, place] = head[following, place] = 1.0
    return loaded


def test_a_word_of_many_tokens_is_written_to_its_end():
    assert words(speller("abcdefgh"), ["a"]) == ["bcdefgh"]


def test_a_target_of_two_tokens_gets_the_logarithms_of_both_and_their_ranks_and_no_number_is_refused():
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    (score,) = target_scores(logits, [[2, 1]], str)
    assert [token.log_likelihood for token in score.tokens] == pytest.approx(
        [
            torch.log_softmax(logits[0], 0)[2].item(),
            torch.log_softmax(logits[1], 0)[1].item(),
        ]
    )
    assert ([token.rank for token in score.tokens], score.choices) == ([1, 2], [2, 0])
    assert score.first_wrong == [2, 0]
    logits[1, 2] = float("nan")
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        list(target_scores(logits, [[2, 1]], str))
