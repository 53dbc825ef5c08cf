"""The rollouts of a step as a parquet file.

Axis suffixes: _P prompts, _G samples of a group.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl.records.whole_files import MAKE_AGAIN, whole
from rl.turns import Episode, Turn
from rl.types import BadInput, GradedGroup, Prompt, RewardPart, Rollout, RolloutGroup, ScoredGroup, Verdict

ROW_GROUP = 256


def rollouts_path(run_dir: Path, stage: str, step: int) -> Path:
    """rollouts/step_000012.parquet for GRPO, rollouts/<stage>_000012.parquet for others."""
    return run_dir / "rollouts" / f"{'step' if stage == 'grpo' else stage}_{step:06d}.parquet"


def rollout_files(run_dir: Path) -> list[tuple[str, int, Path]]:
    files = [(*path.stem.rpartition("_")[::2], path) for path in sorted((run_dir / "rollouts").glob("*_*.parquet"))]
    return [("grpo" if kind == "step" else kind, int(step), path) for kind, step, path in files if step.isdigit()]


def write_rollouts(
    path: Path, step: int, groups_P: Sequence[ScoredGroup | GradedGroup], *, full_precision: bool = False
) -> None:
    """Write one row per sample as parquet, whole or not at all. Each reward part has columns <part>/score, /verdict and
    /reason.

    tokens: of the completion. logprob_mean: of the sampler, nats per token. token_ids, logprobs: one value per token,
    the stop token included; logprobs are in half precision unless full_precision. uniform: of the whole group.
    policy_version: of the weights that sampled the first token; later_tokens, later_versions: where other weights took
    over, and which.
    With environments also: turns (JSON, of objects with role, text and name), sampled (one value a token: whether the
    model sampled it; the others are answers), and what the environment said (rl.turns.Episode).
    The columns of a part that does not apply are null, and so are advantage and uniform in a group without advantages.
    reward is NaN where the sample is not valid. A row group has ROW_GROUP rows, so that a reader can fetch a few
    rollouts of a large file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for g in groups_P for part in g.parts_G for name in part))
    precision = np.float32 if full_precision else np.float16
    played = any(r.episode is not None for g in groups_P for r in g.group.rollouts_G)
    rows = [_row(step, g, i, names, precision, played) for g in groups_P for i in range(len(g.parts_G))]
    text, kinds = pa.string(), {int: pa.int64(), bool: pa.bool_(), str: pa.string()}
    types = {name: kinds.get(type(value), pa.float64()) for name, value in rows[0].items()}
    types |= {f"{name}/{field}": text for name in names for field in ("verdict", "reason")}
    types |= {"uniform": pa.bool_(), "token_ids": pa.list_(pa.int32())}
    types |= {"later_tokens": pa.list_(pa.int32()), "later_versions": pa.list_(pa.int32())}
    types |= {"logprobs": pa.list_(pa.float32() if full_precision else pa.float16())}
    if played:  # the first row may have no environment, and say nothing of the columns' types
        types |= {"turns": text, "environment_name": text, "environment_fault": text, "environment_late": pa.bool_()}
        types |= {"sampled": pa.list_(pa.bool_()), "environment_rewards": pa.list_(pa.float64())}
    table = pa.Table.from_pylist(rows, pa.schema(list(types.items())))
    with whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)


def read_rollouts(
    path: Path, prompts_P: Sequence[Prompt], names_P: Sequence[Sequence[str]]
) -> list[tuple[RolloutGroup, list[dict[str, RewardPart]]]]:
    """Read what write_rollouts wrote in full precision: each prompt's group with its parts. Groups are of equal size.

    names_P: the rewards that each prompt gets, in the order of its parts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise BadInput(f"{path} is damaged ({error}); {MAKE_AGAIN}") from error
    arrays = ([cell.values.to_numpy() for cell in table[name]] for name in ("token_ids", "logprobs"))
    rows = list(zip(table.drop_columns(["token_ids", "logprobs"]).to_pylist(), *arrays, strict=True))
    size = len(rows) // len(prompts_P)
    found = []
    for i, (prompt, names) in enumerate(zip(prompts_P, names_P, strict=True)):
        own = rows[i * size : (i + 1) * size]
        group = RolloutGroup(prompt, [_rollout(row, token_ids, logprobs) for row, token_ids, logprobs in own])
        found.append((group, [_parts(row, names) for row, *_ in own]))
    return found


def _rollout(row: Mapping[str, Any], token_ids_T: np.ndarray, logprobs_T: np.ndarray) -> Rollout:
    return Rollout(
        token_ids_T, logprobs_T, row["completion"], row["finish_reason"], row["temperature"], row["policy_version"],
        row["seed"], later_versions=tuple(zip(row["later_tokens"], row["later_versions"], strict=True)),
        episode=_episode(row),
    )  # fmt: skip


def _episode(row: Mapping[str, Any]) -> Episode | None:
    if row.get("turns") is None:
        return None
    turns = tuple(Turn(**turn) for turn in json.loads(row["turns"]))
    rewards, fault = tuple(row["environment_rewards"]), row["environment_fault"]
    return Episode(row["environment_name"], np.array(row["sampled"]), turns, rewards, fault, row["environment_late"])


def _episode_columns(rollout: Rollout) -> dict[str, object]:
    """The columns of a sample's environment; null for a sample without one."""
    episode = rollout.episode
    if episode is None:
        names = ("turns", "sampled", "environment_name", "environment_rewards", "environment_fault", "environment_late")
        return dict.fromkeys(names)
    return {
        "turns": json.dumps([dataclasses.asdict(turn) for turn in episode.turns]),
        "sampled": episode.sampled_T,
        "environment_name": episode.environment,
        "environment_rewards": list(episode.rewards),
        "environment_fault": _utf8(episode.fault),
        "environment_late": episode.timed_out,
    }


def _parts(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, RewardPart]:
    return {
        name: RewardPart(row[f"{name}/score"], Verdict(row[f"{name}/verdict"]), row[f"{name}/reason"])
        for name in names
        if row.get(f"{name}/verdict") is not None
    }


def _row(
    step: int, g: ScoredGroup | GradedGroup, i: int, names: Sequence[str], precision: type[np.floating], played: bool
) -> dict[str, object]:
    prompt, rollout = g.group.prompt, g.group.rollouts_G[i]
    row: dict[str, object] = {
        "step": step,
        "prompt_id": prompt.id,
        "draw": prompt.draw,
        "sample": i,
        "prompt": _utf8(prompt.text),
        "completion": _utf8(rollout.text),
        "reference": _utf8(prompt.reference),
        "reward": g.rewards_G[i],
    }
    for name in names:
        part = g.parts_G[i].get(name)
        row[f"{name}/score"] = part.score if part else None
        row[f"{name}/verdict"] = str(part.verdict) if part else None
        row[f"{name}/reason"] = _utf8(part.reason) if part else None
    return row | {
        "advantage": g.advantages_G[i] if isinstance(g, ScoredGroup) else None,
        "valid": g.valid_G[i],
        "tokens": rollout.num_sampled,
        "finish_reason": rollout.finish_reason,
        "policy_version": rollout.policy_version,
        "seed": rollout.seed,
        "temperature": rollout.temperature,
        "logprob_mean": _mean(rollout.at_sampled(rollout.logprobs_T)),
        "uniform": g.uniform if isinstance(g, ScoredGroup) else None,
        "later_tokens": [token for token, _ in rollout.later_versions],
        "later_versions": [version for _, version in rollout.later_versions],
        "token_ids": rollout.token_ids_T,
        "logprobs": rollout.logprobs_T.astype(precision),
        **(_episode_columns(rollout) if played else {}),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if len(values) else None


def _utf8(text: str) -> str:
    """Replace lone surrogates, which no file can hold, by "?": a strange completion must not stop a run."""
    return text.encode("utf-8", "replace").decode("utf-8")
