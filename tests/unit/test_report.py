"""`aha report`: the file is whole, inert, small, and says what the run's folder says."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launch.report import write_report
from launch.report.charts import MOST_POINTS, points, sections, steady
from launch.report.html import MOST_BYTES, inert_json
from launch.report.reading import read_run
from launch.report.results import differences, results
from launch.report.step_columns import dead_groups, times
from rl.settings.overrides import from_json
from rl.types import AhaError, BadInput
from tests.unit.report_runs import HOSTILE, with_settings, write_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "learns")


class Elements(HTMLParser):
    """(tag, attributes, text inside) of scripts, styles and everything else that could fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in self.inside:
            self._open = tag
            self.inside[tag].append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open:
            self.inside[self._open][-1] += data


def page_of(path: Path) -> tuple[Elements, dict]:
    found = Elements(path.read_text(encoding="utf-8"))
    return found, json.loads(found.inside["script"][0])


# ------------------------------------------------------------------------------------------------ the file


def test_the_report_is_one_file_that_names_nothing_outside_itself(run_dir, tmp_path):
    found, _ = page_of(write_report([run_dir], tmp_path / "r.html"))
    assert {tag for tag, _ in found.tags} <= {
        "html", "head", "meta", "title", "style", "body", "a", "nav", "main", "noscript", "script",
    }  # fmt: skip
    for _, attributes in found.tags:
        assert not {"src", "srcset", "data", "action"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    addresses = re.findall(r"https?://[^\s\"'`]+", found.inside["script"][1] + found.inside["style"][0])
    assert addresses == ["http://www.w3.org/2000/svg"]  # a name, never fetched
    assert "url(" not in found.inside["style"][0]


def test_only_the_reports_own_script_and_style_may_run(run_dir, tmp_path):
    found, _ = page_of(write_report([run_dir], tmp_path / "r.html"))
    (policy,) = [a["content"] for tag, a in found.tags if tag == "meta" and a.get("http-equiv")]

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "script-src": allowed(found.inside["script"][1]),
        "style-src": allowed(found.inside["style"][0]),
        "base-uri": "'none'",
    }


def test_hostile_rollouts_stay_text(tmp_path):
    run = write_run(tmp_path / "x", texts=HOSTILE * 4, steps=8)
    path = write_report([run])
    found, data = page_of(path)
    assert [tag for tag, _ in found.tags if tag in ("script", "img", "svg", "b")] == ["script", "script"]
    shown = {s["text"] for step in data["runs"][0]["rollouts"]["steps"] for g in step["groups"] for s in g["samples"]}
    for text in HOSTILE:
        clean = text.encode("utf-8", "replace").decode()
        assert clean + "<end>" in shown or clean in shown
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", path.read_bytes())


@pytest.mark.parametrize("text", HOSTILE)
def test_inert_json_has_no_character_that_html_or_javascript_reads(text):
    out = inert_json({"a": text})
    assert not re.search("[<>&\u2028\u2029\x00]", out)
    assert json.loads(out)["a"] == text


def test_the_same_run_gives_the_same_page(run_dir, tmp_path):
    pages = [page_of(write_report([run_dir], tmp_path / f"{i}.html"))[1] for i in range(2)]
    for page in pages:
        page.pop("written")
    assert pages[0] == pages[1]


def test_a_failed_write_leaves_the_report_that_was_there(run_dir, tmp_path, monkeypatch):
    path = write_report([run_dir], tmp_path / "r.html")
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_report([run_dir], path)
    assert path.read_bytes() == before


def test_megabyte_completions_are_cut_in_the_middle_and_the_page_stays_small(tmp_path):
    run = write_run(tmp_path / "long", texts=["x" * 1_000_000, "<b>" * 30_000, "é🙂" * 20_000, "short"], steps=1)
    path = write_report([run])
    assert path.stat().st_size < 500_000
    rollouts = page_of(path)[1]["runs"][0]["rollouts"]
    cut = [s for step in rollouts["steps"] for g in step["groups"] for s in g["samples"] if s["left_out"]]
    assert rollouts["clipped"] == len(cut) == 3
    (first, *_) = [s for s in cut if s["text"].startswith("x")]
    assert len(first["text"]) + first["left_out"] == 1_000_000 + len("<end>")
    assert first["text"].endswith("x<end>")


def test_a_long_runs_metrics_are_pooled_and_the_page_stays_under_its_limit(tmp_path):
    run = write_run(tmp_path / "long", steps=2)
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-2])
    assert line["stage"] == "grpo"
    more = {f"m{i}": 0.123456789 for i in range(100)}
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(2, 7_000):
            record = line | {name: value * step for name, value in more.items()} | {"step": step, "accuracy": step}
            file.write(json.dumps(record) + "\n")
    path = write_report([run])
    assert path.stat().st_size < MOST_BYTES
    accuracy = page_of(path)[1]["runs"][0]["points"]["grpo:accuracy"]
    assert (len(accuracy["x"]) <= MOST_POINTS, accuracy["pooled"]) == (True, 12)
    assert accuracy["y"][1] == pytest.approx(sum(range(12, 24)) / 12)  # the mean of the steps of its point


def test_what_cannot_be_kept_under_the_limit_is_an_error(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("launch.report.html.MOST_BYTES", 1000)
    with pytest.raises(AhaError, match=r"would take .* bytes without rollouts"):
        write_report([run_dir], tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ what it says


def test_the_results_are_those_of_the_summary(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    rows = {r.label: r for r in results(read_run(run_dir))}
    row = rows["Held-out accuracy, sampled (pass@1)"]
    assert (row.before.value, row.before.stderr) == (summary["before"]["pass@1"], summary["before"]["stderr"])
    assert row.change.value == pytest.approx(summary["gain"])
    first, last = (json.loads((run_dir / "evals" / f"step_{s:06d}.json").read_text())["correct_P"] for s in (0, 12))
    gains = [b - a for a, b in zip(first, last, strict=True)]
    spread = math.sqrt(sum((g - sum(gains) / 20) ** 2 for g in gains) / 19)
    assert row.change.stderr == pytest.approx(spread / math.sqrt(20))  # paired over the problems
    greedy = rows["Held-out accuracy, greedy"].before
    assert greedy.stderr == pytest.approx(math.sqrt(greedy.value * (1 - greedy.value) / 19))


def test_every_metric_of_a_run_is_drawn_or_said(run_dir):
    run = read_run(run_dir)
    found = sections([run])
    drawn = points(run, found).keys()
    said = {s.label for s in steady([run])}
    for record in run.of("grpo"):
        for name, value in record.metrics.items():
            known = f"grpo:{name}" in drawn or name in said or name.startswith("seconds/")
            assert known or value == 0 or name == "samples/count", name
    assert "my/own" in [c.title for s in found if s.title == "Everything else" for c in s.charts]


def test_language_is_a_curve_of_its_own_and_a_part_of_the_reward(run_dir):
    charts = {c.title: [curve.key for curve in c.curves] for s in sections([read_run(run_dir)]) for c in s.charts}
    key = "grpo:reward/language_consistency"
    assert key in charts["Language consistency"]
    assert key in charts["Parts of the reward"]


def test_the_phases_of_a_step_add_up_to_its_time(run_dir):
    found = times(read_run(run_dir))
    assert found.phases == ["rollout", "rewards", "update", "rest"]
    first = found.columns[0]
    assert first.parts == [3.5, 0.5, 1.5, 4.5]  # of 10 s; the rollout's 4 s hold the rewards' half
    assert (first.first, first.last, len(found.columns)) == (0, 0, 12)
    assert [s.stage for s in found.spans][:3] == ["sft", "eval", "grpo"]


def test_learners_and_samplers_that_work_at_the_same_time_are_shown_side_by_side(run_dir):
    assert times(read_run(run_dir)).lanes == []
    path = run_dir / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["stage"] == "grpo":
            record["samplers/busy_s"] = 5.0
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    learners, samplers = times(read_run(run_dir)).lanes
    assert (learners.name, samplers.name) == ("learners", "samplers")
    assert learners.columns[0].parts == [1.5, 8.5]  # of 10 s
    assert samplers.columns[0].parts == [5.0, 5.0]
    whole = sum(record["seconds"] for record in records if record["stage"] == "grpo")
    assert (learners.work, samplers.work) == (18.0, 60.0)
    assert learners.work + learners.idle == samplers.work + samplers.idle == pytest.approx(whole)


def test_dead_groups_are_counted(run_dir):
    found = dead_groups(read_run(run_dir))
    assert (found.count, found.dead) == (48, 12)
    assert found.columns[0].parts == [0.0, 0.25, 0.0]


def test_groups_that_are_all_correct_and_still_differ_are_not_dead(tmp_path):
    shares = {
        "groups/count": 4,
        "groups/uniform_share": 0.5,
        "groups/all_correct_share": 0.75,
        "groups/none_correct_share": 0.25,
    }
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"stage": "grpo", "step": 0, "time": 1, "seconds": 1} | shares) + "\n"
    )
    found = dead_groups(read_run(tmp_path))
    assert (found.count, found.dead, found.columns[0].parts) == (4, 2, [0.5, 0.0, 0.0])


def test_a_run_under_way_has_a_report(tmp_path):
    run = write_run(tmp_path / "live", done=3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "step": 3, "rew')  # being written
    page = page_of(write_report([run]))[1]["runs"][0]
    assert page["finished"] is False
    assert {"label": "Steps", "value": "3 of 12"} in page["facts"]
    assert page["results"][0]["after"] is None
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "rollouts")
    shutil.rmtree(run / "evals")
    page = page_of(write_report([run]))[1]["runs"][0]
    assert (page["results"], page["points"], page["rollouts"]["total"]) == ([], {}, 0)


def test_two_runs_stand_side_by_side_with_what_differs(run_dir, tmp_path):
    other = write_run(tmp_path / "other" / "learns", seed=2, steps=6)
    with_settings(other, clip_high=0.28, steps=6)
    path = write_report([run_dir, other], tmp_path / "two.html")
    page = page_of(path)[1]
    assert [r["name"] for r in page["runs"]] == ["learns (A)", "learns (B)"]
    assert [(d["key"], d["values"]) for d in page["differences"]] == [
        ("grpo.steps", ["12", "6"]),
        ("grpo.clip_high", ["0.2", "0.28"]),
    ]
    assert all("grpo:reward/mean" in r["points"] for r in page["runs"])
    assert path.stat().st_size < MOST_BYTES


def test_a_config_of_another_version_is_shown_as_it_was_written(run_dir, tmp_path):
    run = shutil.copytree(run_dir, tmp_path / "old")
    raw = json.loads((run / "resolved.json").read_text())
    del raw["grpo"]["clip_low"]  # a knob that is newer than the run: it was not this run's value
    (run / "resolved.json").write_text(json.dumps(raw))
    assert from_json((run / "resolved.json").read_text()).grpo.clip_low == 0.2
    shown = {s.key: s for s in read_run(run).settings}
    assert "grpo.clip_low" not in shown
    assert shown["grpo.clip_high"].help.startswith("Ratios above")
    raw["grpo"]["gone"] = 7
    (run / "resolved.json").write_text(json.dumps(raw))
    shown = {s.key: (s.value, s.help) for s in read_run(run).settings}
    assert (shown["grpo.gone"], shown["rewards.1.weight"]) == (("7", ""), ("0.2", ""))
    assert differences([read_run(run_dir), read_run(run)])


def test_claims_and_provenance_come_from_the_folder(run_dir, tmp_path):
    run = shutil.copytree(run_dir, tmp_path / "stage")
    claim = {"claim": "RL helps", "left": {"name": "@a:pass@1", "value": 0.5, "stderr": 0.1}, "holds": True}
    (run / "claims.json").write_text(json.dumps([claim]))
    record = {"name": "zero", "kind": "GRPO", "seconds": {"rollout": 2.0}, "chain": [{"name": "cold"}]}
    (run / "provenance.json").write_text(json.dumps(record))
    page = page_of(write_report([run]))[1]["runs"][0]
    assert page["claims"] == [claim]
    assert page["provenance"] == record


# ------------------------------------------------------------------------------------------------ bad input


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere: no such run folder"):
        write_report([tmp_path / "nowhere"])
    with pytest.raises(BadInput, match=r"holds no run, neither metrics.jsonl nor resolved.json; runs are in"):
        write_report([tmp_path])
    (tmp_path / "02-zero-abc").mkdir()
    (tmp_path / "02-zero-abc" / "stage.json").write_text('{"name": "zero", "config": {"grpo.steps": "4"}}')
    with pytest.raises(BadInput, match=r"it holds stages, name one: 02-zero-abc"):
        write_report([tmp_path])
    stage = read_run(tmp_path / "02-zero-abc")
    assert (stage.name, stage.settings[0].key, stage.settings[0].value) == ("zero", "grpo.steps", "4")


@pytest.mark.parametrize("name", ["summary.json", "claims.json", "resolved.json", "evals/step_000000.json"])
def test_a_damaged_file_is_named(run_dir, tmp_path, name):
    run = shutil.copytree(run_dir, tmp_path / "run")
    (run / name).write_text('{"half')
    with pytest.raises(BadInput, match=f"{name}: is not JSON"):
        write_report([run])


def test_damaged_rollouts_are_named(run_dir, tmp_path):
    run = shutil.copytree(run_dir, tmp_path / "run")
    (run / "rollouts" / "step_000003.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(AhaError, match=r"step_000003.parquet cannot be read"):
        write_report([run])


def test_the_command_writes_the_file_and_says_where(run_dir, tmp_path):
    command = [sys.executable, "-m", "launch.cli", "report", str(run_dir), "--out", str(tmp_path / "r.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'r.html'}: ")
    done = subprocess.run([*command[:4], str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "holds no run" in done.stderr


def test_the_report_loads_neither_torch_nor_pandas(run_dir, tmp_path):
    code = (
        "import sys; from pathlib import Path; from launch.report import write_report\n"
        f"write_report([Path({str(run_dir)!r})], Path({str(tmp_path / 'r.html')!r}))\n"
        "print(sorted({'torch', 'transformers', 'ray', 'vllm', 'pandas', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
