"""A small git repository with a two-stage DVC pipeline, and a way to run commands in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

PIPELINE = """
stages:
  copy:
    cmd: mkdir -p out && cp data/edits.jsonl out/ && echo copied
    deps: [data/edits.jsonl]
    outs: [out]
  count:
    cmd: wc -l < out/edits.jsonl > count.txt
    deps: [out]
    outs: [count.txt]
"""


def sh(folder: Path, *command: str) -> str:
    """Run a command in a folder; its standard output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def make_checkout(folder: Path) -> Path:
    """A committed repository whose pipeline copies an edit file and counts its lines."""
    for name, content in {
        "dvc.yaml": PIPELINE,
        "params.yaml": "seed: 1\n",
        "data/edits.jsonl": '{"id": 1}\n',
        "notes.txt": "notes\n",
        ".gitignore": "/out\n/count.txt\n/big\n.serac\n",
        ".dvcignore": ".serac\n",
        ".dvc/config": "[core]\n    analytics = false\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    sh(folder, "git", "init", "--quiet", "--initial-branch", "main")
    sh(folder, "git", "add", "--all")
    sh(folder, "git", "commit", "--quiet", "-m", "start")
    return folder
