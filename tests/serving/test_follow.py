"""Routers follow the registry through real Git, GTO and DVC, whatever is wrong with a release."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from published import Registry, corrupt, make_newer, run, truncate
from swap_release import make_edits, write_release

from serac_core.release.manifest import verify_release, write_manifest
from serac_core.release.registry import read_registry
from serac_core.serving.assembly import AnotherBase, ReleaseOpener, published_to
from serac_core.serving.follow import Follower
from serac_core.serving.offers import FolderOffer, Offers, StageOffers
from serac_core.serving.served import ReleaseHolder, ServedRelease
from serac_core.serving.settings import load_settings

pytestmark = pytest.mark.usefixtures("isolated")


def open_release(folder: Path, name: str) -> ServedRelease:
    return ServedRelease.open(folder, name=name, device="cpu", with_counterfactual=False)


def release_of(folder: Path, target: str, **options: float) -> Path:
    """A release in which the capital of France is the target."""
    edits = make_edits((("e-capital-france", "The capital of France is", "France", target),))
    return write_release(folder, edits, **options)


def follower(offers: Offers, **options: float) -> Follower:
    return Follower(ReleaseHolder(), offers, open_release, **options)


def answers(following: Follower) -> str:
    """What the release that answers says of France's capital."""
    with following._holder.current() as release:
        decision = release.router.route(["The capital of France is"])[0]
        return release.edits[decision.edit_id or ""].target_new


@pytest.fixture(scope="session")
def template(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """v1.0.0 (Lyon), v1.1.0 (Nice), which is the champion."""
    folder = tmp_path_factory.mktemp("template")
    registry = Registry(folder / "registry")
    for target in ("Lyon", "Nice"):
        registry.publish(release_of(folder / target, target))
    return registry


@pytest.fixture(scope="session")
def template_store(template: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    assert follower(StageOffers(template.checkout, folder)).check().changed
    return folder


@pytest.fixture
def store(template_store: Path, tmp_path: Path) -> Path:
    """A store that has v1.1.0 already."""
    return Path(shutil.copytree(template_store, tmp_path / "store", symlinks=True))


@pytest.fixture
def registry(template: Registry, tmp_path: Path) -> Registry:
    """Its own copy of the repository; the DVC remote is the template's until it is changed."""
    made = Registry.__new__(Registry)
    made.checkout, made.remote = tmp_path / "checkout", tmp_path / "remote"
    shutil.copytree(template.checkout, made.checkout, symlinks=True)
    shutil.copytree(template.remote, made.remote)
    local = f"['remote \"serac\"']\n    url = {made.remote}\n"
    (made.checkout / ".dvc/config.local").write_text(local)
    return made


def stored(store: Path) -> list[str]:
    return sorted(path.name[:6] for path in (store / "releases").iterdir())


def test_the_champion_is_fetched_verified_and_served(registry: Registry, tmp_path: Path) -> None:
    before = run(registry.checkout, "git", "status", "--porcelain")
    following = follower(StageOffers(registry.checkout, tmp_path / "store"))
    assert following.status().outcome is None
    result = following.check()
    assert (result.outcome, result.release, result.changed) == ("swapped", "serac@v1.1.0", True)
    assert answers(following) == "Nice"
    assert following.check().outcome == "unchanged"
    assert stored(tmp_path / "store") == ["v1.1.0"]
    assert run(registry.checkout, "git", "status", "--porcelain") == before

    registry.promote("v1.0.0")  # a rollback
    assert following.reload_now().as_dict() == {
        "outcome": "swapped",
        "changed": True,
        "release": "serac@v1.0.0",
        "wanted": "serac@v1.0.0",
        "problem": None,
    }
    assert answers(following) == "Lyon"
    status = following.status().as_dict()
    assert json.dumps(status)
    assert (status["swaps"], status["refusals"], status["draining"]) == (2, 0, 0)
    assert status["follows"] == f"serac#prod of {registry.checkout}"


def test_routers_converge_and_old_directories_go(
    registry: Registry, store: Path, tmp_path: Path
) -> None:
    """One with a store of its own, two that share one."""
    stores = [tmp_path / "own", store, store]
    routers = [follower(StageOffers(registry.checkout, store, keep=1)) for store in stores]

    def converge() -> set[str]:
        threads = [threading.Thread(target=router.check) for router in routers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return {answers(router) for router in routers}

    assert converge() == {"Nice"}
    registry.publish(release_of(tmp_path / "Metz", "Metz"))
    assert converge() == {"Metz"}
    assert [stored(store) for store in set(stores)] == [["v1.2.0"]] * 2


def make_useless(bad: Path) -> None:
    shutil.rmtree(bad)
    release_of(bad, "Metz", threshold=1.5)


def test_a_bad_release_is_refused_and_the_old_one_serves_on(
    registry: Registry, store: Path, tmp_path: Path
) -> None:
    following = follower(StageOffers(registry.checkout, store))
    following.check()
    good = shutil.copytree(registry.checkout / "release", tmp_path / "good")
    for number, (spoil, reason) in enumerate(
        (
            (corrupt, "altered: scope/encoder.onnx"),
            (truncate, "altered: scope/encoder.onnx"),
            (make_newer, "schema version 2"),
            (make_useless, "out of their scope"),
        ),
        start=1,
    ):
        bad = shutil.copytree(good, tmp_path / spoil.__name__)
        spoil(bad)
        tag = registry.publish(bad)
        result = following.check()
        assert (result.outcome, result.release, result.wanted) == ("refused", "serac@v1.1.0", tag)
        assert reason in str(result.error)
        assert answers(following) == "Nice" and stored(store) == ["v1.1.0"]
        status = following.status()
        assert status.refusals == len(status.refused) == number
        assert (status.refused[-1].release, status.problem) == (tag, str(result.error))

    tried = (store / "log").read_text()
    assert following.check().outcome == "refused"
    assert (store / "log").read_text() == tried  # it was not fetched again
    assert following.reload_now().outcome == "refused"
    assert (store / "log").read_text() != tried
    registry.promote("v1.1.0")
    assert following.check().outcome == "unchanged" and following.status().problem is None


def test_without_a_release_the_one_before_a_bad_one_serves(
    registry: Registry, store: Path, tmp_path: Path
) -> None:
    bad = shutil.copytree(registry.checkout / "release", tmp_path / "bad")
    corrupt(bad)
    registry.publish(bad)
    following = follower(StageOffers(registry.checkout, store))
    assert following.check().as_dict().items() >= {
        "outcome": "refused",
        "release": "serac@v1.1.0",
        "wanted": "serac@v1.2.0",
    }.items()  # fmt: skip
    assert answers(following) == "Nice"


def test_a_copy_damaged_in_the_store_is_fetched_again(registry: Registry, store: Path) -> None:
    (copy,) = (store / "releases").iterdir()
    (copy / "edits.jsonl").write_text("damaged")
    following = follower(StageOffers(registry.checkout, store))
    assert following.check().outcome == "swapped"
    assert verify_release(copy)


def test_an_unreachable_registry_leaves_the_old_release(
    registry: Registry, store: Path, tmp_path: Path
) -> None:
    following = follower(StageOffers(registry.checkout, store))
    assert following.check().changed
    away = registry.checkout.with_name("away")
    registry.checkout.rename(away)
    result = following.check()
    assert (result.outcome, result.release) == ("unreachable", "serac@v1.1.0")
    assert answers(following) == "Nice"
    assert "can't be read" in (following.status().problem or "")

    restarted = follower(StageOffers(registry.checkout, store))
    assert restarted.check().release == "serac@v1.1.0"  # from its store
    elsewhere = follower(StageOffers(registry.checkout, tmp_path / "empty"))
    assert elsewhere.check().as_dict()["release"] is None

    away.rename(registry.checkout)
    for router in (following, restarted):
        router.check()
        assert router.status().problem is None and answers(router) == "Nice"
    assert following.status().failures == 1


def test_a_release_store_that_is_gone_is_waited_for(
    registry: Registry, store: Path, tmp_path: Path
) -> None:
    following = follower(StageOffers(registry.checkout, store))
    following.check()
    registry.publish(release_of(tmp_path / "Metz", "Metz"))
    registry.remote.rename(tmp_path / "away")
    result = following.check()
    assert (result.outcome, result.release) == ("unavailable", "serac@v1.1.0")
    assert "v1.2.0" in (following.status().problem or "")
    assert not following.status().refused
    (tmp_path / "away").rename(registry.remote)
    assert following.check().outcome == "swapped"
    assert answers(following) == "Metz"


def test_a_repository_without_a_release(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "--quiet", "empty")
    following = follower(StageOffers(tmp_path / "empty", tmp_path / "store"))
    assert following.check().outcome == "unreachable"
    assert "no release holds stage prod" in (following.status().problem or "")


def test_a_store_that_cannot_be_written(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    following = follower(StageOffers(registry.checkout, tmp_path / "store"))
    assert following.check().outcome == "unreachable"
    assert str(tmp_path / "store") in (following.status().problem or "")


def test_a_store_that_became_unwritable_still_serves_what_it_has(
    registry: Registry, store: Path
) -> None:
    (store / "lock").unlink()
    (store / "lock").mkdir()
    following = follower(StageOffers(registry.checkout, store))
    result = following.check()
    assert (result.outcome, result.release) == ("swapped", "serac@v1.1.0")
    assert str(store) in str(result.error)
    registry.promote("v1.0.0")
    assert following.check().outcome == "unreachable" and answers(following) == "Nice"


def test_what_killed_commands_left_is_cleared(registry: Registry, store: Path) -> None:
    for left in ("index.lock", "packed-refs.lock", "refs/tags/serac@v1.0.0.lock"):
        (store / "clone/.git" / left).touch()
    assert follower(StageOffers(registry.checkout, store)).check().changed


def test_no_password_is_shown(tmp_path: Path) -> None:
    offers = StageOffers("https://ann:secret@127.0.0.1:1/x.git", tmp_path / "store")
    following = follower(offers)
    following.check()
    shown = json.dumps(following.status().as_dict())
    assert "127.0.0.1:1" in shown and "secret" not in shown


def test_a_directory_is_opened_again_when_its_manifest_changes(tmp_path: Path) -> None:
    folder = release_of(tmp_path / "release", "Lyon")
    following = follower(FolderOffer(folder))
    assert following.reload_now().release == "release"
    assert following.reload_now().outcome == "unchanged"
    assert answers(following) == "Lyon"

    release_of(tmp_path / "new", "Nice").rename(tmp_path / "next")
    folder.rename(tmp_path / "old")
    assert following.reload_now().outcome == "unreachable"
    (tmp_path / "next").rename(folder)
    assert following.reload_now().changed and answers(following) == "Nice"

    (folder / "edits.jsonl").write_text("")
    write_manifest(folder, base_model="demo", edits=0, params={})
    assert following.reload_now().outcome == "refused"
    assert answers(following) == "Nice"


def test_it_follows_by_itself(registry: Registry, store: Path) -> None:
    swapped = threading.Semaphore(0)

    def opened(folder: Path, name: str) -> ServedRelease:
        swapped.release()
        return open_release(folder, name)

    offers = StageOffers(registry.checkout, store)
    following = Follower(ReleaseHolder(), offers, opened, interval=0.05)
    following.start()
    try:
        assert swapped.acquire(timeout=120)
        registry.promote("v1.0.0")
        assert swapped.acquire(timeout=120)
    finally:
        following.stop(wait=120)
    assert following.status().release == "serac@v1.0.0"
    assert read_registry(registry.checkout).last_counter == 3


def test_a_release_for_another_base_is_refused(tmp_path: Path, base_model: Path) -> None:
    """Unless the settings say which base it is; a relative path lies in the checkout."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/model").symlink_to(base_model)
    one = write_release(tmp_path / "one", base="data/model")
    other = write_release(tmp_path / "other", base=str(base_model))
    where = {"release": str(one), "checkout": str(tmp_path), "device": "cpu"}
    opener = ReleaseOpener(load_settings(None, where))
    opener(one, "one")
    with pytest.raises(AnotherBase, match=r"other edits .*, and data/model is what answers here"):
        opener(other, "other")
    base = opener.base
    assert base is not None and opener(one, "one").counterfactual is not None
    assert opener.base is base
    named = ReleaseOpener(load_settings(None, {**where, "base": str(base_model)}))
    named(one, "one")
    named(other, "other")


def test_releases_are_looked_for_where_the_checkout_publishes_them(tmp_path: Path) -> None:
    assert published_to(tmp_path) == str(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text("seed: 1\n")
    assert published_to(tmp_path) == str(tmp_path)
    params.write_text("registry:\n  publish_to: https://example.org/x.git\n")
    assert published_to(tmp_path) == "https://example.org/x.git"
    (tmp_path / "shared.git").mkdir()
    params.write_text("registry:\n  publish_to: shared.git\n")
    assert published_to(tmp_path) == str(tmp_path / "shared.git")


_FOLLOW_ONCE = """
import sys
from pathlib import Path
from serac_core.serving.follow import Follower
from serac_core.serving.offers import StageOffers
from serac_core.serving.served import ReleaseHolder, ServedRelease

def opened(folder, name):
    return ServedRelease.open(folder, name=name, with_counterfactual=False)

offers = StageOffers(sys.argv[1], sys.argv[2])
print("begins", flush=True)
print(Follower(ReleaseHolder(), offers, opened).check().outcome, flush=True)
"""


def following_processes(store: Path) -> list[psutil.Process]:
    """git and dvc processes at work in a store."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(store)):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_at_any_moment_it_converges(registry: Registry, tmp_path: Path) -> None:
    """A router is killed while it fetches: nothing goes on without it, no part of a release is
    ever taken for one, and the next router serves the champion."""
    store, turns = tmp_path / "store", random.Random(7)
    command = [sys.executable, "-c", _FOLLOW_ONCE, str(registry.checkout), str(store)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = 0
    for turn in range(20):
        shutil.rmtree(store / "releases", ignore_errors=True)
        if turn % 4 == 0:
            shutil.rmtree(store, ignore_errors=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        time.sleep(turns.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        killed += "swapped" not in process.communicate()[0]
        deadline = time.monotonic() + 60
        while following_processes(store):
            assert time.monotonic() < deadline, "a command outlives its router"
            time.sleep(0.05)
        for copy in (store / "releases").glob("v*"):
            assert verify_release(copy)
    assert follower(StageOffers(registry.checkout, store)).check().release == "serac@v1.1.0"
    print(f"{killed} of 20 routers killed before they were done; the next one serves the champion")
