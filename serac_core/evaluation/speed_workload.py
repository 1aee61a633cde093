"""What a speed benchmark stores and asks: any number of edits and queries, made of real ones.

Where more edits are asked for than are given, the others say what given ones say about names that
are made of theirs: "Skype Leeds", "Skype Leeds 2". Every tenth of them gets words of its own,
"As of 3 May 1807, which company owned Skype Leeds?", and so a key of its own; the others share the
keys of the given ones, as edits of one relation do. Nothing is random but which edits are asked
about; the same arguments give the same edits and queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Literal, overload

from serac_core.edits.record import Edit
from serac_core.errors import SeracError
from serac_core.scope.subject import SubjectIndex, mentions_by_subject, subject_key

Part = Literal["far", "near", "in_scope"]
SHARES: dict[Part, float] = {"far": 0.90, "near": 0.05, "in_scope": 0.05}
"""Share of each part of the queries: of far ones, that name no stored subject; near misses, that
name one and ask something else; and rephrasings of stored edits."""
LEAST_QUERIES = 20
"""Queries that have one at least of each part."""
OWN_WORDING_EVERY = 10

_PLACES = (
    "Leeds",
    "Porto",
    "Aalborg",
    "Tampa",
    "Cusco",
    "Graz",
    "Nagoya",
    "Dakar",
    "Split",
    "Perth",
    "Lviv",
    "Puebla",
    "Izmir",
    "Mumbai",
    "Quito",
    "Bergamo",
)
_MONTHS = "January February March April May June July August September October November December"
_FIRST_DAY, _DAYS = date(1800, 1, 1), 2_900_000
_HOLE = "\0"
_NEAR = "What do people usually like best about {}?"
_FAR = (
    "hello",
    "thanks, that helps",
    "What is 17 times 23?",
    "Summarize this paragraph in two sentences.",
    "How do I get red wine out of a carpet?",
    "Write a short poem about rain in autumn.",
    "Can you explain recursion with a simple example?",
    "My code prints nothing although the loop runs; where should I look first?",
    "Translate 'good morning, did you sleep well' into Spanish.",
    "What should I cook tonight with rice, two eggs and some spinach? I have half an hour.",
    "I'm nervous about a job interview tomorrow and can't sleep. What would help me calm down?",
    "Give me five titles for a talk about saving water at home, none longer than eight words.",
)


class NotEnoughToAsk(SeracError):
    """The edits or queries that were given are none to make a workload of."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a workload and which part of the mix it is of."""

    part: Part
    text: str


class Workload:
    """Edits and queries of any number, made of given ones.

    Parameters
    ----------
    given:
        Live edits; those that name their subject in their prompt are what others are made of.
    far:
        Queries to take the far ones from; those that name a given subject are left out. Without
        them: the given edits' probes that name none, and everyday messages.
    seed:
        Of the order in which edits are stored, and of which are asked about.

    Raises
    ------
    NotEnoughToAsk
        No edit names its subject in its prompt, or every far query names one.
    """

    def __init__(self, given: Sequence[Edit], far: Iterable[str] = (), seed: int = 17) -> None:
        self.given = Random(seed).sample(given, len(given))
        self._seed = seed
        self._named = [e for e in self.given if renamed(e.prompt, e.subject, "") is not None]
        if not self._named:
            raise NotEnoughToAsk(
                f"none of the {len(given)} edits names its subject in its prompt",
                remedy="name other --edits",
            )
        self._template = {e.id: renamed(e.prompt, e.subject, _HOLE) or "" for e in self._named}
        subjects = SubjectIndex({subject_key(edit.subject) for edit in given})
        probes = [probe.prompt for edit in self.given for probe in edit.locality]
        self.far = tuple(
            text
            for text in dict.fromkeys(far or [*_FAR, *probes])
            if text.strip() and not subjects.find(text)
        )
        if not self.far:
            raise NotEnoughToAsk(
                "each of the queries is empty or names the subject of an edit",
                remedy="name other --queries: nine in ten of what is asked are to name none",
            )

    def edits(self, size: int) -> Sequence[Edit]:
        """The first so many edits, each made when it is looked at."""
        return _Edits(self, size)

    def edit(self, place: int) -> Edit:
        """The edit at a place: a given one, or one that is made."""
        if place < len(self.given):
            return self.given[place]
        base, name, wording = self._made(place)
        prompt = wording + self._template[base.id].replace(_HOLE, name)
        return Edit(
            id=f"made-{place}", prompt=prompt, subject=name, target_new=f"{base.target_new} {place}"
        )

    def queries(self, size: int, count: int) -> list[Query]:
        """Queries for a memory of the first `size` edits, shuffled, in the shares of the mix.

        Raises
        ------
        NotEnoughToAsk
            Fewer than 20 are asked for, or none of these edits names its subject.
        """
        if count < LEAST_QUERIES:
            raise NotEnoughToAsk(
                f"{count} queries have no near miss or none in scope",
                remedy=f"ask {LEAST_QUERIES} at least",
            )
        rng = Random(f"{self._seed} {size}")
        named = [n for n, edit in enumerate(self.given[:size]) if edit.id in self._template]
        made = max(0, size - len(self.given))
        if not named:
            raise NotEnoughToAsk(
                f"none of the first {size} edits names its subject in its prompt",
                remedy="name greater --sizes",
            )

        def stored() -> int:
            drawn = rng.randrange(len(named) + made)
            return named[drawn] if drawn < len(named) else len(self.given) + drawn - len(named)

        near, in_scope = (round(count * SHARES[part]) for part in ("near", "in_scope"))
        asked = [
            *(Query("far", rng.choice(self.far)) for _ in range(count - near - in_scope)),
            *(Query("near", self._near(stored(), rng)) for _ in range(near)),
            *(Query("in_scope", self._in_scope(stored(), rng)) for _ in range(in_scope)),
        ]
        rng.shuffle(asked)
        return asked

    def _made(self, place: int) -> tuple[Edit, str, str]:
        """What a made edit says of whom in which words: base, name and words before."""
        number = place - len(self.given)
        base = self._named[number % len(self._named)]
        again, at = divmod(number // len(self._named), len(_PLACES))
        name = f"{base.subject} {_PLACES[at]}" + (f" {again + 1}" if again else "")
        if number % OWN_WORDING_EVERY:
            return base, name, ""
        day = _FIRST_DAY + timedelta(days=number // OWN_WORDING_EVERY % _DAYS)
        return base, name, f"As of {day.day} {_MONTHS.split()[day.month - 1]} {day.year}, "

    def _of(self, place: int) -> tuple[Edit, str, str]:
        if place < len(self.given):
            return self.given[place], self.given[place].subject or "", ""
        return self._made(place)

    def _near(self, place: int, rng: Random) -> str:
        base, name, _ = self._of(place)
        probes = [p.prompt for p in base.locality if p.kind == "same_subject"]
        return self._choose(probes, base, name, rng) or _NEAR.format(name)

    def _in_scope(self, place: int, rng: Random) -> str:
        base, name, wording = self._of(place)
        asked = self._choose(base.rephrase_prompts, base, name, rng)
        return wording + (asked or f"Please: {self._template[base.id].replace(_HOLE, name)}")

    def _choose(self, texts: Iterable[str], base: Edit, name: str, rng: Random) -> str | None:
        about = [new for text in texts if (new := renamed(text, base.subject, name))]
        return rng.choice(about) if about else None


def renamed(text: str, subject: str | None, name: str) -> str | None:
    """The text with another name for its subject; None if it doesn't name it."""
    key = subject_key(subject)
    mentions = mentions_by_subject(SubjectIndex([key]).find(text)).get(key) if key else None
    if not mentions:
        return None
    parts, done = [], 0
    for mention in mentions:
        parts += [text[done : mention.start], name]
        done = mention.end
    return "".join(parts) + text[done:]


class _Edits(Sequence[Edit]):
    """Edits that are not held: a million of them would be a gigabyte."""

    def __init__(self, workload: Workload, size: int) -> None:
        self._workload = workload
        self._places = range(size)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Edit: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Edit]: ...
    def __getitem__(self, place: int | slice) -> Edit | Sequence[Edit]:
        if isinstance(place, slice):
            return [self._workload.edit(n) for n in self._places[place]]
        return self._workload.edit(self._places[place])

    def __iter__(self) -> Iterator[Edit]:
        return map(self._workload.edit, self._places)
