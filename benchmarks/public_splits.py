"""Splits public editing benchmarks into what a classifier trains on and what it is scored on.

    python benchmarks/public_splits.py SOURCES OUT

SOURCES holds the files that `split` names. An edit's fold is a function of its normalised
subject alone (`serac_core.edits.training_set.fold_of`), over all sets together: fold `test` and
CounterFact's own validation edits are scored, no edit of those subjects is trained on, and fold
`calibrate` of the rest calibrates. OUT then holds

- `train/*.jsonl`: what `serac benchmark quality --train` takes, and `train/traffic.jsonl`;
- `score/*.jsonl`: edits whose queries are scored (`*-leadin`, `*-yesno`: the same edits asked in
  another way), `score/traffic-*.jsonl` and, of CREAK, the claims that a rule sets aside;
- `beside/*.jsonl`: edits that were trained on and only fill the memory;
- `splits.json`: how many of each.

Every filter is a rule on strings.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from serac_core.edits.importers import import_edits
from serac_core.edits.importers.source_file import read_source
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit, LocalityProbe, content_id, normalize_text
from serac_core.edits.training_set import fold_of
from serac_core.edits.yes_no import asked_yes_no
from serac_core.scope.same_fact import Concerns

_SEED = 17
_FACTS_EACH = 40  # of a relation of ParaRel and EntityQuestions
_ONE_TEMPLATE = {"P276": "P131"}  # EntityQuestions asks both in the same words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", type=Path, help="folder of the public files")
    parser.add_argument("out", type=Path, help="folder to write to")
    args = parser.parse_args()
    split(args.sources, args.out)


def split(sources: Path, out: Path) -> None:
    """Write `train`, `score`, `beside` and `splits.json` to `out`."""
    rng = Random(_SEED)
    counterfact = import_edits(sources / "counterfact-train.json.gz", "counterfact")
    validation = import_edits(sources / "counterfact-val.json.gz", "counterfact")
    kept_apart = {normalize_text(edit.subject or "") for edit in validation}

    def is_scored(edit: Edit) -> bool:
        name = normalize_text(edit.subject or edit.prompt)
        return name in kept_apart or fold_of(name) == "test"

    sets = {
        "counterfact": [*validation, *counterfact],
        "halluedit": import_edits(sources / "halluedit.jsonl.gz", "halluedit"),
        "zsre": [
            edit
            for edit in import_edits(sources / "zsre-mend-1k.json.gz", "zsre")
            if edit.target_new
        ],
        "pokemqa": import_edits(sources / "pokemqa-scope.json.gz", "pokemqa"),
    }
    sets = {name: list({edit.id: edit for edit in edits}.values()) for name, edits in sets.items()}
    trained = {name: [e for e in edits if not is_scored(e)] for name, edits in sets.items()}
    scored = {name: [e for e in edits if is_scored(e)] for name, edits in sets.items()}
    trained["patterns"] = [e for e in _patterns(sources, rng) if not is_scored(e)]

    claims = [row["sentence"] for row in read_source(sources / "creak-train.jsonl.gz")]
    questions = [row["question"] for row in read_source(sources / "nq-open-dev.jsonl.gz")]
    traffic: dict[str, dict[str, list[str]]] = {"train": {}, "score": {}}
    for name, texts in (("nq", questions), ("creak", claims)):
        for text in dict.fromkeys(texts):
            side = "score" if fold_of(text) == "test" else "train"
            traffic[side].setdefault(name, []).append(text)

    lead_ins = traffic["score"]["creak"]
    claimed = _claims_about(trained["counterfact"], traffic["train"]["creak"])
    files: dict[str, list[Any]] = {}
    for name, edits in trained.items():
        files[f"beside/{name}.jsonl"] = edits
        files[f"train/{name}.jsonl"] = [
            _asked_every_way(edit, claimed.get(edit.id, ())) for edit in edits
        ]
    del files["beside/patterns.jsonl"]
    for name, edits in scored.items():
        files[f"score/{name}.jsonl"] = [_with_distraction(edit) for edit in edits]
    files["score/counterfact-leadin.jsonl"] = [
        edit.model_copy(
            update={
                "rephrase_prompts": tuple(
                    f"{rng.choice(lead_ins)} {text}" for text in edit.rephrase_prompts
                ),
                "locality": (),
            }
        )
        for edit in scored["counterfact"]
    ]
    files["score/halluedit-yesno.jsonl"] = [
        edit.model_copy(update={"rephrase_prompts": _yes_no(edit), "locality": ()})
        for edit in scored["halluedit"]
    ]
    for name, rows in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_edits(out / name, rows)
    stored = [*scored["counterfact"], *trained["counterfact"]]
    kept, aside = set_aside(stored, traffic["score"]["creak"])
    _write_lines(out / "score/traffic-nq.jsonl", traffic["score"]["nq"])
    _write_lines(out / "score/traffic-creak.jsonl", kept)
    _write_lines(out / "score/creak-set-aside.jsonl", aside)
    _write_lines(out / "train/traffic.jsonl", [*traffic["train"]["nq"], *traffic["train"]["creak"]])
    counts = {name: len(rows) for name, rows in files.items()}
    counts["score/traffic-nq.jsonl"] = len(traffic["score"]["nq"])
    counts["score/traffic-creak.jsonl"] = len(kept)
    counts["score/creak-set-aside.jsonl"] = len(aside)
    text = json.dumps(counts, indent=1, sort_keys=True) + "\n"
    (out / "splits.json").write_text(text, encoding="utf-8")
    print(text, end="")


def set_aside(
    stored: Sequence[Edit], claims: Iterable[str]
) -> tuple[list[str], list[dict[str, str]]]:
    """The claims that are traffic, and those that concern a stored edit
    (:class:`serac_core.scope.same_fact.Concerns`), each with the reason."""
    concerns = Concerns(stored)
    kept, aside = [], []
    for claim in claims:
        found = concerns.reason(claim)
        if found is None:
            kept.append(claim)
        else:
            edit, word = found
            aside.append({"query": claim, "edit_id": edit.id, "edit": edit.prompt, "because": word})
    return kept, aside


def _claims_about(edits: Sequence[Edit], claims: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Claims that name an edit's subject and don't concern it, by the edit's id."""
    concerns = Concerns(edits)
    found: dict[str, list[str]] = defaultdict(list)
    for claim in claims:
        if concerns.reason(claim) is None:
            for edit in concerns.named_by(claim):
                found[edit.id].append(claim)
    return {id_: tuple(texts[:3]) for id_, texts in found.items()}


def _asked_every_way(edit: Edit, claims: Sequence[str]) -> Edit:
    probes = [LocalityProbe(prompt=claim, kind="same_subject") for claim in claims]
    return edit.model_copy(
        update={
            "rephrase_prompts": (*edit.rephrase_prompts, *_yes_no(edit)),
            "locality": (*_with_distraction(edit).locality, *probes),
        }
    )


def _yes_no(edit: Edit) -> tuple[str, ...]:
    return tuple(text for text, _ in asked_yes_no(edit))


def _with_distraction(edit: Edit) -> Edit:
    """With a probe that asks the first one after the edit's own statement."""
    if not edit.locality or edit.locality[0].kind != "same_relation":
        return edit
    asked = edit.locality[0].prompt
    probe = LocalityProbe(prompt=f"{edit.prompt} {edit.target_new}. {asked}", kind="distracting")
    return edit.model_copy(update={"locality": (*edit.locality, probe)})


def _patterns(sources: Path, rng: Random) -> list[Edit]:
    """ParaRel's and EntityQuestions' ways to put a relation, about some of their subjects."""
    wordings: dict[str, list[str]] = defaultdict(list)
    for row in read_source(sources / "pararel-patterns.jsonl"):
        cloze = re.sub(r"\s*\[Y\]\s*\.?$", "", row["pattern"])
        if "[Y]" not in cloze and "[X]" in cloze:
            wordings[row["relation"]].append(cloze)
    templates = json.loads((sources / "entityquestions-templates.json").read_text("utf-8"))
    for name, template in templates.items():
        relation = name.removesuffix("_similar")
        wordings[_ONE_TEMPLATE.get(relation, relation)].append(template)
    facts: dict[str, dict[str, str]] = defaultdict(dict)
    for row in read_source(sources / "pararel-facts.jsonl.gz"):
        facts[row["relation"]][row["subject"]] = row["object"]
    for row in read_source(sources / "entityquestions.jsonl.gz"):
        about = re.fullmatch(
            re.escape(templates[row["relation"]]).replace(r"\[X\]", "(.+)"), row["question"]
        )
        if about and row["answers"]:
            relation = _ONE_TEMPLATE.get(row["relation"], row["relation"])
            facts[relation][about[1]] = row["answers"][0]
    edits = []
    for relation in sorted(wordings):
        ways = list(dict.fromkeys(wordings[relation]))
        of_relation = sorted(facts[relation].items())
        for subject, target in rng.sample(of_relation, min(_FACTS_EACH, len(of_relation))):
            asked = [way.replace("[X]", subject) for way in rng.sample(ways, len(ways))]
            prompt, rest = asked[0], asked[1:5]
            edits.append(
                Edit.model_validate(
                    {
                        "id": content_id(prompt, target, subject),
                        "prompt": prompt,
                        "subject": subject,
                        "target_new": target,
                        "rephrase_prompts": rest,
                        "relation": relation,
                    }
                )
            )
    return list({edit.id: edit for edit in edits}.values())


def _write_lines(path: Path, rows: Iterable[Any]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
