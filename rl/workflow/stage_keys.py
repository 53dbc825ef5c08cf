"""Tells which work is done already. A stage's key is a hash of its settings and of the content of its inputs.

An input made by an earlier stage counts by that stage's key. So all keys are known before anything runs, and a changed
setting changes the keys of the stages that depend on it, and no others. Settings that only say where or how often
(cluster, checkpoints, tracking) are left out, and so are those that rl/config.py marks with keyed=False.

Axis suffix: _A ages of a key, the newest first.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from rl.config import MODEL, DataConfig, RunConfig, TeacherConfig
from rl.data.content_hash import file_hash, is_built_in, path_hash, reward_hash
from rl.data.rows import TASK, fingerprint, load_rows
from rl.records import provenance
from rl.records.whole_files import read_json
from rl.settings.overrides import build
from rl.stage import Recipe, Reference, Stage, references, run_config
from rl.types import BadInput

log = logging.getLogger(__name__)
ConfigT = TypeVar("ConfigT")

FILTERS = "rewards.filters:"
"""How the names of the functions begin that a stage asks beside its rewards (Stage.asked_code)."""


@dataclass(frozen=True, slots=True)
class StageKey:
    """What identifies a stage's work. key: 64 hex digits. config: dotted setting -> value, as text. inputs: what the
    stage reads -> a hash of that. before: the settings that younger versions added -> the value that changes nothing.
    older: the key that the versions before gave it, which has its own `older`; None where there is none. Versions
    before this one hashed no filters, and before those others hashed of a built-in reward its name alone.
    """

    key: str
    config: dict[str, str]
    inputs: dict[str, str]
    before: dict[str, str] = dataclasses.field(default_factory=dict)
    older: StageKey | None = None

    def ages(self) -> list[StageKey]:
        """This key and all older ones, the newest first."""
        return [self, *(self.older.ages() if self.older else [])]

    def unknown_in(self, older: StageKey) -> list[str]:
        """The built-in rewards and filters whose code an older key does not know."""
        return [n for n, value in self.inputs.items() if not n.startswith("@") and older.inputs.get(n) != value]

    def changes_since(self, older: StageKey) -> list[str]:
        """The differences, one line each: "grpo.steps: 40 -> 60", "input @zero"."""
        lines = []
        for name in sorted(self.config.keys() | older.config.keys()):
            absent = self.before.get(name, "unset")
            was, now = older.config.get(name, absent), self.config.get(name, absent)
            if was != now:
                lines.append(f"{name}: {was} -> {now}")
        for name in sorted(self.inputs.keys() | older.inputs.keys()):
            if older.inputs.get(name) in [key.inputs.get(name) for key in self.ages()]:
                continue
            if is_built_in(name):
                lines.append(f"the code of the reward {name}")
            else:
                lines.append(f"the code of {name}" if name.startswith(FILTERS) else f"input {name}")
        return lines


def stage_keys(recipe: Recipe) -> dict[str, StageKey]:
    """The key of every stage, by its name. Raises BadInput when an input is missing."""
    keys_A: dict[str, list[StageKey]] = {}
    for stage in recipe.stages:
        config, before = _settings_of(recipe, stage)
        made = {text: keys_A[ref.stage] for text in _texts(stage) if (ref := Reference.parse(text)) is not None}
        outer = _outer_inputs(stage)
        filters = {text: path_hash(text) for text in stage.asked_code}
        names = {text: path_hash(text) for text in outer if is_built_in(text)}
        keys_A[stage.name] = [
            _key(config, {text: of_A[age].key for text, of_A in made.items()} | read, before)
            for age, read in enumerate([outer | filters, outer, outer | names])
        ]
    return {name: _chained(of_A) for name, of_A in keys_A.items()}


def _chained(keys_A: Sequence[StageKey]) -> StageKey:
    """The first of a stage's keys, newest first, with the others behind it. Those that are equal count once."""
    key: StageKey | None = None
    for of in reversed(keys_A):
        key = key if key is not None and key.key == of.key else dataclasses.replace(of, older=key)
    assert key is not None
    return key


def _key(config: dict[str, str], inputs: dict[str, str], before: dict[str, str]) -> StageKey:
    hashed = {name: value for name, value in config.items() if before.get(name) != value}
    digest = hashlib.sha256(json.dumps([hashed, inputs], sort_keys=True).encode()).hexdigest()
    return StageKey(digest, config, inputs, before)


def stage_config(recipe: Recipe, stage: Stage) -> dict[str, str]:
    """Dotted setting -> value as text, of all settings that change the stage's output. Reads no file."""
    return _settings_of(recipe, stage)[0]


def _settings_of(recipe: Recipe, stage: Stage) -> tuple[dict[str, str], dict[str, str]]:
    """(stage_config, StageKey.before)."""
    config, before = {"kind": type(stage).__name__}, dict[str, str]()
    parts: list[tuple[str, Stage | RunConfig, tuple[str, ...] | None]] = [("", stage, None)]
    if stage.hashed_base:
        parts.append(("base.", run_config(recipe, stage), stage.hashed_base))
    for prefix, node, names in parts:
        for name, text, known in _leaves(_pointed(node), prefix, names):
            config[name] = text
            if known is not None:
                before[name] = known
    if config.get("base.model.dtype") == "float32" and "base.learner.dither" in config:
        config["base.learner.dither"] = "False"  # in float32 nothing is dithered, whatever the setting says
    return config, before


def _leaves(
    node: Any, prefix: str, names: Sequence[str] | None = None, before: object = None
) -> Iterator[tuple[str, str, str | None]]:
    """(dotted name, value as text, the value from before the setting existed or None) of all that changes the output.

    names: of the node's fields, those that count; None: all. before: a node of the same class with such values.
    """
    for f in dataclasses.fields(node):
        if not f.metadata["keyed"] or (names is not None and f.name not in names):
            continue
        value, name = vars(node)[f.name], prefix + f.name
        known = f.metadata["before"] if before is None else vars(before)[f.name]
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{name}.", before=known)
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for i, item in enumerate(value):
                yield from _leaves(item, f"{name}.{i}.")
        else:
            yield name, f.metadata["in_key"](value), None if known is None else str(known)


def _pointed(node: ConfigT) -> ConfigT:
    """The same settings with floats in all float fields: a recipe in Python may say 2 where JSON says 2.0."""
    return build(type(node), dataclasses.asdict(cast(Any, node)))[0]


def _texts(stage: Stage) -> list[str]:
    return [text for _, text in references(stage)]


def _outer_inputs(stage: Stage) -> dict[str, str]:
    """What a stage reads from outside the recipe (models, data, Python functions) -> a hash of its content."""
    found: dict[str, str] = {}
    most: dict[str, DataConfig] = {}

    def read(data: DataConfig) -> None:
        if Path(data.source).is_file():  # when a file is read twice, the longer part contains the shorter one
            data = max(data, most.get(data.source, data), key=lambda d: d.limit or sys.maxsize)
        most[data.source] = data
        found[data.source] = _data_hash(data)

    def walk(node: object) -> None:
        if isinstance(node, TeacherConfig):
            return  # its model is a name that means something at the endpoint alone
        if isinstance(node, DataConfig):
            if node.source and not node.source.startswith("@"):
                read(node)
        elif dataclasses.is_dataclass(node):
            for f in dataclasses.fields(node):
                value = getattr(node, f.name)
                if f.name in ("model", "function", "teacher") and isinstance(value, str) and value:
                    if not value.removeprefix(MODEL).startswith("@"):
                        found[value] = reward_hash(value) if f.name == "function" else path_hash(value)
                elif f.name == "tools" and isinstance(value, tuple):
                    found.update({text: path_hash(text) for text in value if TASK.fullmatch(text)})
                elif f.name == "samples" and isinstance(value, tuple):
                    found.update({text: file_hash(Path(text)) for text in value if Path(text).is_file()})
                elif f.name == "sources" and isinstance(value, tuple):
                    for text in value:
                        if Path(text).is_file() or TASK.fullmatch(text):  # a Hub id is in the settings already
                            read(DataConfig(source=text))
                else:
                    walk(value)
        elif isinstance(node, tuple):
            for item in node:
                walk(item)

    walk(stage)
    return found


def _data_hash(data: DataConfig) -> str:
    if TASK.fullmatch(data.source):  # hash the function: to call it here might download a lot
        return path_hash(data.source)
    if Path(data.source).is_file():
        stat = Path(data.source).stat()
        return _rows_hash(data, stat.st_size, stat.st_mtime_ns)
    return hashlib.sha256(f"{data.source} {data.subset} {data.split}".encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def _rows_hash(data: DataConfig, size: int, mtime_ns: int) -> str:
    """A hash of a file's rows. size and mtime_ns serve the cache alone: a changed file is read anew."""
    return fingerprint(load_rows(data))


def folder_name(index: int, stage: Stage, key: StageKey) -> str:
    """ "03-reject-1a2b3c4d": the place in the recipe (from 0), the name, and the key's first digits."""
    return f"{index:02d}-{stage.name}-{key.key[:8]}"


def stage_folders(folder: Path, name: str) -> list[Path]:
    """All folders of a stage with that name in a recipe's folder, whatever their keys and numbers, the newest last."""
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
