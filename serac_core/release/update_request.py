"""What an update was asked for, and what becomes of its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serac_core.config import load_params
from serac_core.edits.intake import Intake, Reason, Rejection
from serac_core.errors import NegativeAnswer
from serac_core.release.gate import GateResult, render_table
from serac_core.release.verdict import GateClosed
from serac_core.workspace.inbox import Incoming, put_away

OnBadRecord = Literal["release-others", "stop"]


@dataclass(frozen=True)
class Request:
    """What an update is made of, files or a revision, and its settings.

    Attributes
    ----------
    files:
        Named ones; none: those of the inbox.
    incoming:
        What the run took of them.
    only_retractions:
        The gate was closed to the rest.
    """

    files: tuple[Path, ...]
    revision: str
    inbox: Path
    rejected: Path
    on_bad_record: OnBadRecord
    incoming: tuple[Incoming, ...] = ()
    only_retractions: bool = False


class BadRecords(NegativeAnswer):
    """Records break rules, and the run was to stop there."""

    @classmethod
    def of(cls, rejections: Sequence[Rejection], folder: Path) -> BadRecords:
        named = "\n".join(rejection.as_text().rstrip() for rejection in rejections)
        return cls(
            f"bad records, nothing is published:\n{named}",
            remedy=f"mend the files, which are in {folder} with the reasons beside them, and drop "
            "them again",
        )


class UpdateRefused(GateClosed):
    """The gate is closed to an update; the champion stays."""

    def __init__(
        self, gate: GateResult, reports: Path, intake: Intake, released: str | None = None
    ) -> None:
        self.gate, self.reports, self.intake, self.released = gate, reports, intake, released
        what = "the champion stays, nothing is published"
        if released:
            what = f"only what is retracted is published, as {released}"
        super().__init__(
            f"the gate is closed to the update; {what}\n{render_table(gate)}",
            remedy=f"the report is in {reports}: mend the edits that fail and drop them again, or "
            "`serac retrain`; the bounds are under `gate` in params.yaml",
        )

    def but_released(self, release: str) -> UpdateRefused:
        """The same, once the retractions are released."""
        return UpdateRefused(self.gate, self.reports, self.intake, release)

    def rejections(self, incoming: Sequence[Incoming]) -> tuple[Rejection, ...]:
        """Every file of the update, with the checks that failed; and what was wrong anyway."""
        failed = tuple(
            Reason(
                0,
                "",
                "gate_closed",
                check.name,
                "-" if check.value is None else f"{check.value:.4g}",
                f"must be {check.bound}; {check.note}",
                self.remedy,
            )
            for check in self.gate.failed
        )
        bad = {rejection.file: rejection.reasons for rejection in self.intake.rejections}
        accepted = self.intake.retracted if self.released else ()
        return tuple(
            Rejection(file.taken, (*bad.get(file.taken, ()), *failed), accepted)
            for file in incoming
        )


def read_request(
    root: Path, files: Sequence[str], revision: str, on_bad_record: OnBadRecord | None
) -> Request:
    """The request, with what the checkout's params.yaml says where nothing else is said."""
    settings = load_params(root / "params.yaml").update
    return Request(
        tuple(Path(file).absolute() for file in files),
        revision,
        root / settings.inbox,
        root / settings.rejected,
        on_bad_record or settings.on_bad_record,
    )


def put_files_away(
    request: Request, rejections: Sequence[Rejection], *, only_rejected: bool = False
) -> tuple[dict[str, Any], ...]:
    """Move the request's files out of the inbox.

    Returns
    -------
    tuple of dict
        Of each rejected file: its `place`, the ids that were `accepted` and the `reasons`.
    """
    if request.only_retractions:
        return ()
    rejected = {rejection.file for rejection in rejections}
    ended = [file for file in request.incoming if file.taken in rejected or not only_rejected]
    places = put_away(ended, rejections, request.inbox, request.rejected)
    return tuple(
        {**rejection.as_dict(), "place": str(places[rejection.file])} for rejection in rejections
    )
