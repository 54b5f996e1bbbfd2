"""Finding: the outcome of one check of an experiment, and how to fix what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.plugins import line_of

Status = Literal["passed", "warned", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: what was checked, as a claim: `the loss falls on one batch`.
        status: `passed`; `warned`: it may be meant; `failed`: the contract is broken; `skipped`:
            it could not be checked, or does not apply.
        detail: what was found, in a sentence.
        mend: how to put it right; None where nothing is wrong.
    """

    check: str
    status: Status
    detail: str
    mend: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return asdict(self)


class DoubtfulError(FlopsFitError):
    """A check found something odd that may be intended."""


class InapplicableError(FlopsFitError):
    """A check that has nothing to say about this experiment."""


class Examination:
    """Runs checks one after another, and keeps their findings.

    Attributes:
        findings: in the order of the checks.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._broken: dict[str, str] = {}

    def check(
        self, name: str, claim: str, prove: Callable[[], str], *, needs: Sequence[str] = ()
    ) -> None:
        """Run a check, unless a check that it depends on failed.

        Args:
            name: what later checks call this one.
            claim: what is proved.
            prove: gives what it found, in a sentence; raises a DoubtfulError, an
                InapplicableError, or another error of this package if the claim does not hold.
            needs: names of earlier checks.
        """
        missing = [self._broken[need] for need in needs if need in self._broken]
        if missing:
            self._broken[name] = missing[0]
            self._add(claim, "skipped", f"not checked, because this check failed: {missing[0]}")
            return
        try:
            self._add(claim, "passed", prove())
        except InapplicableError as error:
            self._add(claim, "skipped", error.message)
        except DoubtfulError as error:
            self._add(claim, "warned", error.message, error.hint)
        except FlopsFitError as error:
            self._broken[name] = claim
            self._add(claim, "failed", error.message, error.hint)
        except (Exception, SystemExit) as error:
            # A plugin's code raised where nothing else guards the call.
            self._broken[name] = claim
            said = f"{type(error).__name__}: {error}{line_of(error)}"
            self._add(claim, "failed", said, "see the line that is named, in the plugin's code")

    def _add(self, claim: str, status: Status, detail: str, mend: str | None = None) -> None:
        self.findings.append(Finding(claim, status, detail, mend))
