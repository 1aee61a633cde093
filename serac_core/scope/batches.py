"""What the scope classifier trains on, step by step; a function of data, seed and step alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from serac_core.edits.record import Edit, normalize_text
from serac_core.scope.cohort import relation_of
from serac_core.scope.subject import said_of

_WHOLE_EVERY = 3  # steps; in these the comparison of whole texts is trained too
_WHOLE_SHARE = 8  # one edit for so many masked texts, then
_TRAFFIC = 4
_TOGETHER = 20  # relations of one type of subject in a batch: they are what must be told apart
_NEAR_MISS_SHARE = 0.33  # of the masked texts of a batch that bring a near miss
_ALIKE = 3  # near misses by words that a text has
_PHRASINGS = 3  # of a relation in a batch


@dataclass(frozen=True)
class Batch:
    """The texts of one step.

    Attributes
    ----------
    masked, labels, types:
        Texts with the subject masked; those of one label ask the same and attract each other.
        Those of two types say nothing of each other: what is asked of a company and of a website
        may well be the same.
    near_misses, owners:
        Texts that ask something else in like words, or what same-subject probes say about the
        subject, and the label each must stay away from.
    keys, rephrasings:
        Whole prompts and a rephrasing of each.
    negatives:
        Whole texts that none of `keys` covers: near misses of every kind, traffic.
    """

    masked: tuple[str, ...]
    labels: tuple[int, ...]
    types: tuple[int, ...]
    near_misses: tuple[str, ...]
    owners: tuple[int, ...]
    keys: tuple[str, ...]
    rephrasings: tuple[str, ...]
    negatives: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return (*self.masked, *self.near_misses, *self.keys, *self.rephrasings, *self.negatives)


class BatchMaker:
    """Composes batches.

    Edits of one relation are grouped (extra field `relation`; without it, edits whose masked
    prompts are equal), and a batch takes several phrasings of as many groups as fit: each
    group's phrasings are the negatives of all others about the same type of subject (extra field
    `subject_type`), so that these come together, a score of a type. Beside a phrasing stands, now
    and then, one of those of other groups of its type that are most like it in words: "The periodic
    table lists X under the symbol" beside "... under the number" shows which word counts.

    Parameters
    ----------
    batch_size:
        Masked texts a step.
    evenly:
        Draw every relation as often as any other; without it, as often as it has edits.
    """

    def __init__(
        self,
        edits: Sequence[Edit],
        traffic: Sequence[str],
        batch_size: int,
        seed: int,
        *,
        evenly: bool = True,
    ) -> None:
        self._traffic = list(traffic)
        self._size = batch_size
        self._seed = seed
        groups: dict[str, set[str]] = defaultdict(set)
        misses: dict[str, set[str]] = defaultdict(set)
        types: dict[str, str] = {}
        count: dict[str, int] = defaultdict(int)
        for edit in edits:
            said = [said_of(text, edit.subject) for text in _ways(edit)]
            found = [text for text in said if text is not None]
            if not found:
                continue
            name = relation_of(edit) or f"={normalize_text(found[0])}"
            groups[name].update(found)
            count[name] += 1
            types[name] = str((edit.model_extra or {}).get("subject_type", ""))
            for probe in edit.locality:
                if probe.kind == "same_subject":
                    about = said_of(probe.prompt, edit.subject)
                    if about is not None:
                        misses[name].add(about)
        self._groups = {name: sorted(texts) for name, texts in sorted(groups.items())}
        self._misses = {name: sorted(texts) for name, texts in sorted(misses.items())}
        self._usable = [name for name, texts in self._groups.items() if len(texts) > 1]
        self._of_type: dict[str, list[str]] = defaultdict(list)
        for name in self._usable:
            self._of_type[types[name]].append(name)
        self._type_of = types
        self._weight = {name: 1 if evenly else count[name] for name in self._usable}
        self._alike = self._like_worded(types)
        self._whole = [edit for edit in edits if edit.rephrase_prompts]

    def batch(self, step: int) -> Batch:
        """The batch of a step (from 0)."""
        rng = Random(f"{self._seed}:{step}")
        each = max(2, min(_PHRASINGS, self._size // max(1, len(self._usable))))
        names = self._together(rng, min(len(self._usable), max(1, self._size // each)))
        texts: list[str] = []
        labels: list[int] = []
        of_types: list[str] = []
        near: list[str] = []
        owners: list[int] = []
        for label, name in enumerate(names):
            drawn = rng.sample(self._groups[name], min(each, len(self._groups[name])))
            texts += drawn
            labels += [label] * len(drawn)
            of_types += [self._type_of[name]] * len(drawn)
            for text in drawn:
                misses = self._alike.get(text) or self._misses.get(name)
                if misses and rng.random() < _NEAR_MISS_SHARE:
                    near.append(rng.choice(misses))
                    owners.append(label)
        edits: list[Edit] = []
        negatives: list[str] = []
        if step % _WHOLE_EVERY == 0:
            count = max(2, self._size // _WHOLE_SHARE)
            edits = rng.sample(self._whole, min(len(self._whole), count))
            negatives = [rng.choice(edit.locality).prompt for edit in edits if edit.locality]
            negatives += rng.sample(self._traffic, min(_TRAFFIC, len(self._traffic)))
        rephrasings = [rng.choice(edit.rephrase_prompts) for edit in edits]
        number = {name: place for place, name in enumerate(sorted(set(of_types)))}
        return Batch(
            tuple(texts),
            tuple(labels),
            tuple(number[name] for name in of_types),
            tuple(near),
            tuple(owners),
            tuple(edit.prompt for edit in edits),
            tuple(rephrasings),
            tuple(negatives),
        )

    def _like_worded(self, types: dict[str, str]) -> dict[str, list[str]]:
        """Of each text the few of other groups of its type that share most with it in words
        (TF-IDF over words and pairs of words)."""
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer

        of_type: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, texts in self._groups.items():
            if types[name]:
                of_type[types[name]] += [(text, name) for text in texts]
        alike: dict[str, list[str]] = {}
        for rows in of_type.values():
            texts = [text for text, _ in rows]
            _, group_N = np.unique([name for _, name in rows], return_inverse=True)
            if len(set(group_N.tolist())) < 2:
                continue
            words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True)
            found = words.fit_transform(texts)
            for first in range(0, len(texts), 1000):
                likeness_BN = (found[first : first + 1000] @ found.T).toarray()
                likeness_BN[group_N[first : first + 1000, None] == group_N] = -1.0
                nearest_BA = np.argsort(-likeness_BN, axis=1, kind="stable")[:, :_ALIKE]
                for row, near_A in enumerate(nearest_BA.tolist()):
                    others = [place for place in near_A if likeness_BN[row, place] >= 0]
                    alike[texts[first + row]] = [texts[place] for place in others]
        return alike

    def _together(self, rng: Random, count: int) -> list[str]:
        """So many relations, up to a score of one type at a time; a type as often as its
        relations are drawn."""
        chosen: dict[str, None] = {}
        while len(chosen) < count:
            (drawn,) = rng.choices(self._usable, list(self._weight.values()))
            left = [name for name in self._of_type[self._type_of[drawn]] if name not in chosen]
            # Weighted, without putting back: Efraimidis and Spirakis 2006.
            left.sort(key=lambda name: rng.random() ** (1 / self._weight[name]), reverse=True)
            chosen |= dict.fromkeys(left[: min(_TOGETHER, count - len(chosen))])
        return list(chosen)


def _ways(edit: Edit) -> tuple[str, ...]:
    return (edit.prompt, *edit.rephrase_prompts)
