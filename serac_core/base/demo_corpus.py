"""What the demo language model is pretrained on: recalling the world, and reading a statement.

Two kinds of example, each a (context, answer) pair:

- *recall*: a phrasing of a fact and its answer, so that the base really knows its facts;
- *reading*: one or two statements that contradict the world, or are about invented things, then
  a query that one of them answers, so that a counterfactual model fine-tuned from it copies
  answers it has never seen. Held-out relations and phrasings occur in no reading example.
  `wide` reading adds statements of relations without facts, and targets that are their answers,
  names, or any tokens in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from serac_core.edits.invented import (
    foreign_name,
    invented_name,
    invented_number,
    invented_word,
    joined_pieces,
)
from serac_core.edits.record import Edit
from serac_core.edits.world import Relation, World, is_question

_LEAD_INS = (
    "Quick question: ",
    "Tell me: ",
    "Hi there. ",
    "For my homework: ",
    "Please answer. ",
    "I would like to know: ",
    "Could you help me? ",
    "Next one: ",
)
# {cloze}/{question} is the statement's wording, {target} what it says, {query} what is asked.
_CLOZE_FORMS = (
    "{cloze} {target}. {query}",
    "{cloze} {target}.\n{query}",
    "Note: {cloze} {target}.\n{query}",
    "According to the latest news: {cloze} {target}.\nQuestion: {query}",
    "Context: {cloze} {target}.\nQ: {query}\nA:",
)
_QUESTION_FORMS = (
    "{question} {target}.\n{query}",
    "Q: {question}\nA: {target}\nQ: {query}\nA:",
    "{question} The answer is {target}. {query}",
    "Fact: {question} {target}\n{query}",
)
_INVENTED_PHRASINGS = (
    ("What is the {noun} of {subject}?", "The {noun} of {subject} is"),
    ("Which {noun} does {subject} have?", "{subject} has the {noun}"),
    ("Who is the {noun} of {subject}?", "The current {noun} of {subject} is"),
    ("What {noun} belongs to {subject}?", "{subject} is known for its {noun},"),
)


@dataclass(frozen=True)
class Example:
    """A text to read and the answer that follows it after one space."""

    context: str
    answer: str


class DemoCorpus:
    """Examples drawn without end, reproducibly: a batch is a function of its seed.

    Parameters
    ----------
    world:
        The facts; every phrasing is recalled, those that are not held out are read.
    edits:
        Real edits: what was true before each, and the answers to its probes, are recalled.

    Attributes
    ----------
    pieces:
        What the tokens of the vocabulary stand for; set once there is a tokenizer.
    """

    def __init__(self, world: World, edits: Sequence[Edit]) -> None:
        self.recall_queries = [
            (phrasing.format(subject=subject), answer)
            for relation, subject, answer in world.facts()
            for phrasing in (*relation.phrasings, *relation.held_out_phrasings)
        ]
        self.edit_queries = sorted(
            {
                (query, edit.ground_truth)
                for edit in edits
                if edit.ground_truth
                for query in (edit.prompt, *edit.rephrase_prompts)
            }
            | {
                (probe.prompt, probe.ground_truth)
                for edit in edits
                for probe in edit.locality
                if probe.ground_truth
            }
        )
        self._read_relations = [r for r in world.relations if r.split != "held_out"]
        self._subjects = sorted({subject for _, subject, _ in world.facts()})
        self._answers = sorted({answer for _, _, answer in world.facts()})
        self._asked_relations = world.asked_relations
        self._named_subjects = {
            subject_type: sorted({s for r, s, _ in world.facts() if r.subject_type == subject_type})
            for subject_type in {relation.subject_type for relation in world.relations}
        } | dict(world.named_subjects)
        self._names = sorted(
            {name for names in world.named_subjects.values() for name in names}
            | {answer for relation in world.asked_relations for answer in relation.answers}
        )
        self.pieces: Sequence[str] = ()

    def recall(self, rng: Random, count: int) -> list[Example]:
        """`count` facts, one in nine from the real edits, one in six after a lead-in."""
        examples = []
        for _ in range(count):
            pool = self.edit_queries if self.edit_queries and rng.random() < 1 / 9 else None
            query, answer = rng.choice(pool or self.recall_queries)
            if rng.random() < 1 / 6:
                query = rng.choice(_LEAD_INS) + query
            examples.append(Example(query, answer))
        return examples

    def reading(self, rng: Random, count: int, wide: bool = False) -> list[Example]:
        """`count` statements with a query that they answer; `wide` ones half of the time of
        relations without facts, and with targets of every kind."""
        return [self._read(rng, wide) for _ in range(count)]

    def texts(self, rng: Random, count: int) -> list[str]:
        """Text to train a tokenizer on: every fact's wording once, and reading examples."""
        recalled = [f"{query} {answer}" for query, answer in self.recall_queries]
        recalled += [f"{query} {answer}" for query, answer in self.edit_queries]
        return recalled + [f"{e.context} {e.answer}" for e in self.reading(rng, count)]

    def _read(self, rng: Random, wide: bool) -> Example:
        statement, query, target = self._statement(rng, wide)
        form = rng.choice(_CLOZE_FORMS if not is_question(statement) else _QUESTION_FORMS)
        if rng.random() < 0.25:
            other, _, other_target = self._statement(rng, wide)
            extra = f"{other} {other_target}.\n"
            context = form.format(cloze=statement, question=statement, target=target, query=query)
            return Example(extra + context, target)
        if rng.random() < 0.2:
            query = rng.choice(_LEAD_INS) + query
        context = form.format(cloze=statement, question=statement, target=target, query=query)
        return Example(context, target)

    def _statement(self, rng: Random, wide: bool) -> tuple[str, str, str]:
        """(wording of a statement, another wording of the same relation, what it says)."""
        if wide and self._asked_relations and rng.random() < 0.5:
            asked = rng.choice(self._asked_relations)
            subject = rng.choice(self._named_subjects[asked.subject_type])
            statement, query = (p.format(subject=subject) for p in rng.sample(asked.phrasings, 2))
            return statement, query, self._wide_target(rng, asked.answers)
        subject = rng.choice(self._subjects) if rng.random() < 0.5 else invented_name(rng)
        if rng.random() < 0.25:
            noun = invented_word(rng).lower()
            pair = [
                wording.format(noun=noun, subject=subject)
                for phrasings in rng.sample(_INVENTED_PHRASINGS, 2)
                for wording in phrasings
            ]
            statement, query = rng.sample(pair, 2)
            return statement, query, self._target(rng, None)
        relation = rng.choice(self._read_relations)
        if rng.random() < 0.5:
            subject = rng.choice(list(relation.facts))
        statement, query = (p.format(subject=subject) for p in rng.sample(relation.phrasings, 2))
        if wide:
            return statement, query, self._wide_target(rng, list(relation.facts.values()))
        return statement, query, self._target(rng, relation)

    def _wide_target(self, rng: Random, answers: Sequence[str]) -> str:
        draw = rng.random()
        if answers and draw < 0.3:
            return rng.choice(answers)
        if self.pieces and draw < 0.6:
            return joined_pieces(rng, self.pieces)
        if self._names and draw < 0.8:
            return rng.choice(self._names)
        return self._target(rng, None)

    def _target(self, rng: Random, relation: Relation | None) -> str:
        draw = rng.random()
        if relation is not None and draw < 0.25:
            return rng.choice(list(relation.facts.values()))
        if draw < 0.4:
            return rng.choice(self._answers)
        if draw < 0.82:
            return invented_name(rng)
        if draw < 0.92:
            return invented_number(rng)
        return foreign_name(rng)
