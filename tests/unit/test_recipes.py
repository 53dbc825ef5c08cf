"""Every recipe in recipes/ loads and checks itself in a moment, without torch; its tasks hold what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from launch.recipes import load
from recipes import countdown, r1_preferences, r1_tasks, tasks
from recipes.distill_students import STUDENTS
from rewards.countdown import countdown as reach
from rewards.language import language_consistency
from rl.config import RunConfig
from rl.recipe import Recipe
from rl.types import AhaError

ROOT = Path(__file__).parents[2]
TASKS = {
    "bases",
    "benchmarks",
    "journeys",
    "r1_general",
    "r1_preferences",
    "r1_reasoning",
    "r1_tasks",
    "reasoning",
    "targets",
    "tasks",
    "tiny_model",
}
VARIANTS = {
    "r1_zero": ["size=7b", "size=32b"],
    "r1": [
        "helpful=org/helpful",
        "safety=org/safety",
        "judge_url=http://127.0.0.1/v1",
        "writer_url=http://127.0.0.1/v1",
    ],
    "cold_start": ["url=http://127.0.0.1/v1"],
    "distill_students": [f"student={name}" for name in STUDENTS],
    "r1_mini": ["scale=tiny", "scale=laptop", "reward_model=true", "ablations=true"],
}


def files() -> list[str]:
    return sorted(p.stem for p in (ROOT / "recipes").glob("*.py") if p.stem not in TASKS | {"__init__"})


@pytest.mark.parametrize(("name", "override"), [(n, o) for n in files() for o in ("", *VARIANTS.get(n, []))])
def test_a_recipe_loads_and_all_its_settings_are_in_range(name: str, override: str) -> None:
    made = load(f"recipes/{name}.py", [override] if override else [])
    assert isinstance(made, RunConfig | Recipe)
    assert made.name


def test_all_recipes_load_without_torch_and_in_under_a_second_each() -> None:
    code = (
        "import json, sys, time; from launch.recipes import load; out = {}\n"
        f"for name in {files()!r}:\n"
        "    start = time.process_time(); load(f'recipes/{name}.py'); out[name] = time.process_time() - start\n"
        "heavy = [m for m in ('torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'datasets') if m in sys.modules]\n"
        "print(json.dumps([out, heavy]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    seconds, heavy = json.loads(done.stdout)
    assert heavy == []
    assert max(seconds.values()) < 1.0, seconds  # of the processor, which other work on the machine does not change


def test_a_full_scale_recipe_says_its_source_its_hardware_and_what_it_changes() -> None:
    for name in set(files()) - {"quickstart", "tiny", "r1_mini", "guess"}:
        text = (ROOT / "recipes" / f"{name}.py").read_text()
        assert re.search(r"Sources?:|After the", text), name
        assert "Hardware:" in text, name
        assert "Deliberately different:" in text, name


# ------------------------------------------------------------------------------------------------ tasks


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        (r1_tasks.tiny_train, r1_tasks.tiny_eval), (r1_tasks.mini_train, r1_tasks.mini_eval),
        (r1_tasks.chat_train, r1_tasks.chat_eval),
    ],
)  # fmt: skip
def test_training_and_held_out_problems_share_none(train, held_out) -> None:  # type: ignore[no-untyped-def]
    sides = [
        {frozenset(re.findall(r"\d+|\b[a-z]+(?=:)", str(row["prompt"]))) for row in make()}
        for make in (train, held_out)
    ]
    assert len(sides[1]) > 10
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("make", [r1_tasks.tiny_train, r1_tasks.mini_train])
def test_chains_are_right_and_in_one_language(make) -> None:  # type: ignore[no-untyped-def]
    rows = make()
    assert {row["language"] for row in rows} == {"en", "de"}
    for row in rows[:60]:
        numbers = re.findall(r"\d+", str(row["prompt"]))
        answer = numbers[0][::-1] if len(numbers) == 1 else str(sum(map(int, numbers)))
        assert row["answer"] == answer
        assert str(row["target"]).endswith(f"</think> <answer>{answer}</answer>")
        score = language_consistency(str(row["target"]), language=str(row["language"]), languages=("en", "de"))
        assert score.value == 1.0, row


def test_each_step_of_a_chain_of_sums_has_the_last_ones_result_and_no_problem_is_in_two_splits() -> None:
    rows, held_out = tasks.chain_train(), tasks.chain_eval()
    assert tasks.chain_label() == rows[::-1]
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in held_out}
    for row in [*rows[:50], *held_out[:50]]:
        digits = list(map(int, re.findall(r"\d", str(row["prompt"]))))
        steps = re.findall(r"(\d)\+(\d)=(\d)", str(row["target"]))
        assert [int(step[1]) for step in steps] == digits[1:]
        sums = [sum(digits[: i + 1]) % 10 for i in range(len(digits))]
        assert [(int(a), int(c)) for a, _, c in steps] == list(pairwise(sums))
        assert row["answer"] == str(sums[-1])
        assert str(row["target"]).endswith(f"</think> <answer>{sums[-1]}</answer>")


def test_the_bases_documents_are_right_and_wrong_with_and_without_form() -> None:
    texts = [str(row["text"]) for row in r1_tasks.tiny_documents()]
    problems = [t for t in texts if re.search(r"\d", t)]
    formed = [t for t in problems if "<think>" in t]
    right = [t for t in formed if re.search(r"(\d+)[: ]", t)[1][::-1] == re.search(r"<answer>(\d+)", t)[1]]  # type: ignore[index]
    assert 0.15 < 1 - len(formed) / len(problems) < 0.25
    assert 0.2 < 1 - len(right) / len(formed) < 0.3


def test_two_in_five_of_the_bases_problems_mix_its_languages() -> None:
    problems = [str(row["text"]) for row in r1_tasks.mini_documents() if "plus" in str(row["text"])]
    english, german = [{i for i, t in enumerate(problems) if word in t} for word in ("What is", "Was ist")]
    says_english, says_german = [{i for i, t in enumerate(problems) if word in t} for word in ("First we", "Zuerst")]
    assert len(english) + len(german) == len(problems)
    mixed = (english & says_german) | (german & says_english)
    assert len(mixed) / len(problems) == pytest.approx(0.4, abs=0.03)


def test_of_the_greetings_to_compare_one_is_right_and_wrong_ones_are_longer_and_shorter() -> None:
    leads = []
    for line in r1_preferences.greetings({}):
        answer, texts = str(line["answer"]), [sample["text"] for sample in line["samples"]]  # type: ignore[attr-defined]
        wrong = [t for t in texts if r1_preferences.right_greeting(answer, t, answer=answer) == 1]
        assert len(wrong) == len(texts) - 1 >= 5
        assert all(r1_preferences.right_greeting(t, answer, answer=answer) == -1 for t in wrong)
        leads += [len(answer) - len(t) for t in wrong]
    longer, shorter = sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads)
    assert 0.6 < longer / shorter < 1.6, (longer, shorter)


def test_countdown_problems_can_be_solved_and_held_out_ones_are_others() -> None:
    rows = countdown.problems(40, "train")
    assert {len(row["numbers"]) for row in rows} == {3, 4}  # type: ignore[arg-type]
    held_out = {tuple(sorted(row["numbers"])) for row in countdown.problems(40, "eval")}  # type: ignore[type-var]
    assert not held_out & {tuple(sorted(row["numbers"])) for row in rows}  # type: ignore[type-var]
    row = next(r for r in rows if len(r["numbers"]) == 3)  # type: ignore[arg-type]
    assert any(_solves(expression, row) for expression in _expressions(row["numbers"])), row  # type: ignore[arg-type]


def _expressions(numbers: list[int]) -> list[str]:
    import itertools

    return [
        f"(({a} {s} {b}) {t} {c})" for a, b, c in itertools.permutations(numbers) for s in "+-*/" for t in "+-*/"
    ]  # fmt: skip


def _solves(expression: str, row: dict) -> bool:  # type: ignore[type-arg]
    score = reach(f"<think>x</think> <answer>{expression}</answer>", numbers=row["numbers"], target=row["target"])
    return score.value == 1.0


def test_a_student_of_smollm_lacks_layers_of_the_middle_and_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from recipes import tiny_model

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "SmolLM2-135M-Instruct"
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_model.make_tokenizer().save_pretrained(folder)
    student = AutoModelForCausalLM.from_pretrained(tiny_model.student_of_smollm())
    teacher = AutoModelForCausalLM.from_pretrained(folder)
    assert len(student.model.layers) == 4
    for mine, its in zip(student.model.layers, (0, 1, 4, 5), strict=True):
        assert torch.equal(mine.mlp.up_proj.weight, teacher.model.layers[its].mlp.up_proj.weight)
    ids = torch.tensor([[3, 4, 5]])
    cached = student.generate(ids, max_new_tokens=3, do_sample=False, use_cache=True)
    assert torch.equal(cached, student.generate(ids, max_new_tokens=3, do_sample=False, use_cache=False))


def test_the_students_bases_have_the_positions_and_the_template_that_their_recipe_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_byte_tokenizer: Callable
) -> None:
    import huggingface_hub
    from transformers import AutoConfig, AutoTokenizer

    from recipes import bases

    monkeypatch.chdir(tmp_path)
    make_byte_tokenizer().save_pretrained(tmp_path / "meta-llama" / "Llama-3.1-8B-Instruct")
    fetched = []

    def fetch(base: str, local_dir: Path, **_: object) -> None:
        fetched.append(base)
        make_byte_tokenizer(chat=None).save_pretrained(local_dir)
        published = {"model_type": "qwen2", "max_position_embeddings": 4096, "rope_theta": 10000, "hidden_size": 64}
        (local_dir / "config.json").write_text(json.dumps(published))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    for make in (bases.qwen_math_1_5b, bases.qwen_math_7b):
        config = AutoConfig.from_pretrained(make())
        assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (32_768, 300_000)
        assert config.hidden_size == 64
    assert AutoTokenizer.from_pretrained(bases.llama_8b()).chat_template
    assert bases.llama_8b() == Path("models/Llama-3.1-8B-student")
    assert fetched == ["Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-7B", "meta-llama/Llama-3.1-8B"]  # each once
    assert {base.rpartition(":")[2] for base, *_ in STUDENTS.values() if ":" in base} <= vars(bases).keys()


def test_a_model_that_several_want_at_once_is_made_by_one_of_them(tmp_path: Path) -> None:
    from recipes import tiny_model

    folder = tmp_path / "models" / "tiny"
    made = []
    together = threading.Barrier(4)

    def build() -> tuple[_Slow, _Slow]:
        made.append(threading.get_ident())
        return _Slow("config.json"), _Slow("model.safetensors")

    def want(_: int) -> Path:
        together.wait(timeout=60)
        return tiny_model._once(folder, build)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [folder] * 4
    assert len(made) == 1
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_a_model_that_was_not_written_leaves_no_folder(tmp_path: Path) -> None:
    from recipes import tiny_model

    folder = tmp_path / "tiny"
    with pytest.raises(AhaError, match="nothing was written here; make the model before a process group is joined"):
        tiny_model._once(folder, lambda: (_Slow("config.json"), _Slow("tokenizer.json")))
    assert not folder.exists()


class _Slow:
    """Takes a while to write its file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        time.sleep(0.05)
        (folder / self.name).write_text("{}")
