"""What the verifier trains on, step by step; a function of data, seed and step alone.

Pairs are of an edit's wording and a query, both with the subject masked, and whether the query asks
what the edit says. In scope: the edit's rephrasings and other wordings of its relation, now and
then behind lead-in text or before a closing remark. Out of scope: rephrasings of other relations,
mostly those that the encoder takes for near; the edit's own same-subject and distracting probes;
and what names alone bring together: the edit's statement before another question, a longer name
that holds the subject's ("X Department of Music"), a word of another text that happens to be the
subject's name, another edit's target.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from serac_core.edits.record import Edit
from serac_core.scope.cohort import relation_of
from serac_core.scope.longer_names import longer_name
from serac_core.scope.subject import MASK, said_of

if TYPE_CHECKING:
    from serac_core.scope.encoder import Encode

_SAMPLED = 48  # wordings of other relations among which near ones are looked for
_NEAREST = 4  # of them, one of which is taken
_NEAR_SHARE = 0.65
_OWN_PROBE_SHARE = 0.8
_TWO_REPHRASINGS = 0.25
_OF_RELATION = 0.35
_CLOSINGS = (
    "Answer briefly.",
    "Please answer in one word.",
    "I need it for a quiz.",
    "Thanks!",
    "Explain your answer.",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """An edit's wording and a query, masked, and whether the query is in the edit's scope."""

    key: str
    query: str
    applies: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    subject: str
    target: str
    key: str
    rephrasings: tuple[str, ...]
    probes: tuple[str, ...]
    relation: str
    wording_class: str
    group: str
    shares_wordings: bool

    @property
    def ways(self) -> tuple[str, ...]:
        return (self.key, *self.rephrasings)


class PairMaker:
    """Composes the pairs of a step.

    Edits of one `relation` or one `wording_class` (extra fields) are never taken for out of scope
    of each other, nor those of two types of subject (`subject_type`). Where an edit
    `shares_wordings`, so are those of its relation in its scope. Sets of edits (`set`) are drawn as
    often as the fourth root of their size.

    Parameters
    ----------
    encode:
        Texts to unit vectors; tells which wordings are near.
    pairs:
        Least pairs of a step.
    """

    def __init__(
        self, edits: Sequence[Edit], traffic: Sequence[str], encode: Encode, pairs: int, seed: int
    ) -> None:
        self._pairs = pairs
        self._seed = seed
        self._traffic = list(traffic)
        self._sets: dict[str, list[_Asked]] = defaultdict(list)
        self._group: dict[str, dict[str, _Asked]] = defaultdict(dict)
        shared: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        for edit in edits:
            asked = _asked(edit)
            if asked is not None:
                self._sets[str((edit.model_extra or {}).get("set", ""))].append(asked)
                for text in asked.ways:
                    self._group[asked.group].setdefault(text, asked)
                if asked.shares_wordings:
                    shared[asked.group, asked.relation].update(dict.fromkeys(asked.ways))
        self._all = [asked for found in self._sets.values() for asked in found]
        self._names = sorted({word for asked in self._all for word in asked.subject.split()})
        self._of_relation = {of: sorted(texts) for of, texts in shared.items()}
        self._wordings = {group: sorted(texts) for group, texts in self._group.items()}
        texts = sorted({text for texts in self._wordings.values() for text in texts})
        self._vectors = dict(zip(texts, encode(texts), strict=True)) if texts else {}
        self._drawn_from = list(self._sets)
        self._weights = [len(self._sets[name]) ** 0.25 for name in self._drawn_from]

    def __len__(self) -> int:
        """Edits that pairs are made of."""
        return len(self._all)

    def step(self, step: int) -> list[Pair]:
        """The pairs of a step (from 0)."""
        rng = Random(f"{self._seed}:{step}")
        pairs: list[Pair] = []
        while len(pairs) < self._pairs:
            (name,) = rng.choices(self._drawn_from, self._weights)
            pairs += self._about(rng, rng.choice(self._sets[name]))
        return pairs

    def _about(self, rng: Random, asked: _Asked) -> list[Pair]:
        key = asked.key
        pairs = []
        if asked.rephrasings:
            query = rng.choice(asked.rephrasings)
            closing = f" {rng.choice(_CLOSINGS)}" if rng.random() < 0.05 else ""
            pairs.append(Pair(key, query + closing, True))
            if len(asked.rephrasings) > 1 and rng.random() < _TWO_REPHRASINGS:
                one, other = rng.sample(asked.rephrasings, 2)
                pairs.append(Pair(one, other, True))
        shared = self._of_relation.get((asked.group, asked.relation))
        if shared and rng.random() < _OF_RELATION:
            pairs.append(Pair(key, rng.choice(shared), True))
        near = self._other_relation(rng, asked)
        if near is not None:
            pairs.append(Pair(key, near, False))
        if asked.probes and rng.random() < _OWN_PROBE_SHARE:
            pairs.append(Pair(key, rng.choice(asked.probes), False))
        return pairs + self._by_name_alone(rng, asked)

    def _other_relation(self, rng: Random, asked: _Asked) -> str | None:
        wordings = self._wordings[asked.group]
        others = [
            text
            for text in rng.sample(wordings, min(_SAMPLED, len(wordings)))
            for owner in [self._group[asked.group][text]]
            if owner.relation != asked.relation and owner.wording_class != asked.wording_class
        ]
        if not others:
            return None
        if rng.random() >= _NEAR_SHARE:
            return rng.choice(others)
        own_D = self._vectors[asked.key]
        others.sort(key=lambda text: float(self._vectors[text] @ own_D), reverse=True)
        return rng.choice(others[:_NEAREST])

    def _by_name_alone(self, rng: Random, asked: _Asked) -> list[Pair]:
        """What stands out of scope though the subject is named, or in scope behind other text."""
        key, other = asked.key, rng.choice(self._all)
        kind = rng.random()
        if kind < 0.16:
            after = self._anything(rng) if kind < 0.06 else _named(rng.choice(other.ways), other)
            return [Pair(key, f"{key} {asked.target}. {after}", False)]
        if kind < 0.22:
            one, two = rng.choice(self._names), rng.choice(self._names)
            longer = longer_name(MASK, one, two, rng)
            return [Pair(key, rng.choice(asked.ways).replace(MASK, longer, 1), False)]
        if kind < 0.30:
            words = rng.choice(
                self._traffic if self._traffic and kind < 0.26 else other.ways
            ).split()
            places = [place for place, word in enumerate(words) if MASK not in word]
            if not places:
                return []
            words[rng.choice(places)] = "\0"
            return [Pair(key, _named(" ".join(words), other).replace("\0", MASK), False)]
        if kind < 0.36:
            text = f"{_named(other.key, other)} {MASK}."
            if kind < 0.33:
                further = rng.choice(self._all)
                text += f" {_named(further.key, further)}"
            return [Pair(key, text, False)]
        if kind < 0.42 and asked.rephrasings:
            lead_in = self._anything(rng)
            if kind < 0.40:
                lead_in = lead_in.rstrip(".?!")
            return [Pair(key, f"{lead_in} {rng.choice(asked.rephrasings)}", True)]
        return []

    def _anything(self, rng: Random) -> str:
        if self._traffic and rng.random() < 0.7:
            return rng.choice(self._traffic)
        asked = rng.choice(self._all)
        return _named(rng.choice(asked.ways), asked)


def _asked(edit: Edit) -> _Asked | None:
    key = said_of(edit.prompt, edit.subject)
    if key is None or edit.subject is None:
        return None
    extra = edit.model_extra or {}
    said = (said_of(text, edit.subject) for text in edit.rephrase_prompts)
    probes = (
        said_of(probe.prompt, edit.subject)
        for probe in edit.locality
        if probe.kind in ("same_subject", "distracting")
    )
    relation = relation_of(edit) or key
    return _Asked(
        edit.subject,
        edit.target_new,
        key,
        tuple(dict.fromkeys(text for text in said if text)),
        tuple(dict.fromkeys(text for text in probes if text)),
        relation,
        str(extra.get("wording_class", relation)),
        f"{extra.get('set', '')}\x1f{extra.get('subject_type', '')}",
        bool(extra.get("shares_wordings", False)),
    )


def _named(text: str, asked: _Asked) -> str:
    return text.replace(MASK, asked.subject)
