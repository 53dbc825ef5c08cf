"""The `aha` command. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.completion import SCRIPTS, Shell, complete_recipe, complete_setting
from launch.recipe_help import RecipeCommand, print_settings
from rl.records.disk_faults import disk_fault
from rl.types import AhaError, BadInput, Stopped

if TYPE_CHECKING:
    from rl.config import RunConfig
    from rl.stage import Recipe as StagedRecipe

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the boxes would take as long to load as all the rest
    context_settings={"max_content_width": 120},
    help="Train reasoning models with GRPO: Ray, vLLM and DeepSpeed, on a laptop's CPU or on a cluster.",
)

Recipe = Annotated[
    str,
    typer.Argument(
        help="A recipe file, for example recipes/quickstart.py.", show_default=False, autocompletion=complete_recipe
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help='Dotted settings, as grpo.steps=10 or rollout.stop=\'["a,b", "c"]\'; more: RECIPE --help.',
        metavar="[KEY=VALUE]...",
        autocompletion=complete_setting,
    ),
]


@app.callback()
def main_help() -> None:
    """Groups the commands, even if there is only one."""


@app.command(cls=RecipeCommand)
def run(
    recipe: Recipe,
    overrides: Overrides = None,
    settings: Annotated[bool, typer.Option("--settings", help="List the recipe's settings and stop.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check settings, model and data, and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run (of several stages: which, and why) and stop.")
    ] = False,
    doctor_first: Annotated[
        bool, typer.Option("--doctor", help="Make the checks of aha doctor first; run only when none fails.")
    ] = False,
) -> None:
    """Run a recipe, or resume it with the same command. Ctrl-C finishes the step, saves a checkpoint and stops.

    aha run RECIPE --help lists the recipe's settings too.
    """
    from launch.machine import settled
    from launch.recipes import load

    cfg = load(recipe, overrides or [])
    if settings:
        print_settings(recipe, cfg)
        return
    cfg, precision = settled(cfg, ask_cluster=not (check or dry_run))
    print(precision, flush=True)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if doctor_first and not (check or dry_run):
        from launch.doctor.command import doctor as examine

        if not examine(recipe, cfg):
            raise AhaError("the doctor found faults (above); nothing was run. Mend them, or run without --doctor")
    from launch.report.background import Reports
    from launch.report.curve_figure import draw_run
    from rl.records.folder_lock import refuse_unwritable
    from rl.workflow.run import layout_of

    layout = layout_of(cfg)
    if dry_run:
        print(layout.describe(layout.plan()))
        return
    if check:
        refuse_unwritable(layout.recipe.folder)
        layout.check(layout.plan())
        print(f"{recipe}: {layout.check_passed()}")
        return
    reports = Reports()
    try:
        done = _on_real_machines(cfg, reports)
    except AhaError:  # a run that failed or was stopped has a report of what is done
        reports.wait()
        raise
    if done.name == "summary.json":
        print(draw_run(done.parent))
    reports.finish(layout.recipe.folder)


def _on_real_machines(cfg: RunConfig | StagedRecipe, progressed: Callable[[Path], None]) -> Path:
    from rl.workers.cluster.ray_backend import RayBackend
    from rl.workers.cluster.ray_calls import start_ray
    from rl.workflow.run import layout_of, run

    base = layout_of(cfg).recipe.base
    return run(cfg, RayBackend, prepare_machines=lambda: start_ray(base), progressed=progressed)


@app.command()
def submit(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe file in the current folder.", show_default=False, autocompletion=complete_recipe),
    ] = None,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's Ray dashboard.")
    ] = "http://127.0.0.1:8265",
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help="NAME or NAME=value: an environment variable for the job; may be repeated."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job's log.")] = False,
    stop: Annotated[str, typer.Option("--stop", metavar="ID", help="Stop this job, with a checkpoint.")] = "",
    status: Annotated[str, typer.Option("--status", metavar="ID", help="Say how this job is doing.")] = "",
    logs: Annotated[str, typer.Option("--logs", metavar="ID", help="Follow this job's log.")] = "",
    python: Annotated[
        str,
        typer.Option("--python", help="Python of the cluster. Default: this one for 127.0.0.1, else python."),
    ] = "",
) -> None:
    """Run a recipe as a Ray job and follow it. Submitted again, the job resumes where it was.

    The job runs in a copy of the current folder, without what git ignores; the copy is deleted afterwards. The run
    folder is therefore an absolute path: ./runs of this machine by default, which every node must see. If nodes share
    another folder, set out=/shared/aha/runs. Models and data that are not copied get absolute paths too.

    The cluster's token comes from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. The job gets the W&B and
    Hugging Face variables of this shell (WANDB_API_KEY, HF_TOKEN, ...); --env adds others.
    """
    from launch import submit as job

    if stop or status or logs:
        job.manage(address, status_of=status, logs_of=logs, stop_of=stop)
    elif recipe is None:
        raise BadInput("aha submit: name a recipe, for example recipes/quickstart.py; see aha submit --help")
    else:
        cfg = load_recipe(recipe, overrides or [])
        job.submit(recipe, cfg, overrides or [], address, env or [], python, wait=not no_wait)


@app.command()
def provenance(
    path: Annotated[Path, typer.Argument(help="A model, a dataset, or the folder of a stage.", show_default=False)],
) -> None:
    """Say how a model or dataset was made, stage by stage, back to the base model."""
    from rl.records.provenance import describe, read

    print(describe(read(path.resolve())))


@app.command("eval")
def eval_(
    model: Annotated[str, typer.Argument(help="A Hugging Face id or folder.", show_default=False)],
    overrides: Overrides = None,
    data: Annotated[
        str, typer.Option("--data", help="gsm8k, math500, aime, a Hub id, a file, or a task as 'module:function'.")
    ] = "gsm8k",
    samples: Annotated[int | None, typer.Option("--k", help="Samples per problem.", show_default="16")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", show_default="1.0")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", show_default="1.0")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Completion limit, tokens.", show_default="1024")
    ] = None,
    template: Annotated[str, typer.Option("--template", help="r1_zero, chat, plain, or a text with {prompt}.")] = "",
    reward: Annotated[
        list[str] | None, typer.Option("--reward", help="Rewards to call; the first says which samples are correct.")
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="r1: 0.6, top-p 0.95, 32,768 tokens, many samples.")] = "",
    cot: Annotated[
        bool | None,
        typer.Option(
            "--cot/--no-cot",
            help="Ask to reason step by step and to box the answer.",
            show_default="for gsm8k, math500 and aime with the chat template, and for the protocol",
        ),
    ] = None,
    shots: Annotated[int, typer.Option("--shots", help="Worked examples before each question.")] = 0,
    limit: Annotated[int, typer.Option("--limit", help="Only the first problems; 0: all.")] = 0,
    against: Annotated[
        str, typer.Option("--against", help="Training rows, to look for the problems in (and to take examples from).")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="The json; default runs/evals/<name>/eval.json.")] = None,
) -> None:
    """Measure a checkpoint: pass@1 with its standard error, pass@k, cons@k, lengths, format and language."""
    from launch import evaluate
    from launch.working_folder import import_from_here

    import_from_here()
    quiet_libraries()
    asked = evaluate.Asked(
        model, data, samples, temperature, top_p, max_tokens, template, tuple(reward or ["accuracy"]), protocol, cot,
        shots, limit, against,
    )  # fmt: skip
    evaluate.evaluate_checkpoint(evaluate.build(asked, overrides or []), asked, out)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run's folder, or a model's.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.", show_default=False)],
    ollama: Annotated[bool, typer.Option("--ollama", help="Write a Modelfile too, for `ollama create`.")] = False,
    template: Annotated[
        str, typer.Option("--template", help="Prompt template; default: the run's, else the model's chat template.")
    ] = "",
    temperature: Annotated[float, typer.Option("--temperature", help="Default of the model's users.")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", help="Default of the model's users.")] = 0.95,
) -> None:
    """Make a folder to publish: weights, chat template, generation config, model card, and a Modelfile for Ollama.

    Aha writes no GGUF file, because no package on PyPI converts a model with llama.cpp's own converter. Ollama converts
    the folder itself: ollama create NAME -f DIR/Modelfile, smaller with --quantize q4_K_M. So does llama.cpp:
    convert_hf_to_gguf.py DIR.
    """
    from rl.export.folder import Sampling, export_folder

    quiet_libraries()
    print(export_folder(source, out, ollama=ollama, sampling=Sampling(temperature, top_p), template=template))


def quiet_libraries() -> None:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@app.command()
def plan(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe file.", show_default=False, autocompletion=complete_recipe)
    ] = None,
    overrides: Overrides = None,
    gpu: Annotated[
        str, typer.Option("--gpu", help="A GPU of launch/plan/gpus.toml, or cpu: this machine. Default: the recipe's.")
    ] = "",
    nodes: Annotated[int, typer.Option("--nodes", help="Machines; 0: as many as it needs.")] = 0,
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", help="GPUs of each.")] = 8,
    price: Annotated[float, typer.Option("--price", help="Of one GPU and hour.")] = 2.5,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure this machine first, training a few layers on it: minutes."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Numbers as JSON: bytes, seconds, tokens.")] = False,
    median_tokens: Annotated[float, typer.Option("--median-tokens", help="Median completion length.")] = 0.0,
    sigma: Annotated[float, typer.Option("--sigma", help="Spread of the lengths' logarithm.")] = 0.0,
    prompt_tokens: Annotated[float, typer.Option("--prompt-tokens", help="Mean prompt length.")] = 0.0,
    sft_tokens: Annotated[float, typer.Option("--sft-tokens", help="Mean length of an SFT example.")] = 0.0,
    sft_examples: Annotated[int, typer.Option("--sft-examples", help="How many an SFT stage has, for epochs.")] = 0,
    like: Annotated[str, typer.Option("--like", help="Model whose shapes one has that is not there yet.")] = "",
    published: Annotated[
        bool, typer.Option("--published", help="Show predictions beside published figures, and stop.")
    ] = False,
) -> None:
    """Predict the memory, time and cost of a recipe without using a device. Exit code 1: it will not fit."""
    from launch.plan import command as planning
    from launch.recipes import load

    if published:
        planning.published_command()
        return
    if recipe is None:
        raise BadInput("aha plan: name a recipe, for example recipes/quickstart.py; see aha plan --help")
    options = planning.PlanOptions(
        gpu, nodes, gpus_per_node, price, calibrate, json, median_tokens, sigma, prompt_tokens, sft_tokens,
        sft_examples, like,
    )  # fmt: skip
    if not planning.plan_command(load(recipe, overrides or []), options):
        raise typer.Exit(1)


@app.command()
def doctor(
    recipe: Recipe,
    overrides: Overrides = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the results as JSON; the lines go to stderr.")] = False,
) -> None:
    """Check on the live cluster that nothing is silently wrong. Exit code 0 when no check fails, else 1.

    Uses the recipe's own model, template and rewards. Checks the nodes' versions, disks and ports; the rewards on cases
    with known scores; the end token; logprobs and weights on both sides; what an update moves, and its loss;
    checkpoints; and a killed sampler. The run itself is not changed. Of several stages, the first with GRPO is checked.
    """
    from launch.doctor.command import doctor as examine
    from launch.machine import settled
    from launch.recipes import load

    cfg, precision = settled(load(recipe, overrides or []))
    print(precision, file=sys.stderr if json_ else sys.stdout, flush=True)
    if not examine(recipe, cfg, as_data=json_):
        raise typer.Exit(1)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, a recipe, or a stage.", show_default=False)],
    run_b: Annotated[Path | None, typer.Argument(help="A second run, to show beside it.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; default RUN/report.html.")] = None,
) -> None:
    """Write one HTML file about a run, two runs side by side, or a recipe of several stages. Needs no network.

    A run's report has results, curves, time, rollouts and settings. A recipe's report has claims, stages, all
    evaluations and each stage's curves; it can be written while the recipe still runs.
    """
    from launch.report import write_report

    path = write_report([run] if run_b is None else [run, run_b], out)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser")


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(help="Which shell's script.", show_default=False)]) -> None:
    """Print a script that completes commands, recipes and settings.

    For ~/.bashrc: eval "$(aha completion bash)". For ~/.zshrc, after compinit: eval "$(aha completion zsh)".
    """
    print(SCRIPTS[shell], end="")


def load_recipe(path: str, overrides: list[str]) -> RunConfig:
    """Load a recipe of one run, with the overrides applied and checked. Raises BadInput."""
    from launch.recipes import load_run

    return load_run(path, overrides)


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
    except OSError as error:
        told = disk_fault(error, Path(), "then give the command again")
        if told is None:
            raise
        sys.exit(_say(told, 1))
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _say(error: Exception, code: int) -> int:
    for line in str(error).splitlines():
        print(f"aha: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
