"""The manifest names every file; anything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from serac_core.release.manifest import InvalidRelease, verify_release, write_manifest


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    (folder / "scope").mkdir(parents=True)
    (folder / "edits.jsonl").write_text("{}\n")
    (folder / "scope/encoder.onnx").write_bytes(b"\x00graph")
    write_manifest(folder, base_model="base", edits=1, params={"seed": 1})
    return folder


def test_whole_release_is_accepted(release: Path) -> None:
    manifest = verify_release(release)
    assert list(manifest.files) == ["edits.jsonl", "scope/encoder.onnx"]
    assert manifest.files["scope/encoder.onnx"].size == 6
    assert (manifest.base_model, manifest.edits) == ("base", 1)


def test_same_files_give_the_same_manifest(release: Path) -> None:
    before = (release / "manifest.json").read_bytes()
    write_manifest(release, base_model="base", edits=1, params={"seed": 1})
    assert (release / "manifest.json").read_bytes() == before


def test_damage_is_named(release: Path) -> None:
    edits = release / "edits.jsonl"
    edits.write_text("[]\n")  # same size
    with pytest.raises(InvalidRelease, match=r"altered: edits\.jsonl"):
        verify_release(release)
    edits.unlink()
    with pytest.raises(InvalidRelease, match=r"missing: edits\.jsonl"):
        verify_release(release)
    edits.write_text("{}\n")
    (release / "extra").write_text("x")
    with pytest.raises(InvalidRelease, match="not in the manifest: extra"):
        verify_release(release)


def test_what_is_no_release_is_refused(release: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRelease, match="not a release"):
        verify_release(tmp_path / "nowhere")
    text = (release / "manifest.json").read_text()
    (release / "manifest.json").write_text(
        text.replace('"schema_version": 1', '"schema_version": 2')
    )
    with pytest.raises(InvalidRelease, match="schema version 2"):
        verify_release(release)
    (release / "manifest.json").write_text(text[:-20])
    with pytest.raises(InvalidRelease, match=r"manifest\.json"):
        verify_release(release)
