"""Shell completion: the scripts that `aha completion` prints, and the completions of RECIPE and of settings.

At each TAB the scripts ask the command itself, through Typer. Its error messages are not shown there.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

# The environment variables are Typer's. No space follows a setting's "=", since its value does.
BASH = """\
_aha() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _AHA_COMPLETE=complete_bash "$1" 2>/dev/null))
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]]; then compopt -o nospace; fi
}
complete -o default -F _aha aha
"""
ZSH = """\
#compdef aha
_aha() {
    local line value
    local -a open closed
    while IFS= read -r line; do
        [[ -n $line ]] || continue
        value=${${line%%$'\\t'*}//:/\\\\:}
        [[ $line == *$'\\t'* ]] && line=$value:${line#*$'\\t'} || line=$value
        if [[ $value == *[=/] ]]; then open+=("$line"); else closed+=("$line"); fi
    done < <(_TYPER_COMPLETE_ARGS="${(F)words[1,$CURRENT]}" _TYPER_COMPLETE_FISH_ACTION=get-args \\
        _AHA_COMPLETE=complete_fish "${words[1]}" 2>/dev/null)
    (( $#open )) && _describe setting open -S ''
    (( $#closed )) && _describe argument closed
    (( $#open + $#closed )) || _files
}
compdef _aha aha
"""


class Shell(StrEnum):
    bash = "bash"
    zsh = "zsh"


SCRIPTS = {Shell.bash: BASH, Shell.zsh: ZSH}


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes in the folder typed so far (recipes/ if none), and the folders inside it.

    A recipe is a Python file that defines recipe(), or a resolved.json or recipe.json of a run.
    """
    typed = incomplete.rpartition("/")[0]
    found = [path for path in _beginning(incomplete) if _is_recipe(path)]
    if not typed:
        found += [path for path in sorted(Path("recipes").glob("*.py")) if _is_recipe(path)]
    folders = [f"{path}/" for path in _beginning(incomplete) if path.is_dir()]
    names = [*map(str, found), *folders]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _beginning(incomplete: str) -> list[Path]:
    folder, slash, name = incomplete.rpartition("/")
    home = Path(folder + slash or ".")
    if not home.is_dir():
        return []
    shown = [path for path in home.iterdir() if path.name.startswith(name) and not path.name.startswith((".", "_"))]
    return sorted(shown)


def _is_recipe(path: Path) -> bool:
    if path.name in ("resolved.json", "recipe.json"):
        return True
    return path.suffix == ".py" and path.is_file() and "\ndef recipe(" in path.read_text("utf-8", errors="replace")


def complete_setting(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """(key=, its help) for each setting of the recipe on the line, or of any run when no recipe is there.

    Raises what the recipe raises: a recipe that does not load has no settings.
    """
    from launch.recipe_help import settings_of
    from launch.recipes import load
    from rl.config import RunConfig
    from rl.settings.all_settings import describe

    recipe = ctx.params.get("recipe")
    rows = settings_of(str(recipe), load(str(recipe))) if recipe else describe(RunConfig())
    return [(f"{key}=", text) for key, _, text in rows if key.startswith(incomplete)]
