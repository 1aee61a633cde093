"""`serac releases ...`, `serac rollback`, `serac doctor`: thin verbs over the library."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serac_core.config import load_params
from serac_core.progress import tell

releases_app = typer.Typer(help="Releases: list, show, get, package.", no_args_is_help=True)

CheckoutOption = Annotated[Path, typer.Option("--checkout", help="A folder of the repository.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
VersionArgument = Annotated[str, typer.Argument(help="A version, e.g. v1.4.0; empty: champion.")]


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, default=str))


@releases_app.command("list")
def list_releases(checkout: CheckoutOption = Path(), as_json: JsonOption = False) -> None:
    """The releases of this repository, newest first, and which one is the champion."""
    from serac_core.release.copies import copy_path
    from serac_core.release.registry import RELEASE, read_registry
    from serac_core.workspace.runs import find_checkout

    root = find_checkout(checkout)
    registry = read_registry(root)
    rows: list[dict[str, Any]] = [
        {
            "release": version.tag,
            "commit": version.commit,
            "champion": version == registry.champion,
            "copy": str(copy) if (copy := copy_path(root, version)).is_dir() else None,
        }
        for version in reversed(registry.of(RELEASE))
    ]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        mark = "champion" if row["champion"] else ""
        print(
            f"{row['release']:<16}  {row['commit'][:10]}  {mark:<8}  {row['copy'] or ''}".rstrip()
        )
    if not rows:
        tell("no release yet; `serac retrain` makes the first")


@releases_app.command("show")
def show_release(
    release: Annotated[str, typer.Argument(help="A version, or a release directory.")] = "",
    checkout: CheckoutOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Verify a release's files against its manifest and print what it holds."""
    from serac_core.release.manifest import verify_release

    folder = Path(release)
    if not release or not folder.is_dir():
        folder = _get(checkout, release)
    manifest = verify_release(folder)
    size = sum(entry.size for entry in manifest.files.values())
    if as_json:
        _print_json({"path": str(folder), **manifest.model_dump(mode="json")})
        return
    print(f"{folder}: whole, {len(manifest.files)} files, {size / 1e6:.1f} MB")
    print(f"base model  {manifest.base_model}\nedits       {manifest.edits}")
    for name, entry in manifest.files.items():
        print(f"{entry.sha256[:12]}  {entry.size:>11}  {name}")


@releases_app.command("get")
def get_release(
    version: VersionArgument = "", checkout: CheckoutOption = Path(), as_json: JsonOption = False
) -> None:
    """Make a verified copy of a release from the DVC cache or remote; prints its directory."""
    folder = _get(checkout, version)
    if as_json:
        _print_json({"path": str(folder)})
    else:
        print(folder)


def _get(checkout: Path, version: str) -> Path:
    from serac_core.release.rollback import fetch_release

    return fetch_release(checkout, version or None, say=tell)


@releases_app.command("package")
def package(
    out: Annotated[Path, typer.Option("--out", help="The release directory to write.")] = Path(
        "release"
    ),
    params: Annotated[Path, typer.Option("--params", help="The settings file.")] = Path(
        "params.yaml"
    ),
    as_json: JsonOption = False,
) -> None:
    """Put the release together from what the stages made (run in the project's folder)."""
    from serac_core.release.package import package_release

    manifest = package_release(Path(), out, load_params(params))
    size = sum(entry.size for entry in manifest.files.values())
    if as_json:
        _print_json({"path": str(out), "files": len(manifest.files), "bytes": size})
    else:
        print(f"{out}: {len(manifest.files)} files, {size / 1e6:.1f} MB, {manifest.edits} edits")


def rollback(
    to: Annotated[
        str, typer.Option(help="Version to go back to; empty: the one before the champion.")
    ] = "",
    checkout: CheckoutOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Make an earlier release the champion again, and publish that."""
    from serac_core.release.rollback import roll_back

    done = roll_back(checkout, to or None, say=tell)
    if as_json:
        _print_json(asdict(done))
        return
    print(f"champion: {done.assignment.version.tag} (was {done.before}), {done.assignment.tag}")
    print(f"ready in {done.copy}")


def doctor(
    checkout: CheckoutOption = Path(),
    provider: Annotated[
        Literal["", "cpu", "cuda"],
        typer.Option(help="ONNX provider that must be there; empty: params.yaml's."),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check versions, git, the checkout, the DVC remote, ONNX, CUDA, disk, the Prefect server."""
    from serac_core.release.doctor import examine, require_fit

    findings = examine(checkout, provider)
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok' if finding.ok else 'NO':<3} {finding.check:<22} {finding.found}")
            if not finding.ok:
                print(f"    remedy: {finding.remedy}")
    require_fit(findings)
