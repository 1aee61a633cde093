"""The scored items of an evaluation as columns: all that is counted of a million of them at once.

Kept beside `items.jsonl` as `items.npz`, so that who counts need not read every item. Shapes:
I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from serac_core.evaluation.items import Item, UnreadableItems, read_items

COLUMNS_FILE = "items.npz"
ITEMS_FILE = "items.jsonl"
ABSENT = -1
"""Of a yes or no: was not asked."""

_NAMED = ("part", "group", "relation", "yes_no")
_FLAGS = {
    "correct": False,
    "in_scope": False,
    "held_out_relation": False,
    "several_words": False,
    "target_in_training": True,
}
_SHARES = ("score", "token_accuracy", "pre_accuracy", "post_accuracy")
_ANSWERS = ("pre_exact", "post_exact", "argmax_changed")


@dataclass(frozen=True)
class Named:
    """A column of few different names.

    Attributes
    ----------
    names:
        "" for none.
    code_I:
        int32; number of each item's name.
    """

    names: tuple[str, ...]
    code_I: NDArray[np.int32]

    @classmethod
    def of(cls, values: Iterable[str]) -> Named:
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(value, len(numbers)) for value in values]
        return cls(tuple(numbers), np.array(codes, dtype=np.int32))

    def are(self, *names: str) -> NDArray[np.bool_]:
        """(I,) whether an item has one of the names."""
        wanted = [number for number, name in enumerate(self.names) if name in names]
        return np.isin(self.code_I, wanted)

    def taken(self, where: NDArray[Any]) -> Named:
        return Named(self.names, self.code_I[where])

    @classmethod
    def joined(cls, parts: Sequence[Named]) -> Named:
        numbers: dict[str, int] = {}
        codes = []
        for part in parts:
            new = [numbers.setdefault(name, len(numbers)) for name in part.names]
            codes.append(np.array(new, dtype=np.int32)[part.code_I] if new else part.code_I)
        return cls(tuple(numbers), np.concatenate(codes))


@dataclass(frozen=True)
class ItemColumns:
    """What is counted of items; names as in :class:`serac_core.evaluation.items.Item`.

    Attributes
    ----------
    key_I:
        uint64, of the questions' keys.
    routed_right_I:
        Whether an in-scope query went to its own edit.
    yes_no:
        Form and right answer of a yes/no question: `own/Yes`.
    score_I, token_accuracy_I, pre_accuracy_I, post_accuracy_I:
        float64, nan for none.
    pre_exact_I, post_exact_I, argmax_changed_I:
        int8; 0, 1 or :data:`ABSENT`.
    """

    part: Named
    group: Named
    relation: Named
    yes_no: Named
    key_I: NDArray[np.uint64]
    routed_right_I: NDArray[np.bool_]
    correct_I: NDArray[np.bool_]
    in_scope_I: NDArray[np.bool_]
    held_out_relation_I: NDArray[np.bool_]
    several_words_I: NDArray[np.bool_]
    target_in_training_I: NDArray[np.bool_]
    score_I: NDArray[np.float64]
    token_accuracy_I: NDArray[np.float64]
    pre_accuracy_I: NDArray[np.float64]
    post_accuracy_I: NDArray[np.float64]
    pre_exact_I: NDArray[np.int8]
    post_exact_I: NDArray[np.int8]
    argmax_changed_I: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.key_I)

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> ItemColumns:
        """The columns of rows as :meth:`Item.row` gives them; what a row lacks is absent."""
        rows = list(rows)

        def yes_no(row: Mapping[str, Any]) -> str:
            return f"{row.get('form')}/{row.get('target')}" if row.get("form") else ""

        named: dict[str, Any] = {
            name: Named.of(str(row.get(name) or "") for row in rows) for name in _NAMED[:3]
        }
        flags: dict[str, Any] = {
            f"{name}_I": np.array([bool(row.get(name, value)) for row in rows], dtype=np.bool_)
            for name, value in _FLAGS.items()
        }
        shares: dict[str, Any] = {
            f"{name}_I": np.array(
                [np.nan if (value := row.get(name)) is None else value for row in rows],
                dtype=np.float64,
            )
            for name in _SHARES
        }
        answers: dict[str, Any] = {
            f"{name}_I": np.array(
                [ABSENT if (value := row.get(name)) is None else bool(value) for row in rows],
                dtype=np.int8,
            )
            for name in _ANSWERS
        }
        right = [row.get("edit_id") == row.get("expected_edit_id") for row in rows]
        return cls(
            yes_no=Named.of(map(yes_no, rows)),
            key_I=keys_of([row.get("key", "") for row in rows]),
            routed_right_I=np.array(right, dtype=np.bool_),
            **named,
            **flags,
            **shares,
            **answers,
        )

    @classmethod
    def of_items(cls, items: Iterable[Item]) -> ItemColumns:
        """The columns of items; nothing is rounded."""
        return cls.of_rows(
            {"key": item.question.key, **vars(item.question), **vars(item)} for item in items
        )

    def taken(self, where: NDArray[Any]) -> ItemColumns:
        """The items of a mask, or at places."""
        made: dict[str, Any] = {}
        for column in fields(self):
            value = getattr(self, column.name)
            made[column.name] = value.taken(where) if isinstance(value, Named) else value[where]
        return ItemColumns(**made)

    @classmethod
    def joined(cls, parts: Sequence[ItemColumns]) -> ItemColumns:
        """The items of all parts, in order."""
        made: dict[str, Any] = {}
        for column in fields(cls):
            values = [getattr(part, column.name) for part in parts]
            is_named = isinstance(values[0], Named)
            made[column.name] = Named.joined(values) if is_named else np.concatenate(values)
        return cls(**made)

    def write(self, path: Path) -> None:
        """Write the columns; the same items give the same bytes."""
        arrays: dict[str, NDArray[Any]] = {}
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, Named):
                arrays[column.name] = value.code_I
                arrays[f"{column.name}_names"] = np.array(value.names or ("",), dtype=np.str_)
            else:
                arrays[column.name] = value
        np.savez(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, evaluation: Path) -> ItemColumns:
        """The columns of an evaluation's folder; of an older one, made of its items.

        Raises
        ------
        UnreadableItems
        """
        path = evaluation / COLUMNS_FILE
        if not path.exists():
            return cls.of_rows(read_items(evaluation / ITEMS_FILE))
        try:
            with np.load(path, allow_pickle=False) as arrays:
                made: dict[str, Any] = {}
                for column in fields(cls):
                    value = arrays[column.name]
                    if column.name in _NAMED:
                        names = tuple(map(str, arrays[f"{column.name}_names"]))
                        made[column.name] = Named(names, value)
                    else:
                        made[column.name] = value
                return cls(**made)
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise UnreadableItems(
                f"{path}: {error}", remedy="run the stage that writes it"
            ) from error


def keys_of(keys: Sequence[str]) -> NDArray[np.uint64]:
    """Keys of questions, 16 hex digits each, as numbers; of another text, a hash."""
    return np.array([_key(key) for key in keys], dtype=np.uint64)


def _key(key: str) -> int:
    try:
        return int(key, 16)
    except (ValueError, TypeError):
        digest = hashlib.blake2b(str(key).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")


def as_columns(items: Iterable[Mapping[str, Any]] | ItemColumns) -> ItemColumns:
    """Rows or columns as columns."""
    return items if isinstance(items, ItemColumns) else ItemColumns.of_rows(items)
