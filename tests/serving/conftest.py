"""A tiny release, a real upstream and a real router, once for all modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "code/scope"))  # tiny_encoder
sys.path.insert(0, str(Path(__file__).parents[1] / "code/base"))  # tiny_models

from processes import Router, run_router, run_upstream
from small_release import make_release
from tiny_models import save_tiny


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("gpt2", tmp_path_factory.mktemp("base") / "tiny-base")


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Path:
    return make_release(tmp_path_factory.mktemp("release") / "tiny-release", base_model)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_upstream(tmp_path_factory.mktemp("upstream")) as url:
        yield url


@pytest.fixture(scope="session")
def router(
    tmp_path_factory: pytest.TempPathFactory, release: Path, upstream: str
) -> Iterator[Router]:
    """A router before the upstream, with keys of all kinds."""
    with run_router(tmp_path_factory.mktemp("router"), release, upstream) as running:
        yield running


@pytest.fixture(scope="session")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """git and DVC see nothing of this machine's set-up."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\nname = Ann\nemail = ann@example.org\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
        patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
        patch.setenv("DVC_SITE_CACHE_DIR", str(home / "dvc"))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield
