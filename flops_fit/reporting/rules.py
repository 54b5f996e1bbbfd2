"""The rules of a credible study: one list, read by the verdict, the checklist and `explain`.

Each rule has a stable code, a statement, a threshold with its unit, a source, and the next step
when it is broken. A threshold is stated once in the package: a lower wing that needs one states it,
and this file imports it. `RULES` is sorted by gravity: the first broken rule is the gravest.

Main sources: Hoffmann et al. 2022 (arXiv:2203.15556, 9 budgets), Porian et al. 2024
(arXiv:2406.19146, 12 budgets), Gadre et al. 2024 (arXiv:2403.08540, extrapolation), Besiroglu et
al. 2024 (arXiv:2404.10102, fits and intervals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from flops_fit.errors import Note
from flops_fit.fitting.thresholds import MAX_MAD, MAX_RATIO
from flops_fit.planning.estimate import MOST_EVALUATION
from flops_fit.planning.plan import MANY_EPOCHS, MIN_BUDGETS, MIN_DECADES


class Severity(StrEnum):
    """Cost of a broken rule."""

    REFUSED = "refused"
    """The result is refused."""
    WARNED = "warned"
    """The result is at most provisional."""
    DEFAULT = "default"
    """Nothing: the tool keeps the rule unless told otherwise."""
    TOLD = "told"
    """Nothing: the reader is informed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a credible study.

    Attributes:
        code: stable name, as in the JSON of `report`.
        statement: the rule as a claim about the study.
        severity: what it costs when broken.
        source: a paper by its arXiv number, or `practice`.
        action: what to do when it is broken, one sentence.
        command: the command for it, where `{source}` is a run directory and `{largest}` the largest
            budget of the runs; empty if there is none.
        table_command: the same for a table of runs.
        least, most: the threshold: a study holds the rule inside [least, most].
        unit: of the threshold.
        meaning: why the rule matters, in a few sentences.
    """

    code: str
    statement: str
    severity: Severity
    source: str
    action: str
    command: str = ""
    table_command: str = ""
    least: float = -math.inf
    most: float = math.inf
    unit: str = ""
    meaning: str = ""

    def holds(self, value: float) -> bool:
        """Return whether a measured value lies inside the threshold."""
        return self.least <= value <= self.most

    def reason(self, message: str) -> Note:
        """Return a broken rule as a reason, with the measured figure in `message`."""
        return Note(self.code, message)


REFINE = "flops-fit plan --refine {source}"
READ = "flops-fit report {source} --explain"
MINIMA = "flops-fit report {source} --table minima"
OBSERVATIONS = "flops-fit report {source} --table observations"
NEARER = "flops-fit report {source} --budget {largest}"

NO_USABLE_LAW = Rule(
    "no_usable_law",
    "at least one method gives a law whose exponents are finite",
    Severity.REFUSED,
    "arXiv:2203.15556",
    "Add runs at other sizes and budgets: 3 budgets with 5 sizes each are the least.",
    REFINE,
    READ,
    meaning="Every method failed, or its exponents are not numbers. Nothing can be predicted.",
)
LAW_HIDDEN_BY_SCATTER = Rule(
    "law_hidden_by_scatter",
    "ten times the compute lowers the loss by more than the runs' typical residual",
    Severity.REFUSED,
    "practice",
    "Look at the runs furthest from the law, then repeat or remove them.",
    OBSERVATIONS,
    OBSERVATIONS,
    meaning="The noise is larger than the effect, so the sizes cannot be distinguished.",
)
OPTIMUM_UNKNOWN = Rule(
    "optimum_unknown",
    "the 95 % interval of N at a target is narrower than the range of sizes that were trained",
    Severity.WARNED,
    "practice",
    "Add budgets nearer to the target, or ask for a smaller target.",
    REFINE,
    NEARER,
    meaning=(
        "A wider interval says less about the best size than the plan already assumed. The verdict "
        "is `refuse` if this happens inside the data."
    ),
)
NO_SIGNAL = Rule(
    "no_signal",
    "the best loss falls over the range of compute by more than twice the noise of single runs",
    Severity.REFUSED,
    "practice",
    "Check the loss column; then add budgets further apart.",
    REFINE,
    OBSERVATIONS,
    least=2.0,
    unit="fall of the best log loss over the standard deviation of single runs",
    meaning=(
        "More compute did not visibly lower the loss, so the runs cannot say which size is best. "
        "Usual causes: a wrong column, a metric that saturates, or runs that did not learn."
    ),
)
LOSS_RISES = Rule(
    "loss_rises",
    "the best loss falls with compute",
    Severity.REFUSED,
    "practice",
    "Name the loss column, or exchange the columns that were mixed up.",
    OBSERVATIONS,
    "flops-fit report {source} --columns loss=COLUMN",
    meaning="An accuracy rises with compute; a loss falls. Laws of loss do not fit accuracies.",
)
COLLINEAR_DESIGN = Rule(
    "collinear_design",
    "tokens per param differ between runs: the standard deviation of ln(D/N) is 0.25 or more",
    Severity.REFUSED,
    "arXiv:2605.08541",
    "Add runs at other numbers of tokens per param: two sizes more at each budget.",
    REFINE,
    OBSERVATIONS,
    least=0.25,
    unit="standard deviation of ln(tokens per param)",
    meaning=(
        "When tokens grow in proportion to params, a larger model and more data always come "
        "together, and any split of their effect fits the runs equally well."
    ),
)
LEAST_SHIFT = 0.01
"""A budget's runs are off the law only if they lie this far from it (log loss)."""
BUDGETS_DO_NOT_MATCH = Rule(
    "budgets_do_not_match",
    "the runs of each budget lie about the law, within 4 times the noise within budgets",
    Severity.REFUSED,
    "practice",
    "Look for what differs at that budget: tokenizer, held-out set, learning rate, schedule.",
    OBSERVATIONS,
    OBSERVATIONS,
    most=4.0,
    unit="median residual of a budget over the noise within budgets",
    meaning=(
        "A whole budget lies above or below the others. Its losses are not comparable with theirs, "
        "so a curve through all of them extrapolates the difference, not the law."
    ),
)
BUDGET_OFF_THE_LAW = Rule(
    "budget_off_the_law",
    "the runs of each budget lie about the law, within 2.5 times the noise within budgets",
    Severity.WARNED,
    "practice",
    "Look for what differs at that budget: tokenizer, held-out set, learning rate, schedule.",
    OBSERVATIONS,
    OBSERVATIONS,
    most=2.5,
    unit="median residual of a budget over the noise within budgets",
    meaning="As `budgets_do_not_match`, to a degree that a law that bends can also show.",
)
WORST_FOLD = Rule(
    "worst_fold",
    "fitted to smaller budgets, the answer predicts each of the last budgets: loss within 2 %",
    Severity.WARNED,
    "arXiv:2403.08540",
    "Add a budget above the largest one, and trust the answer only near the data until then.",
    REFINE,
    NEARER,
    most=0.02,
    unit="error of log loss",
    meaning=(
        "The back-test fits the smaller budgets and predicts the next one. An answer that missed "
        "a budget of this very table may miss the target as well."
    ),
)
OUTSIDE_SIZES = Rule(
    "outside_sizes",
    "the best size at the largest budget lies inside the sizes that were trained there",
    Severity.WARNED,
    "arXiv:2406.19146",
    "Train sizes on the other side of the optimum at the largest budget.",
    REFINE,
    MINIMA,
    meaning=(
        "No run shows the loss rise again beyond the best size, so the optimum is extrapolated "
        "in size as well as in compute."
    ),
)
ANSWER_UNCERTAIN = Rule(
    "answer_uncertain",
    "the 95 % interval of N at the largest target reaches at most a factor of 1.6 either way",
    Severity.WARNED,
    "practice",
    "Add budgets nearer to the target, or ask for a smaller target.",
    REFINE,
    NEARER,
    most=1.6,
    unit="factor",
    meaning=(
        "A size that is wrong by a factor of 1.5 wastes about 3 % of the compute. A wider interval "
        "says that the error may be larger than that."
    ),
)
LOSS_UNCERTAIN = Rule(
    "loss_uncertain",
    "the 95 % interval of the loss at the largest target reaches at most 2.5 % either way",
    Severity.WARNED,
    "practice",
    "Add budgets nearer to the target, or ask for a smaller target.",
    REFINE,
    NEARER,
    most=0.025,
    unit="half-width of log loss",
    meaning="2 % of the loss is about what twice the compute buys; a wider interval hides that.",
)
LAW_DOES_NOT_HOLD = Rule(
    "law_does_not_hold",
    f"the runs lie within {MAX_MAD:.1%} of the law (median), and not to one side of it",
    Severity.WARNED,
    "practice",
    "Look at the runs furthest from the law; leave out a range where it bends.",
    OBSERVATIONS,
    OBSERVATIONS,
    most=MAX_MAD,
    unit="median residual of log loss",
    meaning=(
        "The formula L(N, D) = E + A/N^alpha + B/D^beta does not describe these runs. Usual "
        "causes: learning rates that suit some sizes only, runs that ended in mid-schedule, "
        "small models that follow another law, or a wrong column."
    ),
)
LARGE_MISFIT = Rule(
    "large_misfit",
    "the runs lie within 10 % of the surface (median)",
    Severity.WARNED,
    "arXiv:2203.15556",
    "Look at the runs furthest from the law, then repeat or remove them.",
    OBSERVATIONS,
    OBSERVATIONS,
    most=0.1,
    unit="median residual of log loss",
    meaning=(
        "10 % is about what ten times the compute buys in the law of Hoffmann et al. from 1e20 to "
        "1e21 FLOPs. Above it, `law_does_not_hold` is the first reason."
    ),
)
NOT_CONVERGED = Rule(
    "not_converged",
    "the fit converged",
    Severity.WARNED,
    "arXiv:2404.10102",
    "Compare with the other methods, and add runs over a wider range.",
    "flops-fit report {source} --table methods",
    "flops-fit report {source} --table methods",
)
BOUND = Rule(
    "bound",
    "no parameter of a law ends at a bound of the search",
    Severity.WARNED,
    "arXiv:2404.10102",
    "Widen the range of sizes and tokens: the runs do not determine this parameter.",
    REFINE,
    "flops-fit report {source} --table laws",
)
TOO_FEW_BUDGETS = Rule(
    "too_few_budgets",
    f"{MIN_BUDGETS} budgets or more, over {MIN_DECADES} decades or more",
    Severity.WARNED,
    "arXiv:2203.15556; arXiv:2406.19146",
    "Add budgets with sizes on both sides of the optimum.",
    REFINE,
    MINIMA,
    least=MIN_BUDGETS,
    unit="budgets with a minimum",
    meaning="With fewer budgets the exponent rests on chance: Hoffmann et al. used 9.",
)
NARROW_BUDGETS = Rule(
    "narrow_budgets",
    f"the budgets span {MIN_DECADES} decades of compute or more",
    Severity.WARNED,
    "arXiv:2203.15556; arXiv:2406.19146",
    "Add a smaller or a larger budget.",
    REFINE,
    MINIMA,
    least=MIN_DECADES,
    unit="decades of compute",
    meaning="An exponent is a slope. Over a short range, noise of the loss makes it uncertain.",
)
EXTRAPOLATION = Rule(
    "extrapolation",
    "predictions reach at most 10 times the largest budget",
    Severity.WARNED,
    "arXiv:2403.08540",
    "Add a larger budget, or ask for a smaller target with --budget.",
    REFINE,
    NEARER,
    most=10.0,
    unit="times the largest budget",
    meaning=(
        "Beyond 10 times, the error of held-out predictions grows quickly. Gadre et al. needed "
        "tuned recipes to reach 300 times."
    ),
)
UNBRACKETED_MINIMUM = Rule(
    "unbracketed_minimum",
    "every minimum is bracketed",
    Severity.REFUSED,
    "arXiv:2406.19146",
    "Add sizes on the open side of the budget.",
    REFINE,
    MINIMA,
    meaning="The best size at this budget lies outside the sizes that were trained.",
)
FLAT_MINIMUM = Rule(
    "flat_minimum",
    "every curvature is positive and larger than its noise",
    Severity.REFUSED,
    "arXiv:2406.19146",
    "Spread its sizes further apart, or repeat them with other seeds.",
    REFINE,
    MINIMA,
    meaning="The losses at this budget do not form a valley that is deeper than their noise.",
)
CONCAVE_MINIMUM = Rule(
    "concave_minimum",
    "the loss at a budget rises on both sides of its minimum",
    Severity.WARNED,
    "arXiv:2406.19146",
    "Spread its sizes further apart, or repeat them with other seeds.",
    REFINE,
    MINIMA,
)
TOO_FEW_MINIMUM = Rule(
    "too_few_minimum",
    "every budget has enough sizes for a minimum",
    Severity.WARNED,
    "arXiv:2406.19146",
    "Add sizes at this budget; a grid without isoFLOP curves needs none.",
    REFINE,
    MINIMA,
)
TOO_FEW_SIZES = Rule(
    "too_few_sizes",
    "5 sizes or more at every budget",
    Severity.WARNED,
    "arXiv:2203.15556",
    "Add sizes at the thin budgets.",
    REFINE,
    MINIMA,
    least=5,
    unit="sizes",
    meaning="A parabola through fewer points has no residual, so its uncertainty is not known.",
)
TAPERED_SIZES = Rule(
    "tapered_sizes",
    "3 sizes or more at the upper budgets of a tapered sweep",
    Severity.WARNED,
    "practice",
    "Add sizes at the thin budgets.",
    REFINE,
    least=3,
    unit="sizes",
    meaning=(
        "A tapered sweep has many sizes at small budgets and few at large ones. Three bracket a "
        "minimum whose curvature the smaller budgets give."
    ),
)
METHODS_DISAGREE = Rule(
    "methods_disagree",
    f"the methods' optimal N differ by a factor of {MAX_RATIO} or less, or their intervals meet",
    Severity.WARNED,
    "arXiv:2406.19146",
    "Compare the methods, then add runs near the target.",
    "flops-fit report {source} --table methods",
    "flops-fit report {source} --table methods",
    most=MAX_RATIO,
    unit="ratio of optimal params",
    meaning="Two methods see different optima in the same runs, so at least one is wrong here.",
)
ADDITIVE_FORM_IN_DOUBT = Rule(
    "additive_form_in_doubt",
    "the additive form is held against another one",
    Severity.WARNED,
    "arXiv:2603.22339",
    "Compare with the general form before you extrapolate.",
    "flops-fit report {source} --table methods",
    "flops-fit report {source} --table methods",
    meaning=(
        "A form in which params and data interact fits clearly better than the sum A/N^alpha + "
        "B/D^beta, so the surface's optimum may be biased."
    ),
)
IMPLAUSIBLE_EXPONENT = Rule(
    "implausible_exponent",
    "exponent a lies within 0.25 to 0.85",
    Severity.WARNED,
    "published laws",
    "Check the columns and units first, then compare the methods.",
    "flops-fit report {source} --table laws",
    "flops-fit report {source} --table laws",
    least=0.25,
    most=0.85,
    unit="exponent a of N ~ C^a",
    meaning="The range of published laws, rounded outwards.",
)
IMPLAUSIBLE_POWER = Rule(
    "implausible_exponent",
    "alpha and beta lie within 0.05 to 1",
    Severity.WARNED,
    "published laws",
    "Check the columns and units first, then compare the methods.",
    "flops-fit report {source} --table laws",
    "flops-fit report {source} --table laws",
    least=0.05,
    most=1.0,
    unit="exponents alpha and beta",
)
IRREDUCIBLE_LOSS_AT_BOUND = Rule(
    "irreducible_loss_at_bound",
    "the irreducible loss is determined: above 0, below every loss",
    Severity.WARNED,
    "arXiv:2404.10102",
    "Add larger runs, or hold E at a known value with --irreducible-loss.",
    "flops-fit report {source} --table laws",
    "flops-fit report {source} --table laws",
    least=1e-6,
    unit="of the least loss",
    meaning="These runs do not show where the loss levels off, so far predictions are too low.",
)
IRREDUCIBLE_LOSS_ABOVE_DATA = Rule(
    "irreducible_loss_above_data",
    "the irreducible loss is below every observed loss",
    Severity.WARNED,
    "arXiv:2404.10102",
    "Compare the methods: this one cannot be right about large budgets.",
    "flops-fit report {source} --table laws",
    "flops-fit report {source} --table laws",
)
DIVERGED_TRIALS = Rule(
    "diverged_trials",
    "no trial diverged",
    Severity.WARNED,
    "arXiv:2406.19146",
    "Find a learning rate that suits every size.",
    "flops-fit transfer {source}/manifest.toml",
    "flops-fit report {source} --table excluded",
    most=0,
    unit="trials",
    meaning="A rate at which one trial diverges is often too high for its neighbours as well.",
)
MANY_EXCLUDED = Rule(
    "many_excluded",
    "at most 10 % of the trials are left out",
    Severity.WARNED,
    "practice",
    "Read why they were left out, and repeat what can be repeated.",
    "flops-fit report {source} --table excluded",
    "flops-fit report {source} --table excluded",
    most=0.1,
    unit="share of the trials",
)
ONE_HELDOUT_SET = Rule(
    "one_heldout_set",
    "the fitted loss is measured on one held-out set, the same for all trials",
    Severity.REFUSED,
    "arXiv:2502.18969",
    "Evaluate every trial on the same examples: `heldout_examples` in [training].",
)
SCHEDULE_ENDS = Rule(
    "schedule_ends",
    "losses are taken where the schedule ends, each trial at its own horizon",
    Severity.REFUSED,
    "arXiv:2203.15556; arXiv:2405.18392",
    "Choose a schedule that decays: `schedule` in [training].",
)
FLOPS_MATCH_BUDGET = Rule(
    "flops_match_budget",
    "realised FLOPs lie within 1 % of the budget",
    Severity.REFUSED,
    "arXiv:2406.19146",
    "Lower the batch, so that whole steps spend the budget.",
    most=0.01,
    unit="share of the budget",
)
EXPONENTS_ADD_UP = Rule(
    "exponents_add_up",
    "tokens follow from params through the FLOP count: a + b is near 1",
    Severity.REFUSED,
    "arXiv:2203.15556",
    "Check that params and FLOPs are counted by one convention.",
    "flops-fit report {source} --table conventions",
    "flops-fit report {source} --table conventions",
    most=0.05,
    unit="distance of a + b from 1",
)
NOTHING_DROPPED = Rule(
    "nothing_dropped",
    "no trial is dropped silently",
    Severity.REFUSED,
    "arXiv:2404.10102",
    "Read the list of what was left out.",
    "flops-fit report {source} --table excluded",
    "flops-fit report {source} --table excluded",
)
RATE_FOLLOWS_RULE = Rule(
    "rate_follows_rule",
    "the learning rate follows a stated rule, bracketed at two sizes or more",
    Severity.WARNED,
    "arXiv:2406.19146; arXiv:2503.04715",
    "Measure the best learning rate at two sizes.",
    "flops-fit transfer {source}/manifest.toml",
    least=2,
    unit="sizes",
)
ENOUGH_STEPS = Rule(
    "enough_steps",
    "every trial has 1000 optimiser steps or more",
    Severity.WARNED,
    "arXiv:2505.13738",
    "Lower the batch, or raise the smallest budget.",
    least=1000,
    unit="optimiser steps",
)
DATA_REPEATED = Rule(
    "data_repeated",
    f"training data is not repeated (up to {MANY_EPOCHS} epochs cost little)",
    Severity.WARNED,
    "arXiv:2305.16264",
    'Use more data, or ask what repeats cost: --question "unique_tokens=U budget=C".',
    most=MANY_EPOCHS,
    unit="epochs",
)
SEED_NOISE = Rule(
    "seed_noise",
    "seed noise is measured: one cell has 3 seeds or more",
    Severity.WARNED,
    "arXiv:2406.19146",
    "Train one cell with 3 seeds: `replicates` in [sweep].",
    least=3,
    unit="seeds",
)
SWEEP_SHARE = Rule(
    "sweep_share",
    "the sweep costs at most 20% of the largest target",
    Severity.WARNED,
    "practice",
    "Ask for a larger target, or plan a smaller sweep.",
    most=0.2,
    unit="share of the largest target",
)
TOKENS_PER_PARAM = Rule(
    "tokens_per_param",
    "tokens per parameter lie within 1 to 250",
    Severity.WARNED,
    "arXiv:2401.00448",
    "Choose sizes nearer to the optimum: a law far from it may differ.",
    least=1.0,
    most=250.0,
    unit="tokens per parameter",
)
OTHER_FORM = Rule(
    "other_form",
    "the additive form is held against another one",
    Severity.WARNED,
    "arXiv:2603.22339",
    "Fit the general form as well: `--method general`.",
)
EXACT_PARTS = Rule(
    "exact_parts",
    "a batch's loss is the mean of its parts', however it is passed",
    Severity.WARNED,
    "practice",
    "Give the loss a `count(targets)`.",
)
FLOPS_COUNTED = Rule(
    "flops_counted",
    "FLOPs count every matrix product, the head and attention included",
    Severity.DEFAULT,
    "arXiv:2406.19146",
    'Write `count = "counted"` in [flops].',
)
RUNS_KEPT = Rule(
    "runs_kept",
    "all runs, failed ones too, are kept with seeds, versions and a fingerprint",
    Severity.DEFAULT,
    "arXiv:2502.18969",
    "Keep the run directory.",
)
NARROW_PARABOLA = Rule(
    "narrow_parabola",
    "a parabola uses sizes near its minimum only",
    Severity.DEFAULT,
    "arXiv:2603.22339",
    "Add sizes near the minimum.",
    most=10,
    unit="times the best size",
)
SURFACE_SPEAKS = Rule(
    "surface_speaks",
    "the surface speaks first, and its fit ended well",
    Severity.DEFAULT,
    "arXiv:2404.10102",
    "Read why the surface was passed over.",
    "flops-fit report {source} --table laws",
    "flops-fit report {source} --table laws",
)
ENOUGH_RESAMPLES = Rule(
    "enough_resamples",
    "intervals rest on 1000 resamples or more",
    Severity.DEFAULT,
    "arXiv:2404.10102",
    "Resample more often.",
    "flops-fit report {source} --bootstrap 1000",
    "flops-fit report {source} --bootstrap 1000",
    least=1000,
    unit="resamples",
)
HELD_OUT_BUDGETS = Rule(
    "held_out_budgets",
    "larger budgets were held out and predicted",
    Severity.DEFAULT,
    "arXiv:2403.08540",
    "Add budgets: a back-test needs 4 levels of compute.",
    REFINE,
)
WARMUP_SCALES = Rule(
    "warmup_scales",
    "warm-up scales with the run",
    Severity.DEFAULT,
    "arXiv:2406.19146",
    "Lower `warmup_fraction` in [training].",
    most=0.2,
    unit="share of the steps",
)
BETA2_SUITS_BATCH = Rule(
    "beta2_suits_batch",
    "AdamW's beta2 is 0.98 or more where batches are small",
    Severity.DEFAULT,
    "arXiv:2406.19146",
    "Raise the second of `betas` in [training].",
    least=0.98,
    unit="beta2",
)
EVALUATION_SHARE = Rule(
    "evaluation_share",
    f"held-out losses take {MOST_EVALUATION:.0%} of the trials' time or less",
    Severity.DEFAULT,
    "practice",
    "Lower `heldout_examples` in [training].",
    most=MOST_EVALUATION,
    unit="share of the trials' time",
    meaning=(
        "`heldout_examples` reads a part of the held-out set, whose error must stay well below the "
        "noise between seeds. `curve_share` limits the training curves."
    ),
)


RULES = (
    NO_USABLE_LAW,
    LOSS_RISES,
    NO_SIGNAL,
    COLLINEAR_DESIGN,
    BUDGETS_DO_NOT_MATCH,
    LAW_HIDDEN_BY_SCATTER,
    OPTIMUM_UNKNOWN,
    OUTSIDE_SIZES,
    WORST_FOLD,
    ANSWER_UNCERTAIN,
    LOSS_UNCERTAIN,
    BUDGET_OFF_THE_LAW,
    LAW_DOES_NOT_HOLD,
    LARGE_MISFIT,
    NOT_CONVERGED,
    BOUND,
    TOO_FEW_BUDGETS,
    NARROW_BUDGETS,
    EXTRAPOLATION,
    UNBRACKETED_MINIMUM,
    FLAT_MINIMUM,
    CONCAVE_MINIMUM,
    TOO_FEW_MINIMUM,
    TOO_FEW_SIZES,
    TAPERED_SIZES,
    METHODS_DISAGREE,
    ADDITIVE_FORM_IN_DOUBT,
    IMPLAUSIBLE_EXPONENT,
    IMPLAUSIBLE_POWER,
    IRREDUCIBLE_LOSS_AT_BOUND,
    IRREDUCIBLE_LOSS_ABOVE_DATA,
    DIVERGED_TRIALS,
    MANY_EXCLUDED,
    ONE_HELDOUT_SET,
    SCHEDULE_ENDS,
    FLOPS_MATCH_BUDGET,
    EXPONENTS_ADD_UP,
    NOTHING_DROPPED,
    RATE_FOLLOWS_RULE,
    ENOUGH_STEPS,
    DATA_REPEATED,
    SEED_NOISE,
    SWEEP_SHARE,
    TOKENS_PER_PARAM,
    OTHER_FORM,
    EXACT_PARTS,
    FLOPS_COUNTED,
    RUNS_KEPT,
    NARROW_PARABOLA,
    SURFACE_SPEAKS,
    ENOUGH_RESAMPLES,
    HELD_OUT_BUDGETS,
    WARMUP_SCALES,
    BETA2_SUITS_BATCH,
    EVALUATION_SHARE,
)
"""Every rule, the gravest first."""

REFUSING = frozenset(rule.code for rule in RULES if rule.severity is Severity.REFUSED)
"""Codes that leave nothing to believe."""

DOUBTS = frozenset(
    rule.code for rule in RULES if rule.severity in (Severity.REFUSED, Severity.WARNED)
)
"""Codes that cost trust; other codes only inform."""


def rule_of(code: str) -> Rule | None:
    """Return the first rule with a code; None if there is none."""
    return next((rule for rule in RULES if rule.code == code), None)
