"""A server put together from its settings: release, base, keys, application."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.errors import SeracError
from serac_core.serving.keys import load_keys, load_upstream_key
from serac_core.serving.settings import ServingSettings

if TYPE_CHECKING:
    from serac_core.base.language_model import LanguageModel
    from serac_core.progress import Say
    from serac_core.serving.follow import Follower
    from serac_core.serving.served import ReleaseHolder, ServedRelease
    from serac_core.serving.server import RouterServer


class NothingToServe(SeracError):
    """There is no release, and a local base is not known without one."""


class AnotherBase(SeracError):
    """A release edits another base model than the one that was loaded with the first."""


def make_server(
    settings: ServingSettings,
    *,
    environment: Mapping[str, str] | None = None,
    say: Say = lambda line: None,
) -> RouterServer:
    """Everything loaded and checked, ready to run.

    Where a stage is followed and an upstream is the base, a release that can't be had yet is no
    error: the base answers until there is one.

    Raises
    ------
    BadKeys, UnwritableLog, NothingToServe
        And what loading release and base raises.
    """
    from serac_core.serving.app import make_app
    from serac_core.serving.served import ReleaseHolder
    from serac_core.serving.server import RouterServer
    from serac_core.serving.state import ServerState

    environment = os.environ if environment is None else environment
    keys = load_keys(settings, environment)
    upstream_key = load_upstream_key(settings, environment)
    holder, opener = ReleaseHolder(), ReleaseOpener(settings)
    follower = _follower(settings, holder, opener, say)
    found = follower.check()
    if holder.release_name is None and (settings.release or not settings.upstream):
        raise found.error or NothingToServe(
            "there is no release to serve", remedy="name one with --release"
        )
    say(f"{found.release or 'no release yet'}, from {follower.status().follows}")
    state = ServerState(
        settings, holder, base=opener.base, upstream_key=upstream_key, follower=follower
    )
    return RouterServer(
        make_app(state, keys),
        state,
        started=lambda host, port: say(f"serving on http://{host}:{port}"),
    )


class ReleaseOpener:
    """Opens releases as the settings say, and with the first one the base that runs here.

    Attributes
    ----------
    base:
        None before the first release, and where an upstream is the base.
    """

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self.base: LanguageModel | None = None
        self._base_name = ""

    def __call__(self, folder: Path, name: str) -> ServedRelease:
        from serac_core.serving.served import ServedRelease

        settings = self._settings
        needs_counterfactual = _needs_counterfactual(settings, folder)
        if needs_counterfactual or not settings.upstream:
            import torch

            torch.set_num_threads(settings.model_threads)
        if not settings.upstream:
            self._load_base(folder, name)
        return ServedRelease.open(
            folder,
            name=name,
            variant=settings.variant,
            provider=settings.provider,
            threads=settings.threads,
            device=settings.device,
            base=self.base,
            with_counterfactual=needs_counterfactual,
        )

    def _load_base(self, folder: Path, name: str) -> None:
        """Load the base that runs here, once; where no setting names it, all releases must edit
        the same."""
        from serac_core.base.language_model import LanguageModel
        from serac_core.editing import base_model, chat_use

        settings = self._settings
        wanted = settings.base or base_model(folder)
        if self.base is None:
            beside = Path(settings.checkout) / wanted
            path = str(beside) if beside.is_dir() else wanted
            self.base = LanguageModel.load(path, settings.device, chat=chat_use(folder))
            self._base_name = wanted
        elif wanted != self._base_name:
            raise AnotherBase(
                f"{name} edits {wanted}, and {self._base_name} is what answers here",
                remedy="start the server again, or name the base that is to answer: `base`",
            )


def _follower(
    settings: ServingSettings, holder: ReleaseHolder, opener: ReleaseOpener, say: Say
) -> Follower:
    from serac_core.serving.follow import Follower
    from serac_core.serving.offers import FolderOffer, Offers, StageOffers

    offers: Offers = (
        FolderOffer(settings.release)
        if settings.release
        else StageOffers(
            settings.repository or published_to(settings.checkout),
            Path(settings.checkout) / settings.store,
            say=say,
        )
    )
    return Follower(holder, offers, opener, interval=settings.poll_seconds)


def published_to(checkout: str | Path) -> str:
    """Where the releases of a checkout are published; a repository without settings: itself.

    Raises
    ------
    ConfigError
    """
    from serac_core.config import load_params
    from serac_core.workspace.candidate import publish_target

    folder = Path(checkout).absolute()
    if not (folder / "params.yaml").is_file():
        return str(folder)
    return publish_target(folder, load_params(folder / "params.yaml").registry.publish_to)


def _needs_counterfactual(settings: ServingSettings, folder: Path) -> bool:
    """Not where the upstream answers from the edit, as it does for an in-context release."""
    from serac_core.counterfactual.description import read_description

    if settings.edited_answers == "upstream":
        return False
    described = read_description(folder / "counterfactual")
    return not (settings.upstream and described is not None and described.kind == "in-context")
