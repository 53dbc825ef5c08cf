"""A Ray that runs every call at once in this process. Calls to a dead actor fail as Ray's do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

ROOM = "rl.workers.cluster."
NODE = {
    "NodeID": "a",
    "NodeManagerAddress": "127.0.0.1",
    "NodeManagerPort": 1,
    "Alive": True,
    "Resources": {"CPU": 8.0},
}


class RayActorError(Exception):
    pass


class GetTimeoutError(Exception):
    pass


class RayTaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Ref:
    """What a call returned or raised. run: makes the call, where that is still to be done. hangs: it never ends."""

    def __init__(
        self,
        value: object = None,
        error: Exception | None = None,
        run: Callable[[], Ref] | None = None,
        *,
        hangs: bool = False,
    ) -> None:
        self.value, self.error, self.run, self.hangs = value, error, run, hangs

    def settle(self) -> None:
        if self.run is not None:
            done = self.run()
            self.value, self.error, self.run = done.value, done.error, None


class Handle:
    """An actor.

    dies_at: the name of the method in which it dies when that is called next; "": it lives on. hangs_at: of one that
    does its work but never answers. late: calls are made only when somebody waits for them.
    """

    def __init__(self, actor: object) -> None:
        self.actor, self.alive, self.dies_at, self.hangs_at, self.late = actor, True, "", "", False

    def __getattr__(self, method: str) -> SimpleNamespace:
        def call(*args: object) -> Ref:
            if self.late:
                return Ref(run=lambda: self._called(method, args))
            done = self._called(method, args)
            return Ref(hangs=True) if method == self.hangs_at else done

        return SimpleNamespace(remote=call)

    def _called(self, method: str, args: tuple[object, ...]) -> Ref:
        self.alive = self.alive and method != self.dies_at
        if not self.alive:
            return Ref(error=RayActorError("the actor died"))
        try:
            return Ref(getattr(self.actor, method)(*args))
        except Exception as error:
            return Ref(error=RayTaskError(error))


def wait(refs: list[Ref], num_returns: int, timeout: float) -> tuple[list[Ref], list[Ref]]:
    ready = [ref for ref in refs if not ref.hangs][:num_returns]
    for ref in ready:
        ref.settle()
    return ready, [ref for ref in refs if ref not in ready]


def get(ref: Ref, timeout: float | None = None) -> object:
    ref.settle()
    if ref.error is not None:
        raise ref.error
    return ref.value


def kill(handle: Handle) -> None:
    handle.alive = False


def remote(cls: type) -> SimpleNamespace:
    actor_class = SimpleNamespace(remote=lambda *args: Handle(cls(*args)))
    return SimpleNamespace(options=lambda **_: actor_class)


def placement_group(bundles: list[dict[str, float]], strategy: str) -> SimpleNamespace:
    return SimpleNamespace(ready=Ref, bundles=bundles)


def placement_group_table(group: SimpleNamespace) -> dict[str, dict[int, str]]:
    return {"bundles_to_node_id": dict.fromkeys(range(len(group.bundles)), NODE["NodeID"])}


MODULES: dict[str, dict[str, object]] = {
    "ray": {
        "cluster_resources": lambda: NODE["Resources"],
        "get": get,
        "is_initialized": lambda: True,
        "kill": kill,
        "nodes": lambda: [NODE],
        "put": lambda value: value,
        "remote": remote,
        "wait": wait,
    },
    "ray.exceptions": {
        "GetTimeoutError": GetTimeoutError,
        "RayActorError": RayActorError,
        "RayTaskError": RayTaskError,
    },
    "ray.util": {},
    "ray.util.metrics": {"Gauge": object},
    "ray.util.placement_group": {
        "PlacementGroup": object,
        "placement_group": placement_group,
        "placement_group_table": placement_group_table,
        "remove_placement_group": lambda group: None,
    },
    "ray.util.scheduling_strategies": {
        "NodeAffinitySchedulingStrategy": lambda *args, **kwargs: None,
        "PlacementGroupSchedulingStrategy": lambda *args, **kwargs: None,
    },
}


@contextmanager
def pretended(setitem: Callable[[dict[str, ModuleType], str, ModuleType], None]) -> Iterator[None]:
    """Inside the block rl.workers.cluster is imported anew on this Ray. setitem: monkeypatch.setitem."""
    for name, content in MODULES.items():
        module = ModuleType(name)
        vars(module).update(content)
        setitem(sys.modules, name, module)
    _forget_room()
    try:
        yield
    finally:
        _forget_room()


def _forget_room() -> None:
    """The package's attributes too: `from rl.workers.cluster import ray_backend` would find the old module there."""
    package = vars(sys.modules.get(ROOM.rstrip("."), ModuleType("")))
    for name in [name for name in sys.modules if name.startswith(ROOM)]:
        del sys.modules[name]
        package.pop(name.removeprefix(ROOM), None)
