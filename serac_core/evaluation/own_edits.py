"""A scope classifier trained on any edit sets: folds by subject, training, export, calibration."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.config import Params
from serac_core.edits.inferred_subject import subject_or_inferred
from serac_core.edits.jsonl import read_active_edits, write_edits
from serac_core.edits.record import Edit
from serac_core.edits.training_set import fold_of, make_training_set, write_traffic
from serac_core.edits.world import load_world
from serac_core.edits.yes_no import asked_yes_no
from serac_core.progress import Say
from serac_core.scope.calibration import calibrate
from serac_core.scope.calibration_file import Abstention
from serac_core.scope.cohort import Cohort, relation_of
from serac_core.scope.encoder import TorchEncoder
from serac_core.scope.export import export_encoder
from serac_core.scope.same_fact import Concerns, SameFact
from serac_core.scope.start import load_begun
from serac_core.scope.training import train
from serac_core.scope.wording_groups import joined_classes

if TYPE_CHECKING:
    from serac_core.scope.encoder import Encode

_FOLD_HERE = {"test": "train"}  # what is scored are other edits


def train_on_edits(
    edit_sets: Sequence[str | Path],
    out: str | Path,
    params: Params,
    *,
    traffic: Sequence[str] = (),
    edits_in_memory: int | None = None,
    answers: bool = False,
    world: str | Path = "data/world",
    cache_dir: str | Path = ".serac/cache",
    say: Say = lambda line: None,
) -> Path:
    """Train, export and calibrate on the active edits of JSONL files, by `own_edits` of
    params.yaml.

    An edit's fold depends on its normalised subject (its prompt, without one) alone. Edits without
    `subject` are about the only name in their prompt; edits without `relation` get one: that of
    their wording, by the rules of :mod:`serac_core.scope.same_fact`, classes of few edits joined by
    :mod:`serac_core.scope.wording_groups`. Extra fields `yes_question` and `no_question` count as
    rephrasings. Training is resumable by content, as :func:`serac_core.scope.training.train` is.

    Parameters
    ----------
    out:
        Folder: `training/` (the folds), `model/`, `calibration/` and `scope/`, which is as in a
        release.
    traffic:
        Queries that no edit is meant by; those that concern one by the rule of
        :class:`serac_core.scope.same_fact.Concerns` are left out. A function of the text says
        which train and which calibrate.
    edits_in_memory:
        Instead of `own_edits.calibration.edits_in_memory`.
    answers:
        Train the counterfactual model too, to the folder `counterfactual`.
    world:
        Its everyday messages join them, and its training fold joins the edits: many more ways to
        ask.

    Returns
    -------
    Path
        The folder, which serves as a release directory as far as the classifier goes.

    Raises
    ------
    UnreadableEdits, WorldError, EmptyScopeTraining
        And what training, export and calibration raise.
    """
    out = Path(out)
    training = out / "training"
    training.mkdir(parents=True, exist_ok=True)
    sets = {
        Path(file).stem: [
            edit.model_copy(update={"subject": subject_or_inferred(edit)})
            for edit in read_active_edits([file])
        ]
        for file in edit_sets
    }
    facts = SameFact(edit for edits in sets.values() for edit in edits)
    encode = _start_encoder(params).encode
    folds: dict[str, list[Edit]] = {"train": [], "val": [], "calibrate": []}
    for name, edits in sets.items():
        for edit in _grouped([_classed(edit, facts, name) for edit in edits], encode):
            fold = fold_of(edit.subject or edit.prompt)
            folds[_FOLD_HERE.get(fold, fold)].append(edit)
    known = load_world(world)
    for edit in make_training_set(known, params.training_set, params.seed)["train"]:
        folds["train"].append(edit.model_copy(update={"set": "world"}))
    for name, chosen in folds.items():
        write_edits(training / f"{name}.jsonl", chosen)
    concerns = Concerns(edit for edits in sets.values() for edit in edits)
    free = [query for query in traffic if concerns.reason(query) is None]
    write_traffic(training / "traffic.jsonl", [*known.traffic, *free])
    say(", ".join(f"{name}: {len(chosen)} edits" for name, chosen in folds.items()))
    train(
        training,
        params.models.encoder,
        out / "model",
        params.own_edits.scope,
        start=params.models.scope_start,
        seed=params.seed,
        cache_dir=cache_dir,
    )
    calibration = params.own_edits.calibration
    export_encoder(out / "model", training, out / "scope", params.export)
    calibrate(
        out / "scope",
        training,
        out / "calibration",
        calibration.target_false_route,
        max_probes_routed=calibration.max_probes_routed,
        misroute_cost=calibration.misroute_cost,
        verifier_band=calibration.verifier_band,
        edits_in_memory=edits_in_memory or calibration.edits_in_memory,
        abstention=Abstention(calibration.abstain_margin, calibration.abstain),
        provider=params.export.provider,
    )
    shutil.copyfile(out / "calibration" / "calibration.json", out / "scope" / "calibration.json")
    if answers:
        from serac_core.counterfactual.training import train as train_counterfactual

        config = params.own_edits.counterfactual
        in_context = config.kind == "in-context"
        train_counterfactual(
            training,
            params.models.base if in_context else params.models.counterfactual,
            out / "counterfactual",
            config,
            seed=params.seed,
            cache_dir=cache_dir,
            chat=params.models.chat_template,
            encoder=params.models.encoder,
            scope_start=params.models.scope_start,
        )
    return out


def _start_encoder(params: Params) -> TorchEncoder:
    model = load_begun(params.models.encoder, params.models.scope_start)
    return TorchEncoder(model, Cohort(), quick=True)


def _classed(edit: Edit, facts: SameFact, name: str) -> Edit:
    """With every way to ask as a rephrasing, and with what training groups edits by: `relation`,
    its own or its class of wordings; that class; `shares_wordings`, whether other edits of the
    relation may be asked for in its words; `set` and `subject_type`, its file: wordings of two
    files may ask the same without a word in common."""
    extra = edit.model_extra or {}
    ways = dict.fromkeys((*edit.rephrase_prompts, *(text for text, _ in asked_yes_no(edit))))
    found = {
        "rephrase_prompts": tuple(ways),
        "set": name,
        "subject_type": extra.get("subject_type", name),
    }
    wording = facts.wording(edit)
    if wording is not None:
        found["wording_class"] = wording
        found["relation"] = relation_of(edit) or _says(wording)
        found["shares_wordings"] = relation_of(edit) is not None
    return edit.model_copy(update=found)


def _grouped(edits: Sequence[Edit], encode: Encode) -> list[Edit]:
    """The edits; those whose relation is a class of wordings with that of the joined classes."""
    classed: dict[str, list[tuple[Edit, str]]] = defaultdict(list)
    for edit in edits:
        wording = _own_class(edit)
        if wording is not None:
            classed[_type_of(edit)].append((edit, wording))
    joined = {of: joined_classes(found, encode) for of, found in classed.items()}
    found = []
    for edit in edits:
        wording = _own_class(edit)
        group = joined[_type_of(edit)].get(wording) if wording is not None else None
        if group is not None:
            update = {"wording_class": group, "relation": _says(group), "shares_wordings": True}
            edit = edit.model_copy(update=update)
        found.append(edit)
    return found


def _own_class(edit: Edit) -> str | None:
    """The class of wordings that is an edit's relation; None where it names one itself."""
    extra = edit.model_extra or {}
    wording = extra.get("wording_class")
    is_relation = wording is not None and extra.get("relation") == _says(wording)
    return str(wording) if is_relation else None


def _type_of(edit: Edit) -> str:
    return str((edit.model_extra or {}).get("subject_type"))


def _says(wording: str) -> str:
    return f"says {wording}"
