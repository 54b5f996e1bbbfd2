"""`flops-fit drop`: leave trials out of the fits, with a reason; or take them back."""

from __future__ import annotations

from flops_fit.cli.options import RunDirArgument, TakeBackOption, TrialsArgument, WhyOption
from flops_fit.cli.output import count_of, say
from flops_fit.errors import ManifestError


def drop(
    run_dir: RunDirArgument,
    trials: TrialsArgument,
    why: WhyOption = "",
    take_back: TakeBackOption = False,
) -> None:
    """Leave trials out of all fits, with a reason that the report states; or take them back."""
    from flops_fit.sweep.amending import drop_trials, restore_trials

    if take_back:
        if why:
            raise ManifestError("`--take-back` needs no reason: leave out `--why`")
        restored = restore_trials(run_dir, trials)
        say(f"{count_of(len(restored), 'trial')} used again; next: flops-fit run {run_dir}")
        return
    if not why.strip():
        raise ManifestError(
            "a dropped trial needs a reason",
            hint='write --why "the node lost its network", for example',
        )
    dropped = drop_trials(run_dir, trials, why=why.strip())
    say(
        f"{count_of(len(dropped), 'trial')} dropped; next: flops-fit report {run_dir}\n"
        f"to take one back: flops-fit drop {run_dir} TRIAL --take-back"
    )
