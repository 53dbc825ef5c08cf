"""The `aha` command. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.completion import SCRIPTS, Shell, complete_recipe, complete_setting
from launch.exit_codes import run_and_exit
from launch.recipe_help import RecipeCommand, print_settings
from rl.types import BadInput

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


Environment = Annotated[str, typer.Option("--environment", help="What answers between turns: 'module:Class'.")]
Select = Annotated[
    str,
    typer.Option(
        "--select",
        help="Ways to choose one answer among the samples, with commas: majority, logprob, shortest, a reward, or "
        "model:FOLDER_OR_HUB_ID.",
        show_default="majority",
    ),
]
Search = Annotated[
    str,
    typer.Option(
        "--search",
        help="Searches, with commas: beam-4x4 or dvts-4x4 (width x continuations; the scorer is the last of --select), "
        "cut-256, stretch-256 (tokens).",
    ),
]
Protocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="r1: 0.6, top-p 0.95, 32,768 tokens, many samples; or zero_shot_cot, few_shot, self_consistency.",
    ),
]


@app.callback()
def main_help() -> None:
    """Makes `aha` a group of commands for typer, however many there are."""


@app.command(cls=RecipeCommand)
def run(
    recipe: Recipe,
    overrides: Overrides = None,
    settings: Annotated[bool, typer.Option("--settings", help="List the recipe's settings and stop.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check settings, model and data, and stop.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would run (with several stages: which of them, and why) and stop."),
    ] = False,
    doctor_first: Annotated[
        bool, typer.Option("--doctor", help="Run the checks of aha doctor first, and the recipe only when none fails.")
    ] = False,
) -> None:
    """Run a recipe, or resume it with the same command. Ctrl-C finishes the step, saves a checkpoint and stops.

    aha run RECIPE --help lists the recipe's settings too. seed=1,2,3 runs it once for each seed and ends with a table
    over the seeds.
    """
    from launch.recipes import load
    from launch.run_recipe import run_recipe
    from launch.seeds import first_seed, ran_each

    given = overrides or []
    cfg = load(recipe, first_seed(given))
    if settings:
        print_settings(recipe, cfg)
    elif not ran_each(recipe, given, cfg, {"--check": check, "--dry-run": dry_run, "--doctor": doctor_first}):
        run_recipe(recipe, cfg, check=check, dry_run=dry_run, doctor_first=doctor_first)


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
        typer.Option("--env", help="NAME or NAME=value: environment variable for the job; can be given several times."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job's log.")] = False,
    stop: Annotated[str, typer.Option("--stop", metavar="ID", help="Stop this job, with a checkpoint.")] = "",
    status: Annotated[str, typer.Option("--status", metavar="ID", help="Print this job's state.")] = "",
    logs: Annotated[str, typer.Option("--logs", metavar="ID", help="Follow this job's log.")] = "",
    python: Annotated[
        str,
        typer.Option("--python", help="Python to use on the cluster. Default: this one for 127.0.0.1, else python."),
    ] = "",
) -> None:
    """Run a recipe as a Ray job and follow it. The same command again resumes it.

    The job runs in a copy of the current folder, without what git ignores; the copy is deleted afterwards. The run
    folder is therefore given as an absolute path, which every node must see: by default ./runs of this machine. If the
    nodes share another folder, set out=/shared/aha/runs. Models and data that are not copied get absolute paths too.

    The cluster's token comes from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. The job gets the W&B and
    Hugging Face variables of this shell (WANDB_API_KEY, HF_TOKEN, ...); --env adds others.
    """
    from launch import submit as job

    if stop or status or logs:
        job.manage(address, status_of=status, logs_of=logs, stop_of=stop)
    elif recipe is None:
        raise BadInput("aha submit: name a recipe, for example recipes/quickstart.py; see aha submit --help")
    else:
        from launch.recipes import load_run
        from launch.seeds import first_seed

        given = overrides or []
        job.submit(recipe, load_run(recipe, first_seed(given)), given, address, env or [], python, wait=not no_wait)


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
        list[str] | None, typer.Option("--reward", help="Rewards to call; the first decides which samples are correct.")
    ] = None,
    environment: Environment = "",
    select: Select = "",
    search: Search = "",
    protocol: Protocol = "",
    cot: Annotated[
        bool | None,
        typer.Option(
            "--cot/--no-cot",
            help="Ask to reason step by step and to box the answer.",
            show_default="for gsm8k, math500 and aime with the chat template, and for the protocol",
        ),
    ] = None,
    shots: Annotated[int, typer.Option("--shots", help="Worked examples before each question.")] = 0,
    limit: Annotated[int, typer.Option("--limit", help="Use only this many problems, from the start; 0: all.")] = 0,
    against: Annotated[
        str,
        typer.Option("--against", help="Training rows: searched for the problems, and the source of worked examples."),
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="The JSON file to write; default runs/evals/<name>/eval.json.")
    ] = None,
) -> None:
    """Measure a checkpoint: pass@1 with its standard error, pass@k, cons@k, lengths, format and language."""
    from launch import evaluate
    from launch.run_recipe import quiet_libraries
    from launch.working_folder import import_from_here

    import_from_here()
    quiet_libraries()
    asked = evaluate.Asked(
        model, data, samples, temperature, top_p, max_tokens, template,
        tuple(reward or ([] if environment else ["accuracy"])), protocol, cot, shots, limit, against, select, search,
        environment,
    )  # fmt: skip
    evaluate.evaluate_checkpoint(evaluate.build(asked, overrides or []), asked, out)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run's folder, or a model's.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.", show_default=False)],
    ollama: Annotated[bool, typer.Option("--ollama", help="Also write a Modelfile, for `ollama create`.")] = False,
    template: Annotated[
        str, typer.Option("--template", help="Prompt template; default: the run's, else the model's chat template.")
    ] = "",
    temperature: Annotated[
        float, typer.Option("--temperature", help="Temperature that the model's users get by default.")
    ] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", help="Top-p that the model's users get by default.")] = 0.95,
) -> None:
    """Make a folder to publish: weights, chat template, generation config, model card, and a Modelfile for Ollama.

    Aha writes no GGUF file. Ollama converts the folder itself: ollama create NAME -f DIR/Modelfile, smaller with
    --quantize q4_K_M. So does llama.cpp: convert_hf_to_gguf.py DIR.
    """
    from launch.run_recipe import quiet_libraries
    from rl.export.folder import Sampling, export_folder

    quiet_libraries()
    print(export_folder(source, out, ollama=ollama, sampling=Sampling(temperature, top_p), template=template))


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
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", help="GPUs of each machine.")] = 8,
    price: Annotated[float, typer.Option("--price", help="Price of one GPU for an hour.")] = 2.5,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="First measure this machine by training a few layers on it; takes minutes."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON: bytes, seconds, tokens.")] = False,
    median_tokens: Annotated[float, typer.Option("--median-tokens", help="Median completion length.")] = 0.0,
    sigma: Annotated[float, typer.Option("--sigma", help="Spread of the lengths' logarithm.")] = 0.0,
    prompt_tokens: Annotated[float, typer.Option("--prompt-tokens", help="Mean prompt length.")] = 0.0,
    sft_tokens: Annotated[float, typer.Option("--sft-tokens", help="Mean length of an SFT example.")] = 0.0,
    sft_examples: Annotated[
        int, typer.Option("--sft-examples", help="Examples of an SFT stage, to turn epochs into steps.")
    ] = 0,
    like: Annotated[
        str, typer.Option("--like", help="A known model of the same shape, for a model that does not exist yet.")
    ] = "",
    placement: Annotated[
        bool, typer.Option("--placement", help="Show who gets which GPU on 1, 2, 8 and 2 x 8 GPUs, and stop.")
    ] = False,
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
        sft_examples, like, placement,
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
def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell that the script is for.", show_default=False)],
) -> None:
    """Print a script that completes commands, recipes and settings.

    For ~/.bashrc: eval "$(aha completion bash)". For ~/.zshrc, after compinit: eval "$(aha completion zsh)".
    """
    print(SCRIPTS[shell], end="")


def main() -> None:
    """Entry point: 0 done, 1 failed, 2 bad input, 130 stopped by the user."""
    run_and_exit(app)


if __name__ == "__main__":
    main()
