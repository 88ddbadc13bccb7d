"""A folder with tasks of one's own of every kind, over a few questions."""

import json

MULTIPLE_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "question",
    "doc_to_target": "{{' ' + choices[0]}}",
    "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "question",
    "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_text": "question",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {
        "until": ["\n"],
        "max_gen_toks": 8,
        "do_sample": False,
    },
    "metric_list": [{"metric": "exact_match"}],
}


def write_task(folder, name, passages=(), **config):
    """The reference of a task in the folder; its data are written where passages are given."""
    rows = [
        {
            "question": text,
            "choices": [*dict.fromkeys(text.split()[:3])],
            "label": i % 2,
        }
        for i, text in enumerate(passages)
    ]
    if rows:
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    data = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
    }
    # JSON is YAML.
    (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **config}))
    return f"file:{folder / name}.yaml"
