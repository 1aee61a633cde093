"""The manifest of a release: every file with its size and SHA-256; loading verifies it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serac_core.errors import SeracError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


class InvalidRelease(SeracError):
    """A release directory is incomplete, changed, or not a release."""


class FileEntry(BaseModel):
    """One file of a release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(description="Hex digest of the content.")
    size: int = Field(ge=0, description="Bytes.")


class Manifest(BaseModel):
    """What a release holds. The same inputs give the same bytes: no dates, no commit."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = SCHEMA_VERSION
    base_model: str = Field(description="Id or path of the base model that it edits.")
    edits: int = Field(ge=0, description="Number of live edits.")
    params: dict[str, Any] = Field(description="params.yaml as the release was built with.")
    files: dict[str, FileEntry] = Field(description="By path relative to the release.")


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Digest every file below a folder, the manifest itself left out; sorted by path."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            entries[name] = FileEntry(sha256=file_sha256(path), size=path.stat().st_size)
    return entries


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_manifest(
    folder: Path, *, base_model: str, edits: int, params: dict[str, Any], **extra: Any
) -> Manifest:
    """Describe the files of a release directory in its manifest.json."""
    manifest = Manifest(
        base_model=base_model, edits=edits, params=params, files=describe_files(folder), **extra
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def verify_release(folder: str | Path) -> Manifest:
    """Read a release's manifest and check every file against it.

    Raises
    ------
    InvalidRelease
        There is no readable manifest, its schema is newer than this code, or a file is
        missing, altered or not listed; names the first of each.
    """
    folder = Path(folder)
    remedy = "fetch it again: `serac releases get VERSION`"
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise InvalidRelease(
            f"{folder}: no {MANIFEST}, so not a release", remedy="name a release directory"
        ) from None
    except (OSError, ValidationError) as error:
        raise InvalidRelease(f"{folder / MANIFEST}: {error}", remedy=remedy) from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise InvalidRelease(
            f"{folder}: schema version {manifest.schema_version}, this code reads {SCHEMA_VERSION}",
            remedy="use the version of serac that made it, or a newer one",
        )
    found = describe_files(folder)
    for problem, names in (
        ("missing", manifest.files.keys() - found.keys()),
        ("not in the manifest", found.keys() - manifest.files.keys()),
        (
            "altered",
            {name for name in found if manifest.files.get(name, found[name]) != found[name]},
        ),
    ):
        if names:
            raise InvalidRelease(
                f"{folder}: {problem}: {min(names)}"
                + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                remedy=remedy,
            )
    return manifest
