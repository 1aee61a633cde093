"""Groups of wordings that ask the same, for training.

The classes of :mod:`serac_core.scope.same_fact` rest on texts that edits share. Where there are few
edits of a relation they share too little: "What university did X attend?" and "The college X
attended was what?" come out as two classes, each of which training would take for the other's
near miss. So small classes whose texts lie close together are joined here. It is for training
alone; what is scored is judged by rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serac_core.edits.record import Edit
from serac_core.scope.subject import said_of

if TYPE_CHECKING:
    from serac_core.scope.encoder import Encode

SMALL = 50
"""Edits from which a class is taken as it is."""
SAME_MEANING = 0.75
"""Least mean closeness of the classes that are joined."""


def joined_classes(classed: Sequence[tuple[Edit, str]], encode: Encode) -> dict[str, str]:
    """Of each small class that is joined with others, the name of the first of them.

    Classes are compared by the mean of their masked texts, each as often as it occurs; average
    linkage (Sokal and Michener 1958) joins them.

    Parameters
    ----------
    classed:
        Edits of one set, each with the name of its class.
    encode:
        Masked texts to unit vectors.
    """
    import numpy as np
    from sklearn.cluster import AgglomerativeClustering

    size = Counter(name for _, name in classed)
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    for edit, name in classed:
        said = (said_of(text, edit.subject) for text in (edit.prompt, *edit.rephrase_prompts))
        if size[name] < SMALL:
            texts[name].update(text for text in said if text is not None)
    names = sorted(name for name, found in texts.items() if found)
    if len(names) < 2:
        return {}
    distinct = sorted({text for name in names for text in texts[name]})
    place = {text: n for n, text in enumerate(distinct)}
    vectors_TD = encode(distinct)
    mean_CD = np.stack(
        [
            np.array(list(texts[name].values()), dtype=np.float32)
            @ vectors_TD[[place[text] for text in texts[name]]]
            for name in names
        ]
    )
    mean_CD /= np.maximum(np.linalg.norm(mean_CD, axis=1, keepdims=True), 1e-12)
    clustering = AgglomerativeClustering(
        None, metric="cosine", linkage="average", distance_threshold=1 - SAME_MEANING
    )
    first: dict[int, str] = {}
    return {
        name: first.setdefault(group, name)
        for name, group in zip(names, clustering.fit_predict(mean_CD).tolist(), strict=True)
    }
