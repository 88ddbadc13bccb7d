"""`sparsedash judge` on small files of lm-evaluation-harness."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from sparsedash.shell.commands import main
from tests.llama_files import PRINTED, drawn_models, log_softmax, write_logits
from tests.question_sets import WRITTEN, samples

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def folders(tmp_path):
    """Two folders of 400 answers to sums, a quarter of them lost, and one task that only the first
    answered.
    """
    for name, n_right in (("dense", 400), ("small", 300)):
        lines = [
            WRITTEN | {"doc_hash": f"{i}", "exact_match": float(i < n_right)}
            for i in range(400)
        ]
        samples(tmp_path / name, *lines, task="sums")
    samples(tmp_path / "dense", WRITTEN, task="more")
    return str(tmp_path / "dense"), str(tmp_path / "small")


def test_two_folders_end_in_a_table_a_sentence_and_a_document(
    folders, tmp_path, capsys
):
    file = tmp_path / "judged.json"
    assert (
        main(
            [
                "judge",
                *folders,
                "--within-points",
                "5",
                "--json",
                str(file),
                "--fail-beyond",
            ]
        )
        == 3
    )
    printed = capsys.readouterr()
    (tmp_path / "pruned").mkdir()
    assert "small costs too much: sums −25.0 points (limit −5)." in printed.out
    assert "Limits: perplexity 1.10 ×, accuracy −5 points." in printed.out
    warning = "Questions of more left out: 1, answered by one model only."
    assert printed.err.strip() == f"sparsedash: warning: {warning}"
    document = json.loads(file.read_text())
    assert (document["verdict"], document["tasks"][0]["task"]) == ("beyond", "sums")
    assert main(["judge", folders[0], folders[0], "--fail-beyond"]) == 0
    small = Path(folders[1]).rename(tmp_path / "Llama-3.2-1B")
    main(["judge", folders[0], str(small)])
    main(["judge", folders[0], str(small.rename(tmp_path / "pruned" / "dense"))])
    printed = capsys.readouterr().out
    assert (
        "Llama-3.2-1B costs too much: sums" in printed
        and "pruned/dense costs too much: sums" in printed
    )


def test_a_limit_of_one_task_overrules_that_of_all_and_one_that_nobody_answered_is_said(
    folders, capsys
):
    assert (
        main(
            [
                "judge",
                *folders,
                "--fail-beyond",
                "--within-task",
                "sums=40",
                "--within-task",
                "builtin:sum=3",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert (
        "Limit on sums: 40 points." in printed.out
        and "small stays within the limit on sums." in printed.out
    )
    assert (
        "sparsedash: warning: Limits name sum, but the answers are of sums."
        in printed.err
    )


def test_a_pair_that_was_asked_differently_is_refused(folders, tmp_path, refusal):
    answers = [
        WRITTEN | {"doc_hash": f"{i}", "prompt_hash": "new" if i < 42 else "p"}
        for i in range(400)
    ]
    changed = samples(tmp_path / "other", *answers, task="sums")
    (one,) = (tmp_path / "dense").glob("samples_sums_*")
    assert "the prompt differs in 42 of 400 questions" in refusal(
        "judge", str(one), str(changed)
    )
    samples(tmp_path / "two", WRITTEN, task="more")
    samples(tmp_path / "two", WRITTEN, task="most")
    assert "no task in common" in refusal("judge", folders[1], str(tmp_path / "two"))


def test_several_models_end_in_a_leaderboard_a_ranking_and_a_document(
    folders, tmp_path, capsys
):
    file = tmp_path / "judged.json"
    third = tmp_path / "third"
    shutil.copytree(folders[0], third)
    command = ["judge", *folders, str(third), "--json", str(file), "--fail-beyond"]
    assert main(command) == 3
    printed = capsys.readouterr()
    assert (
        "dense and third tie for first on 400 questions that all answered."
        in printed.out
    )
    assert "small costs too much: sums −25.0 points (limit −2)." in printed.out
    assert "third stays within the limit on sums." in printed.out
    warning = "small: Questions of more left out: 1, answered by one model only."
    assert warning in printed.err
    document = json.loads(file.read_text())
    assert [model["verdict"] for model in document["models"]] == ["beyond", "within"]
    assert [model["rank"] for model in document["ranking"]["models"]] == [1, 1, 3]


def test_one_file_may_hold_all_models(tmp_path, capsys, refusal):
    rows = ["id,right,model"]
    for i in range(60):
        rows += [f"{i},1,base", f"{i},{int(i > 0)},cut"]
    file = tmp_path / "both.csv"
    file.write_text("\n".join(rows))
    main(["judge", str(file)])
    assert "cut is too close to call on questions." in capsys.readouterr().out
    file.write_text("\n".join(rows[::2]).replace("cut", "base"))
    assert "holds one model's answers" in refusal("judge", str(file))


def test_columns_of_a_table_are_named(tmp_path, capsys, refusal):
    for name, n_right in (("dense", 40), ("small", 39)):
        rows = [f"{i},{int(i < n_right)},{i}" for i in range(40)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["nr,ok,id", *rows]))
    files = [str(tmp_path / f"{name}.csv") for name in ("dense", "small")]
    assert "no column for right" in refusal("judge", *files)
    assert "RIGHT=ok" in refusal("judge", *files, "--columns", "RIGHT=ok")
    assert main(["judge", *files, "--columns", "id=nr,right=ok"]) == 0
    assert "40  100.0 %  97.5 %" in capsys.readouterr().out


def test_markdown_is_escaped_and_a_verdict_can_fail_a_job(tmp_path, capsys):
    for name, n_right in (("dense", 400), ("small", 397)):
        rows = [f"{i},{int(i < n_right)},<b>|*sums*" for i in range(400)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,right,task", *rows]))
    files = [str(tmp_path / f"{name}.csv") for name in ("dense", "small")]
    command = ["judge", *files, "--markdown", "--fail-unless-within", "--within-points"]
    assert main([*command, "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == r"### small stays within the limit on \<b\>\|\*sums\*."
    assert printed[2].startswith("| task | verdict |")
    assert printed[3].startswith("| --- | --: |")
    assert printed[4].startswith(r"| \<b\>\|\*sums\* | ✓ within |")
    assert main([*command, "1"]) == 3
    assert main([*command[:3], "--fail-beyond", "--within-points", "1"]) == 0
    main(["judge", *files, files[0], "--markdown"])
    assert "| model | rank | right | change | interval |" in capsys.readouterr().out


def test_the_example_workflow_judges_and_fails(folders, tmp_path):
    steps = yaml.safe_load((DOCS / "judge-workflow.yml").read_text())["jobs"]["judge"][
        "steps"
    ]
    (script,) = (step["run"] for step in steps if step.get("name") == "Judge")
    program = tmp_path / "bin" / "sparsedash"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sparsedash "$@"\n')
    program.chmod(0o755)
    (tmp_path / "answers").mkdir()
    summary = tmp_path / "summary.md"
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(summary),
        "PYTHONPATH": str(DOCS.parent),
    }
    dense, small = map(Path, folders)
    shutil.copytree(dense, tmp_path / "answers" / "main")
    for answers, code in ((dense, 0), (small, 3)):
        shutil.copytree(answers, tmp_path / "answers" / "change", dirs_exist_ok=True)
        job = ["bash", "-e", "-c", script]
        assert subprocess.run(job, cwd=tmp_path, env=environment).returncode == code
    text = summary.read_text()
    assert text.startswith("### change stays within the limit on sums.")
    assert "### change costs too much: sums" in text


def test_base_files_of_llama_cpp_give_the_figures_of_the_field(
    tmp_path, capsys, refusal
):
    tokens, base, near = drawn_models()
    names = {"base": base, "near": near, "far": drawn_models(noise=3.0)[2]}
    files = {name: str(tmp_path / f"{name}.kld") for name in names}
    for name, logits in names.items():
        write_logits(Path(files[name]), tokens, logits)
    result = tmp_path / "figures.json"
    command = ["judge", files["base"], files["near"], "--json", str(result)]
    assert main([*command, "--within", "1.2", "--fail-unless-within"]) == 0
    printed = capsys.readouterr().out
    assert "near stays within the limit: perplexity 1.0" in printed
    assert "On 1,240 tokens; ± over 40 blocks of text." in printed
    document = json.loads(result.read_text())
    raw = []
    for chunk, place in itertools.product(range(40), range(32, 63)):
        p, q = (log_softmax(logits[chunk, place]) for logits in (base, near))
        raw.append(float((np.exp(p) * (p - q)).sum()))
    # Within what 16 bits keep of the logits.
    assert document["kl"]["value"] == pytest.approx(np.mean(raw), abs=5e-6)
    assert document["kl_quantiles"]["0.999"] is None
    assert main(["judge", files["base"], files["far"], "--fail-beyond"]) == 3
    assert "compared with those of other models" in refusal("judge", files["base"])
    near_size = ["--size", f"{files['near']},1.5GB"]
    assert main(["judge", *files.values(), *near_size, "--json", str(result)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["model", "near", "far"]
    assert "Text: the 2,560 tokens of base.kld." in lines
    both = json.loads(result.read_text())
    assert (both["format"], both["verdict"]) == ("sparsedash.divergences/1", "beyond")
    sizes = [model["size_bytes"] for model in both["models"]]
    assert sizes == [Path(files["near"]).stat().st_size, 1_500_000_000]
    too_many = refusal("judge", files["base"], files["near"], *near_size)
    assert "--size names 2 sizes of 1 models" in too_many
    output = tmp_path / "q4.txt"
    output.write_text(PRINTED)
    assert main(["judge", str(output), "--markdown"]) == 0
    assert "| Mean KLD | 0.045678 | 0.000345 |" in capsys.readouterr().out
    second = tmp_path / "q8.txt"
    second.write_text(PRINTED.replace("0.045678", "0.001234"))
    assert main(["judge", str(output), str(second), "--size", "4GB,8GB"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:3]] == ["q8", "q4"]
    second.write_text(PRINTED.replace("8.765432", "7.765432"))
    assert "other texts" in refusal("judge", str(output), str(second))
    assert "no base file" in refusal("judge", files["base"], str(output))


def test_answers_are_judged_without_torch(folders):
    program = (
        f"import sys; from sparsedash.shell.commands import main; assert main(['judge', *{folders!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, timeout=120
    )
