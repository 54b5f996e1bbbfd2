"""What a sweep cost, what that bought, and what its answer costs to act on."""

import json

import numpy as np
import pytest
from figure_parts import GAINS, legend_texts, lines
from ledgers import entry
from matplotlib.backends.backend_agg import FigureCanvasAgg
from planted_results import MANIFEST, PLANTED, observe, planted_result

from flops_fit.fitting.fit import fit_all
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation
from flops_fit.fitting.surface import solve_surface
from flops_fit.manifest.files import write_json
from flops_fit.manifest.trials import Size, Trial, Trunk
from flops_fit.planning.plan import Plan
from flops_fit.reporting.costs import TrialCost, cost_rows
from flops_fit.reporting.figures.costs import costs_figure, gains_figure
from flops_fit.reporting.tables.costs import costs_table
from flops_fit.reporting.tables.speeds import speeds_table
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.rundir import RunDir

SIZES = [Size(w, 600 * w**2, None, 6.0 * 600 * w**2) for w in (16, 24, 32, 48, 64)]
RATE = 2e9  # FLOP/s of every trial


@pytest.fixture
def swept(tmp_path):
    """A run directory of two budgets: five sizes that can be built, each timed, a price."""
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.manifest.write_text(
        MANIFEST + "[execution]\nprice_per_hour = 3.6\ndevices_per_trial = 2\n", encoding="utf-8"
    )
    trials = [
        Trial.of(
            budget_flops=budget, size=size, tokens=round(budget / size.flops_per_token),
            batch_tokens=1, seed=0,
        )
        for budget in (1e15, 1e16) for size in SIZES
    ]  # fmt: skip
    write_json(run.plan, Plan(tuple(trials)).to_dict())
    sizes = [
        {"size_value": s.size_value, "params": s.params, "params_non_embedding": None,
         "flops_per_token": s.flops_per_token}
        for s in SIZES
    ]  # fmt: skip
    write_json(run.provenance, {
        "fingerprint": "abc", "identity": {}, "planted": None, "search_path": [], "data": None,
        "description": {"sizes": sizes, "facts": {}},
    })  # fmt: skip
    expected = [{"trial_id": t.trial_id, "wall_seconds": 0.8 * t.flops / RATE} for t in trials]
    write_json(run.estimate, {"basis": "3 sizes timed", "trials": expected})
    ledger = Ledger.open(run.ledger)
    ledger.append(entry("sweep_started", fingerprint="abc", trials=len(trials)))
    for place, trial in enumerate(trials):
        counted = {"energy_joules": trial.flops / 1e9, "energy_source": "NVML"}
        ledger.append(entry(
            "trial_finished", trial.trial_id, params=trial.size.params, tokens=trial.tokens,
            loss=PLANTED.loss(trial.size.params, trial.tokens), flops=trial.flops,
            wall_seconds=trial.flops / RATE, device="cpu (test)",
            tokens_per_second=RATE / trial.size.flops_per_token, flops_per_second=RATE,
            utilisation=0.4 if place < 5 else 0.5, memory_bytes=10**9 + place,
            **(counted if place else {}),
        ))  # fmt: skip
    ledger.close()
    return planted_result((1e15, 1e16), targets=(1e17,), run_dir=run.path)


def test_an_optimum_has_its_nearest_size_its_time_and_its_price(swept):
    for row in swept.chinchilla_table():
        seconds = row["budget_flops"] / RATE
        assert row["wall_seconds"] == pytest.approx(seconds)
        assert row["cost"] == pytest.approx(2 * seconds / 1000)  # 3.6 an hour, two devices
        near = min(SIZES, key=lambda s: abs(np.log(s.params / row["params"])))
        inside = row["params"] <= SIZES[-1].params
        assert row["nearest_size"] == near.size_value or not inside
        known = [s.flops_per_token for s in SIZES]
        per_token = row["budget_flops"] / row["tokens"]
        assert row["is_rate_extrapolated"] is not (
            min(known) / 1.05 <= per_token <= 1.05 * max(known)
        )


def test_trials_that_the_estimate_did_not_know_are_expected_at_the_rates_that_it_timed(swept):
    timing = {"flops_per_token": 1.0, "seconds_per_token": 2 / RATE, "flops_per_second": RATE / 2}
    told = {"basis": "sizes timed", "trials": [], "timings": [timing]}
    write_json(RunDir(swept.run_dir).estimate, told)
    *_, last = swept.to_dict()["costs"]
    assert last["expected_seconds"] == pytest.approx(2 * last["real_seconds"])


def test_the_sizes_around_an_optimum_cost_what_the_law_says(swept):
    rows = swept.to_dict()["buildable"]
    inside = [row for row in rows if row["is_counted"] and row["budget_flops"] == 1e15]
    best = PLANTED.optimum(1e15)
    assert len(inside) == 2
    assert inside[0]["params"] <= best.params < inside[1]["params"]
    for row in inside:
        loss = PLANTED.loss(row["params"], 1e15 / 6 / row["params"])
        assert row["loss"] == pytest.approx(loss)
        assert row["loss_above_optimum"] == pytest.approx(loss - best.loss, abs=1e-12)
        # With what is not wasted, the optimum reaches the same loss.
        rest = 1e15 * (1 - row["wasted_percent"] / 100)
        assert PLANTED.optimum(rest).loss == pytest.approx(loss, rel=1e-6)


def test_beyond_the_counted_sizes_the_trend_goes_on_in_steps_and_says_so(swept):
    beyond = [row for row in swept.to_dict()["buildable"] if not row["is_counted"]][-1]
    assert beyond["budget_flops"] == 1e17
    best = PLANTED.optimum(1e17)
    assert best.params > SIZES[-1].params
    assert beyond["size_value"] % 8 == 0
    assert beyond["params"] == pytest.approx(600 * beyond["size_value"] ** 2)
    assert abs(beyond["size_value"] - (best.params / 600) ** 0.5) <= 4
    assert beyond["is_rate_extrapolated"]
    table = swept.tables()["buildable"].to_markdown()
    assert "by the trend of the largest counted sizes" in table
    assert "beyond the sizes that were timed" in table


def test_a_table_of_runs_has_neither_times_nor_empty_columns_for_people():
    table = planted_result().tables()["methods"]
    assert "nearest" not in table.to_markdown()
    assert "nearest" not in table.to_latex()
    assert {"nearest_size", "wall_seconds", "cost"} <= set(table.to_csv().split("\n")[0].split(","))
    assert "buildable" not in planted_result().tables()


def test_sizes_that_a_table_names_can_be_built():
    seen = [
        Observation(o.params, o.tokens, o.flops, o.loss, o.budget_flops, o.name, size_value=k)
        for k, o in enumerate(observe([1e17, 1e18, 1e19]), 1)
    ]
    rows = planted_result(observations=tuple(seen), targets=()).to_dict()["buildable"]
    assert {row["size_value"] for row in rows} <= {float(o.size_value) for o in seen}
    assert {row["budget_flops"] for row in rows} == {1e17, 1e18, 1e19}
    for budget in (1e17, 1e18, 1e19):
        below, above = [row for row in rows if row["budget_flops"] == budget]
        assert below["params"] <= PLANTED.optimum(budget).params <= above["params"]
    assert all(row["wall_seconds"] is None for row in rows)


def test_costs_are_summed_by_budget_and_in_all(swept):
    small, large, whole = swept.to_dict()["costs"]
    assert (small["trials"], large["trials"], whole["trials"]) == (5, 5, 10)
    assert small["real_seconds"] == pytest.approx(5e15 / RATE, rel=1e-3)
    assert whole["real_seconds"] == pytest.approx(small["real_seconds"] + large["real_seconds"])
    assert whole["real_over_expected"] == pytest.approx(1 / 0.8)
    assert whole["real_cost"] == pytest.approx(2 * whole["real_seconds"] / 1000)
    assert whole["budget_flops"] is None
    assert "3 sizes timed" in swept.tables()["costs"].to_markdown()


def test_energy_is_summed_over_the_trials_that_know_it(swept):
    small, large, whole = swept.to_dict()["costs"]
    assert [row["energy_trials"] for row in (small, large, whole)] == [4, 5, 9]
    assert small["energy_kilowatt_hours"] == pytest.approx(4e15 / 1e9 / 3.6e6, rel=1e-3)
    assert large["energy_kilowatt_hours"] == pytest.approx(5e16 / 1e9 / 3.6e6, rel=1e-3)
    assert whole["energy_kilowatt_hours"] == pytest.approx(5.4e16 / 1e9 / 3.6e6, rel=1e-3)
    table = swept.tables()["costs"].to_markdown()
    assert "energy (kWh)" in table
    assert "in 9 of the trials" in table


def test_where_nothing_counts_energy_no_column_speaks_of_it():
    rows = cost_rows([TrialCost(1e10, 1e10, 1e10, 2.0, 3.0)], price_per_device_second=None)
    assert rows[0]["energy_kilowatt_hours"] is None
    assert "energy" not in costs_table(rows).to_markdown()


def test_each_size_says_how_much_of_its_device_it_used(swept):
    rows = swept.to_dict()["speeds"]
    assert [row["size_value"] for row in rows] == [size.size_value for size in SIZES]
    assert {row["trials"] for row in rows} == {2}
    assert all(row["utilisation"] == pytest.approx(0.45) for row in rows)
    assert [row["memory_bytes"] for row in rows] == [1e9 + 5 + place for place in range(5)]
    assert all(row["mfu"] is None for row in rows)
    table = swept.tables()["speeds"].to_markdown()
    assert "45.0" in table
    assert "MFU" not in table
    listed = [row | {"mfu": 0.31, "device": "NVIDIA H200"} for row in rows]
    table = speeds_table(listed, "patch").to_markdown()
    assert "31.0" in table
    assert "patches per s" in table
    assert "vendor" in table


@pytest.fixture
def branched(tmp_path):
    """Three trials off one trunk: one with a discarded attempt, one that failed, one that ended."""
    run = RunDir(tmp_path / "branched")
    run.path.mkdir()
    run.manifest.write_text(MANIFEST, encoding="utf-8")
    size = SIZES[0]
    trials = [
        Trial.of(
            budget_flops=1e15, size=size, tokens=tokens, batch_tokens=10, seed=0,
            trunk=Trunk(4000, 10, shared),
        )
        for tokens, shared in ((1000, 0), (2000, 1000), (4000, 2000))
    ]  # fmt: skip
    write_json(run.plan, Plan(tuple(trials), (), has_curves=False).to_dict())
    write_json(run.provenance, {
        "fingerprint": "abc", "identity": {}, "planted": None, "search_path": [], "data": None,
        "description": {"sizes": [], "facts": {}},
    })  # fmt: skip
    expected = [{"trial_id": t.trial_id, "wall_seconds": t.cost_flops / RATE} for t in trials]
    write_json(run.estimate, {"basis": "timed", "trials": expected})
    ledger = Ledger.open(run.ledger)
    ledger.append(entry("sweep_started", fingerprint="abc", trials=len(trials)))
    done = {"params": size.params, "loss": 3.0}
    for trial, lost in ((trials[0], 0.5), (trials[2], 0.0)):
        ledger.append(entry(
            "trial_finished", trial.trial_id, **done, tokens=trial.tokens, flops=trial.flops,
            spent_flops=(1 + lost) * trial.cost_flops,
            wall_seconds=(1 + lost) * trial.cost_flops / RATE,
        ))  # fmt: skip
    ledger.append(
        entry("trial_failed", trials[1].trial_id, error="lost", flops=3e6, wall_seconds=7.0)
    )
    ledger.close()
    return planted_result((1e15, 1e16), targets=(), run_dir=run.path), trials


def test_what_trials_share_is_counted_once_and_what_was_lost_is_counted_too(branched):
    result, trials = branched
    one, whole = result.to_dict()["costs"]
    first, _, last = (trial.cost_flops for trial in trials)
    assert (first, last) == (1000 * trials[0].size.flops_per_token,
                             2000 * trials[0].size.flops_per_token)  # fmt: skip
    for row in (one, whole):
        assert row["trials"] == 2
        assert row["expected_flops"] == pytest.approx(first + last)
        assert row["real_flops"] == pytest.approx(1.5 * first + last)
        assert row["real_over_expected"] == pytest.approx((1.5 * first + last) / (first + last))
        told = row["unended_trials"], row["unended_flops"], row["unended_seconds"]
        assert told == (1, 3e6, 7.0)
    text = result.tables()["costs"].to_markdown()
    assert "failed or unfinished" in text
    assert "counted once" in text


def test_a_sweep_whose_trials_all_ended_has_no_column_for_others(swept):
    assert "failed or unfinished" not in swept.tables()["costs"].to_markdown()


def test_without_an_estimate_the_real_cost_stands_alone():
    costs = [TrialCost(1e10, 1e10, 1e10, None, 3.0), TrialCost(1e10, 1e10, 9e9, 2.0, 4.0)]
    rows = cost_rows(costs, price_per_device_second=None)
    assert [row["real_seconds"] for row in rows] == [7.0, 7.0]
    assert all(row["expected_seconds"] is row["real_over_expected"] is None for row in rows)
    assert cost_rows([], price_per_device_second=1.0) == []


def test_the_cost_figure_holds_each_trial_against_its_estimate(swept):
    (axes,) = swept.plot()["costs"].axes
    drawn = lines(axes, "trials")
    assert [len(line.get_xdata()) for line in drawn] == [5, 5]
    for line in drawn:
        assert np.allclose(line.get_ydata(), np.array(line.get_xdata()) / 0.8)
    (equal,) = lines(axes, "equal")
    assert list(equal.get_xdata()) == list(equal.get_ydata())
    assert axes.get_xlabel() == "expected time of a trial"
    texts = [tick.get_text() for tick in axes.get_xticklabels()]
    assert all(text.endswith((" s", "min", " h", " d")) for text in texts), texts
    assert "within 20 %" in legend_texts(swept.plot(1)["costs"])
    for columns in (None, 1, 2):
        figure = swept.plot(columns)["costs"]
        FigureCanvasAgg(figure).draw()
        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
            box = axis.label.get_window_extent()
            assert min(box.x0, box.y0) >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1
    one = costs_figure([TrialCost(1e10, 1e10, 1e10, 5.0, 5.0)])
    assert len(one.axes[0].get_xticks()) >= 1


def test_the_gains_figure_says_how_wide_each_interval_is():
    panels = gains_figure(GAINS, "nats per byte").axes
    for axes, key in zip(panels, ("params", "loss"), strict=True):
        (line,) = lines(axes, key)
        assert list(line.get_xdata()) == [gain.spent_flops for gain in GAINS]
        bars = lines(axes, f"{key}-interval")
        assert [tuple(bar.get_ydata()) for bar in bars] == [
            getattr(g, f"{key}_interval") for g in GAINS
        ]
        widths = [t.get_text() for t in axes.texts if t.get_gid() == "width"]
        assert len(widths) == 3
    assert panels[1].get_ylabel() == "loss (nats per byte)"
    assert widths[0] == f"\u00d7{(2.5 + 1 / 3) / (2.5 - 1 / 3):.2g}"


def noisy_sweep():
    noise = np.random.default_rng(0).normal(0, 0.003, 63).tolist()
    return observe([1e17 * 10 ** (k / 2) for k in range(9)], noise=noise)


def test_more_compute_buys_a_narrower_answer_at_the_target():
    seen = noisy_sweep()
    found = fit_all(seen, FitOptions(bootstrap=200), methods=["surface"], targets=[1e18, 1e22])
    rows = found.gains
    assert {row.target_flops for row in rows} == {1e22}
    assert [row.num_runs for row in rows] == [21, 28, 35, 42, 49, 56, 63]
    assert rows[-1].spent_flops == pytest.approx(sum(o.flops for o in seen))
    widths = [np.log(row.params_interval[1] / row.params_interval[0]) for row in rows]
    assert widths[-1] < 0.5 * widths[0]
    truth = PLANTED.optimum(1e22).params
    assert rows[-1].params_interval[0] < truth < rows[-1].params_interval[1]
    assert fit_all(seen, methods=["surface"], targets=[1e22], shows_gains=False).gains == ()


@pytest.mark.parametrize(
    "options",
    [{}, {"irreducible_loss": 1.0}, {"loss": "huber", "huber_delta": 3e-4}, {"loss": "ls"}],
)
def test_the_last_level_is_the_answer_of_the_report(options):
    drawn = np.random.default_rng(0)
    noise = drawn.normal(0, 0.003, 63)
    noise[drawn.choice(63, 10, replace=False)] = drawn.uniform(0.01, 0.02, 10)
    seen = observe([1e17 * 10 ** (k / 2) for k in range(9)], noise=noise.tolist())
    found = fit_all(seen, FitOptions(**options), methods=["surface"], targets=[1e22])
    last, surface = found.gains[-1], found.fits["surface"]
    assert last.params == surface.predict(1e22).params
    assert last.loss == surface.predict(1e22).loss
    assert last.num_runs == len(surface.used)
    if not options:  # Once the outliers are gone, other runs would be outliers of the rest.
        again = solve_surface(surface.used)
        assert len(again.observations) < len(surface.used) < len(seen)
    # A level below is fitted by the same choices, and to every run that the surface rests on.
    below = found.gains[-2]
    kept = [o for o in surface.used if o.flops <= below.up_to_flops]
    assert below.num_runs == len(kept)
    if "irreducible_loss" in options:
        free = fit_all(seen, methods=["surface"], targets=[1e22]).gains[-2]
        assert below.loss < 0.9 * free.loss


def test_gains_are_part_of_a_report_and_survive_being_kept(tmp_path):
    result = planted_result(gains=tuple(GAINS))
    assert "What each level of compute bought" in result.to_html()
    assert "gains" in result.plot()
    result.save(tmp_path)
    kept = type(result).load(tmp_path)
    assert json.loads(json.dumps(kept.to_dict())) == json.loads(json.dumps(result.to_dict()))
