"""`aha submit` up to where Ray begins: what travels, what the job is told, who is asked and what is said."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from launch import package
from launch.package import pack_folder
from launch.reach import Cluster, dashboard_url, default_python, reach
from launch.submit import inside, job_entrypoint, job_environment, settle_paths
from recipes.tiny import recipe
from rl.settings.overrides import apply_overrides
from rl.types import BadInput

# ------------------------------------------------------------------------------------------------ what travels


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name, text in {
        ".gitignore": "runs/\nmodels/\n*.json\n",
        "recipes/mine.py": "recipe",
        "run.sh": "#!/bin/sh",
        "new.py": "not yet added",
        "gone.py": "deleted",
        "runs/old/metrics.jsonl": "{}",
        "models/tiny/config.json": "{}",
        "resolved.json": "{}",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "run.sh").chmod(0o755)
    git = ["git", "-C", str(root)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", ".gitignore", "recipes", "run.sh", "gone.py"], check=True)
    (root / "gone.py").unlink()
    return root


def test_what_git_ignores_stays_and_is_named_and_the_recipe_travels_in_any_case(project: Path, tmp_path: Path) -> None:
    packed = pack_folder(project, tmp_path / "a.zip", always=["resolved.json"])
    assert packed.files == (".gitignore", "new.py", "recipes/mine.py", "resolved.json", "run.sh")
    assert "runs/ (git ignores it)" in packed.left_out
    assert "models/ (git ignores it)" in str(packed)
    with zipfile.ZipFile(packed.path) as archive:
        assert archive.namelist() == list(packed.files)
        assert archive.read("new.py") == b"not yet added"
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o111
    assert packed.holds("recipes") and packed.holds("./recipes/mine.py") and not packed.holds("models/tiny")  # noqa: PT018


def test_the_same_files_make_the_same_package(project: Path, tmp_path: Path) -> None:
    first = pack_folder(project, tmp_path / "a.zip").path.read_bytes()
    os.utime(project / "new.py", (1, 1))
    assert pack_folder(project, tmp_path / "b.zip").path.read_bytes() == first
    (project / "new.py").write_text("changed")
    assert pack_folder(project, tmp_path / "c.zip").path.read_bytes() != first


def test_large_files_stay_and_are_named_and_a_package_that_is_too_large_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MAX_FILE", 100)
    (project / "data.csv").write_text("x" * 101)
    packed = pack_folder(project, tmp_path / "a.zip")
    assert "data.csv" not in packed.files
    assert any(left.startswith("data.csv (") for left in packed.left_out)
    monkeypatch.setattr(package, "MAX_PACKAGE", 20)
    with pytest.raises(BadInput, match="let git ignore data"):
        pack_folder(project, tmp_path / "b.zip")


def test_a_folder_without_git_leaves_out_results_and_hidden_folders_by_name(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    for name in ("code.py", "src/more.py", ".venv/bin/python", "runs/x/log.txt", "src/__pycache__/more.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    packed = pack_folder(root, tmp_path / "a.zip")
    assert packed.files == ("code.py", "src/more.py")
    assert packed.left_out == (".venv/ (by its name)", "runs/ (by its name)")


# ------------------------------------------------------------------------------------------------ what the job is told


def test_paths_that_the_job_cannot_see_from_its_copy_are_made_absolute(project: Path, tmp_path: Path) -> None:
    (project / "questions.jsonl").write_text("{}")
    cfg = apply_overrides(recipe(), ["model.path=models/tiny", "prompts.source=questions.jsonl"])
    packed = pack_folder(project, tmp_path / "a.zip")
    assert settle_paths(cfg, packed) == [f"out={project}/runs", f"model.path={project}/models/tiny"]
    elsewhere = apply_overrides(recipe(), ["out=/shared/runs"])
    assert settle_paths(elsewhere, packed) == ["out=/shared/runs"]


def test_the_entrypoint_is_one_process_and_quotes_what_a_shell_would_read() -> None:
    line = job_entrypoint("python", "recipes/tiny.py", ["prompts.system=two words; $HOME", "seed=2"])
    assert line == "exec python -m launch.cli run recipes/tiny.py 'prompts.system=two words; $HOME' seed=2"


def test_the_job_gets_the_keys_of_tracking_and_hub_and_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("MY_SETTING", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    env = job_environment(["MY_SETTING", "OTHER=a=b"])
    assert (env["WANDB_API_KEY"], env["MY_SETTING"], env["OTHER"]) == ("k", "1", "a=b")
    assert not {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PATH"} & set(env)
    # Else Ray kills the job 3 s after it asked it to stop, in the middle of a step.
    assert int(env["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    with pytest.raises(BadInput, match="--env UNSET_NAME: is not set here"):
        job_environment(["UNSET_NAME"])


def test_a_recipe_outside_the_folder_that_travels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inside("recipes/../recipes/tiny.py", tmp_path) == "recipes/tiny.py"
    with pytest.raises(BadInput, match="cd to its project"):
        inside("/etc/passwd", tmp_path)


# ------------------------------------------------------------------------------------------------ who is asked


@pytest.mark.parametrize(
    ("address", "url"),
    [("http://head:8265/", "http://head:8265"), ("10.0.0.1:8265", "http://10.0.0.1:8265"), ("https://ray.x", "https://ray.x")],
)  # fmt: skip
def test_the_dashboards_address_is_taken_with_and_without_its_scheme(address: str, url: str) -> None:
    assert dashboard_url(address) == url


@pytest.mark.parametrize("address", ["ray://head:10001", "head:6379", "auto:x", "http://"])
def test_other_addresses_of_ray_are_refused_with_an_example(address: str) -> None:
    with pytest.raises(BadInput, match=r"for example http://127\.0\.0\.1:8265"):
        dashboard_url(address)


def test_elsewhere_the_job_runs_the_python_of_the_cluster() -> None:
    assert default_python(Cluster("http://10.0.0.1:8265")) == "python"
    assert Path(default_python(Cluster("http://127.0.0.1:8265"))).is_absolute()


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Ray's dashboard as far as /api/version goes."""

    token = "right"
    ray_version = version("ray")

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        status = 200 if not self.token or given == f"Bearer {self.token}" else 403 if given else 401
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"ray_version": self.ray_version}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_cluster_is_reached_with_its_token_from_variable_or_file(
    dashboard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=r"there is none here.*ray get-auth-token"):
        reach(dashboard)
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert reach(dashboard) == Cluster(dashboard)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(BadInput, match=r"refused the token \(from RAY_AUTH_TOKEN\)"):
        reach(dashboard)


def test_a_cluster_that_is_open_to_all_is_refused_unless_that_is_meant(
    dashboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dashboard, "token", "")
    with pytest.raises(BadInput, match="takes jobs from anybody"):
        reach(dashboard)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert reach(dashboard).url == dashboard


def test_another_version_of_ray_is_refused_with_both_numbers(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    monkeypatch.setattr(Dashboard, "ray_version", "2.1.0")
    with pytest.raises(BadInput, match=rf"runs Ray 2.1.0, here is {version('ray')}"):
        reach(dashboard)


def test_an_address_where_nobody_answers_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(BadInput, match=r"http://127.0.0.1:9: no Ray cluster answers there.*ray start --head"):
        reach("127.0.0.1:9")
