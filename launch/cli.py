"""The `aha` command. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rl.config import RunConfig
from rl.settings import apply_overrides, describe, validate
from rl.types import AhaError, BadInput, Stopped

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train reasoning models with GRPO: Ray, vLLM and DeepSpeed, on a laptop's CPU or on a cluster.",
)

Recipe = Annotated[str, typer.Argument(help="A recipe file, for example recipes/quickstart.py.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted settings, for example grpo.steps=10.", metavar="[KEY=VALUE]...")
]


@app.callback()
def main_help() -> None:
    """Groups the commands even while there is only one."""


@app.command()
def run(
    recipe: Recipe,
    overrides: Overrides = None,
    settings: Annotated[bool, typer.Option("--settings", help="List the recipe's settings and stop.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check settings, model and data, and stop.")] = False,
) -> None:
    """Run or resume a recipe: the same command resumes. Ctrl-C stops after the step, with a checkpoint."""
    cfg = load_recipe(recipe, overrides or [])
    if settings:
        print_settings(cfg)
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from rl import pipeline

    if check:
        pipeline.prepare(cfg)
        print(f"{recipe}: settings, model, data and rewards are fine. {cfg.batch_arithmetic()}.")
        return

    def make_backend(cfg: RunConfig):  # type: ignore[no-untyped-def]
        from rl.workers.cluster import RayBackend

        return RayBackend(cfg)

    pipeline.run(cfg, make_backend)


def load_recipe(path: str, overrides: list[str]) -> RunConfig:
    """The recipe's config with the overrides applied and checked. Raises BadInput."""
    file = Path(path)
    if file.suffix == ".json" and file.is_file():
        from rl.settings import from_json

        cfg = from_json(file.read_text())
    elif not file.is_file():
        raise BadInput(f"{path}: no such recipe; see recipes/")
    else:
        # Tasks and rewards are named as 'recipes.tasks:...', found from where the command is run.
        sys.path.insert(0, os.getcwd())
        spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        make = vars(module).get("recipe")
        if make is None:
            raise BadInput(f"{path}: has no function recipe() that returns a RunConfig")
        cfg = make()
    cfg = apply_overrides(cfg, overrides)
    validate(cfg)
    return cfg


def print_settings(cfg: RunConfig) -> None:
    """Every setting with its value and what it means."""
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "value", "meaning", box=None, pad_edge=False)
    for key, value, text in describe(cfg):
        table.add_row(key, value, text)
    Console().print(table)


def main() -> None:
    """Entry point: 0 done, 1 failed, 2 bad input, 130 stopped by the user."""
    try:
        app()
    except BadInput as error:
        sys.exit(_say(error, 2))
    except Stopped as stopped:
        sys.exit(_say(stopped, 130))
    except AhaError as error:
        sys.exit(_say(error, 1))
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _say(error: Exception, code: int) -> int:
    for line in str(error).splitlines():
        print(f"aha: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
