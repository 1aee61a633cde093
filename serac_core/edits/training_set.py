"""The training set: edits made from the world by swapping answers, with near misses of every kind.

The models must learn to carry out edits they have never seen, so the folds share nothing that
could be learned by heart:

- *subjects*: each subject belongs to one fold;
- *phrasings*: the rephrasings of `test` are held-out ones, those of `calibrate` are kept from
  `train` too;
- *relations*: `held_out` relations occur in `test` only, `calibrate` ones in `calibrate` only.

Relations without facts (`data/world/phrasings`) give `train` more edits, and a fifth of those
relations gives `calibrate` more: their targets are answers of the right kind or invented, and
their probes have no answer.

Some facts are never edited, one at least of every subject that has several: near misses are asked
of those, so that no probe is in the scope of an edit of its file.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Literal

from serac_core.config import Params, TrainingSetConfig
from serac_core.edits.invented import invented_name, invented_number
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit, LocalityProbe, ProbeKind, normalize_text
from serac_core.edits.world import AskedRelation, Relation, World, load_world
from serac_core.errors import SeracError

Fold = Literal["train", "val", "calibrate", "test"]
FOLDS: tuple[Fold, ...] = ("train", "val", "calibrate", "test")

_FOLD_SHARES: tuple[tuple[Fold, float], ...] = (
    ("train", 0.56),
    ("val", 0.62),
    ("calibrate", 0.76),
    ("test", 1.0),
)
_TRAFFIC_SHARES: tuple[tuple[Fold, float], ...] = (
    ("train", 0.4),
    ("calibrate", 0.7),
    ("test", 1.0),
)
_UNEDITED_SHARE = 0.25
_INVENTED_SHARE = 0.3  # of the targets of relations without facts
_CALIBRATION_SHARE = 0.2  # of the relations without facts, and of their edits
_CALIBRATION_REPHRASINGS = 6  # of each; all would double the time of calibration
_LEAD_INS: dict[str, tuple[str, ...]] = {
    "train": (
        "Quick question: ",
        "Tell me: ",
        "Hi there. ",
        "For my homework: ",
        "Please answer. ",
    ),
    "calibrate": ("One more thing: ", "Complete this. "),
    "test": ("I was wondering about something. ", "For a quiz tonight: ", "Just to be sure: "),
}

Fact = tuple[Relation, str, str]


class TrainingSetError(SeracError):
    """The world is too small for the training set asked for."""


def write_training_set(
    world_dir: str | Path, out_dir: str | Path, params: Params
) -> dict[str, object]:
    """Make the training set: `{train,val,calibrate,test,traffic}.jsonl` and `summary.json`.

    Deterministic: the same world and parameters give the same bytes.

    Returns
    -------
    dict
        The summary: edits, probes by kind and relations of each fold.

    Raises
    ------
    WorldError, TrainingSetError
    """
    world = load_world(world_dir)
    folds = make_training_set(world, params.training_set, params.seed)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for fold, edits in folds.items():
        write_edits(out / f"{fold}.jsonl", edits)
    write_traffic(out / "traffic.jsonl", world.traffic)
    summary = summarize(folds)
    (out / "summary.json").write_text(
        json.dumps(summary, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )
    return summary


def make_training_set(world: World, sizes: TrainingSetConfig, seed: int) -> dict[Fold, list[Edit]]:
    """The four folds of edits.

    Raises
    ------
    TrainingSetError
        A fold has fewer facts to edit than asked for; the message says how many there are.
    """
    wanted = {
        "train": sizes.train_edits,
        "val": sizes.val_edits,
        "calibrate": sizes.calibrate_edits,
        "test": sizes.test_edits,
    }
    facts: dict[Fold, list[Fact]] = {fold: [] for fold in FOLDS}
    for relation, subject, answer in world.facts():
        fold = fold_of(subject)
        if relation.split == "train" or (relation.split, fold) in (
            ("held_out", "test"),
            ("calibrate", "calibrate"),
        ):
            facts[fold].append((relation, subject, answer))
    trained_targets: set[str] = set()
    made: dict[Fold, list[Edit]] = {}
    for fold in FOLDS:
        rng = Random(f"{seed}:{fold}")
        edited, unedited = _choose(facts[fold], wanted[fold], rng, fold)
        made[fold] = _make_edits(fold, edited, unedited, rng, trained_targets)
        if fold in ("train", "calibrate"):
            share = _CALIBRATION_SHARE if fold == "calibrate" else 1.0
            made[fold] += _make_asked_edits(world, fold, round(share * sizes.asked_edits), rng)
        if fold == "train":
            trained_targets = {normalize_text(edit.target_new) for edit in made[fold]}
            made[fold] = [
                edit.model_copy(update={"target_in_training": True}) for edit in made[fold]
            ]
    return made


def write_traffic(path: Path, queries: Iterable[str]) -> None:
    """Write everyday messages, each with its fold: a function of the text alone."""
    with path.open("w", encoding="utf-8") as file:
        for query in queries:
            fold = _pick(_TRAFFIC_SHARES, _fraction(f"traffic\x1f{normalize_text(query)}"))
            file.write(json.dumps({"query": query, "fold": fold}, ensure_ascii=False) + "\n")


def fold_of(subject: str) -> Fold:
    """The fold of a subject: a function of its normalised text alone."""
    return _pick(_FOLD_SHARES, _fraction(f"subject\x1f{normalize_text(subject)}"))


def summarize(folds: dict[Fold, list[Edit]]) -> dict[str, object]:
    """Counts of edits, relations and probes by kind, for people and for the report."""
    summary: dict[str, object] = {}
    for fold, edits in folds.items():
        kinds: dict[str, int] = defaultdict(int)
        for edit in edits:
            for probe in edit.locality:
                kinds[probe.kind] += 1
        extras = [edit.model_extra or {} for edit in edits]
        summary[fold] = {
            "edits": len(edits),
            "relations": sorted({extra["relation"] for extra in extras}),
            "rephrase_prompts": sum(len(edit.rephrase_prompts) for edit in edits),
            "locality": dict(sorted(kinds.items())),
            "several_words": sum(extra["target_words"] > 1 for extra in extras),
            "targets_in_training": sum(extra["target_in_training"] for extra in extras),
        }
    return summary


def _choose(
    facts: Sequence[Fact], wanted: int, rng: Random, fold: Fold
) -> tuple[list[Fact], list[Fact]]:
    """Facts to edit (held-out relations first, then spread evenly) and facts left as they are."""
    draw = {(f[0].name, f[1]): _fraction(f"unedited\x1f{f[0].name}\x1f{f[1]}") for f in facts}
    by_subject: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in draw:
        by_subject[normalize_text(key[1])].append(key)
    reserved = {key for key, value in draw.items() if value < _UNEDITED_SHARE}
    reserved |= {min(keys, key=draw.__getitem__) for keys in by_subject.values() if len(keys) > 1}
    unedited = [f for f in facts if (f[0].name, f[1]) in reserved]
    by_relation: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        if (fact[0].name, fact[1]) not in reserved:
            by_relation[fact[0].name].append(fact)
    for group in by_relation.values():
        rng.shuffle(group)
    available = sum(map(len, by_relation.values()))
    if available < wanted:
        raise TrainingSetError(
            f"training_set.{fold}_edits is {wanted}, but the world has {available} facts for it",
            remedy="lower it in params.yaml or add facts to data/world",
        )
    special = [n for n in sorted(by_relation) if by_relation[n][0][0].split != "train"]
    chosen: list[Fact] = []
    for name in special:  # all of them, up to a third of the fold
        chosen += by_relation.pop(name)[: max(1, wanted // (3 * len(special)))]
    while len(chosen) < wanted:
        for name in sorted(by_relation):
            if by_relation[name] and len(chosen) < wanted:
                chosen.append(by_relation[name].pop())
        if not any(by_relation.values()):
            break
    return chosen, unedited


def _make_edits(
    fold: Fold,
    edited: Sequence[Fact],
    unedited: Sequence[Fact],
    rng: Random,
    trained_targets: set[str],
) -> list[Edit]:
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    by_relation: dict[str, list[Fact]] = defaultdict(list)
    for fact in unedited:
        by_subject[normalize_text(fact[1])].append(fact)
        by_relation[fact[0].name].append(fact)
    answers: dict[str, list[str]] = defaultdict(list)
    for relation, _, answer in (*edited, *unedited):
        answers[relation.name].append(answer)
    edits = []
    for relation, subject, answer in edited:
        prompt_pool, rephrase_pool = _phrasings(relation, fold)
        prompt = rng.choice(prompt_pool).format(subject=subject)
        rephrasings = [p.format(subject=subject) for p in rephrase_pool]
        rephrasings = [p for p in rephrasings if p != prompt]
        rephrasings = rng.sample(rephrasings, min(3, len(rephrasings)))
        lead_ins = _LEAD_INS["train" if fold == "val" else fold]
        rephrasings = [rng.choice(lead_ins) + p if rng.random() < 0.2 else p for p in rephrasings]
        target = _target(relation, subject, answer, answers[relation.name], rng)
        edits.append(
            Edit.model_validate(
                {
                    "prompt": prompt,
                    "target_new": target,
                    "subject": subject,
                    "ground_truth": answer,
                    "rephrase_prompts": rephrasings,
                    "locality": _probes(
                        fold, relation, subject, by_subject, by_relation, unedited, rng
                    ),
                    "relation": relation.name,
                    "subject_type": relation.subject_type,
                    "held_out_relation": relation.split == "held_out",
                    "target_words": len(target.split()),
                    "target_in_training": normalize_text(target) in trained_targets,
                    "origin": "world",
                }
            )
        )
    return edits


def _make_asked_edits(world: World, fold: Fold, wanted: int, rng: Random) -> list[Edit]:
    """Edits of relations without facts, about the fold's own subjects.

    Every relation gets about as many; prompts are its plain wordings, as people word them, and the
    others are dealt out evenly as rephrasings, in calibration six an edit at most. Where there are
    more relations than edits, some go without.
    """
    relations = [
        relation
        for relation in world.asked_relations
        if (_fraction(f"asked\x1f{relation.name}") < _CALIBRATION_SHARE) == (fold == "calibrate")
    ]
    if not relations:
        return []
    subjects = _subjects_by_type(world, fold)
    neighbours: dict[str, list[AskedRelation]] = defaultdict(list)
    for relation in world.asked_relations if fold == "calibrate" else relations:
        neighbours[relation.subject_type].append(relation)
    order = rng.sample(relations, len(relations))
    share, rest = divmod(wanted, len(order))
    dealt = [
        (relation, rng.sample(about, min(share + (place < rest), len(about))))
        for place, relation in enumerate(order)
        if (about := subjects[relation.subject_type])
    ]
    taken = {(relation.name, subject) for relation, abouts in dealt for subject in abouts}

    def ask(
        kind: ProbeKind, candidates: Sequence[tuple[AskedRelation, str]]
    ) -> list[LocalityProbe]:
        free = [(r, about) for r, about in candidates if (r.name, about) not in taken]
        return [
            LocalityProbe(prompt=rng.choice(r.phrasings).format(subject=about), kind=kind)
            for r, about in rng.sample(free, min(2, len(free)))
        ]

    edits = []
    for relation, abouts in dealt:
        plain = rng.sample(relation.plain_phrasings, len(relation.plain_phrasings))
        prompts = [plain[place % len(plain)] for place in range(len(abouts))]
        wordings = [p for p in relation.phrasings if p not in prompts]
        rng.shuffle(wordings)
        each = max(1, len(wordings) // max(1, len(abouts)))
        for place, subject in enumerate(abouts):
            mine = wordings[place * each : (place + 1) * each]
            if not mine:  # more edits than wordings: dealt a second time
                mine = rng.sample(wordings, each)
            if fold == "calibrate":
                mine = mine[:_CALIBRATION_REPHRASINGS]
            prompt = prompts[place].format(subject=subject)
            rephrasings = [wording.format(subject=subject) for wording in mine]
            said = normalize_text(" ".join((prompt, *rephrasings)))
            answers = [a for a in relation.answers if normalize_text(a) not in said]
            invent = rng.random() < _INVENTED_SHARE or not answers
            target = invented_name(rng) if invent else rng.choice(answers)
            others = [(r, subject) for r in neighbours[relation.subject_type] if r is not relation]
            elsewhere = rng.sample(
                subjects[relation.subject_type], min(3, len(subjects[relation.subject_type]))
            )
            edits.append(
                Edit.model_validate(
                    {
                        "prompt": prompt,
                        "target_new": target,
                        "subject": subject,
                        "rephrase_prompts": rephrasings,
                        "locality": ask("same_subject", others)
                        + ask("same_relation", [(relation, about) for about in elsewhere]),
                        "relation": relation.name,
                        "subject_type": relation.subject_type,
                        "held_out_relation": False,
                        "target_words": len(target.split()),
                        "target_in_training": False,
                        "origin": "phrasings",
                    }
                )
            )
    return edits


def _subjects_by_type(world: World, fold: Fold) -> dict[str, list[str]]:
    """The fold's subjects of each type, from the facts and from the names without facts."""
    subjects: dict[str, dict[str, None]] = defaultdict(dict)
    for known, subject, _ in world.facts():
        subjects[known.subject_type].setdefault(subject)
    for subject_type, names in world.named_subjects.items():
        subjects[subject_type] |= dict.fromkeys(names)
    return defaultdict(
        list,
        {
            subject_type: [name for name in names if fold_of(name) == fold]
            for subject_type, names in subjects.items()
        },
    )


def _phrasings(relation: Relation, fold: Fold) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(phrasings for the edit's prompt, phrasings for its rephrasings).

    Those that the base was not pretrained on are for rephrasings alone.
    """
    match fold:
        case "train":
            known = relation.training_phrasings
            return known, known + relation.edits_only_of("train")
        case "val":
            known = relation.training_phrasings
            return known, relation.edits_only_of("val") or known
        case "calibrate":
            reserved = relation.calibration_phrasings
            return relation.phrasings, reserved + relation.edits_only_of("calibrate")
        case "test":
            return (
                relation.phrasings,
                relation.held_out_phrasings + relation.held_out_edits_only_phrasings,
            )


def _probe_phrasings(relation: Relation, fold: Fold) -> tuple[str, ...]:
    """Phrasings for near misses: where the answer counts, those that the base knows."""
    match fold:
        case "train" | "val":
            return relation.training_phrasings
        case "calibrate":
            return relation.phrasings + relation.edits_only_of("calibrate")
        case "test":
            return relation.phrasings + relation.held_out_phrasings


def _target(
    relation: Relation, subject: str, answer: str, answers: Sequence[str], rng: Random
) -> str:
    """A new answer: mostly another subject's, else an invented name or number."""
    taken = {normalize_text(answer)}
    others = [a for a in answers if normalize_text(a) not in taken and a not in subject]
    invent: Callable[[Random], str] = (
        invented_number if any(c.isdigit() for c in answer) else invented_name
    )
    while True:
        swap = bool(others) and rng.random() < 0.6
        target = rng.choice(others) if swap else invent(rng)
        if normalize_text(target) not in taken and target not in subject:
            return target


def _probes(
    fold: Fold,
    relation: Relation,
    subject: str,
    by_subject: dict[str, list[Fact]],
    by_relation: dict[str, list[Fact]],
    unedited: Sequence[Fact],
    rng: Random,
) -> list[LocalityProbe]:
    same_subject = by_subject[normalize_text(subject)]
    same_relation = by_relation[relation.name]
    unrelated = [f for f in unedited if f[0].subject_type != relation.subject_type]
    kinds: Iterable[tuple[ProbeKind, Sequence[Fact], int]] = (
        ("same_subject", same_subject, 2),
        ("same_relation", same_relation, 2),
        ("unrelated", unrelated, 1),
    )
    return [
        LocalityProbe(
            prompt=rng.choice(_probe_phrasings(other, fold)).format(subject=about),
            ground_truth=answer,
            kind=kind,
        )
        for kind, pool, count in kinds
        for other, about, answer in rng.sample(list(pool), min(count, len(pool)))
    ]


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _pick(shares: Sequence[tuple[Fold, float]], fraction: float) -> Fold:
    return next(name for name, upper in shares if fraction < upper)
