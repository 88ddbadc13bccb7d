"""Small question sets, and the files that hold them."""

import json
from itertools import count

from sparsedash.schema.question_records import (
    AnsweredQuestion,
    QuestionSet,
    ScoredChoice,
)


def question(i=0, right=True, **values):
    about = {
        "doc_hash": f"doc {i}",
        "prompt_hash": f"prompt {i}",
        "target_hash": f"target {i}",
        "context": "",
        "target": "0",
    }
    return AnsweredQuestion(**{**about, "right": right, **values})


def scored(*log_likelihoods, i=0, right=True):
    choices = tuple(
        ScoredChoice(text=f"choice {k}", log_likelihood=ll)
        for k, ll in enumerate(log_likelihoods)
    )
    return question(
        i,
        right,
        choices=choices,
        chosen=log_likelihoods.index(max(log_likelihoods)),
    )


def rolled(i, log_likelihood, n_words=10):
    return question(
        i,
        None,
        log_likelihood=log_likelihood,
        n_bytes=6 * n_words,
        n_words=n_words,
    )


def answered(*questions, task="sums", measure="exact_match", **values):
    return QuestionSet(
        model="m",
        task=task,
        measure=measure,
        questions=questions,
        **values,
    )


def verdicts(both=0, broke=0, fixed=0, wrong=0, task="sums"):
    """Two sets with these counts of answers that stayed right, broke, were fixed and stayed
    wrong.
    """
    dense = [True] * (both + broke) + [False] * (fixed + wrong)
    sparse = [True] * both + [False] * broke + [True] * fixed + [False] * wrong
    return tuple(
        answered(*map(question, count(), rights), task=task)
        for rights in (dense, sparse)
    )


CHOICE = {
    "doc_id": 0,
    "doc": {"question": "What is red?", "subject": "colours", "label": 1},
    "target": "1",
    "arguments": {
        "gen_args_0": {"arg_0": "What is red?", "arg_1": " a field of long grass"},
        "gen_args_1": {"arg_0": "What is red?", "arg_1": " rust"},
    },
    "resps": [[["-12.0", "False"]], [["-6.0", "False"]]],
    "filtered_resps": [["-12.0", "False"], ["-6.0", "False"]],
    "filter": "none",
    "metrics": ["acc", "acc_norm"],
    "doc_hash": "d",
    "prompt_hash": "p",
    "target_hash": "t",
    "acc": 1.0,
    "acc_norm": 0.0,
}
"""A line of lm-evaluation-harness 0.4.13."""
WRITTEN = CHOICE | {
    "doc": {"question": "1 + 1 ="},
    "target": "2",
    "arguments": {"gen_args_0": {"arg_0": "1 + 1 =", "arg_1": {"until": ["\n"]}}},
    "resps": [[" It is 2"]],
    "filtered_resps": ["2"],
    "filter": "strict-match",
    "metrics": ["exact_match"],
    "exact_match": 1.0,
}
ROLLING = CHOICE | {
    "target": "A short text.",
    "arguments": {"gen_args_0": {"arg_0": "A short text."}},
    "resps": [["-20.5"]],
    "filtered_resps": ["-20.5"],
    "metrics": ["word_perplexity", "bits_per_byte"],
    "word_perplexity": [-20.5, 3],
    "bits_per_byte": [-20.5, 13],
}


def samples(folder, *lines, task="colours", date="2026-01-02T03-04-05.6"):
    """A file of these lines as the harness names it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"samples_{task}_{date}.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join([*texts, ""]))
    return file
