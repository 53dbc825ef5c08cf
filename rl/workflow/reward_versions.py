"""Which code the rewards of a run had: written when the run begins, and compared when it goes on.

rewards.json    name of each reward that is a function -> hash of its code (rl/data/content_hash.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl.config import RewardConfig
from rl.data.content_hash import reward_hash
from rl.records.whole_files import read_json, write_json
from rl.scoring.routing import is_model, named

FILE = "rewards.json"


def write_versions(run_dir: Path, rewards: Sequence[RewardConfig]) -> None:
    write_json(run_dir / FILE, _versions(rewards))


def changed_versions(run_dir: Path, rewards: Sequence[RewardConfig]) -> str:
    """What to tell of rewards whose code is not that of the run in the folder; "" where there is nothing to tell.

    A mended reward may go on with the run that it stopped, so this is no fault.
    """
    now = _versions(rewards)
    if not now:
        return ""
    try:
        known = read_json(run_dir / FILE, lambda tree: {str(name): str(code) for name, code in tree.items()})
    except FileNotFoundError:
        return f"the version of the code of {', '.join(now)} that it used so far is unknown"
    changed = [name for name, code in now.items() if known.get(name, code) != code]
    if not changed:
        return ""
    return (
        f"the code of the reward {', '.join(changed)} has changed since: what is done was scored by the older one. Use "
        "another name=... to begin again with this one"
    )


def _versions(rewards: Sequence[RewardConfig]) -> dict[str, str]:
    functions = {name: reward for name, reward in named(rewards).items() if not is_model(reward)} if rewards else {}
    return {name: reward_hash(reward.function) for name, reward in functions.items()}
