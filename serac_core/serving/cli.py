"""`serac serve`: a thin verb over the library."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from serac_core.progress import tell


def serve(
    release: Annotated[str | None, typer.Option("--release", help="The release directory.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Instead: follow this stage of the registry.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="What answers out of scope: URL of an OpenAI-compatible API with /v1, or a "
            "model's id or path [default: the release's own].",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of settings (docs/serving.md).")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="[default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option("--port", help="[default: 8100]")] = None,
    checkout: Annotated[
        str | None, typer.Option("--checkout", help="A folder of the repository.")
    ] = None,
    variant: Annotated[str | None, typer.Option("--variant", help="fp32, fp16 or int8.")] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="cpu or cuda.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")] = None,
    decision_log: Annotated[
        str | None, typer.Option("--decision-log", help="Folder for the log of decisions.")
    ] = None,
) -> None:
    """Serve a router in front of a model: OpenAI's API, with edits live.

    Keys come from files that the settings name, or from SERAC_QUERY_KEYS and SERAC_ADMIN_KEYS.
    """
    from serac_core.serving.assembly import make_server
    from serac_core.serving.settings import load_settings

    settings = load_settings(
        config,
        {
            "release": release,
            "stage": stage,
            "base": base,
            "host": host,
            "port": port,
            "checkout": checkout,
            "variant": variant,
            "provider": provider,
            "device": device,
            "decision_log": decision_log,
        },
    )
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # An answer that the upstream cut short ends so on purpose; the metrics count them.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: "without completing response" not in record.getMessage()
    )
    server = make_server(settings, say=tell)
    server.run()
    if not server.started:
        raise typer.Exit(2)
