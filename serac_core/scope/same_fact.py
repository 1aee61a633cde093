"""Which stored edits a text truly falls under, by rules on subject and wording, never a model.

With many edits in memory, what is asked as a near miss of one is now and then the very thing that
another edit is about, and the same fact is stored twice. A text falls under an edit when it names
the edit's subject and says of it what the edit says: the same words, or a wording of the same
class. Compared are texts with the subject masked (:func:`serac_core.scope.subject.said_about`).

Prompts are of one class where the edits say so: they name the same `relation`, or, without one,
the one's `same_relation` probe is made by the other. What edits have as rephrasings belongs to the
class it is found beside most often. What is left, wordings of edits that say nothing of their
relation, is divided into communities (Blondel et al. 2008, Louvain) of the graph of prompts and
rephrasings: not everything that is connected is one class.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import networkx as nx

from serac_core.edits.record import Edit, normalize_text
from serac_core.scope.cohort import relation_of
from serac_core.scope.subject import (
    MASK,
    SubjectIndex,
    mentions_by_subject,
    said_about,
    said_of,
    sentences_of,
    subject_key,
    words_of,
)

_MASK_WORD = re.compile(rf"\b{normalize_text(MASK)}\b")
_RESOLUTION = 2.0
_STEM = 5  # letters: enough for `founded`, `founder` and `founders` to be alike
_FUNCTION_WORD = re.compile(
    r"(?:a|an|and|are|as|at|be|by|did|do|does|for|from|has|have|in|is|it|its|of|on|or|s|that|"
    r"the|their|they|this|to|was|were|what|where|which|who|whose|will|with|x)"
)
_RELATION = "relation\x1f"


class SameFact:
    """Finds the edits of a set that a text falls under.

    Parameters
    ----------
    edits:
        All edits whose wordings may be used to tell that two wordings say the same; the memories
        that are asked about hold some of them.
    """

    def __init__(self, edits: Iterable[Edit]) -> None:
        edits = list(edits)
        self._classes = wording_classes(edits)
        about: dict[tuple[str, ...], list[Edit]] = defaultdict(list)
        self._wordings: dict[str, str] = {}
        for edit in edits:
            said = _said(edit.prompt, edit.subject)
            if said is not None:
                about[subject_key(edit.subject)].append(edit)
                self._wordings[edit.id] = self._classes.get(said, said)
        self._about = dict(about)
        self._index = SubjectIndex(about)

    def edits_of(self, text: str, stored: Collection[str] | None = None) -> list[Edit]:
        """The edits that the text falls under; of the ids `stored`, where they are given."""
        found: dict[str, Edit] = {}
        for part in dict.fromkeys((*sentences_of(text), text)):
            for subject, mentions in mentions_by_subject(self._index.find(part)).items():
                said = normalize_text(said_about(part, mentions))
                says = self._classes.get(said, said)
                for edit in self._about[subject]:
                    is_stored = stored is None or edit.id in stored
                    if is_stored and says == self._wordings[edit.id]:
                        found[edit.id] = edit
        return list(found.values())

    def same_as(self, edit: Edit) -> list[Edit]:
        """The other edits about the subject that say the same of it, whatever their target."""
        return [
            other
            for other in self._about.get(subject_key(edit.subject), ())
            if other.id != edit.id and self._wordings[other.id] == self._wordings.get(edit.id)
        ]

    def wording(self, edit: Edit) -> str | None:
        """The class of what the edit says of its subject; None for an edit that doesn't name its
        subject."""
        return self._wordings.get(edit.id)


class Concerns:
    """Finds texts that are about what an edit is about, by words alone: a wider net than
    :class:`SameFact`, for texts whose wording no edit has.

    A text concerns an edit when it names its subject and holds, beside the name, the edit's target
    or ground truth, or a content word of the edit's prompt or relation.
    """

    def __init__(self, edits: Iterable[Edit]) -> None:
        about: dict[tuple[str, ...], list[Edit]] = defaultdict(list)
        for edit in edits:
            about[subject_key(edit.subject)].append(edit)
        self._about = dict(about)
        self._index = SubjectIndex(about)

    def named_by(self, text: str) -> list[Edit]:
        """The edits whose subject the text names."""
        named = mentions_by_subject(self._index.find(text))
        return [edit for subject in named for edit in self._about[subject]]

    def reason(self, text: str, stored: Collection[str] | None = None) -> tuple[Edit, str] | None:
        """An edit that the text concerns, of the ids `stored` where they are given, and the answer
        or word that says so; None for none."""
        for edit in self.named_by(text):
            if stored is not None and edit.id not in stored:
                continue
            said = [word.folded for word in words_of(said_of(text, edit.subject) or "")]
            for answer in (edit.target_new, edit.ground_truth):
                key = subject_key(answer)
                if key and any(tuple(said[n : n + len(key)]) == key for n in range(len(said))):
                    return edit, str(answer)
            known = {word[:_STEM] for word in said}
            wording = f"{said_of(edit.prompt, edit.subject) or ''} {relation_of(edit) or ''}"
            for word in words_of(wording):
                if word.folded[:_STEM] in known and not _FUNCTION_WORD.fullmatch(word.folded):
                    return edit, word.folded
        return None


def wording_classes(edits: Sequence[Edit]) -> dict[str, str]:
    """Of each wording of the edits, masked and normalised, the name of its class: the most frequent
    prompt of the class."""
    named = [
        (edit, said)
        for edit in edits
        for said in [_said(edit.prompt, edit.subject)]
        if said is not None
    ]
    prompts = Counter(said for _, said in named)
    templates = _Templates(prompts)
    proven: set[tuple[str, str]] = set()
    likened: Counter[tuple[str, str]] = Counter()
    for edit, said in named:
        relation = relation_of(edit)
        if relation is not None:
            proven.add((said, _RELATION + relation))
        else:
            made_by = (
                templates.of(normalize_text(probe.prompt))
                for probe in edit.locality
                if probe.kind == "same_relation"
            )
            proven |= {(said, prompt) for prompt in made_by if prompt is not None}
        rephrased = (_said(text, edit.subject) for text in edit.rephrase_prompts)
        likened.update((said, other) for other in rephrased if other not in (None, said))
    classes = [set(nodes) for nodes in nx.connected_components(nx.Graph(sorted(proven)))]
    place = {node: number for number, nodes in enumerate(classes) for node in nodes}
    beside: dict[str, Counter[int]] = defaultdict(Counter)
    for (one, other), count in likened.items():
        for text, near in ((one, other), (other, one)):
            if text not in place and near in place:
                beside[text][place[near]] += count
    for text, near_classes in beside.items():
        number, _ = min(near_classes.items(), key=lambda found: (-found[1], found[0]))
        classes[number].add(text)
    classed = place.keys() | beside.keys()
    classes += _communities(
        prompts.keys() - classed,
        {pair: count for pair, count in likened.items() if classed.isdisjoint(pair)},
    )
    return {
        wording: min(texts, key=lambda text: (-prompts[text], text))
        for nodes in classes
        for texts in [{text for text in nodes if not text.startswith(_RELATION)}]
        for wording in texts
    }


def _communities(prompts: Iterable[str], weights: Mapping[tuple[str, str], int]) -> list[set[str]]:
    """Sets of nodes. What has a single neighbour is of its class; the rest is divided."""
    graph = nx.Graph()
    graph.add_nodes_from(sorted(prompts))
    for (one, other), count in sorted(weights.items()):
        before = graph.get_edge_data(one, other, {"weight": 0})["weight"]
        graph.add_edge(one, other, weight=before + count)
    # Not graph.subgraph: it may iterate over a set, and Louvain's result depends on the order.
    core = nx.Graph()
    core.add_nodes_from(node for node, degree in graph.degree() if degree > 1)
    core.add_weighted_edges_from(
        (one, other, weight)
        for one, other, weight in graph.edges(data="weight")
        if one in core and other in core
    )
    total = dict(core.degree(weight="weight"))
    for one, other, edge in core.edges(data=True):
        edge["weight"] /= math.sqrt(total[one] * total[other])
    of_core: list[set[str]] = nx.community.louvain_communities(
        core, weight="weight", resolution=_RESOLUTION, seed=0
    )
    place = {node: n for n, nodes in enumerate(of_core) for node in nodes}
    outside = graph.subgraph(set(graph) - set(place))
    for nodes in nx.connected_components(outside):
        near = {place[other] for node in nodes for other in graph[node] if other in place}
        if near:
            of_core[near.pop()] |= nodes
        else:
            of_core.append(nodes)
    return of_core


class _Templates:
    """Finds by which prompt, masked, another text is made: the longest that fits."""

    def __init__(self, prompts: Iterable[str]) -> None:
        self._by_last_word: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for prompt in sorted(prompts, key=lambda text: (-len(text), text)):
            parts = _MASK_WORD.split(prompt)
            if len(parts) == 2 and any(parts):
                start, end = parts
                self._by_last_word[_last_word(end)].append((prompt, start, end))

    def of(self, text: str) -> str | None:
        for last_word in (_last_word(text), ""):
            for prompt, start, end in self._by_last_word.get(last_word, ()):
                fits = text.startswith(start) and text.endswith(end)
                if fits and len(text) > len(start) + len(end):
                    return prompt
        return None


def _said(text: str, subject: str | None) -> str | None:
    said = said_of(text, subject)
    return None if said is None else normalize_text(said)


def _last_word(text: str) -> str:
    return text.rpartition(" ")[2] if " " in text else ""
