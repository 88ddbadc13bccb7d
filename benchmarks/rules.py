"""The two rules for the last token on the same passages: both counts, and every passage on which they differ, with the
reason.

    python -m benchmarks.rules --evaluation 'file:PASSAGES.jsonl[1250:1275]'

The `plain` rule takes a last token for right when it is the model's first choice. The `published` rule does so too, but
its run padded every passage to 196 tokens: a longer one was cut, and its answer was looked for where it does not
belong.
"""

import argparse

from benchmarks.arguments import answers_parser
from sparsedash.engine.evaluation.evaluate import evaluate_alone
from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import PUBLISHED_LONGEST, EvaluationSettings
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import names_file
from sparsedash.storage.text_files import text_slice as slice_of

RULES = ("plain", "published")


def main() -> None:
    arguments = _arguments()
    loaded = load_model(locate_model(arguments.model, Store(arguments.data_dir)), arguments.dtype)
    settings = EvaluationSettings(n_passages=arguments.passages)
    passages = choose_passages(read_texts(arguments.evaluation), settings)
    # The model answers once for each rule, so that what is compared is what a run would keep.
    answers = {rule: evaluate_alone(loaded, passages, ignore_steps, rule=rule).outcomes for rule in RULES}
    texts = [c + t for c, t in zip(passages.contexts, passages.targets, strict=True)]
    lengths = [len(loaded.tokenizer(text).input_ids) for text in texts]
    first = slice_of(arguments.evaluation).start or 0 if names_file(arguments.evaluation) else 0
    n_passages = len(lengths)
    print(f"{arguments.model}, {arguments.dtype}, {n_passages} passages of {arguments.evaluation}")
    for rule in RULES:
        n_right = sum(outcome.last_token_right for outcome in answers[rule])
        print(f"{rule:9} {n_right} of {n_passages} last tokens right, {n_right / n_passages:.1%}")
    n_long = sum(length > PUBLISHED_LONGEST for length in lengths)
    print(f"{n_long} passages have more than {PUBLISHED_LONGEST} tokens; the rules differ on:")
    for length, plain, published in zip(lengths, *answers.values(), strict=True):
        if plain.last_token_right != published.last_token_right:
            print(
                f"  passage {first + plain.index} ({plain.target!r}, {length} tokens): the model says it, but it lies "
                f"{length - PUBLISHED_LONGEST} beyond what the published run could judge"
            )
    same_word = all(a.last_word_right == b.last_word_right for a, b in zip(*answers.values(), strict=True))
    print(f"the last word is judged alike everywhere: {'yes' if same_word else 'NO'}")


def _arguments() -> argparse.Namespace:
    parser = answers_parser(__doc__)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
