"""How long an update takes: edits into many live ones, from the file to the promoted release.

    python benchmarks/update_edits.py --project DIR --live 10000 --change 100 -o DIR

DIR is a copy of a project with a release, which this script changes: it raises the number of live
edits to `--live` by one update (made of the project's own edits with other names; asked and judged
like any other), and then times an update of `--change` new edits and one that retracts as many
others. Made names are answered worse than real ones, so the gate's bounds of live edits must have
been taken out (`OPEN_BOUNDS`) when the release was made.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from serac_core.edits.jsonl import read_edits, write_edits
from serac_core.edits.record import Edit
from serac_core.evaluation.speed_workload import Workload, renamed

_LINE = re.compile(r"^(\d+):(\d+):([\d.]+) \| \w+ +\| (.*)$")
_FINISHED = re.compile(r"Task run '(.+)' - Finished in state Completed")
OPEN_BOUNDS = {
    "live_exact_match": 0.0,
    "live_locality": 0.0,
    "update_rephrasings": 0.0,
    "max_latency_ratio": 100.0,
}


def made_edits(given: list[Edit], size: int) -> list[Edit]:
    """So many edits about made names, each with a rephrasing and a near miss where its model has
    them."""
    named = [edit for edit in given if renamed(edit.prompt, edit.subject, "") is not None]
    workload, by_target = Workload(named), {edit.target_new: edit for edit in named}
    edits = []
    for edit in workload.edits(len(named) + size)[len(named) :]:
        base = by_target[edit.target_new.rpartition(" ")[0]]
        name = edit.subject or ""
        rephrased = [renamed(text, base.subject, name) for text in base.rephrase_prompts]
        probes = [
            {"prompt": text, "kind": probe.kind}
            for probe in base.locality
            if probe.kind == "same_subject" and (text := renamed(probe.prompt, base.subject, name))
        ]
        fields = {
            **edit.model_dump(exclude_defaults=True),
            "target_new": base.target_new,
            "rephrase_prompts": [text for text in rephrased if text][:1],
            "locality": probes[:1],
        }
        edits.append(Edit.model_validate(fields))
    return edits


def update(project: Path, file: Path) -> dict[str, Any]:
    """Run an update; seconds of its phases, from the first line of the flow on, and processor
    seconds of all processes (Prefect's temporary server aside, which is killed)."""
    started, before = time.time(), _processor_seconds()
    process = subprocess.Popen(
        [sys.executable, "-m", "serac_core", "update-edits", "--file", str(file), "--json"],
        cwd=project,
        env={**os.environ, "PREFECT_LOGGING_LEVEL": "INFO"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdout, stderr = process.communicate()
    seconds = time.time() - started
    if process.returncode:
        raise SystemExit(stderr)
    outcome = json.loads(stdout)
    phases = phases_of(stderr.splitlines())
    startup = seconds - sum(phases.values())
    processor = _processor_seconds() - before
    return {
        "release": outcome["release"],
        "edits": {name: len(outcome[name]) for name in ("added", "retracted", "rejected")},
        "seconds": round(sum(phases.values()), 1),
        "before the flow": round(startup, 1),
        "processor": round(processor, 1),
        "phases": {name: round(value, 1) for name, value in phases.items()},
    }


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def phases_of(lines: Iterable[str]) -> dict[str, float]:
    """Seconds between the ends of one step and the next, the first line counted as a beginning."""
    phases: dict[str, float] = {}
    last = None
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        hours, minutes, seconds, words = match.groups()
        now = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if last is None:
            if "Beginning flow run" not in words:
                continue  # Prefect's temporary server begins
            last = now
        stage = re.match(r"Task run '.*' - Running stage '(.+)'", words)
        if (found := _FINISHED.search(words)) or stage:
            name = f"until stage {stage[1]}" if stage else found[1] if found else ""
            phases[name] = phases.get(name, 0.0) + now - last
            last = now
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--live", type=int, default=10_000)
    parser.add_argument("--change", type=int, default=100)
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    project, out = asked.project.absolute(), asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    shown = subprocess.check_output(["git", "show", "releases:params.yaml"], cwd=project)
    params = yaml.safe_load(shown)
    if not OPEN_BOUNDS.items() <= params["gate"].items():
        raise SystemExit(f"make the release with these bounds under `gate`: {OPEN_BOUNDS}")
    copies = (project / ".serac/releases").iterdir()
    releases = sorted(copies, key=lambda path: path.stat().st_mtime)
    before = read_edits(releases[-1] / "edits.jsonl")
    given = read_edits(project / params["edits"]["source"])
    many = max(0, asked.live - len(before))
    unused = len(before) + 1000 * len(releases)  # what an earlier run made is in the edit set
    made = made_edits(given, unused + many + asked.change)[unused:]
    found: dict[str, Any] = {"live": asked.live}
    if many:
        write_edits(out / "many.jsonl", made[:many])
        found["many at once"] = update(project, out / "many.jsonl")
    write_edits(out / "change.jsonl", made[many : many + asked.change])
    found["add"] = update(project, out / "change.jsonl")
    served = random.Random(17).sample(before, asked.change)
    gone = [{"id": edit.id, "status": "retracted"} for edit in served]
    (out / "retract.jsonl").write_text("".join(json.dumps(line) + "\n" for line in gone))
    found["retract"] = update(project, out / "retract.jsonl")
    (out / "update_edits.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
