"""The root of the error catalogue.

Each part of the library defines one class a cause, next to the code that raises
it, deriving from :class:`SeracError`; the command line turns them into a message
on stderr and the exit code of the class.
"""


class SeracError(Exception):
    """Something a user can cause or mend.

    Parameters
    ----------
    what:
        What is wrong, naming the record, file or value and the rule it breaks.
    remedy:
        What to do next.
    """

    exit_code = 2

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  remedy: {self.remedy}"


class NegativeAnswer(SeracError):
    """The question was put correctly and the answer is no (gate closed, invalid edits)."""

    exit_code = 1
