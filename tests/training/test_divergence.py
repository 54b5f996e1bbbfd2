import math
import random

from flops_fit.training.divergence import Watch, judge_end


def watched(losses, *, warmup=50, window=5, untrained=-math.inf):
    """The watch, the reason to stop and the step it came at, or (None, None)."""
    watch = Watch(warmup, len(losses))
    for end in range(window, len(losses) + 1, window):
        reason = watch.see(end=end, losses=losses[end - window : end], untrained=untrained)
        if reason is not None:
            return watch, reason, end
    return watch, None, None


def follow(losses, **how):
    """The reason to stop and the step it came at, or (None, None)."""
    return watched(losses, **how)[1:]


FALLING = [1.0 + 4.0 / (1 + step / 20) for step in range(1000)]


def test_a_falling_loss_goes_on():
    assert follow(FALLING) == (None, None)


def test_a_loss_that_is_not_finite_stops_at_once_and_names_its_step():
    for value in (math.nan, math.inf):
        reason, end = follow([*FALLING[:402], value, *FALLING[403:]])
        assert end == 405
        assert "step 403 of 1,000" in reason


def test_a_spike_that_recovers_is_forgiven_and_one_that_stays_is_not():
    short = FALLING[:500] + [9.0] * 45 + FALLING[545:]
    assert follow(short) == (None, None)
    reason, end = follow(FALLING[:500] + [9.0] * 500)
    assert "stayed" in reason
    assert 550 <= end <= 560


def test_the_last_good_step_lies_before_the_spike():
    watch, _, _ = watched(FALLING[:500] + [9.0] * 500)
    assert watch.last_good == (500, sum(FALLING[495:500]) / 5)


def test_a_loss_that_jumps_in_warm_up_and_stays_ends_the_trial_early():
    untrained = 2.25
    losses = [untrained] * 20 + [1e6] * 1980
    watch, reason, end = watched(losses, warmup=200, window=10, untrained=untrained)
    assert "untrained" in reason
    assert "step 21 of 2,000" in reason
    assert end == 120  # 5 % of the trial
    assert watch.last_good == (20, untrained)


def test_a_loss_that_swings_far_above_the_untrained_model_is_no_short_spike():
    losses = [2.0] * 300 + ([9.0] * 30 + [2.0] * 10) * 30
    reason, end = follow(losses, warmup=50, untrained=2.1)
    assert "untrained" in reason
    assert end < 450


def test_last_good_is_never_far_above_the_untrained_model():
    watch, _, _ = watched([2.0] * 20 + [50.0] * 40, warmup=10, window=1, untrained=2.0)
    assert watch.last_good == (20, 2.0)


def test_a_warm_up_that_rises_a_little_or_for_a_short_time_is_forgiven():
    little = [5.0 * (1 + 0.4 * math.sin(math.pi * step / 100)) for step in range(100)]
    assert follow(little + FALLING[100:], warmup=100, untrained=5.0) == (None, None)
    short = [5.0] * 30 + [40.0] * 45 + FALLING[75:]
    assert follow(short, warmup=100, untrained=5.0) == (None, None)


def test_noise_about_the_untrained_loss_is_no_divergence():
    draw = random.Random(0)
    for scale in (0.3, 1.0, 3.0):  # of training losses to the held-out one: dropout, another batch
        heavy = [scale * draw.expovariate(1.0) ** 2 / 2 for _ in range(1000)]
        assert follow([scale, *heavy], window=1, untrained=1.0) == (None, None)
    around_zero = [draw.gauss(0.0, 1.0) for _ in range(1000)]
    assert follow(around_zero, warmup=1000, window=1, untrained=0.01) == (None, None)


def test_a_watch_goes_on_where_it_was():
    losses = [2.0] * 20 + [1e6] * 1980
    whole, reason, end = watched(losses, warmup=200, window=10, untrained=2.0)
    early = Watch(200, 2000)
    for at in range(10, 71, 10):
        early.see(end=at, losses=losses[at - 10 : at], untrained=2.0)
    later = Watch(200, 2000)
    later.restore(early.state())
    for at in range(80, end + 1, 10):
        said = later.see(end=at, losses=losses[at - 10 : at], untrained=2.0)
    assert (said, later.state()) == (reason, whole.state())


def test_a_tiny_loss_that_doubles_is_no_spike():
    tiny = [4.0 / (1 + step) for step in range(500)] + [0.05] * 500
    assert follow(tiny) == (None, None)


def test_noise_of_single_batches_in_a_short_trial_is_no_spike():
    assert follow([1.0, 0.2, 0.9, 0.3, 0.1, 0.8] * 5, warmup=3, window=1) == (None, None)


def test_a_trial_that_ends_no_better_than_untrained_is_no_observation():
    assert judge_end({0: 2.0}, {0: 5.0}, [1.0]) is None
    assert "untrained" in judge_end({0: 5.0}, {0: 5.0}, [1.0])
    assert "nan" in judge_end({0: math.nan}, {0: 5.0}, [1.0])


def test_losses_are_compared_on_the_same_heldout_examples_alone():
    weights = [64.0] * 4
    untrained = {1: 1.0}
    learned = {0: 2.0, 1: 0.8, 2: 3.0, 3: 2.5}
    assert judge_end(learned, untrained, weights) is None
    worse = {0: 0.1, 1: 1.1, 2: 0.1, 3: 0.1}
    assert "1.1 at the end" in judge_end(worse, untrained, weights)


def test_a_difference_within_its_noise_does_not_discard_a_trial():
    weights = [1.0] * 4
    untrained = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}
    assert judge_end({0: 1.2, 1: 0.9, 2: 1.1, 3: 0.9}, untrained, weights) is None
    assert judge_end({0: 1.2, 1: 1.3, 2: 1.2, 3: 1.3}, untrained, weights) is not None
