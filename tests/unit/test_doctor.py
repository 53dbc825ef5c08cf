"""What `aha doctor` finds without a worker in nodes and checkpoints, how checks follow one another, and the command."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.doctor import nodes
from launch.doctor.check import Check, Outcome, Probe, all_passed, as_json, failed, lines, passed, run_probes, summary
from launch.doctor.doctor_backend import NodeReport, Reached
from launch.doctor.durability import checkpoints_whole
from launch.doctor.node_probe import NodeProbe, code_hash, versions
from recipes.tiny import recipe
from rl.records.checkpoint import CheckpointMeta, CheckpointStore
from rl.types import AhaError

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


def report(address: str, *roles: str, **changes: object) -> NodeReport:
    sound = NodeReport(address, roles, versions(), 500 * GIB, True, 8 * GIB, 8 * GIB, 2 * GIB)
    return dataclasses.replace(sound, **changes)


# ------------------------------------------------------------------------------------------------ nodes


def test_nodes_like_the_driver_pass_and_the_versions_are_listed() -> None:
    check = nodes.same_versions([report("10.0.0.1"), report("10.0.0.2")], versions())
    assert check.outcome is Outcome.PASSED
    for package in ("python", "torch", "vllm", "ray", "transformers", "deepspeed", "aha"):
        assert f"{package} " in check.measured


@pytest.mark.parametrize("package", ["torch", "vllm", "aha"])
def test_a_version_mismatch_between_nodes_is_named_with_package_and_node(package: str) -> None:
    odd = report("10.0.0.2", "learner rank 1", versions=versions() | {package: "0.0.1"})
    check = nodes.same_versions([report("10.0.0.1"), odd], versions())
    assert check.outcome is Outcome.FAILED
    assert check.measured == f"{package} differ between the driver and node 10.0.0.2 (learner rank 1)"
    assert check.table[0] == ("", package)
    assert ("node 10.0.0.2 (learner rank 1)", "0.0.1") in check.table


def test_the_hash_of_our_code_changes_with_one_line_of_it(tmp_path: Path) -> None:
    for part in ("rl", "rewards"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.py").write_text("x = 1\n")
    before = code_hash(tmp_path)
    (tmp_path / "rewards" / "a.py").write_text("x = 2\n")
    assert code_hash(tmp_path) != before


def test_a_closed_port_is_named_with_both_ends() -> None:
    open_one = Reached("10.0.0.1", "10.0.0.1", 0.001, "")
    assert nodes.ports_open([open_one]).outcome is Outcome.PASSED
    check = nodes.ports_open([open_one, Reached("10.0.0.1", "10.0.0.2", 5.0, "timed out")])
    assert check.outcome is Outcome.FAILED
    assert "10.0.0.1 to 10.0.0.2" in check.measured
    assert check.table[1] == ("10.0.0.1", "10.0.0.2", "timed out")


def test_a_probe_reaches_a_port_that_listens_and_reports_one_that_does_not() -> None:
    probe = NodeProbe("127.0.0.1", (), GIB)
    address, port = probe.listen()
    assert probe.reach(address, port).fault == ""
    assert probe.listening is not None
    probe.listening.close()
    assert "refused" in probe.reach(address, port).fault


def test_an_object_store_too_small_for_the_buckets_is_named() -> None:
    cfg = recipe()
    assert nodes.shared_memory([report("10.0.0.1")], cfg).outcome is Outcome.PASSED
    check = nodes.shared_memory([report("10.0.0.1"), report("10.0.0.2", object_store=64 << 20)], cfg)
    assert check.outcome is Outcome.FAILED
    assert "node 10.0.0.2" in check.measured


def test_a_learners_node_that_does_not_see_the_runs_folder_is_named_and_a_samplers_is_not() -> None:
    blind = {"sees_folder": False}
    there = [report("10.0.0.1", "learner rank 0"), report("10.0.0.2", "sampler 0", **blind)]
    assert nodes.folder_shared(there, recipe()).outcome is Outcome.PASSED
    check = nodes.folder_shared([*there, report("10.0.0.3", "learner rank 1", **blind)], recipe())
    assert check.outcome is Outcome.FAILED
    assert "node 10.0.0.3 (learner rank 1)" in check.measured


def test_a_disk_too_small_for_the_checkpoints_is_named_with_the_sizes(tmp_path: Path) -> None:
    cfg = dataclasses.replace(recipe(), out=str(tmp_path))
    there = [report("10.0.0.1", "learner rank 0", disk_free=7 * 10**6)]
    assert nodes.disks(there, cfg, 10**6).outcome is Outcome.PASSED
    check = nodes.disks(there, cfg, 2 * 10**6)  # two last, the best, one being written: 8 MB
    assert check.outcome is Outcome.FAILED
    assert "node 10.0.0.1 (learner rank 0) has 0.0 GB free" in check.measured


# ------------------------------------------------------------------------------------------------ checkpoints


def test_a_checkpoint_of_the_run_with_a_flipped_byte_is_found_and_named(tmp_path: Path) -> None:
    cfg = dataclasses.replace(recipe(), out=str(tmp_path))
    assert checkpoints_whole(cfg).outcome is Outcome.SKIPPED
    store = CheckpointStore(cfg.run_dir / "checkpoints" / "grpo", keep=2)
    for step in (5, 10):
        partial = store.begin(step)
        (partial / "rank_0.pt").write_bytes(bytes(1000))
        store.commit(partial, CheckpointMeta(step, {}, "", 1, 1, None, {}))
    check = checkpoints_whole(cfg)
    assert check.outcome is Outcome.PASSED
    assert "grpo step 10" in check.measured
    damaged = store.path(10) / "rank_0.pt"
    damaged.write_bytes(bytes(500) + b"\1" + bytes(499))
    check = checkpoints_whole(cfg)
    assert check.outcome is Outcome.FAILED
    assert "step_000010 is damaged: rank_0.pt is not what was saved" in check.measured
    assert "the last good one is" in check.measured


# ------------------------------------------------------------------------------------------------ rounds and paper


def test_one_failure_hides_only_what_needs_it_and_an_error_becomes_a_failure() -> None:
    def broken() -> Check:
        raise AhaError("learner rank 0 died")

    probes = [
        Probe("a", lambda: passed("fine")),
        Probe("b", broken),
        Probe("c", lambda: passed("fine"), needs=("b",)),
        Probe("d", lambda: passed("fine"), needs=("a",)),
    ]
    checks = list(run_probes(probes))
    assert [c.outcome for c in checks] == [Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.PASSED]
    assert checks[1].measured == "learner rank 0 died"
    assert checks[2].measured == "not run: it needs 'b'"
    assert not all_passed(checks)
    assert summary(checks) == "4 checks: 2 passed, 1 failed (b), 1 skipped"
    assert as_json("r.py", checks)["passed"] is False
    assert json.loads(json.dumps(as_json("r.py", checks)))["checks"][1]["name"] == "b"  # type: ignore[index]


def test_a_failure_is_printed_with_its_table_its_cause_and_its_remedy() -> None:
    check = dataclasses.replace(
        failed("gap 0.3", "stale weights", "sync", (("at", "gap"), ("1", "0.3"))), name="logprobs"
    )
    assert lines(check) == [
        "FAIL  logprobs: gap 0.3",
        "      at  gap",
        "      1   0.3",
        "      likely cause: stale weights",
        "      what to do: sync",
    ]


def test_doctor_refuses_a_recipe_that_is_not_there_with_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", "doctor", "recipes/nowhere.py"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "recipes/nowhere.py: no such recipe" in done.stderr


# ------------------------------------------------------------------------------------------------ the command


class OneFailure:
    """Stands in for a round: one check passes, one fails."""

    def __init__(self, cfg: object, make_backend: object) -> None: ...

    def checks(self) -> list[Check]:
        return [
            dataclasses.replace(passed("2 nodes"), name="versions"),
            dataclasses.replace(failed("half", "wrong count", "mend"), name="loss"),
        ]


def test_the_command_prints_lines_and_with_json_one_object_and_exits_with_1(monkeypatch, capfd) -> None:
    from launch import cli
    from launch.doctor import all_checks

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(all_checks, "AllChecks", OneFailure)
    for extra in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["aha", "doctor", "recipes/tiny.py", *extra])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        out, err = capfd.readouterr()
        told = err if extra else out
        assert "ok    versions: 2 nodes" in told
        assert "FAIL  loss: half" in told
        assert "2 checks: 1 passed, 1 failed (loss), 0 skipped" in told
        if extra:
            assert [check["name"] for check in json.loads(out)["checks"]] == ["versions", "loss"]


def test_run_with_doctor_runs_nothing_when_a_check_fails(monkeypatch, capfd) -> None:
    from launch import cli
    from rl.workflow import run

    ran = []
    from launch.doctor import all_checks

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(all_checks, "AllChecks", OneFailure)
    monkeypatch.setattr(run, "run", lambda *args, **more: ran.append(args))
    monkeypatch.setattr(sys, "argv", ["aha", "run", "recipes/tiny.py", "--doctor"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert ran == []
    assert "the doctor found faults" in capfd.readouterr().err
