"""`aha report`: one self-contained HTML file of a run, of two side by side, or of a whole recipe. Needs no network.

reading.py      reads a run's folder into a Run
charts.py       Run -> its curves, thinned, and the phases of each step
rollouts.py     Run -> a sample of its rollouts, cut into tokens
results.py      Run -> the table of results, facts, differences between two configs
page.py         puts these together as the data of a run's page
compute.py      reads accuracy against compute from evaluations; compute_figure.py draws it as a PNG
recipe.py       reads a recipe's folder: its stages, each with a Run, a state and inputs
recipe_page.py  puts these together as the data of a recipe's page
html.py         puts the data as JSON into page.html, with style.css and the scripts, which draw everything
background.py   writes reports while a run goes on
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.report.page import write_run_report
from launch.report.recipe import is_recipe
from launch.report.recipe_page import write_recipe_report
from rl.types import BadInput

__all__ = ["write_report"]


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of a run, of two runs side by side, or of a recipe with several stages. Returns its path.

    out: report.html in the folder by default. Raises BadInput for a folder that holds neither a run nor a recipe, and
    AhaError when one of its files is damaged or the page cannot be kept under 10 MB.
    """
    recipes = [folder for folder in folders if is_recipe(folder)]
    if recipes and len(folders) > 1:
        raise BadInput(
            f"{recipes[0]}: a recipe of several stages has a page of its own; name two of the stages' folders"
        )
    return write_recipe_report(recipes[0], out) if recipes else write_run_report(folders, out)
