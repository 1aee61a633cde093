"""A scope classifier trained on any edit sets: folds by subject, training, export, calibration."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from serac_core.config import Params
from serac_core.edits.jsonl import read_active_edits, write_edits
from serac_core.edits.record import Edit
from serac_core.edits.training_set import fold_of, make_training_set, write_traffic
from serac_core.edits.world import load_world
from serac_core.progress import Say
from serac_core.scope.calibration import calibrate
from serac_core.scope.calibration_file import Abstention
from serac_core.scope.cohort import relation_of
from serac_core.scope.export import export_encoder
from serac_core.scope.same_fact import Concerns, SameFact
from serac_core.scope.training import train

_FOLD_HERE = {"test": "train"}  # what is scored are other edits


def train_on_edits(
    edit_sets: Sequence[str | Path],
    out: str | Path,
    params: Params,
    *,
    traffic: Sequence[str] = (),
    world: str | Path = "data/world",
    cache_dir: str | Path = ".serac/cache",
    say: Say = lambda line: None,
) -> Path:
    """Train, export and calibrate on the active edits of JSONL files; the retraining's recipe.

    An edit's fold depends on its normalised subject (its prompt, without one) alone. Edits without
    `relation` get one: that of their wording, by the rules of :mod:`serac_core.scope.same_fact`.
    Training is resumable by content, as :func:`serac_core.scope.training.train` is.

    Parameters
    ----------
    out:
        Folder: `training/` (the folds), `model/`, `calibration/` and `scope/`, which is as in a
        release.
    traffic:
        Queries that no edit is meant by; those that concern one by the rule of
        :class:`serac_core.scope.same_fact.Concerns` are left out. A function of the text says
        which train and which calibrate.
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
    sets = {Path(file).stem: read_active_edits([file]) for file in edit_sets}
    facts = SameFact(edit for edits in sets.values() for edit in edits)
    folds: dict[str, list[Edit]] = {"train": [], "val": [], "calibrate": []}
    for name, edits in sets.items():
        for edit in edits:
            fold = fold_of(edit.subject or edit.prompt)
            folds[_FOLD_HERE.get(fold, fold)].append(_classed(edit, facts, name))
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
        params.scope,
        start=params.models.scope_start,
        seed=params.seed,
        cache_dir=cache_dir,
    )
    export_encoder(out / "model", training, out / "scope", params.export)
    calibrate(
        out / "scope",
        training,
        out / "calibration",
        params.calibration.target_false_route,
        max_probes_routed=params.calibration.max_probes_routed,
        verifier_band=params.calibration.verifier_band,
        edits_in_memory=params.calibration.edits_in_memory,
        abstention=Abstention(params.calibration.abstain_margin, params.calibration.abstain),
        provider=params.export.provider,
    )
    shutil.copyfile(out / "calibration" / "calibration.json", out / "scope" / "calibration.json")
    return out


def _classed(edit: Edit, facts: SameFact, name: str) -> Edit:
    """With what training groups edits by: `relation`, its own or its class of wordings; that class;
    `set` and `subject_type`, its file: wordings of two files may ask the same without a word in
    common."""
    extra = edit.model_extra or {}
    found = {"set": name, "subject_type": extra.get("subject_type", name)}
    wording = facts.wording(edit)
    if wording is not None:
        found["wording_class"] = wording
        found["relation"] = relation_of(edit) or f"says {wording}"
    return edit.model_copy(update=found)
