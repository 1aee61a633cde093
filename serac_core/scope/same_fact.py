"""Which stored edits a text truly falls under, by rules on subject and wording, never a model.

With many edits in memory, what is asked as a near miss of one is now and then the very thing that
another edit is about, and the same fact is stored twice. A text falls under an edit when it names
the edit's subject and says of it what the edit says: the same words, or wordings that some edit
holds as prompt and rephrasing of one fact, or that stand with edits of one `relation`. Compared are
sentences with the subject masked: of an edit's wordings the last that names the subject, because
rephrasings may begin with other text; of the text each, and the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from networkx.utils import UnionFind

from serac_core.edits.record import Edit, normalize_text
from serac_core.scope.cohort import relation_of
from serac_core.scope.subject import SubjectIndex, mask_subject, masked, subject_key

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class SameFact:
    """Finds the edits of a set that a text falls under.

    Parameters
    ----------
    edits:
        All edits whose wordings may be used to tell that two wordings say the same; the memories
        that are asked about hold some of them.
    """

    def __init__(self, edits: Iterable[Edit]) -> None:
        same = UnionFind()
        self._about: dict[tuple[str, ...], list[Edit]] = {}
        own: dict[str, str | None] = {}
        for edit in edits:
            key = subject_key(edit.subject)
            said = [said_of(text, edit.subject) for text in (edit.prompt, *edit.rephrase_prompts)]
            found = [text for text in said if text is not None]
            if not key or not found:
                continue
            self._about.setdefault(key, []).append(edit)
            own[edit.id] = said[0]
            relation = relation_of(edit)
            same.union(*found, *([f"relation {relation}"] if relation else []))
        self._index = SubjectIndex(self._about)
        self._names = {text: min(texts) for texts in same.to_sets() for text in texts}
        self._wordings = {id_: self._names[text] for id_, text in own.items() if text is not None}

    def edits_of(self, text: str) -> list[Edit]:
        """The edits that the text falls under."""
        found: dict[str, Edit] = {}
        for sentence in [*_SENTENCE_END.split(text), text]:
            for mention in self._index.find(sentence):
                says = self._names.get(normalize_text(masked(sentence, mention)))
                for edit in self._about[mention.subject]:
                    if says is not None and says == self._wordings.get(edit.id):
                        found[edit.id] = edit
        return list(found.values())

    def wording(self, edit: Edit) -> str | None:
        """A name of what the edit says of its subject, the same for all wordings of it; None for
        an edit that doesn't name its subject."""
        return self._wordings.get(edit.id)


def said_of(text: str, subject: str | None) -> str | None:
    """The last sentence that names the subject, the subject masked, normalised; None for none."""
    for sentence in [*reversed(_SENTENCE_END.split(text)), text]:
        said = mask_subject(sentence, subject)
        if said is not None:
            return normalize_text(said)
    return None
