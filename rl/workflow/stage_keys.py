"""Which work is done already: a stage's key is a hash of its config and of its inputs' content.

An input that an earlier stage makes counts by that stage's key, so that all keys are known before anything runs, and a
changed knob changes the keys of what depends on it and of nothing else. What only says where and how often (cluster,
checkpoints, tracking) is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from rl.config import MODEL, AskConfig, DataConfig, TeacherConfig
from rl.data.content_hash import file_hash, path_hash
from rl.data.rows import TASK, fingerprint, load_rows
from rl.records import provenance
from rl.records.whole_files import read_json
from rl.settings.overrides import build
from rl.stage import Recipe, Reference, Stage, references, run_config, stage_to_dict
from rl.types import BadInput

log = logging.getLogger(__name__)
ConfigT = TypeVar("ConfigT")


def flat(node: object, prefix: str = "") -> dict[str, str]:
    """A tree of settings as dotted name -> value, as text."""
    if isinstance(node, dict):
        return {k: v for name, item in node.items() for k, v in flat(item, f"{prefix}{name}.").items()}
    if isinstance(node, list | tuple) and node and isinstance(node[0], dict):
        return {k: v for i, item in enumerate(node) for k, v in flat(item, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): str(node)}


# Settings that change nothing that a stage puts out.
FREE = (
    "evaluation.every", "reject.chunk_prompts", "reward.eval_every", "prefer.chunk_prompts", "prefer.api_key_env",
    "prefer.timeout_s", "prefer.retries", "prefer.cache", *(f"reject.teacher.{name}" for name in (
        "url", "api_key_env", "concurrency", "timeout_s", "retries", "max_failed_share", "prompt_price",
        "completion_price",
    )),
)  # fmt: skip
# Settings that are younger than folders on disk, with the value that does what was done before them. At that value
# they are no part of the hash, so that what was done stays done.
LATER = {
    "reject.teacher.model": "", "reject.teacher.send_seed": "True", "reject.top_logprobs": "0",
    "sft.distill.cached": "False", "prefer.scores": "response", "grpo.uniform_by": "",
    "base.learner.sequence_parallel": "1", "base.learner.dither": "False",
    **{f"reject.ask.{name}": value for name, value in flat(dataclasses.asdict(AskConfig())).items()},
}  # fmt: skip
# The same of settings that many parts of a stage have.
LATER_ANYWHERE = {"long_prompts": "error"}
# A number of passes that is whole has no ".0" in the hash, so that what was done with such a one stays done.
WHOLE = "sft.epochs"


@dataclass(frozen=True, slots=True)
class StageKey:
    """key: 64 hex digits. config: dotted setting -> value, as text. inputs: what it reads -> a hash of that."""

    key: str
    config: dict[str, str]
    inputs: dict[str, str]

    def changes_since(self, older: StageKey) -> list[str]:
        """What differs, one line each: "zero.grpo.steps: 40 -> 60", "input @zero"."""
        lines = []
        for name in sorted(self.config.keys() | older.config.keys()):
            absent = "unset" if (later := _later(name)) is None else later
            was, now = older.config.get(name, absent), self.config.get(name, absent)
            if was != now:
                lines.append(f"{name}: {was} -> {now}")
        for name in sorted(self.inputs.keys() | older.inputs.keys()):
            if self.inputs.get(name) != older.inputs.get(name):
                lines.append(f"input {name}")
        return lines


def stage_keys(recipe: Recipe) -> dict[str, StageKey]:
    """The key of every stage, by name. Raises BadInput for an input that is not there."""
    keys: dict[str, StageKey] = {}
    for stage in recipe.stages:
        config = stage_config(recipe, stage)
        inputs = {text: keys[ref.stage].key for text in _texts(stage) if (ref := Reference.parse(text)) is not None}
        inputs |= _outer_inputs(stage)
        hashed = {name: value for name, value in config.items() if _later(name) != value}
        digest = hashlib.sha256(json.dumps([hashed, inputs], sort_keys=True).encode()).hexdigest()
        keys[stage.name] = StageKey(digest, config, inputs)
    return keys


def _later(name: str) -> str | None:
    """The value of a younger setting that changes nothing; None for others."""
    return LATER.get(name, LATER_ANYWHERE.get(name.rpartition(".")[2]))


def stage_config(recipe: Recipe, stage: Stage) -> dict[str, str]:
    """Dotted setting -> value, as text, of all that changes what the stage puts out. Reads no file."""
    config = flat(stage_to_dict(_pointed(stage)))
    if config.get(WHOLE, "0.0") != "0.0":
        config[WHOLE] = config[WHOLE].removesuffix(".0")
    if stage.hashed_base:
        shared = dataclasses.asdict(_pointed(run_config(recipe, stage)))
        config |= flat({name: shared[name] for name in stage.hashed_base}, "base.")
        if config["base.model.dtype"] == "float32":  # nothing is dithered there
            config |= {name: "False" for name in ("base.learner.dither",) if name in config}
    return {name: value for name, value in config.items() if name not in FREE and name != "name"}


def _pointed(node: ConfigT) -> ConfigT:
    """The same settings, each number of a field for fractions as a float: Python says 2, JSON and overrides 2.0."""
    return build(type(node), dataclasses.asdict(cast(Any, node)))[0]


def _texts(stage: Stage) -> list[str]:
    return [text for _, text in references(stage)]


def _outer_inputs(stage: Stage) -> dict[str, str]:
    """What a stage reads from outside the recipe: models, data, Python functions."""
    found: dict[str, str] = {}
    most: dict[str, DataConfig] = {}

    def read(data: DataConfig) -> None:
        if Path(data.source).is_file():  # of a file that is read twice the longer part holds the other
            data = max(data, most.get(data.source, data), key=lambda d: d.limit or sys.maxsize)
        most[data.source] = data
        found[data.source] = _data_hash(data)

    def walk(node: object) -> None:
        if isinstance(node, TeacherConfig):
            return  # its model is a name at its endpoint
        if isinstance(node, DataConfig):
            if node.source and not node.source.startswith("@"):
                read(node)
        elif dataclasses.is_dataclass(node):
            for f in dataclasses.fields(node):
                value = getattr(node, f.name)
                if f.name in ("model", "function", "teacher") and isinstance(value, str) and value:
                    if not value.removeprefix(MODEL).startswith("@"):
                        found[value] = path_hash(value)
                elif f.name == "samples" and isinstance(value, tuple):
                    found.update({text: file_hash(Path(text)) for text in value if Path(text).is_file()})
                elif f.name == "sources" and isinstance(value, tuple):
                    for text in value:
                        if Path(text).is_file() or TASK.fullmatch(text):  # a Hub id says no more than the config
                            read(DataConfig(source=text))
                else:
                    walk(value)
        elif isinstance(node, tuple):
            for item in node:
                walk(item)

    walk(stage)
    return found


def _data_hash(data: DataConfig) -> str:
    if TASK.fullmatch(data.source):  # called without need it might download a lot
        return path_hash(data.source)
    if Path(data.source).is_file():
        stat = Path(data.source).stat()
        return _rows_hash(data, stat.st_size, stat.st_mtime_ns)
    return hashlib.sha256(f"{data.source} {data.subset} {data.split}".encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def _rows_hash(data: DataConfig, size: int, mtime_ns: int) -> str:
    """Of a file's rows; size and time only tell whether it was read before."""
    return fingerprint(load_rows(data))


def folder_name(index: int, stage: Stage, key: StageKey) -> str:
    """ "03-reject-1a2b3c4d": the place in the recipe (from 0), the name, and the key's first digits."""
    return f"{index:02d}-{stage.name}-{key.key[:8]}"


def stage_folders(folder: Path, name: str) -> list[Path]:
    """The folders of stages with that name in a recipe's folder, of all keys and places, the newest last."""
    own = re.compile(rf"\d+-{re.escape(name)}-[0-9a-f]{{8}}")
    begun = [path for path in folder.glob(f"*-{name}-*/stage.json") if own.fullmatch(path.parent.name)]
    return [path.parent for path in sorted(begun, key=lambda path: path.stat().st_mtime)]


def past_keys(recipe: Recipe, stage: Stage) -> list[tuple[Path, StageKey]]:
    """The stage's folders of all keys, the newest last, with their keys.

    provenance.json says the same of a stage that is done, so it stands in for a damaged stage.json. A folder where
    neither can be read is left out with a warning; its stage still resumes there while its key is the folder's.
    """
    found = []
    for folder in stage_folders(recipe.folder, stage.name):
        for file in (folder / "stage.json", folder / provenance.FILE):
            try:
                found.append((folder, read_json(file, _key_of, "it is not read")))
                break
            except FileNotFoundError:
                continue
            except BadInput as error:
                log.warning("%s", error)
    return found


def _key_of(tree: dict[str, Any]) -> StageKey:
    return StageKey(str(tree["key"]), dict(tree["config"]), dict(tree["inputs"]))
