"""The energy that a trial takes, where its device keeps count of it."""

import sys
import types

import pytest
import torch
from training_toys import Mlp, mse, toy_data, toy_trial
from trials_of_one_call import train

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Details, Outcome, Status
from flops_fit.training.measuring import energy
from flops_fit.training.measuring.energy import (
    BoardCounter,
    EnergyMeter,
    PackageCounter,
    open_energy_meter,
)
from flops_fit.training.orders import Interrupted
from flops_fit.training.retries import discard, read_discarded, with_discarded

RECIPE = Recipe(learning_rate=1e-2, learning_rate_rule="constant")
RANGE = 262143328850  # micro-joules, as on most servers
HERTZ = 100


class Machine:
    """Files that look like the kernel's, of a machine with two packages."""

    def __init__(self, root):
        self.powercap, self.stat, self.own = root / "powercap", root / "stat", 0.0
        self.energy = {"package-0": 5_000_000, "package-1": 7_000_000}
        zones = {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "core",  # a part of the package
            "intel-rapl:1": "package-1",
            "intel-rapl:2": "psys",  # the whole platform, packages included
            "intel-rapl-mmio:0": "package-0",  # the same by another way
        }
        for folder, name in zones.items():
            (self.powercap / folder).mkdir(parents=True)
            (self.powercap / folder / "name").write_text(f"{name}\n")
            (self.powercap / folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
            (self.powercap / folder / "energy_uj").write_text("123456\n")
        self.passes(busy=0.0, own=0.0)

    def passes(self, *, busy, own, **joules):
        """The machine is busy so long, this process so long of it; packages take so much."""
        self.own += own
        for place, name in enumerate(("package-0", "package-1")):
            taken = joules.get(f"package{place}", 0)
            self.energy[name] = (self.energy[name] + round(taken * 1e6)) % RANGE
            path = self.powercap / f"intel-rapl:{place}" / "energy_uj"
            path.write_text(f"{self.energy[name]}\n")
        self.busy = getattr(self, "busy", 1000.0) + busy
        half = round(self.busy * HERTZ / 2)
        self.stat.write_text(f"cpu  {half} 0 {half} 999999 4444 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7\n")

    def counter(self):
        return PackageCounter.open(self.powercap, stat=self.stat, own_seconds=lambda: self.own)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(energy.os, "sysconf", lambda name: {"SC_CLK_TCK": HERTZ}[name])
    return Machine(tmp_path)


def test_the_packages_are_added_and_their_parts_are_not(machine):
    counter = machine.counter()
    machine.passes(busy=10, own=10, package0=100, package1=30)
    assert counter.take() == pytest.approx(130)
    assert counter.take() == 0


def test_side_by_side_each_process_gets_its_share_of_the_processor_time(machine):
    mine, others = machine.counter(), 0.75
    machine.passes(busy=40, own=(1 - others) * 40, package0=80)
    assert mine.take() == pytest.approx((1 - others) * 80)


def test_a_count_that_starts_anew_goes_on(machine):
    machine.passes(busy=0, own=0, package0=RANGE / 1e6 - 10)  # 5 J below the end
    counter = machine.counter()
    machine.passes(busy=1, own=1, package0=20)
    assert counter.take() == pytest.approx(20)


def test_a_clock_that_ticks_coarsely_gives_no_process_more_than_all(machine):
    counter = machine.counter()
    machine.passes(busy=0.0, own=0.004, package0=2)
    assert counter.take() == pytest.approx(2)
    machine.passes(busy=0.01, own=0.014, package0=2)
    assert counter.take() == pytest.approx(2)


@pytest.mark.parametrize("what", ["nothing", "not ours to read", "no packages"])
def test_where_nothing_counts_nothing_is_known_and_nothing_is_said(
    machine, what, monkeypatch, recwarn, capfd
):
    if what == "nothing":
        monkeypatch.setattr(energy, "POWERCAP", machine.powercap / "absent")
    elif what == "no packages":
        for zone in machine.powercap.glob("intel-rapl:[01]"):
            (zone / "name").write_text("psys\n")
    else:  # As permissions do, which a test that runs as root does not meet.
        (machine.powercap / "intel-rapl:0" / "energy_uj").unlink()
    if what != "nothing":
        monkeypatch.setattr(energy, "POWERCAP", machine.powercap)
    monkeypatch.setattr(energy, "PROC_STAT", machine.stat)
    meter = open_energy_meter(torch.device("cpu"))
    meter.poll()
    assert meter.joules() is None
    assert meter.source is None
    assert [*recwarn] == []
    assert capfd.readouterr() == ("", "")


def test_a_count_that_stops_on_the_way_leaves_no_half_sum(machine):
    meter = EnergyMeter(machine.counter())
    machine.passes(busy=1, own=1, package0=5)
    assert meter.joules() == pytest.approx(5)
    (machine.powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.joules() is None


def test_a_count_that_never_moves_is_none(machine):
    # Virtual machines have such files.
    meter = EnergyMeter(machine.counter())
    machine.passes(busy=5, own=5)
    assert meter.joules() is None


def test_a_long_trial_reads_before_the_count_comes_round_twice(machine, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(energy.time, "monotonic", lambda: now[0])
    meter = EnergyMeter(machine.counter())
    for _ in range(6):
        machine.passes(busy=1, own=1, package0=0.6 * RANGE / 1e6)
        now[0] += 600
        meter.poll()
    assert meter.joules() == pytest.approx(3.6 * RANGE / 1e6)


class Nvml(types.ModuleType):
    """The calls of `pynvml` that are made, for one board."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, joules=1000.0, processes=1, missing=()):
        super().__init__("pynvml")
        self.joules, self.processes, self.missing = joules, processes, missing

    def _call(self, name, value):
        if name in self.missing:
            raise self.NVMLError(name)
        return value

    def nvmlInit(self):  # noqa: N802
        self._call("nvmlInit", None)

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        assert uuid == "GPU-0a1b"
        return self._call("handle", "board")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        assert handle == "board"
        return self._call("energy", round(self.joules * 1e3))

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return self._call("processes", [object()] * self.processes)


@pytest.fixture
def board(monkeypatch):
    def install(**how):
        nvml = Nvml(**how)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        properties = types.SimpleNamespace(uuid="0a1b")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        return nvml

    return install


def test_a_gpu_says_what_it_took_since_the_trial_began(board):
    nvml = board(joules=5000.0)
    meter = open_energy_meter(torch.device("cuda", 0))
    nvml.joules += 750
    assert (meter.joules(), meter.source) == (pytest.approx(750), "NVML")


def test_processes_that_compute_on_one_gpu_share_what_it_takes(board):
    nvml = board(processes=3)
    counter = BoardCounter.open(torch.device("cuda", 0))
    nvml.joules += 90
    assert counter.take() == pytest.approx(30)
    nvml.processes = 1
    nvml.joules += 90
    assert counter.take() == pytest.approx(90)


def test_a_gpu_whose_processes_are_hidden_counts_for_one(board):
    nvml = board(missing=("processes",))
    counter = BoardCounter.open(torch.device("cuda", 0))
    nvml.joules += 90
    assert counter.take() == pytest.approx(90)


@pytest.mark.parametrize("missing", ["pynvml", "nvmlInit", "handle", "energy"])
def test_a_gpu_that_cannot_be_asked_is_not_known(board, missing, monkeypatch):
    board(missing=(missing,))
    if missing == "pynvml":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_energy_meter(torch.device("cuda", 0)).joules() is None


class Steady:
    """A counter of 2 J a reading."""

    source = "RAPL"

    def take(self):
        return 2.0


def run(directory, *, counter, monkeypatch, **options):
    monkeypatch.setattr(
        "flops_fit.training.measuring.meter.open_energy_meter", lambda device: EnergyMeter(counter)
    )
    given = {"build": Mlp, "data": toy_data(), "loss": mse, "recipe": RECIPE, "device": "cpu"}
    return train(toy_trial(), directory=directory, **{**given, **options})


def test_a_trial_keeps_its_joules_and_who_counted(tmp_path, monkeypatch):
    details = run(tmp_path, counter=Steady(), monkeypatch=monkeypatch).details
    assert details.energy_joules == 2.0
    assert details.energy_source == "RAPL"
    unknown = run(tmp_path / "other", counter=None, monkeypatch=monkeypatch).details
    assert (unknown.energy_joules, unknown.energy_source) == (None, None)


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_a_resumed_trial_took_both_parts_or_does_not_know(tmp_path, monkeypatch, first, second):
    calls = iter([False] * 10 + [True] * 9)
    with pytest.raises(Interrupted):
        run(
            tmp_path, counter=Steady() if first else None, monkeypatch=monkeypatch,
            should_stop=lambda: next(calls),
        )  # fmt: skip
    outcome = run(tmp_path, counter=Steady() if second else None, monkeypatch=monkeypatch)
    assert outcome.status == "finished"
    assert outcome.details.energy_joules == (4.0 if first and second else None)


@pytest.mark.parametrize(("first", "last"), [(3.0, 4.0), (None, 4.0), (3.0, None)])
def test_attempts_that_were_discarded_took_energy_too(tmp_path, first, last):
    def outcome(joules):
        told = {} if joules is None else {"energy_joules": joules, "energy_source": "NVML"}
        return Outcome("abc", Status.DIVERGED, None, 0, 1.0, 1.0, details=Details(steps=3, **told))

    discard(tmp_path, outcome(first), seed=1)
    details = with_discarded(outcome(last), read_discarded(tmp_path), seed=2).details
    known = (details.energy_joules, details.energy_source)
    assert known == ((7.0, "NVML") if first and last else (None, None))
    assert details.steps == 3
