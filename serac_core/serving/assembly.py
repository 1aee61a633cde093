"""A server put together from its settings: release, base, keys, application."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.serving.keys import load_keys, load_upstream_key
from serac_core.serving.settings import ServingSettings

if TYPE_CHECKING:
    from serac_core.base.language_model import LanguageModel
    from serac_core.progress import Say
    from serac_core.serving.served import ServedRelease
    from serac_core.serving.server import RouterServer


def make_server(
    settings: ServingSettings,
    *,
    environment: Mapping[str, str] | None = None,
    say: Say = lambda line: None,
) -> RouterServer:
    """Everything loaded and checked, ready to run.

    Raises
    ------
    BadKeys, UnwritableLog
        And what loading release and base raises.
    """
    from serac_core.serving.app import make_app
    from serac_core.serving.served import ReleaseHolder
    from serac_core.serving.server import RouterServer
    from serac_core.serving.state import ServerState

    environment = os.environ if environment is None else environment
    keys = load_keys(settings, environment)
    upstream_key = load_upstream_key(settings, environment)
    release, base = open_parts(settings)
    say(f"{release.name}: {len(release.edits)} edits, {release.variant} on {release.provider}")
    state = ServerState(settings, ReleaseHolder(release), base=base, upstream_key=upstream_key)
    return RouterServer(
        make_app(state, keys),
        state,
        started=lambda host, port: say(f"serving on http://{host}:{port}"),
    )


def open_parts(settings: ServingSettings) -> tuple[ServedRelease, LanguageModel | None]:
    """The release directory of the settings, and the base model where it runs here."""
    from serac_core.serving.served import ServedRelease

    folder = Path(settings.release)
    base = None if settings.upstream else _local_base(settings, folder)
    release = ServedRelease.open(
        folder,
        variant=settings.variant,
        provider=settings.provider,
        threads=settings.threads,
        device=settings.device,
        base=base,
        with_counterfactual=_needs_counterfactual(settings, folder),
    )
    return release, base


def _needs_counterfactual(settings: ServingSettings, folder: Path) -> bool:
    """Not where the upstream answers from the edit, as it does for an in-context release."""
    from serac_core.counterfactual.description import read_description

    if settings.edited_answers == "upstream":
        return False
    described = read_description(folder / "counterfactual")
    return not (settings.upstream and described is not None and described.kind == "in-context")


def _local_base(settings: ServingSettings, folder: Path) -> LanguageModel:
    from serac_core.base.language_model import LanguageModel
    from serac_core.editing import base_model, chat_use

    name = settings.base or base_model(folder)
    return LanguageModel.load(name, settings.device, chat=chat_use(folder))
