"""Shows the settings of a recipe and their help: aha run RECIPE --help and --settings.

They are loaded only when they are shown, so that `aha --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typer import Context
from typer.core import TyperCommand

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rl.config import RunConfig
    from rl.stage import Recipe


class RecipeCommand(TyperCommand):
    """A command whose --help, after a recipe, also shows the recipe's settings. Its options take no values."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:  # type: ignore[override]  # theirs is private
        ctx.meta[__name__] = [arg for arg in args if not arg.startswith("-")]
        return super().parse_args(ctx, args)

    def get_help(self, ctx: Context) -> str:  # type: ignore[override]
        """The command's help, and the settings of a recipe among the arguments. Raises BadInput."""
        words: list[str] = ctx.meta[__name__]
        if not words:
            return super().get_help(ctx)
        from rich.console import Console

        from launch.recipes import load

        console = Console()
        with console.capture() as captured:
            _print(console, words[0], load(words[0], words[1:]))
        return f"{super().get_help(ctx)}\n{captured.get()}"


def print_settings(path: str, cfg: RunConfig | Recipe) -> None:
    from rich.console import Console

    _print(Console(), path, cfg)


def _print(console: Console, path: str, cfg: RunConfig | Recipe) -> None:
    from rl.settings.typed_values import HOW

    console.print(settings_table(path, cfg))
    console.print(HOW, markup=False, highlight=False, soft_wrap=True)


def settings_table(path: str, cfg: RunConfig | Recipe) -> Table:
    """Every setting of the recipe at path, with its value and its help."""
    from rich.table import Table

    table = Table("setting", box=None, pad_edge=False)
    table.add_column("value", overflow="fold")  # so that a long path is shown whole
    table.add_column("meaning")
    for row in settings_of(path, cfg):
        table.add_row(*row)
    return table


def settings_of(path: str, cfg: RunConfig | Recipe) -> list[tuple[str, str, str]]:
    """(key, value, help) of the parameters of the recipe's function, with their defaults, then of every setting."""
    from launch.recipes import parameters
    from rl.settings.all_settings import describe, describe_recipe
    from rl.stage import Recipe

    rows = [
        (name, default, f"Parameter of recipe() in {Path(path).name}; its default is shown.")
        for name, default in parameters(path).items()
    ]
    return rows + (describe_recipe(cfg) if isinstance(cfg, Recipe) else describe(cfg))
