"""The figures of `speed.json` for people, and the machine that they are of."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def speed_table(found: Mapping[str, Any]) -> list[str]:
    """The figures of `speed.json`, as lines for people."""
    machine = found["machine"]
    threads = machine["threads"] or "ONNX Runtime's choice of"
    lines = [
        f"{machine['cpu']}, {machine['usable_cores']} cores (load {machine['load_average']}), "
        f"{threads} threads; ONNX Runtime {machine['onnxruntime']}, {found['variant']} on "
        f"{found['provider']}; ms a query",
        f"{'edits':>8} {'p50':>8} {'p90':>8} {'p99':>8} {'mean':>8}   "
        f"{'encoder p50':>11} {'p99':>8}   {'router/encoder p50':>18} {'p99':>6} {'mean':>6}",
    ]
    for size, row in found["sizes"].items():
        router, encoder, ratio = row["router"], row["encoder"], row["ratio"]
        lines.append(
            f"{size:>8} {router['p50']:8.3f} {router['p90']:8.3f} {router['p99']:8.3f} "
            f"{router['mean']:8.3f}   {encoder['p50']:11.3f} {encoder['p99']:8.3f}   "
            f"{ratio['p50']:18.3f} {ratio['p99']:6.3f} {ratio['mean']:6.3f}"
        )
    lines += [
        "",
        f"{'edits':>8} {'part':<9} {'n':>5} {'routed':>7} {'p50':>8} {'p99':>8}   "
        f"{'encoder p50':>11} {'p99':>8}   {'router/encoder p50':>18} {'p99':>6}",
    ]
    for size, row in found["sizes"].items():
        for name, part in row["parts"].items():
            lines.append(
                f"{size:>8} {name.replace('_', ' '):<9} {part['n']:>5} {part['routed']:7.3f} "
                f"{part['router']['p50']:8.3f} {part['router']['p99']:8.3f}   "
                f"{part['encoder']['p50']:11.3f} {part['encoder']['p99']:8.3f}   "
                f"{part['ratio']['p50']:18.3f} {part['ratio']['p99']:6.3f}"
            )
    lines += [
        "",
        f"In batches of {found['batch']}, queries a second:",
        f"{'edits':>8} {'router':>9} {'encoder':>9} {'ratio':>6}   {'resident MB':>11} "
        f"{'of memory':>9} {'on disk':>8} {'load s':>7} {'ready s':>7}",
    ]
    for size, row in found["sizes"].items():
        batches, memory = row["batches"], row["memory"]
        lines.append(
            f"{size:>8} {batches['router']:9.0f} {batches['encoder']:9.0f} "
            f"{batches['ratio']:6.2f}   {memory['resident_mb']:11.0f} "
            f"{memory['of_memory_mb']:9.1f} {memory['disk_mb']:8.1f} "
            f"{memory['load_seconds']:7.3f} {memory['ready_seconds']:7.3f}"
        )
    if any("baseline" in row for row in found["sizes"].values()):
        lines += ["", f"{'edits':>8} {'baseline ms':>11} {'x router':>9} {'x in scope':>10}"]
    for size, row in found["sizes"].items():
        if base := row.get("baseline"):
            lines.append(
                f"{size:>8} {base['mean']:11.1f} {base['ratio_mean']:9.0f} "
                f"{base['ratio_in_scope']:10.0f}   all prompts encoded at each query"
            )
    if both := found["variants"]:
        ratio = both["ratio"]
        lines += [
            "",
            f"int8/fp32 at {both['edits']} edits: mean {ratio['mean']:.3f}, in scope p50 "
            f"{ratio['in_scope_p50']:.3f} ({both['int8']['in_scope']['p50']:.3f} against "
            f"{both['fp32']['in_scope']['p50']:.3f} ms), queries/s {ratio['per_second']:.2f}",
        ]
    return lines


def machine_facts(threads: int | None) -> dict[str, Any]:
    """What figures depend on besides the code; `threads` is null where ONNX Runtime chose."""
    import numpy as np
    import onnxruntime
    import psutil

    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        usable = os.cpu_count() or 1
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "threads": threads,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
