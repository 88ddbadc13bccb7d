"""The word a model writes instead: the same whether it is asked alone or beside longer passages."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from sparsedash.engine.evaluation.answers import finish_, first_word, unfinished
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.modules import FAMILIES
from tests.engine.tiny import CONFIGS, tiny_tokenizer

WINDOW = 6
WINDOWED = ("gemma2", "gemma3_text", "mistral", "starcoder2", "gpt_neo")


def loaded_of(model_type):
    """A tiny model whose every window is far shorter than the batch's padding."""
    torch.manual_seed(1)
    window = {"window_size": WINDOW} if model_type == "gpt_neo" else {"sliding_window": WINDOW}
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type] | window)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return LoadedModel(
        identity="tiny",
        dtype="float32",
        model=model.eval().requires_grad_(False),
        tokenizer=tiny_tokenizer(),
        family=FAMILIES[model_type],
    )


def begun_in_one_batch(loaded, contexts):
    """The first tokens of the answers to contexts that are read in one batch, and what is left to be finished."""
    ids = [loaded.tokenizer(context).input_ids for context in contexts]
    longest = max(map(len, ids))
    read = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    cache = DynamicCache()
    logits = loaded.model(input_ids=read, cache=cache, use_cache=True).logits
    begun = [[int(logits[row, len(each) - 1].argmax())] for row, each in enumerate(ids)]
    return begun, unfinished(loaded, cache, [len(row) for row in ids], begun)


def words(loaded, *batches):
    """The words that a model answers contexts with that are read batch by batch and finished together."""
    read = [begun_in_one_batch(loaded, contexts) for contexts in batches]
    finish_(loaded, [part for _, parts in read for part in parts])
    return [first_word(loaded, tokens) for begun, _ in read for tokens in begun]


def greedy(loaded, context, n_tokens):
    """The next tokens, with the whole text read anew for each."""
    ids = loaded.tokenizer(context).input_ids
    for _ in range(n_tokens):
        ids = [*ids, int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax())]
    return loaded.tokenizer.decode(ids[-n_tokens:])


SHORT = [f"the {word}" for word in ("lamp", "boat", "letter", "and", "went", "home", "b", "x")]
LONG = "the lamp and the boat and the letter went home " * 5


@pytest.mark.parametrize("model_type", WINDOWED)
def test_padding_counts_for_nothing_in_a_window(model_type):
    loaded = loaded_of(model_type)
    alone = [words(loaded, [context])[0] for context in SHORT]
    assert words(loaded, [*SHORT, LONG])[:-1] == alone
    for context, word in zip(SHORT, alone, strict=True):
        if word != "(part of a character)":
            assert greedy(loaded, context, 16).strip().startswith(word.strip())


@pytest.mark.parametrize("model_type", WINDOWED)
def test_answers_of_several_batches_are_finished_together_as_by_themselves(model_type):
    loaded = loaded_of(model_type)
    alone = words(loaded, SHORT[:3]) + words(loaded, [LONG, SHORT[3]]) + words(loaded, SHORT[4:])
    assert words(loaded, SHORT[:3], [LONG, SHORT[3]], SHORT[4:]) == alone


def test_nothing_is_read_where_every_answer_is_a_word():
    finish_(None, [])


class Speller:
    """A model that goes on to spell one long word, a letter at a time, whatever it has read."""

    def __init__(self, tokenizer, word):
        self._next = dict(zip(letters(tokenizer, " " + word), letters(tokenizer, word + " "), strict=True))
        self.config = self

    def forward(self, input_ids, attention_mask, cache, use_cache, position_ids):
        logits = torch.zeros(*input_ids.shape, 400)
        for row, (token,) in enumerate(input_ids.tolist()):
            logits[row, 0, self._next.get(token, 0)] = 1.0
        return type("Output", (), {"logits": logits})

    __call__ = forward


def letters(tokenizer, text):
    return [tokenizer(letter).input_ids[0] for letter in text]


def test_a_word_of_many_tokens_is_written_to_its_end():
    tokenizer = tiny_tokenizer()
    word = "abcdefgh"
    loaded = LoadedModel(
        identity="tiny", dtype="float32", model=Speller(tokenizer, word), tokenizer=tokenizer, family=FAMILIES["llama"]
    )
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2), layer)
    begun = [letters(tokenizer, word)[:1], None]
    finish_(loaded, unfinished(loaded, cache, [3, 3], begun))
    assert first_word(loaded, begun[0]) == word
    assert begun[1] is None
