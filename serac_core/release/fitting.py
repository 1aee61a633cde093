"""Do the installed versions, the processor's and CUDA's parts fit together?"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from serac_core.release.finding import Finding

_PROJECT = "serac-ops"
_AS_TRIED = "install the versions that were tried together: make install (constraints.txt)"


def check_packages() -> Iterator[Finding]:
    """Each package that the project requires: there, and of a version that it allows."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in requires(_PROJECT) or ()]
    except PackageNotFoundError:
        yield Finding("packages", False, f"{_PROJECT} is not installed", "make install")
        return
    misfits = []
    for requirement in needed:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            misfits.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            misfits.append(f"{requirement.name} {found}, needed: {requirement.specifier}")
    yield Finding("packages", not misfits, "; ".join(misfits) or "all as required", _AS_TRIED)
    yield _one_onnx_runtime()


def _one_onnx_runtime() -> Finding:
    """The CPU-only and the GPU build write the same files: the one installed last wins."""
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    return Finding(
        "one onnx runtime",
        found == ["onnxruntime-gpu"],
        ", ".join(f"{name} {version(name)}" for name in found) or "none",
        "pip uninstall --yes onnxruntime onnxruntime-gpu, then make install; the GPU build runs "
        "on CPUs too",
    )


def check_cuda(wanted: bool) -> Finding:
    """PyTorch's and ONNX Runtime's CUDA, cuDNN and device, as far as they are wanted."""
    import torch
    from onnxruntime.capi import build_and_package_info

    onnx_cuda = str(getattr(build_and_package_info, "cuda_version", "") or "")
    torch_cuda = torch.version.cuda or ""
    device = torch.cuda.is_available()
    found = [f"onnxruntime {f'for CUDA {onnx_cuda}' if onnx_cuda else 'without CUDA'}"]
    found.append(
        f"torch {f'for CUDA {torch_cuda}' if torch_cuda else 'without CUDA'}, "
        f"cuDNN {torch.backends.cudnn.version() or 'none'}"  # type: ignore[no-untyped-call]
    )
    found.append(torch.cuda.get_device_name() if device else "no device")
    fit = torch_cuda.split(".")[0] == onnx_cuda.split(".")[0]
    return Finding(
        "cuda",
        not wanted or (device and fit),
        "; ".join(found) + ("" if wanted else "; not wanted"),
        f"a driver that knows CUDA {onnx_cuda}, and a torch built for CUDA "
        f"{onnx_cuda.split('.')[0]}; or export.provider: cpu",
    )


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
