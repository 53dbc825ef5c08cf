from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl.records.checkpoint import CheckpointMeta, CheckpointStore, check_meta
from rl.types import BadInput


def meta(step: int, score: float | None = None) -> CheckpointMeta:
    return CheckpointMeta(step, {"draws": step}, "abc", 1, 1, score, {"rollout": 1.0})


def save(store: CheckpointStore, step: int, score: float | None = None) -> Path:
    partial = store.begin(step)
    (partial / "engine").mkdir()
    (partial / "engine" / "weights.bin").write_bytes(bytes([step]) * 1000)
    return store.commit(partial, meta(step, score))


def test_a_saved_checkpoint_comes_back_with_its_meta_data(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    save(store, 5)
    found = store.latest()
    assert found is not None
    assert found == (tmp_path / "step_000005", meta(5))


def test_a_kill_while_saving_leaves_the_last_good_one_and_its_leftovers_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    (store.begin(6) / "half.bin").write_bytes(b"x")
    found = CheckpointStore(tmp_path, keep=2).latest()
    assert found is not None
    assert found[1].step == 5
    save(store, 7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000005", "step_000007"]


def test_a_flipped_byte_is_named_and_so_is_the_last_good_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 5)
    weights = save(store, 6) / "engine" / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[500] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(BadInput, match=r"step_000006 is damaged: engine/weights.bin .*last good one is .*step_000005"):
        store.latest()


@pytest.mark.parametrize("fault", ["missing", "short"])
def test_a_missing_or_short_file_is_damage(tmp_path: Path, fault: str) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    weights = save(store, 6) / "engine" / "weights.bin"
    if fault == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"damaged.*there is no other good one"):
        store.latest()


def test_the_last_n_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step, score in [(1, 0.2), (2, 0.9), (3, None), (4, 0.5), (5, None)]:
        save(store, step, score)
    assert store.steps() == [2, 4, 5]


def test_a_checkpoint_of_another_model_or_cut_is_refused(tmp_path: Path) -> None:
    check_meta(meta(1), tmp_path, fingerprint="abc", ranks=1, zero_stage=1)
    with pytest.raises(BadInput, match=r"another model, or with adapters of another base; use its model.path"):
        check_meta(meta(1), tmp_path, fingerprint="xyz", ranks=1, zero_stage=1)
    with pytest.raises(BadInput, match=r"learner.ranks=1 learner.zero_stage=1"):
        check_meta(meta(1), tmp_path, fingerprint="abc", ranks=2, zero_stage=3)


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path, keep=2), 3)
    assert set(json.loads((path / "manifest.json").read_text())) == {"engine/weights.bin", "meta.json"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"meta.json": 3}'])
def test_a_damaged_manifest_is_damage(tmp_path: Path, text: str) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    save(store, 10)
    (save(store, 20) / "manifest.json").write_text(text)
    with pytest.raises(BadInput, match=r"step_000020 is damaged: manifest.json: .*the last good one is .*step_000010"):
        store.latest()


def test_a_damaged_older_checkpoint_stops_no_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 10, 0.9)
    (save(store, 20, 0.5) / "meta.json").write_text('{"step"')
    save(store, 30, 0.7)
    save(store, 40, 0.6)
    assert store.steps() == [10, 30, 40]
    assert "step_000020/meta.json is damaged" in caplog.text
