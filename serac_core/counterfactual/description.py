"""What a counterfactual model's folder says of itself: its kind, and how it reads its input."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serac_core.errors import SeracError

DESCRIPTION = "counterfactual.json"
Kind = Literal["finetuned", "lora", "in-context"]


class UnreadableCounterfactual(SeracError):
    """The description in a counterfactual model's folder is damaged, or of a newer version."""


class Description(BaseModel):
    """`counterfactual.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(description="How the model came to answer from edits.")
    chat_template: bool = Field(description="Whether it reads its input as a user's turn.")


def write_description(folder: Path, description: Description) -> None:
    """Write a folder's `counterfactual.json`."""
    text = description.model_dump_json(indent=1) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def read_description(folder: str | Path) -> Description | None:
    """What a folder says of itself; None for a model that isn't described, a pretrained one say.

    Raises
    ------
    UnreadableCounterfactual
    """
    file = Path(folder) / DESCRIPTION
    if not file.is_file():
        return None
    try:
        return Description.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise UnreadableCounterfactual(
            f"{file}: {error}", remedy="fetch it again, or use the version of serac that made it"
        ) from error
