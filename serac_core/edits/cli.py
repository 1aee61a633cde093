"""`serac edits ...`: thin verbs over the library; files and records in, results on stdout."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from serac_core.config import Params, load_params
from serac_core.edits.change import ChangeResult, add_edits, retract_edits
from serac_core.edits.diff import diff_edits
from serac_core.edits.edit_files import edit_files, read_file_records
from serac_core.edits.export import EXPORT_FORMATS, ExportFormat, export_easyedit
from serac_core.edits.importers import FORMATS, Format, import_edits
from serac_core.edits.jsonl import RawRecord, edit_record, read_records, write_edits
from serac_core.edits.live import build_live
from serac_core.edits.merge import edit_set, live_edits, read_edit_set, union
from serac_core.edits.record import Edit
from serac_core.edits.rules import RULES, Violation
from serac_core.edits.token_limits import TokenLimit, load_token_limit, load_token_limits
from serac_core.errors import SeracError
from serac_core.progress import tell

edits_app = typer.Typer(
    help="Work on the edit set: import, add, retract, list, diff, validate, export.",
    no_args_is_help=True,
)

ParamsOption = Annotated[Path, typer.Option("--params", help="The settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", help="The edit set [default: edits.source of params.yaml].")
]
UpdatesOption = Annotated[
    Path | None, typer.Option("--updates", help="Folder of the updates that count after it.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        envvar="SERAC_CACHE_DIR",
        help="Where results are kept, so that only what was added is looked at.",
    ),
]
DEFAULT_PARAMS = Path("params.yaml")
_SHORTENED = 60


class OutputExists(SeracError):
    """A conversion would write over a file that is there."""


def _print_json(value: object) -> None:
    _print(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def _print(text: str) -> None:
    """Characters that are no text are escaped."""
    print(text.encode("utf-8", "backslashreplace").decode())


def _settings(path: Path) -> Params:
    """params.yaml, or the defaults in a folder that has none and wasn't told of one."""
    return Params() if path == DEFAULT_PARAMS and not path.exists() else load_params(path)


def _limits(path: Path) -> list[TokenLimit]:
    """Token limits of the configured models; of the default encoder where none are configured."""
    if path != DEFAULT_PARAMS or path.exists():
        params = load_params(path)
        in_context = params.counterfactual.kind == "in-context"
        return load_token_limits(params.models, in_context=in_context)
    tell(f"no {path} here: lengths are checked for the default encoder only")
    limit = load_token_limit(Params().models.encoder, "models.encoder")
    return [limit] if limit is not None else []


def _print_violations(violations: tuple[Violation, ...], stream: TextIO) -> None:
    for found in violations:
        rule = RULES[found.rule]
        value = json.dumps(found.value, ensure_ascii=False)
        print(
            f"{rule.severity:<7}  {found.id} (line {found.line})  {found.rule}  "
            f"{found.field}: {value}  {found.detail}",
            file=stream,
        )
    for name in sorted({found.rule for found in violations}):
        print(f"  {name}: {RULES[name].says}; {RULES[name].remedy}", file=stream)


@edits_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Benchmark or EasyEdit file; .gz is accepted.")],
    source_format: Annotated[
        str, typer.Option("--format", help=f"The file's format: {' | '.join(FORMATS)}.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL file to write; a new one.")],
    replace: Annotated[bool, typer.Option(help="Write over a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a benchmark or EasyEdit file into a file of edits.

    Into the edit set they come by `serac edits add --from`.
    """
    if source_format not in FORMATS:
        raise typer.BadParameter(
            f"{source_format!r} is none of {', '.join(FORMATS)}", param_hint="--format"
        )
    chosen: Format = next(name for name in FORMATS if name == source_format)
    if out.exists() and not replace:
        raise OutputExists(
            f"{out} is there already",
            remedy="name a new file and add it with `serac edits add --from FILE`, or --replace it",
        )
    edits = import_edits(file, chosen)
    write_edits(out, edits)
    if as_json:
        _print_json({"file": str(out), "edits": len(edits)})
    else:
        print(f"{len(edits)} edits -> {out}")
        tell(f"next: serac edits add --from {out}")


def _show_change(result: ChangeResult, file: Path, as_json: bool) -> None:
    _print_violations(result.warnings, sys.stderr)
    if as_json:
        _print_json({"file": str(file), **asdict(result)})
        return
    for name in ("added", "retracted", "superseded", "unchanged"):
        for edit_id in getattr(result, name):
            print(f"{name}  {edit_id}")


@edits_app.command("add")
def add(
    prompt: Annotated[str | None, typer.Option(help="The query whose answer changes.")] = None,
    target_new: Annotated[str | None, typer.Option(help="The new answer.")] = None,
    subject: Annotated[str | None, typer.Option(help="What the fact is about.")] = None,
    ground_truth: Annotated[str | None, typer.Option(help="The answer so far.")] = None,
    rephrase: Annotated[
        list[str] | None, typer.Option(help="The query in other words; repeatable.")
    ] = None,
    supersedes: Annotated[str | None, typer.Option(help="Id of the edit it replaces.")] = None,
    source: Annotated[str | None, typer.Option(help="Where the new answer comes from.")] = None,
    created_at: Annotated[str | None, typer.Option(help="ISO 8601 [default: now].")] = None,
    edit_id: Annotated[str | None, typer.Option("--id", help="[default: from the content]")] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Add the edits and retractions of a JSONL file.")
    ] = None,
    file: FileOption = None,
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Add an edit (or a file of changes) to the edit set, once it breaks no rule."""
    target = file or Path(_settings(params).edits.source)
    if from_file is not None:
        if prompt is not None or target_new is not None:
            raise typer.BadParameter("--from and --prompt exclude each other")
        incoming = read_records(from_file)
    elif prompt is None or target_new is None:
        raise typer.BadParameter("give --prompt and --target-new, or --from FILE")
    else:
        now = datetime.now(UTC).replace(microsecond=0)
        fields: dict[str, Any] = {
            "id": edit_id,
            "prompt": prompt,
            "target_new": target_new,
            "subject": subject,
            "ground_truth": ground_truth,
            "rephrase_prompts": list(rephrase or ()) or None,
            "supersedes": supersedes,
            "status": "active",
            "source": source,
            "created_at": created_at or now.isoformat().replace("+00:00", "Z"),
        }
        record = {name: value for name, value in fields.items() if value is not None}
        incoming = [RawRecord(1, record)]
    _show_change(add_edits(target, incoming, _limits(params)), target, as_json)


@edits_app.command("retract")
def retract(
    ids: Annotated[list[str], typer.Argument(help="Ids of the edits to take back.")],
    file: FileOption = None,
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Take edits back: they stay in the set as retracted and are no longer served."""
    target = file or Path(_settings(params).edits.source)
    _show_change(retract_edits(target, ids), target, as_json)


def _shorten(text: str) -> str:
    return text if len(text) <= _SHORTENED else text[: _SHORTENED - 3] + "..."


@edits_app.command("list")
def list_(
    file: Annotated[Path | None, typer.Argument(help="The edit set.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Retracted and superseded edits too.")
    ] = False,
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """List the live edits, oldest first: of a file, or of the edit set with its updates."""
    if file is None:
        named = _settings(params).edits
        files = edit_files(named.source, named.updates)
        edits = edit_set(read_file_records(files), files.source)
    else:
        edits = read_edit_set(file)
    live = {edit.id for edit in live_edits(edits)}
    by_id, _ = union(edits)
    shown = [edit for edit in by_id.values() if everything] or live_edits(edits)

    def state(edit: Edit) -> str:
        if edit.id in live:
            return "live"
        return "retracted" if edit.status == "retracted" else "superseded"

    if as_json:
        _print_json([{**edit_record(edit), "state": state(edit)} for edit in shown])
        return
    for edit in shown:
        _print(f"{edit.id}  {state(edit):<10}  {_shorten(edit.prompt)} -> {edit.target_new}")
    tell(f"{len(live)} live of {len(by_id)} edits")


@edits_app.command("diff")
def diff(
    old: Annotated[Path, typer.Argument(help="The edit set before.")],
    new: Annotated[Path, typer.Argument(help="The edit set after.")],
    as_json: JsonOption = False,
) -> None:
    """What changed between two edit sets."""
    before, after = read_edit_set(old), read_edit_set(new)
    found = diff_edits(before, after)
    if as_json:
        _print_json(asdict(found))
        return
    known = {**union(before)[0], **union(after)[0]}
    for name in ("added", "removed", "superseded", "retracted", "restored"):
        for edit_id in getattr(found, name):
            edit = known[edit_id]
            _print(f"{name:<10}  {edit_id}  {_shorten(edit.prompt)} -> {edit.target_new}")
    for change in found.changed:
        before_text = json.dumps(change.before, ensure_ascii=False)
        after_text = json.dumps(change.after, ensure_ascii=False)
        _print(f"changed     {change.id}  {change.field}: {before_text} -> {after_text}")
    if found.empty:
        tell("no difference")


@edits_app.command("validate")
def validate(
    file: Annotated[Path, typer.Argument(help="The edit set, JSON Lines.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for result.json and Data Docs (HTML).")
    ] = None,
    updates: UpdatesOption = None,
    cache_dir: CacheOption = None,
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Hold an edit set to every rule; exit code 1 when a rule of severity error is broken."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read by Great Expectations when imported
    from serac_core.edits.validation import DATA_DOCS, InvalidEdits, validate_edits

    report = validate_edits(file, _limits(params), updates=updates, out=out, cache_dir=cache_dir)
    if as_json:
        _print_json(report.to_json())
    else:
        _print_violations(report.violations, sys.stdout)
        print(
            f"{'passed' if report.passed else 'failed'}: {report.edits} edits, {report.live} live, "
            f"{len(RULES)} rules, {len(report.errors)} errors, {len(report.warnings)} warnings"
        )
    if out is not None:
        tell(f"for people: {out / DATA_DOCS / 'index.html'}")
    if not report.passed:
        ids = sorted({violation.id for violation in report.errors})
        raise InvalidEdits(
            f"{file}: {len(report.errors)} errors in {len(ids)} of {report.edits} edits",
            remedy="mend the records named above, or retract them",
        )


@edits_app.command("build-live")
def build_live_(
    source: Annotated[Path, typer.Argument(help="The edit set that people work on.")],
    out: Annotated[Path, typer.Option(help="Folder to write; holds edits.jsonl.")],
    first: Annotated[int, typer.Option(min=0, help="Only so many, oldest first; 0: all.")] = 0,
    updates: UpdatesOption = None,
    cache_dir: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge the edit set into the edits that are served."""
    count = build_live(source, out, first, updates=updates, cache_dir=cache_dir)
    if as_json:
        _print_json({"file": str(out / "edits.jsonl"), "live": count})
    else:
        print(f"{count} live edits -> {out / 'edits.jsonl'}")


@edits_app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Edits as JSON Lines.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSON file to write.")],
    export_format: Annotated[
        str, typer.Option("--format", help=f"{' | '.join(EXPORT_FORMATS)}.")
    ] = "easyedit",
    as_json: JsonOption = False,
) -> None:
    """Write edits for EasyEdit: its records, KnowEdit's, or the arguments of its editor.

    The records are all of the file's, in its order, and can be imported again without loss;
    `editor` is given the live edits.
    """
    if export_format not in EXPORT_FORMATS:
        raise typer.BadParameter(
            f"{export_format!r} is none of {', '.join(EXPORT_FORMATS)}", param_hint="--format"
        )
    chosen: ExportFormat = next(name for name in EXPORT_FORMATS if name == export_format)
    held = read_edit_set(file)
    edits = live_edits(held) if chosen == "editor" else held.records()
    export_easyedit(out, edits, chosen)
    if as_json:
        _print_json({"file": str(out), "edits": len(edits)})
    else:
        print(f"{len(edits)} edits -> {out}")


@edits_app.command("training-set")
def training_set(
    world: Annotated[Path, typer.Option(help="The facts, a file a relation.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Make the training set: counterfactual edits and near misses of every kind."""
    from serac_core.edits.training_set import write_training_set

    write_training_set(world, out, load_params(params))
