"""provenance.json: what a stage ran on and what it cost, and which code it was."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from rl.config import DataConfig, MixConfig, MixPart, RunConfig, SFTConfig, TrackConfig
from rl.recipe import SFT, Mix, Recipe
from rl.records import provenance
from rl.stages import sft
from rl.types import Hardware
from rl.workers.cluster.hardware import hardware_of
from rl.workflow.run import run

NODES = [
    {"Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 64.0}},
    {"Alive": True, "NodeManagerAddress": "10.0.0.2", "Resources": {"GPU": 8.0, "accelerator_type:H100": 1.0}},
    {"Alive": False, "NodeManagerAddress": "10.0.0.3", "Resources": {"GPU": 8.0, "accelerator_type:A100": 1.0}},
    {"Alive": True, "NodeManagerAddress": "10.0.0.3", "Resources": {"GPU": 8.0, "accelerator_type:H100": 1.0}},
]


def test_gpus_are_counted_by_the_model_that_ray_says_of_their_node() -> None:
    gpu, two = {"CPU": 1.0, "GPU": 1.0}, {"GPU": 2.0}
    places = ["10.0.0.2", "10.0.0.2", "10.0.0.3"]
    assert hardware_of(NODES, places, [gpu, gpu, two], []) == Hardware(2, {"H100": 4.0})
    assert hardware_of(NODES, places, [gpu, gpu, two], [gpu, {"CPU": 1.0, "GPU": 0.0}]).gpus == {"H100": 5.0}
    shared = hardware_of(NODES, ["10.0.0.2"] * 2, [{"GPU": 0.5}] * 2, [])  # a learner and a sampler on one GPU
    assert shared == Hardware(1, {"H100": 1.0})


def test_a_gpu_whose_model_is_not_known_still_counts() -> None:
    other = {"Alive": True, "NodeManagerAddress": "10.0.0.4", "Resources": {"GPU": 8.0, "accelerator_type:L4": 1.0}}
    bare = {"Alive": True, "NodeManagerAddress": "10.0.0.5", "Resources": {"GPU": 8.0}}
    gpu = {"GPU": 1.0}
    found = hardware_of([*NODES, other, bare], ["10.0.0.4", "10.0.0.5", "unknown"], [gpu, gpu, gpu], [gpu])
    assert found == Hardware(3, {"L4": 1.0, "GPU": 3.0})  # where Ray put the reward model is not known


def test_cpus_are_no_gpus() -> None:
    bundle = {"CPU": 1.0}
    assert hardware_of(NODES, ["10.0.0.1"] * 2, [bundle] * 2, [{"CPU": 0.0, "GPU": 0.0}]) == Hardware(1, {})


# ------------------------------------------------------------------------------------------------ in a recipe


def rows(path: Path) -> DataConfig:
    path.write_text("".join(json.dumps({"prompt": f"{i}?", "answer": str(i), "target": "t"}) + "\n" for i in range(4)))
    return DataConfig(source=str(path))


class Machines:
    """A backend that a stage can be given; nothing is asked of it but what it is."""

    layout = "rows"

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = lambda: hardware

    def start(self, model_path: str, context_length: int) -> None: ...
    def publish(self, *what: object) -> None: ...
    def queue(self) -> None: ...
    def close(self) -> None: ...


def run_two(folder: Path, tokenizer, hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> list[provenance.Record]:  # type: ignore[no-untyped-def]
    """The records of a mixture and of SFT on it, which says that it trained for half an hour."""
    from transformers import LlamaConfig

    model = folder / "base"
    tokenizer.save_pretrained(model)
    LlamaConfig(vocab_size=300, max_position_embeddings=1024).save_pretrained(model)

    def train(ctx, *_, out):  # type: ignore[no-untyped-def]
        ctx.seconds["sft"] = 1800.0
        out.mkdir()
        return out

    monkeypatch.setattr(sft, "train_sft", train)
    stages = (
        Mix("mixed", MixConfig(parts=(MixPart(rows(folder / "rows.jsonl")),))),
        SFT("taught", str(model), SFTConfig(steps=2, data=DataConfig(source="@mixed"))),
    )
    recipe = Recipe("two", RunConfig(track=TrackConfig(wandb="off")), stages, out=str(folder))
    return provenance.read(run(recipe, lambda cfg: Machines(hardware), lambda cfg: None))  # type: ignore[arg-type, return-value]


def test_a_stage_records_its_gpus_and_their_hours_and_the_chain_adds_them_up(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    mixed, taught = run_two(tmp_path, tokenizer, Hardware(2, {"H100": 16.0}), monkeypatch)
    assert (mixed["hardware"]["nodes"], mixed["hardware"]["gpus"], mixed["gpu_hours"]) == (1, {}, 0)  # type: ignore[index]
    assert (taught["hardware"]["nodes"], taught["hardware"]["gpus"]) == (2, {"H100": 16.0})  # type: ignore[index]
    assert taught["gpu_hours"] == pytest.approx(8.0, rel=0.01)  # 16 GPUs for half an hour
    assert taught["seconds"].keys() == {"sft", "stage"}  # type: ignore[union-attr]  # "stage" has the machines' start in it
    told = provenance.describe([mixed, taught, taught]).splitlines()
    assert [line for line in told if "on 2 nodes with 16 x H100: 8 GPU-hours; started from " in line]
    assert [line for line in told if "on 1 node without GPUs; started from " in line]
    assert told[-1] == "In all: 3600 s, 16 GPU-hours"


def test_on_cpus_there_are_no_gpu_hours(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    records = run_two(tmp_path, tokenizer, Hardware(1, {}), monkeypatch)
    assert [record["gpu_hours"] for record in records] == [0, 0]
    assert provenance.describe(records).splitlines()[-1] == "In all: 1800 s, 0 GPU-hours"


def test_a_record_that_does_not_say_its_gpus_is_not_taken_for_one_without() -> None:
    bare = {"name": "old", "kind": "SFT", "key": "ab", "seconds": {"stage": 10.0}, "hardware": {"cpu": "x"}}
    assert provenance.describe([bare]).splitlines()[-1] == "In all: 10 s, GPU-hours not known"
    told = provenance.describe([bare, bare | {"gpu_hours": 2.5}]).splitlines()
    assert told[-1] == "In all: 20 s, 2.5 GPU-hours; not known of 1 of the 2 stages"


# ------------------------------------------------------------------------------------------------ which code


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit, that this file is run from; rl/provenance.py lies in it and is not tracked."""
    code = tmp_path / "project" / "lib" / "rl" / "provenance.py"
    code.parent.mkdir(parents=True)
    shutil.copyfile(provenance.__file__, code)
    monkeypatch.setattr(provenance, "__file__", str(code))
    git(code.parent.parent.parent, "init", "-q", ".")
    git(code.parent.parent.parent, "commit", "-q", "--allow-empty", "-m", "the project's own")
    return code.parent.parent.parent


def git(folder: Path, *args: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *who, *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_the_codes_own_and_says_when_files_differ_from_it(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "code")
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD")
    (checkout / "lib" / "rl" / "provenance.py").write_text("")
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD") + "+"


def test_code_installed_inside_another_repository_has_no_commit(checkout: Path) -> None:
    assert provenance.commit() == ""
    (checkout / ".gitignore").write_text("lib\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "ignored")
    assert provenance.commit() == ""
