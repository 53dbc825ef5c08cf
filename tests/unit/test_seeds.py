"""aha run RECIPE seed=1,2,3: which runs it makes, how it stops, and the tables over seeds."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import seeds
from rl.config import DataConfig, EvalConfig, GRPOConfig, RunConfig
from rl.evaluation.result import EvalResult
from rl.records.whole_files import write_json
from rl.stage import Recipe
from rl.stages.compare import Claim, Compare, Finding, Measurement, read_findings
from rl.types import AhaError, BadInput, Stopped


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ()),
        (["seed=3"], ()),
        (["grpo.steps=2", "seed=1,2,3"], (1, 2, 3)),
        (["seed= 4 , 5"], (4, 5)),
        (["rollout.stop=a,b"], ()),
    ],
)
def test_several_seeds_are_told_from_one(given, expected):
    assert seeds.several_seeds(given) == expected


def test_the_first_seed_stands_for_all():
    assert seeds.first_seed(["seed=3,1", "grpo.steps=2"]) == ["grpo.steps=2", "seed=3"]
    assert seeds.first_seed(["seed=3", "grpo.steps=2"]) == ["seed=3", "grpo.steps=2"]


@pytest.mark.parametrize(
    ("text", "said"), [("1,two", "seed"), ("1,,2", "seed"), ("1,2.5", "seed"), ("1,2,1", "1 stands there twice")]
)
def test_what_is_no_list_of_seeds_is_refused(text, said):
    with pytest.raises(BadInput, match=said):
        seeds.several_seeds([f"seed={text}"])


OPTIONS = {"--check": False, "--dry-run": False, "--doctor": False}


class Runs:
    """Stands in for the processes; codes: what each ends with."""

    def __init__(self, *codes: int) -> None:
        self.codes, self.commands = list(codes), list[list[str]]()

    def __call__(self, command):
        self.commands.append(list(command)[4:])
        return self.codes.pop(0)


def test_each_seed_runs_under_its_own_name_with_the_other_settings(monkeypatch, tmp_path):
    runs = Runs(0, 0)
    monkeypatch.setattr(seeds, "_run_one", runs)
    tables = []
    monkeypatch.setattr(seeds, "keep_table", lambda cfg, of: tables.append((cfg.name, of)))
    cfg = RunConfig(name="mine", out=str(tmp_path))
    assert seeds.ran_each("r.py", ["name=mine", "seed=7,8", "grpo.steps=2"], cfg, OPTIONS | {"--doctor": True})
    assert runs.commands == [
        ["r.py", "grpo.steps=2", "seed=7", "name=mine-seed7", "--doctor"],
        ["r.py", "grpo.steps=2", "seed=8", "name=mine-seed8"],
    ]
    assert tables == [("mine", (7, 8))]


def test_one_seed_is_left_to_the_caller():
    assert seeds.ran_each("r.py", ["seed=7"], RunConfig(), OPTIONS) is False


@pytest.mark.parametrize("option", ["--check", "--dry-run"])
def test_a_check_of_each_seed_makes_no_table(monkeypatch, option):
    runs = Runs(0, 0)
    monkeypatch.setattr(seeds, "_run_one", runs)
    monkeypatch.setattr(seeds, "keep_table", lambda cfg, of: pytest.fail("there is nothing to make a table of"))
    seeds.ran_each("r.py", ["seed=1,2"], RunConfig(), OPTIONS | {option: True})
    assert [command[-1] for command in runs.commands] == [option, option]


@pytest.mark.parametrize(("code", "kind", "said"), [(130, Stopped, "stopped in seed 2"), (1, AhaError, "seed 2 ended")])
def test_the_seeds_after_one_that_did_not_end_well_are_not_run(monkeypatch, code, kind, said):
    runs = Runs(0, code)
    monkeypatch.setattr(seeds, "_run_one", runs)
    with pytest.raises(kind, match=said):
        seeds.ran_each("r.py", ["seed=1,2,3"], RunConfig(), OPTIONS)
    assert len(runs.commands) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_run_once_and_its_exit_code_comes_back(tmp_path, number):
    child = (
        "import pathlib, signal, sys, time\n"
        f"out = pathlib.Path({str(tmp_path)!r})\n"
        "def stop(*_): (out / 'stopped').open('a').write('x'); sys.exit(130)\n"
        f"signal.signal({int(number)}, stop)\n"
        "(out / 'ready').touch(); time.sleep(60)\n"
    )
    parent = f"import sys; from launch.seeds import _run_one; sys.exit(_run_one([sys.executable, '-c', {child!r}]))"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=Path(__file__).parents[2], process_group=0,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < end, "the run did not start within 60 s"
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal does: to the whole foreground group
    assert process.wait(60) == 130
    assert (tmp_path / "stopped").read_text() == "x"


# ------------------------------------------------------------------------------------------------ tables


def result(correct_P: list[float], greedy: float) -> EvalResult:
    mean = sum(correct_P) / len(correct_P)
    return EvalResult(
        pass_at_1=mean, stderr=0.1, greedy=greedy, truncated=0.0, length_mean=1.0, correct_P=correct_P, samples=2
    )


def test_the_table_of_a_run_has_each_seed_and_the_error_between_seeds(tmp_path, capsys):
    cfg = RunConfig(
        name="quick", out=str(tmp_path), grpo=GRPOConfig(steps=4), evaluation=EvalConfig(data=DataConfig(source="x"))
    )
    for seed, after in ((1, [1.0, 0.5]), (2, [1.0, 1.0])):
        folder = tmp_path / f"quick-seed{seed}"
        (folder / "evals").mkdir(parents=True)
        result([0.5, 0.0], 0.5).write(folder / "evals" / "step_000000.json")
        result(after, 0.5 * seed).write(folder / "evals" / "step_000004.json")
        write_json(folder / "summary.json", {"seconds": {"rollout": 60.0 * seed, "update": 30.0}})
    path = seeds.keep_table(cfg, (1, 2))
    text = path.read_text()
    assert capsys.readouterr().out.splitlines()[-1] == f"The table: {path}"
    rows = [[cell.strip() for cell in line.strip("│┃|").split("│")] for line in text.splitlines() if "->" in line][1:]
    assert rows[0] == [
        "1",
        "25.0 -> 75.0 (+50.0 ± 0.0)",
        "50.0 -> 50.0 (+0.0 ± 50.0)",
        "50.0 -> 100.0 (+50.0 ± 50.0)",
        "1.5",
    ]
    assert rows[1][1] == "25.0 -> 100.0 (+75.0 ± 25.0)"
    # The gains 50 and 75: mean 62.5, and s / sqrt(2) is half their distance.
    assert rows[2] == [
        "mean",
        "25.0 -> 87.5 (+62.5 ± 12.5)",
        "50.0 -> 75.0 (+25.0 ± 25.0)",
        "50.0 -> 100.0 (+50.0 ± 0.0)",
        "2.0",
    ]
    tree = json.loads(path.with_suffix(".json").read_text())
    assert [(row["seed"], row["minutes"]) for row in tree] == [(1, 1.5), (2, 2.5)]
    assert tree[1]["gains"][0]["difference"] == 0.75


def test_a_seed_that_is_not_finished_is_named(tmp_path):
    cfg = RunConfig(name="quick", out=str(tmp_path), evaluation=EvalConfig(data=DataConfig(source="x")))
    with pytest.raises(BadInput, match="quick-seed1: lacks the evaluation"):
        seeds.keep_table(cfg, (1,))


def claimed(difference: float, stderr: float, text: str = "RL helps") -> Finding:
    return Finding(Claim(text, "@a:pass@1", "@b:pass@1"), Measurement(difference), Measurement(0.0), difference, stderr)


def test_claims_are_means_over_seeds_and_count_where_they_held():
    columns = seeds.over_seeds([[claimed(0.3, 0.1)], [claimed(0.1, 0.1)], [claimed(0.2, 0.05)]])
    (tested,) = columns
    assert (tested.left, tested.difference) == (pytest.approx(0.2), pytest.approx(0.2))
    assert tested.stderr == pytest.approx(0.1 / 3**0.5)
    assert (tested.held, tested.seeds) == (2, 3)  # 0.1 is not two errors of 0.1


def test_seeds_with_other_claims_are_not_put_together():
    with pytest.raises(BadInput, match="claims differ"):
        seeds.over_seeds([[claimed(0.3, 0.1)], [claimed(0.3, 0.1, "RL harms")]])


def test_the_table_of_a_recipe_reads_the_claims_of_every_seed(tmp_path):
    stage = Compare("claims", claims=(Claim("RL helps", "1", "0"),))
    recipe = Recipe("whole", RunConfig(), (stage,), str(tmp_path))
    for seed, right in ((1, 0.25), (2, 0.75)):
        folder = tmp_path / f"whole-seed{seed}" / "claims"
        folder.mkdir(parents=True)
        side = {"name": "1", "value": 1.0, "stderr": 0.0}
        tree = {"claim": "RL helps", "left": side, "right": side | {"value": right}, "difference": 1 - right}
        write_json(folder / "claims.json", [tree | {"stderr": 0.2, "z": 2.0, "at_least": 0.0, "holds": right < 0.6}])
    text = seeds.keep_table(recipe, (1, 2)).read_text()
    for piece in ("100.0", "+50.0 ± 25.0", "1 of 2"):
        assert piece in text


def test_a_recipe_without_claims_has_no_table(tmp_path):
    with pytest.raises(BadInput, match="makes no claims"):
        seeds.keep_table(Recipe("whole", RunConfig(), (), str(tmp_path)), (1,))


def test_findings_are_read_as_they_were_written(tmp_path):
    from rl.stages.compare import compare

    claim = Claim("one is more than a half", "1", "0.5", at_least=0.1, z=3.0)
    (found,) = read_findings(compare(tmp_path, [claim], {}))
    assert found == Finding(
        dataclasses.replace(claim), Measurement(1.0, 0.0), Measurement(0.5, 0.0), 0.5, pytest.approx(0.0)
    )
    assert found.holds
