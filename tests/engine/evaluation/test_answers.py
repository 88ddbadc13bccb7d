"""The word a model writes instead: the same whether it is asked alone or beside longer passages."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from sparsedash.engine.evaluation.answers import finish_words
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


def words(loaded, contexts):
    """What `finish_words` makes of contexts that are answered in one batch."""
    ids = [loaded.tokenizer(context).input_ids for context in contexts]
    longest = max(map(len, ids))
    read = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    cache = DynamicCache()
    logits = loaded.model(input_ids=read, cache=cache, use_cache=True).logits
    begun = [[int(logits[row, len(each) - 1].argmax())] for row, each in enumerate(ids)]
    return finish_words(loaded, mask, cache, [len(row) for row in ids], begun)


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
        cache.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), layer)
    mask = torch.ones(1, 3, dtype=torch.long)
    begun = [letters(tokenizer, word)[:1]]
    assert finish_words(loaded, mask, cache, [3], begun) == [word]
