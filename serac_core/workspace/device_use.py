"""How busy the machine's accelerator is, or its processors where there is none, in a line."""

from __future__ import annotations

import subprocess

_QUERY = "--query-gpu=index,memory.used,memory.total,utilization.gpu"


def describe_device_use() -> str:
    """Each GPU's memory and utilisation as `nvidia-smi` has them; without it the processors'."""
    import psutil

    try:
        asked = subprocess.run(
            ["nvidia-smi", _QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        asked = None
    if asked is None or asked.returncode or not asked.stdout.strip():
        memory = psutil.virtual_memory()
        return (
            f"no GPU; {psutil.cpu_count()} processors {psutil.cpu_percent():.0f} %, "
            f"{memory.used / 2**30:.1f} of {memory.total / 2**30:.1f} GiB"
        )
    return "; ".join(map(_gpu, asked.stdout.strip().splitlines()))


def _gpu(line: str) -> str:
    index, used, total, busy = (part.strip() for part in line.split(","))
    return f"GPU {index}: {float(used) / 1024:.1f} of {float(total) / 1024:.1f} GiB, {busy} %"
