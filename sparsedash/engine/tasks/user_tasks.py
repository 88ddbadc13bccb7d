"""Tasks of a user: .yaml files of plain fields, with their data beside them, that run no code."""

from collections import Counter
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from sparsedash.engine.tasks.task_fields import require_fields, shown
from sparsedash.schema.errors import CorpusError, first_line
from sparsedash.storage.local_machine import lies_below, local_path, path_kind
from sparsedash.storage.task_files import named_data, yaml_files
from sparsedash.storage.text_files import FILE

_MAX_BYTES = 10**6
"""Of a user's .yaml file."""
_DATA = ("json", "parquet")
_ALLOWED = frozenset(
    (
        "task",
        "dataset_path",
        "dataset_kwargs",
        "output_type",
        "num_fewshot",
        "metadata",
        "training_split",
        "validation_split",
        "test_split",
        "fewshot_split",
        "fewshot_config",
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "description",
        "gen_prefix",
        "target_delimiter",
        "fewshot_delimiter",
        "metric_list",
        "generation_kwargs",
        "filter_list",
        "should_decontaminate",
        "doc_to_decontamination_query",
    )
)
"""Fields of a user's .yaml file; the harness runs code for others."""
_EXAMPLES = {"split", "samples", "sampler"}


def load_user_tasks(reference: str) -> dict[str, Any]:
    """The tasks of a user's file, or of all .yaml files in a folder."""
    path = local_path(reference.removeprefix(FILE)).absolute()
    if path_kind(path) == "nothing":
        raise CorpusError(f"There is no {path}.", "Check the path after file:.")
    files = yaml_files(reference)
    if not files:
        raise CorpusError(f"{path} holds no .yaml file.")
    configs = [_checked_config(file) for file in files]
    n_configs = Counter(config["task"] for config in configs)
    if twice := [name for name, n in n_configs.items() if n > 1]:
        raise CorpusError(
            f"{path} holds two tasks named {twice[0]}.", "Give each a name of its own."
        )
    # A user's questions stay out of the cache that all runs share.
    with TemporaryDirectory() as cache:
        for config in configs:
            config["dataset_kwargs"] |= {"cache_dir": cache, "keep_in_memory": True}
        return {config["task"]: _harness_task(config) for config in configs}


def _harness_task(config: dict[str, Any]) -> Any:
    from lm_eval.api.task import ConfigurableTask

    try:
        return ConfigurableTask(config=config)
    except (IndexError, TypeError) as error:
        # The harness fills the first question, and looks up its target among its choices.
        fields = "doc_to_text, doc_to_target or doc_to_choice"
        raise CorpusError(
            f"{config['task']}: question 1 has no such {fields}: {first_line(error)}."
        ) from error


def _checked_config(file: Path) -> dict[str, Any]:
    """The fields of a user's task, with full data paths. Raises CorpusError if it runs code."""
    from lm_eval.api.registry import metric_registry

    # A pipe would be waited for.
    if path_kind(file) != "file" or file.stat().st_size > _MAX_BYTES:
        limit = f"{_MAX_BYTES // 10**6} MB"
        raise CorpusError(
            f"{file.name} is not a regular file of at most {limit}.",
            "Move the questions into a data file, and name it in data_files.",
        )
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        why = "it runs code" if "!function" in str(error) else first_line(error)
        raise CorpusError(
            f"{file.name} cannot be read: {why}.",
            "Write the task as plain YAML, without !function.",
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("task"), str):
        raise CorpusError(
            f"{file.name} names no task.", "It needs a line `task: NAME`."
        )
    require_fields(file.name, config)
    examples = config.get("fewshot_config") or {}
    data = config.get("dataset_kwargs") or {}
    unknown = {str(name) for name in config} - _ALLOWED | {
        f"fewshot_config.{name}" for name in set(examples) - _EXAMPLES
    }
    if unknown:
        raise CorpusError(
            f"{file.name} has fields that could run code: {', '.join(map(shown, sorted(unknown)))}."
        )
    if config.get("dataset_path") not in _DATA or set(data) != {"data_files"}:
        raise CorpusError(
            f"{file.name} names no data in its folder.",
            f"It needs dataset_path: {' or '.join(_DATA)}, and dataset_kwargs: data_files.",
        )
    for metric in config.get("metric_list") or ():
        name = metric.get("metric") if isinstance(metric, dict) else None
        if (
            not isinstance(name, str)
            or name not in metric_registry
            or metric.get("hf_evaluate")
        ):
            raise CorpusError(
                f"{file.name} names the metric {shown(name)}, which would be downloaded as code."
            )
    files = data["data_files"]
    by_split = files if isinstance(files, dict) else {"train": files}
    whole = {
        str(split): _beside(file, names, config["dataset_path"])
        for split, names in by_split.items()
    }
    seen = {str(path.resolve()) for path in named_data(file)}
    if not seen.issuperset(chain.from_iterable(whole.values())):
        # A change of such a file would go unseen.
        raise CorpusError(
            f"{file.name} names its data files indirectly.",
            "Write data_files out in full, without YAML merge keys (<<).",
        )
    return config | {"dataset_kwargs": {"data_files": whole}}


def _beside(file: Path, names: Any, kind: str) -> list[str]:
    """Full paths of data files of plain values, all in the task's folder."""
    from datasets import Features
    from datasets.features.features import require_decoding
    from pyarrow.parquet import read_schema

    paths = []
    for name in names if isinstance(names, list) else [names]:
        path = file.parent / str(name)
        if path_kind(path) != "file" or not lies_below(path, [str(file.parent)]):
            raise CorpusError(
                f"{file.name} names {shown(name)}, which is no file in its folder."
            )
        if kind == "parquet" and any(
            map(
                require_decoding, Features.from_arrow_schema(read_schema(path)).values()
            )
        ):
            # Such a column may name files and addresses that would be opened.
            raise CorpusError(
                f"{file.name} names {name}, which holds pictures or sounds."
            )
        paths.append(str(path.resolve()))
    return paths
