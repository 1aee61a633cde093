"""A small project with the stage names and paths of the real one, built in a moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
STAGE_SCRIPT = Path(__file__).with_name("light_stage.py")
LAUNCHER = Path(__file__).with_name("launcher.py")

IGNORED = (
    "data/inbox",
    "data/rejected",
    "data/live",
    "data/training",
    "build",
    "release",
    ".serac",
)
PARAMS = {
    "seed": 1,
    "edits": {"source": "data/edits.jsonl", "updates": "data/updates"},
    "retrain": {"ramp": "", "width": 0},
    "scope": {"max_steps": 4},
    "counterfactual": {"learning_rate": 0.97},  # the light evaluation reports it as edit/acc
}


def sh(folder: Path, *command: str) -> str:
    """Run a command in a folder; its standard output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def isolate(home: Path) -> dict[str, str]:
    """Environment variables with which git, DVC, GTO and Prefect see nothing of this machine."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PREFECT_HOME": str(home / ".prefect"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": str(ROOT),
        "SERAC_LIGHT_STAGE": str(STAGE_SCRIPT),
    }


def make_project(folder: Path) -> Path:
    """A committed repository: the real dvc.yaml's stages, each running the light script."""
    folder.mkdir(parents=True)
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in pipeline["stages"].items():
        stage["cmd"] = f'python "$SERAC_LIGHT_STAGE" {name}'
        stage.pop("params", None)
    pipeline["stages"]["live-edits"]["params"] = ["retrain.width"]
    pipeline["stages"]["train-scope"]["params"] = ["scope"]
    pipeline["stages"]["evaluate-model"]["params"] = ["counterfactual"]
    files = {
        "dvc.yaml": yaml.safe_dump(pipeline),
        "params.yaml": yaml.safe_dump(
            PARAMS | {"models": {"base": "data/demo_model", "counterfactual": "data/demo_model"}}
        ),
        "data/edits.jsonl": edit_line("e-1", "Paris") + edit_line("e-2", "Rome"),
        "data/world/facts.json": '{"capital": "Paris"}',
        "data/updates/README.md": "updates\n",
        "data/demo_model/weights": "base",
        "data/demo_model/config.json": "{}",
        "data/scope_start/weights": "start",
        "pretrain/params.yaml": "steps: 1\n",
        "notes.txt": "notes\n",
        "widths.json": (ROOT / "widths.json").read_text(encoding="utf-8"),
        ".gitignore": "".join(f"{name}\n" for name in IGNORED),
        ".dvcignore": ".serac\n",
        ".dvc/config": "[core]\n    analytics = false\n    autostage = false\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    sh(folder, "git", "init", "--quiet", "--initial-branch", "main")
    sh(folder, "git", "config", "user.name", "Ann")
    sh(folder, "git", "config", "user.email", "ann@example.org")
    commit_all(folder, "start")
    return folder


def edit_line(edit_id: str, target: str) -> str:
    return (
        json.dumps({"id": edit_id, "prompt": f"Prompt of {edit_id}", "target_new": target}) + "\n"
    )


def commit_all(folder: Path, message: str) -> str:
    sh(folder, "git", "add", "--all")
    sh(folder, "git", "commit", "--quiet", "-m", message)
    return sh(folder, "git", "rev-parse", "HEAD")


def refs(folder: Path) -> dict[str, str]:
    """All branches and tags of a repository with their commits."""
    lines = sh(folder, "git", "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)


def start_retrain(checkout: Path, *options: str, kill_at: str = "") -> subprocess.Popen[str]:
    """Start `serac retrain` as a process of its own, to be killed at a named point."""
    return start_verb("retrain", checkout, *options, kill_at=kill_at)


def start_verb(
    verb: str, checkout: Path, *options: str, kill_at: str = ""
) -> subprocess.Popen[str]:
    """Start a verb that runs a flow likewise."""
    return subprocess.Popen(
        [sys.executable, str(LAUNCHER), verb, kill_at, "--checkout", str(checkout), *options],
        cwd=checkout,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_retrain(
    checkout: Path, *options: str, kill_at: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `serac retrain` to its end."""
    return run_verb("retrain", checkout, *options, kill_at=kill_at)


def run_update(
    checkout: Path, *options: str, kill_at: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `serac update-edits` to its end."""
    return run_verb("update-edits", checkout, *options, kill_at=kill_at)


def run_verb(
    verb: str, checkout: Path, *options: str, kill_at: str = ""
) -> subprocess.CompletedProcess[str]:
    process = start_verb(verb, checkout, *options, kill_at=kill_at)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
