"""`serac`: thin verbs over the library; results on stdout, talk on stderr.

Exit codes: 0 ok, 1 the answer is no (gate closed, invalid edits), 2 wrong usage or input.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer

from serac_core.counterfactual.cli import answer, train_counterfactual, train_demo_model
from serac_core.edits.cli import edits_app
from serac_core.errors import SeracError
from serac_core.evaluation.cli import benchmark_app, drift, evaluate, gate
from serac_core.release.cli import doctor, releases_app, rollback
from serac_core.scope.cli import (
    calibrate,
    explain,
    export,
    memory_app,
    route,
    train_scope,
    train_scope_start,
)
from serac_core.serving.cli import serve

app = typer.Typer(
    name="serac",
    help="SERAC model editing in production: edits, training, evaluation, releases.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train a model from params.yaml; resumable.", no_args_is_help=True)
train_app.command("scope")(train_scope)
train_app.command("scope-start")(train_scope_start)
train_app.command("counterfactual")(train_counterfactual)
train_app.command("demo-model")(train_demo_model)
app.add_typer(edits_app, name="edits")
app.add_typer(train_app, name="train")
app.add_typer(memory_app, name="memory")
app.add_typer(releases_app, name="releases")
app.add_typer(benchmark_app, name="benchmark")
verbs = (export, calibrate, route, explain, answer, evaluate, gate, drift, serve, rollback, doctor)
for verb in verbs:
    app.command()(verb)
for extension in entry_points(group="serac.commands"):
    extension.load()(app)


def main() -> None:
    """The console script: an error of the catalogue becomes its message and exit code."""
    try:
        app()
    except SeracError as error:
        said = f"serac: {error}".encode("utf-8", "backslashreplace").decode()
        print(said, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
