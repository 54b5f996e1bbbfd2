"""Every code that a message carries, explained: rules of a study, notes, warnings and failures.

`flops-fit explain CODE` prints an entry, and docs/codes.md holds all of them.
"""

from __future__ import annotations

import math
import textwrap

from flops_fit.reporting.rules import RULES, Rule, Severity

_COST = {
    Severity.REFUSED: "There is nothing to believe while this is broken.",
    Severity.WARNED: "The result is at most provisional.",
    Severity.DEFAULT: "The tool keeps this rule unless told otherwise.",
    Severity.TOLD: "It informs only.",
}

FAILURES = {
    "constant_loss": "All runs have the same loss, so no law can be fitted. Check the loss column.",
    "different_flops": "One result has counted FLOPs and the other has 6 N D, so their compute "
    "cannot be compared. Read both as 6 N D: `--columns flops=none`.",
    "different_units": "Two results measure data or loss in different units. Compare results whose "
    "losses mean the same.",
    "irreducible_loss": "The irreducible loss that was to be held is not below every loss. Give a "
    "smaller one, or leave it out to have it fitted.",
    "no_answer": "No method gives a prediction so far from the runs. Ask for a nearer budget.",
    "no_law": "The losses show no dependence on params or tokens in this form. Add runs over a "
    "wider range.",
    "no_method": "No fit by this method is part of the result. Name one of the methods listed.",
    "no_observations": "No trial has finished yet. Finish some trials first.",
    "no_surface": "This method gives no loss for an arbitrary pair of params and tokens, so the "
    "question cannot be asked of it. Ask the surface: `--method surface`.",
    "no_uncertainty": "The fit has no resamples, so it has no interval. Raise `--bootstrap`.",
    "one_horizon": "All runs have one number of tokens. It shows how the loss falls with params, "
    "not which size is compute-optimal. Add runs with two other numbers of tokens.",
    "one_size": "All runs have one model size. A law needs three sizes or more.",
    "too_few_observations": "A fit needs at least 6 finished runs. Finish more trials.",
    "too_few_points": "The envelope needs 3 training curves with 3 points each.",
    "two_horizons": "The runs have two numbers of tokens, and any exponent fits two. Add a third.",
    "two_sizes": "The runs have two model sizes, and any exponent fits two. Add a third.",
    "unreachable_loss": "No compute reaches this loss by the fitted law. Ask for a larger loss.",
}
"""Why there is no fit, or no answer to a question."""

NOTES = {
    "basis": "Where the expected times come from.",
    "columns_guessed": "The table's columns were recognised by their names. Name them with "
    "`--columns` if one is wrong.",
    "curve_points": "Points before the end of a training are used for the envelope only.",
    "flops_assumed": "The table has no FLOPs, so 6 N D was used. Give a column `flops` if your "
    "count differs.",
    "goal_not_reached": "An adaptive sweep ended before its goal was reached. Raise its cap, or "
    "accept the interval.",
    "minima_left_out": "Budgets without a usable minimum are left out of the isoFLOP law.",
    "no_back_test": "There are too few levels of compute to predict larger budgets from smaller "
    "ones, so the error beyond the data is not known. Four levels are the least.",
    "no_irreducible_loss": "The losses at the minima show no level that they approach.",
    "no_resampling": "The table is large, so intervals are Wald's. `--bootstrap 1000` resamples.",
    "outliers": "Some runs lie far off the law and are left out. `--table excluded` lists them.",
    "simulated": "The losses are drawn from a planted law; nothing was trained. Run the manifest "
    "without `--simulate` for a real answer.",
    "small_scale_drift": "Small models follow another law than large ones; they are left out.",
    "sweep_extended": "The sweep was extended: only the new trials are trained.",
}
"""What a reader should know of a result."""

PLANNING = {
    "batch_norm": "A layer's statistics depend on the batch, so losses depend on the batch size.",
    "data_seen_again": "Some trials see data again, up to 4 epochs; that costs little.",
    "elementwise_large": "Element-wise operations are a large share of the work, and FLOPs "
    "count matrix products only.",
    "few_budgets": "The plan has fewer than 5 budgets, so the exponent will rest on chance. Add "
    "budgets in [sweep].",
    "flops_uncounted": "Some operations of the model have no known FLOP count. State "
    "`flops_per_token` if they matter.",
    "frozen_params": "Part of the model is not trained: params count the trained ones alone, FLOPs "
    "count all that is computed.",
    "heldout_first": "The held-out set can only be read from its beginning, so only its first "
    "examples are used. `heldout_examples` in [training] states how many.",
    "heldout_split": "The held-out set was split off the training data.",
    "loss_uncounted": "The loss could not be counted, so matrix products inside it are missing.",
    "named_sizes": "Sizes are sets of arguments, so they are numbered in their order.",
    "negative_loss": "A loss may become negative, where no law of loss holds. Use `[loss] offset`.",
    "no_target": "No target budget is stated. State one in `[report] budgets`.",
    "one_sided": "All sizes of a budget lie on one side of the expected optimum, so its minimum "
    "may not be bracketed. Add sizes on the other side.",
    "out_of_memory": "Some trials are forecast to need more memory than there is. Lower "
    "`micro_batch_examples` (the batch stays the same), or use fewer workers.",
    "overlap": "Held-out examples are also in the training set, which favours large models.",
    "share_of_target": "What the sweep costs, as a share of the largest target.",
    "shared_trunks": "Trials of one size share the first part of their training, so their noise is "
    "shared too.",
    "sizes_missing": "A budget lacks sizes near its optimum. Add sizes, or make the batch smaller.",
    "study_share": "What the study of learning rates costs, as a share of the sweep.",
    "summed_loss": "The loss is a sum over the batch, so it depends on the batch size. Return the "
    "mean.",
    "units_per_example": "The targets do not hold as many units as the data states. Correct "
    "`units_per_example`.",
    "unshifted_targets": "The targets equal the inputs, so the model may copy them. Shift them by "
    "one.",
    "utilisation": "The share of the device's peak that the timed sizes reach.",
}
"""What a plan, an estimate or a check warns of."""

TABLES = {
    "best_of_tuned": "Some pairs of params and tokens were trained with several settings, such as "
    "learning rates. Only the best run of each pair is used.",
    "budgets_ignored": "The column of budgets disagrees with the FLOPs, so it is not used. Correct "
    "its unit with `--scale`.",
    "cells_unknown": "Some cells of an optional column have no usable number.",
    "column_chosen": "Two columns may be the params, tokens or FLOPs, and their numbers differ. "
    "Name the right one with `--columns`.",
    "decimal_commas": "Commas in numbers were read as decimal points.",
    "duplicates_merged": "Some rows repeat another row exactly; each is counted once.",
    "flops_filled": "Some rows lack FLOPs or tokens. They were computed from the FLOPs per token "
    "of runs of similar size.",
    "group_read": "Only the rows of one group were read, as `--group` asked.",
    "groups_pooled": "The rows form groups, and one law was fitted to all of them. `--group` "
    "separates them.",
    "groups_differ": "Losses differ by a column of numbers that a fit does not use. `--group` fits "
    "one law for each of its values.",
    "loss_chosen": "Several columns may be the loss, and one was chosen. Name the right one with "
    "`--loss-column`.",
    "loss_converted": "Losses in bits or perplexities were converted to nats.",
    "params_assumed": "The table has no params. They follow from C = 6 N D and the other counts.",
    "ratios_differ": "Some rows have very few tokens for each parameter, and others have many. "
    "Params and tokens may be exchanged in some rows.",
    "repeats_differ": "Runs with equal params and tokens have losses that differ more than seeds "
    "explain. Separate them with `--group`, or keep the runs of one setting.",
    "rows_far_off": "The loss of some rows is far from the law of the other rows. Check these "
    "cells.",
    "sheet_read": "The Excel file has several sheets, and one was read.",
    "steps_not_read": "Several rows of one run have rising steps, and are read as finished runs of "
    "several lengths. Name the columns of a training curve with `--columns step=,run=`.",
    "table_read": "The note states the columns, units and rows that were read from the table.",
    "tokens_assumed": "The table has no tokens. They follow from C = 6 N D and the other counts.",
}
"""What was noticed while a table was read."""

RATES = {
    "noise_assumed": "Too few learning rates show the noise of the losses, so the usual noise is "
    "assumed.",
    "rule_costs_little": "The rule misses the best rate, but costs less than 1 % of the loss.",
    "rule_fails": "The rule does not carry the learning rate from small to large sizes.",
    "rule_holds": "The rule carries the learning rate within its uncertainty.",
    "rule_misses": "The rate that the rule gives the largest size costs 1 % of its loss or more.",
    "sizes_unknown": "At some sizes the best rate lies outside the grid. Widen the grid there.",
    "slope_unclear": "The interval is too wide to say whether the rule holds. Add seeds or sizes.",
    "too_few_optima": "Fewer than two sizes have a bracketed best rate. Widen the grid of rates.",
    "unbracketed": "The best rate lies at the edge of the grid. Add rates beyond it.",
}
"""What a study of learning rates found."""

_GROUPS = (
    ("Why there is no fit or no answer", FAILURES),
    ("What to know of a result", NOTES),
    ("What was noticed while a table was read", TABLES),
    ("What a plan, an estimate or a check warns of", PLANNING),
    ("What a study of learning rates found", RATES),
)


def known_codes() -> list[str]:
    """Return every code, sorted."""
    told = [code for _, group in _GROUPS for code in group]
    return sorted({*told, *(rule.code for rule in RULES)})


def explain_code(code: str) -> str | None:
    """Return the entry of a code in full; None if the code is not known."""
    parts = [_explained(rule) for rule in RULES if rule.code == code]
    parts += [group[code] for _, group in _GROUPS if code in group]
    return "\n\n".join(parts) if parts else None


def threshold_words(rule: Rule) -> str:
    """`at least 5 budgets with a minimum`; empty where a rule has no number."""
    low, high = rule.least, rule.most
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:g} to {high:g} {rule.unit}"
    if math.isfinite(low):
        return f"at least {low:g} {rule.unit}"
    return f"at most {high:g} {rule.unit}" if math.isfinite(high) else ""


def codes_page() -> str:
    """docs/codes.md: every code, explained."""
    lines = [
        "# Codes",
        "",
        "Every warning and every reason of a verdict has a code. `flops-fit explain CODE` prints "
        "its entry.",
        "",
        "## Rules of a credible study, the gravest first",
    ]
    for code in dict.fromkeys(rule.code for rule in RULES):
        lines += ["", f"### `{code}`", "", explain_code(code) or ""]
    for title, group in _GROUPS:
        lines += ["", f"## {title}", ""]
        lines += [f"- `{code}`: {group[code]}" for code in sorted(group)]
    return "\n".join(lines) + "\n"


def _explained(rule: Rule) -> str:
    """Return a rule at length."""
    statement = rule.statement[0].upper() + rule.statement[1:]
    parts = [("Rule", f"{statement}."), ("Meaning", rule.meaning)]
    if words := threshold_words(rule):
        parts.append(("Threshold", f"{words}."))
    parts += [
        ("Source", f"{rule.source}."),
        ("If broken", _COST[rule.severity]),
        ("What to do", rule.action),
    ]
    text = [f"{name}: {value}" for name, value in parts if value]
    commands = dict.fromkeys(
        each.replace("{source}", "RUN").replace("{largest}", "FLOPS")
        for each in (rule.command, rule.table_command)
        if each
    )
    text += [f"Command: `{command}`" for command in commands]
    return "\n".join(
        textwrap.fill(line, 96, break_long_words=False, break_on_hyphens=False) + "  "
        for line in text
    ).rstrip()
