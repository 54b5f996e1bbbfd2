"""The questions that come after "what is optimal?", as methods of whoever holds fits.

The answers are worked out in `answers`; here they get their names, their units and their checks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from flops_fit.errors import FitError
from flops_fit.fitting.law import Fit
from flops_fit.reporting.answers import (
    Answer,
    Ground,
    ask,
    data_constrained,
    ground_of,
    near_optimal,
    overtrain,
    serving,
    waste,
)
from flops_fit.units import parse_number


class Questions(ABC):
    """Questions to the fitted law of loss; counts may be written `1e9` or "1e9"."""

    @abstractmethod
    def fit(self, method: str | None = None) -> Fit:
        """The law of one method; by default the one that speaks for the result."""

    def compute_for_loss(self, loss: float | str, *, method: str = "surface") -> Answer:
        """The least compute that reaches a loss, and the N and D to spend it on.

        Raises:
            FitError: no compute reaches it (`unreachable_loss`), or the method has no surface.
        """
        wanted = parse_number(loss)

        def question(ground: Ground) -> Answer:
            optimum = ground.frontier.optimum(ground.compute_for(wanted))
            return ground.answer(optimum.params, optimum.tokens)

        return ask(self.fit(method), question)

    def with_params(
        self,
        params: float | str,
        *,
        tokens: float | str | None = None,
        compute_budget: float | str | None = None,
        loss: float | str | None = None,
        method: str = "surface",
    ) -> Answer:
        """What a model of fixed size gives: trained on `tokens`, for a budget, or up to a loss.

        Figures: `loss_limit`, the loss with endless data; `waste`, the share of the compute that a
        model of the optimal size would save.

        Raises:
            ValueError: not exactly one of tokens, compute_budget and loss is given.
            FitError: a model of this size does not reach the loss (`unreachable_loss`).
        """
        size = parse_number(params)
        name, value = _only(tokens=tokens, compute_budget=compute_budget, loss=loss)

        def question(ground: Ground) -> Answer:
            match name:
                case "tokens":
                    seen = value
                case "compute_budget":
                    seen = value / ground.flops_per_token(size)
                case _:
                    seen = ground.tokens_for(size, value)
            limit = ground.law.loss(size, float("inf"))
            return ground.answer(size, seen, loss_limit=limit, waste=waste(ground, size, seen))

        return ask(self.fit(method), question)

    def with_tokens(
        self,
        tokens: float | str,
        *,
        params: float | str | None = None,
        compute_budget: float | str | None = None,
        loss: float | str | None = None,
        method: str = "surface",
    ) -> Answer:
        """What a fixed amount of fresh data gives: with `params`, for a budget, or up to a loss.

        Figures: `loss_limit`, the loss of an endlessly large model; `waste`, as in `with_params`.

        Raises:
            ValueError: not exactly one of params, compute_budget and loss is given.
            FitError: no model reaches the loss on so little data (`unreachable_loss`).
        """
        seen = parse_number(tokens)
        name, value = _only(params=params, compute_budget=compute_budget, loss=loss)

        def question(ground: Ground) -> Answer:
            match name:
                case "params":
                    size = value
                case "compute_budget":
                    size = ground.params_within(seen, value)
                case _:
                    size = ground.params_for(seen, value)
            limit = ground.law.loss(float("inf"), seen)
            return ground.answer(size, seen, loss_limit=limit, waste=waste(ground, size, seen))

        return ask(self.fit(method), question)

    def with_unique_tokens(
        self,
        unique_tokens: float | str,
        compute_budget: float | str,
        *,
        method: str = "surface",
    ) -> Answer:
        """The best allocation of a budget where only `unique_tokens` differ and the rest repeat.

        The worth of repeats is that of language models (Muennighoff et al. 2023,
        arXiv:2305.16264); it is not fitted to these trials. Figures: `epochs`, and
        `loss_with_fresh_data`, what the budget would give without repeats.
        """
        unique, budget = parse_number(unique_tokens), parse_number(compute_budget)
        return ask(self.fit(method), lambda ground: data_constrained(ground, budget, unique))

    def with_serving(
        self, loss: float | str, served_tokens: float | str, *, method: str = "surface"
    ) -> Answer:
        """The N that reaches a loss with the least FLOPs of training and of serving together.

        Figures: `total_flops`; `saved`, against the compute-optimal model of the same loss;
        `params_without_serving`, that model's size. Source: Sardana et al. 2024 (arXiv:2401.00448).

        Raises:
            FitError: no compute reaches the loss (`unreachable_loss`).
        """
        wanted, served = parse_number(loss), parse_number(served_tokens)
        return ask(self.fit(method), lambda ground: serving(ground, wanted, served))

    def overtrained(
        self, compute_budget: float | str, multiple: float | str, *, method: str = "surface"
    ) -> Answer:
        """The loss at `multiple` times the optimal tokens per parameter, at the same compute.

        Figures: `tokens_per_param` and `waste`, the share of the compute that the optimum would
        save. A multiple below 1 under-trains.
        """
        budget, times = parse_number(compute_budget), parse_number(multiple)
        return ask(self.fit(method), lambda ground: overtrain(ground, budget, times))

    def near_optimal(
        self, compute_budget: float | str, *, waste: float = 0.01, method: str = "surface"
    ) -> tuple[float, float]:
        """The smallest and the largest params that waste at most this share of a budget.

        Raises:
            ValueError: the share is not between 0 and 1.
        """
        if not 0 < waste < 1:
            raise ValueError(f"`waste` is not a share between 0 and 1: {waste}")
        return near_optimal(ground_of(self.fit(method)), parse_number(compute_budget), waste)

    def _near_optimal(self, budget: float, method: str) -> tuple[float, float] | None:
        """The range of params that wastes at most 1 % of a budget; None without a surface."""
        try:
            return self.near_optimal(budget, method=method)
        except FitError:
            return None


def _only(**given: float | str | None) -> tuple[str, float]:
    """The one argument that was given, with its value.

    Raises:
        ValueError: none was, or more than one.
    """
    stated = {name: value for name, value in given.items() if value is not None}
    if len(stated) != 1:
        names = ", ".join(given)
        raise ValueError(f"expected exactly one of {names}; got {', '.join(stated) or 'none'}")
    ((name, value),) = stated.items()
    assert value is not None
    return name, parse_number(value)
