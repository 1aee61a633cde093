"""Is this machine and checkout fit for a run? Each check says what it found and what to do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serac_core.config import RegistryConfig, load_params
from serac_core.errors import NegativeAnswer, SeracError
from serac_core.release.finding import Finding, further_checks
from serac_core.release.fitting import check_cuda, check_packages
from serac_core.workspace.commands import run_git
from serac_core.workspace.inputs import inspect_inputs, require_committed
from serac_core.workspace.pipeline import check_remote, default_remote_url
from serac_core.workspace.runs import find_checkout, state_folder

_PACKAGES = (
    "dvc",
    "gto",
    "prefect",
    "great-expectations",
    "torch",
    "transformers",
    "sentence-transformers",
    "onnxruntime-gpu",
)
_GIT_AT_LEAST = (2, 30)
_FREE_GIB = 5.0


class Unfit(NegativeAnswer):
    """A check of `serac doctor` failed."""


def examine(checkout: str | Path, provider: str = "") -> list[Finding]:
    """Check Python, packages, git, checkout, DVC remote, ONNX Runtime, CUDA and disk, and what
    other packages add (:data:`serac_core.release.finding.further_checks`).

    Parameters
    ----------
    provider:
        Execution provider that must be there (`cpu` or `cuda`); "" takes params.yaml's.
    """
    findings = [_python(), *_packages(), *check_packages(), _git()]
    try:
        root = find_checkout(checkout)
        params = load_params(root / "params.yaml")
    except SeracError as error:
        findings.append(Finding("checkout", False, error.what, error.remedy))
        return [*findings, *_providers(provider or "cpu"), _disk(Path(checkout))]
    findings.append(Finding("checkout", True, str(root)))
    findings.append(_git_identity(root))
    findings.append(_ask("inputs", lambda: _inputs(root)))
    findings.append(_ask("dvc remote", lambda: _remote(root, params.registry)))
    findings += [*_providers(provider or params.export.provider), _disk(root)]
    return [*findings, *(finding for check in further_checks for finding in check(root))]


def require_fit(findings: list[Finding]) -> None:
    """Answer no if a check failed.

    Raises
    ------
    Unfit
    """
    unfit = [finding for finding in findings if not finding.ok]
    if unfit:
        raise Unfit(
            f"not fit for a run: {', '.join(finding.check for finding in unfit)}",
            remedy="; ".join(finding.remedy for finding in unfit),
        )


def _ask(check: str, question: Callable[[], str]) -> Finding:
    try:
        return Finding(check, True, question())
    except SeracError as error:
        return Finding(check, False, error.what, error.remedy)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    fit = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding("python", fit, f"{found} ({sys.executable})", "use Python 3.11 or 3.12")


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            yield Finding(name, False, "not installed", "make install")


def _git() -> Finding:
    try:
        words = run_git(Path.cwd(), "--version").stdout.split()
    except SeracError as error:
        return Finding("git", False, error.what, error.remedy)
    numbers = tuple(int(part) for part in words[2].split(".")[:2])
    return Finding("git", numbers >= _GIT_AT_LEAST, words[2], "install git 2.30 or later")


def _git_identity(root: Path) -> Finding:
    name, email = (
        run_git(root, "config", key).stdout.strip() for key in ("user.name", "user.email")
    )
    return Finding(
        "git identity",
        bool(name and email),
        f"{name} <{email}>" if name and email else "none: releases would be by serac@localhost",
        "git config --global user.name NAME; git config --global user.email ADDRESS",
    )


def _inputs(root: Path) -> str:
    require_committed(inspect_inputs(root))
    return "committed"


def _remote(root: Path, registry: RegistryConfig) -> str:
    url = default_remote_url(root, registry.dvc_remote)
    check_remote(root, url, made_here=root, endpoint=registry.dvc_endpoint)
    return f"{url}, readable and writable"


def _providers(wanted: str) -> Iterator[Finding]:
    yield _provider(wanted)
    yield check_cuda(wanted == "cuda")


def _provider(wanted: str) -> Finding:
    name = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[wanted]
    remedy = "set export.provider to one that works here, or install the driver it needs"
    try:
        got = _session_providers(name)
    except Exception as error:  # the runtime raises its own classes, and a bare RuntimeError
        return Finding("onnx provider", False, f"{wanted}: {error}", remedy)
    return Finding("onnx provider", name in got, f"{wanted} wanted, got {', '.join(got)}", remedy)


def _session_providers(name: str) -> list[str]:
    """The providers of a session that asks for one; the GPU build lists CUDA without a GPU."""
    import onnxruntime
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[name])
    found: list[str] = session.get_providers()
    return found


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 2**30
    return Finding(
        "disk",
        free >= _FREE_GIB,
        f"{free:.1f} GiB free for {state_folder(root)}",
        f"free at least {_FREE_GIB:.0f} GiB: old copies in .serac/releases may go",
    )
