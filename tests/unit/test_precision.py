"""model.dtype=auto becomes the precision that the machine is fast in, and what was begun keeps its own."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import machine
from launch.machine import settled, settled_run
from launch.plan.hardware import this_machine as planned_machine
from recipes.quickstart import recipe
from rl.config import ClusterConfig, ModelConfig, RunConfig
from rl.recipe import SFT, Recipe
from rl.settings import precision
from rl.settings.chat_template import settle_chat_date
from rl.settings.overrides import recipe_to_json, to_json
from rl.settings.precision import Machine, bfloat16_unit, bytes_per_number, has_gpu, settle, this_machine
from rl.types import BadInput

CPU, UNIT, GPU = Machine("cpu"), Machine("cpu", "avx512_bf16"), Machine("gpu")


def typed(dtype: str) -> RunConfig:
    return dataclasses.replace(recipe(), model=ModelConfig(path="m", dtype=dtype))


@pytest.mark.parametrize(
    ("cpuinfo", "unit"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", "avx512_bf16"),
        ("flags : avx512_bf16 amx_bf16 amx_tile\nflags : amx_bf16 avx512_bf16\n", "amx_bf16"),
        ("Features\t: fp asimd i8mm bf16\n", "bf16"),
        ("flags : fpu avx2 avx512f avx512_vnni\n", ""),
        ("flags : avx512_bf16\nflags : fpu\n", ""),  # one processor without it
        ("flags : my_avx512_bf16_like\nbugs : amx_bf16\n", ""),
        ("model name : avx512_bf16\n", ""),
        ("", ""),
    ],
)
def test_a_cpu_has_a_bfloat16_unit_where_each_of_its_processors_says_so(cpuinfo: str, unit: str) -> None:
    assert bfloat16_unit(cpuinfo) == unit


@pytest.mark.parametrize(
    ("where", "dtype", "why"),
    [(GPU, "bfloat16", "GPUs"), (UNIT, "bfloat16", "unit (avx512_bf16)"), (CPU, "float32", "has no bfloat16 unit")],
)
def test_auto_is_what_the_machine_is_fast_in_and_one_line_says_why(where: Machine, dtype: str, why: str) -> None:
    cfg, line = settle(typed("auto"), where)
    assert cfg.model.dtype == dtype
    assert line.startswith(f"model.dtype=auto is {dtype}: ")
    assert why in line


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("where", [CPU, UNIT, GPU])
def test_a_dtype_that_is_named_stays(dtype: str, where: Machine) -> None:
    cfg, line = settle(typed(dtype), where)
    assert cfg == typed(dtype)
    assert ("several times" in line) == (dtype == "bfloat16" and where == CPU)


def test_float16_is_for_gpus() -> None:
    assert settle(typed("float16"), GPU)[0].model.dtype == "float16"
    with pytest.raises(BadInput, match=r"on GPUs alone; use model\.dtype=auto"):
        settle(typed("float16"), UNIT)


def test_gpus_are_those_that_a_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()  # the driver's, also where there is no card
    assert not has_gpu()
    (tmp_path / "nvidia0").touch()
    assert has_gpu()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert has_gpu()
    monkeypatch.setattr(precision, "has_gpu", lambda: True)
    assert this_machine(ClusterConfig()).device == "gpu"
    assert this_machine(ClusterConfig(device="cpu")).device == "cpu"
    monkeypatch.setattr(precision, "has_gpu", lambda: False)
    assert this_machine(ClusterConfig(device="gpu")).device == "gpu"
    assert this_machine(ClusterConfig()).device == "cpu"


def test_a_run_that_was_begun_keeps_its_precision_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "this_machine", lambda cluster: CPU)
    cfg = dataclasses.replace(typed("auto"), out=str(tmp_path))
    assert settled(cfg)[0].model.dtype == "float32"  # type: ignore[union-attr]
    cfg.run_dir.mkdir()
    (cfg.run_dir / "resolved.json").write_text(to_json(settle(cfg, UNIT)[0]))
    begun, line = settled(cfg)
    assert begun.model.dtype == "bfloat16"  # type: ignore[union-attr]
    assert "goes on in its precision" in line
    (cfg.run_dir / "resolved.json").write_text("{")
    assert settled(cfg)[0].model.dtype == "float32"  # type: ignore[union-attr]


def test_stages_that_were_begun_keep_their_precision_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "this_machine", lambda cluster: CPU)
    stages = Recipe("r", typed("auto"), (SFT("a", "m", dataclasses.replace(recipe().sft)),), out=str(tmp_path))
    made, _ = settled(stages)
    assert made.base.model.dtype == "float32"  # type: ignore[union-attr]
    stages.folder.mkdir()
    begun = dataclasses.replace(stages, base=settle_chat_date(settle(stages.base, UNIT)[0]))
    (stages.folder / "recipe.json").write_text(recipe_to_json(begun))
    assert settled(stages)[0] == begun


def test_a_cluster_is_taken_to_have_gpus_where_it_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cluster_machine", lambda cfg: CPU)
    cfg = dataclasses.replace(typed("auto"), out="/nowhere", cluster=ClusterConfig(address="10.0.0.1:6379"))
    assert settled(cfg, ask_cluster=False)[0].model.dtype == "bfloat16"  # type: ignore[union-attr]
    assert settled(cfg)[0].model.dtype == "float32"  # type: ignore[union-attr]


def test_a_cluster_is_joined_before_it_is_asked_unless_it_must_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    asked = SimpleNamespace(
        start_ray=lambda cfg: calls.append("joined"), cluster_machine=lambda cfg: [calls.append("asked"), UNIT][1]
    )
    monkeypatch.setitem(sys.modules, "rl.workers.cluster.ray_calls", asked)
    cfg = dataclasses.replace(typed("auto"), out="/nowhere", cluster=ClusterConfig(address="10.0.0.1:6379"))
    assert settled_run(cfg)[0].model.dtype == "bfloat16"
    assert calls == ["joined", "asked"]
    settled_run(cfg, ask_cluster=False)
    assert calls == ["joined", "asked"]


def test_what_the_chosen_precision_does_not_go_with_is_told_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cfg = typed("auto")
    cfg = dataclasses.replace(cfg, out="/nowhere", learner=dataclasses.replace(cfg.learner, zero_stage=0))
    monkeypatch.setattr(machine, "this_machine", lambda cluster: CPU)
    assert settled(cfg)[0].model.dtype == "float32"  # type: ignore[union-attr]
    monkeypatch.setattr(machine, "this_machine", lambda cluster: UNIT)
    with pytest.raises(BadInput, match="no float32 copy of bfloat16 weights"):
        settled(cfg)


def test_a_plan_knows_what_bfloat16_costs_without_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.plan.hardware.cpu_unit", lambda: "amx_bf16")
    fast = planned_machine()
    monkeypatch.setattr("launch.plan.hardware.cpu_unit", lambda: "")
    slow = planned_machine()
    assert fast.flops("bfloat16") > fast.flops("float32") == slow.flops("float32") > slow.flops("bfloat16")


def test_a_number_has_two_or_four_bytes() -> None:
    assert [bytes_per_number(dtype) for dtype in ("bfloat16", "float16", "float32")] == [2, 2, 4]
