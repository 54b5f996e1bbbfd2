"""A manifest that asks for too much is refused in one second, with the number."""

import os
import time

import pytest

from flops_fit.errors import ManifestError, PlanError
from flops_fit.manifest.manifest import parse_manifest, read_manifest
from flops_fit.manifest.trials import Size
from flops_fit.planning.designs import Ground, lay_out

SECTIONS = {
    "top": 'name = "large"',
    "model": 'plugin = "gpt"\nsize_param = "d_model"\nsizes = [8, 16, 32]',
    "data": 'plugin = "stdlib-text"',
    "loss": 'plugin = "cross-entropy"',
    "sweep": "budgets = [1e10, 3e10]",
}


def manifest(**sections):
    parts = SECTIONS | sections
    return parts.pop("top") + "\n" + "\n".join(f"[{key}]\n{text}" for key, text in parts.items())


def numbers(count):
    return f"[{', '.join(str(10**9 + k) for k in range(count))}]"


MODEL = 'plugin = "gpt"\nsize_param = "d_model"\n'
TOO_MUCH = {
    "budgets": (manifest(sweep=f"budgets = {numbers(20_000)}"), "20,000"),
    "1e5 budgets": (manifest(sweep=f"budgets = {numbers(100_000)}"), "bytes"),
    "sizes of a budget": (
        manifest(sweep="budgets = [1e10]\nsizes_per_budget = 1000000000"), "1000000000"
    ),
    "range": (
        manifest(model=MODEL + "sizes = { min = 8, max = 1000000000000000000 }"),
        "1000000000000000000",
    ),
    "sizes": (manifest(model=MODEL + f"sizes = {numbers(20_000)}"), "20,000"),
    "replicates": (
        manifest(sweep="budgets = [1e10, 3e10]\nreplicates = 100000"), "1,000,000 trials"
    ),
    "grid": (
        manifest(sweep=f'design = "grid"\ntokens_per_param = {numbers(30_000)}'), "30,000"
    ),
    "digits": (manifest(top="seed = " + "9" * 5000), "5000 digits"),
    "seed": (manifest(top="seed = 1" + "0" * 30), "1" + "0" * 30),
    "lists": ("a = " + "[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "tables": (manifest(model=MODEL + "kwargs = " + "{a=" * 500 + "1" + "}" * 500), "nested"),
    "dotted": ("a" + ".a" * 100_000 + " = 1", "nested too deeply"),
    "quoted": ("'a'" + ".'a'" * 100_000 + " = 1", "nested too deeply"),
    "params": (
        manifest(model=MODEL + "sizes = [{ size_value = 8, params = 1e300 }]"), "1e+300"
    ),
    "flops": (manifest(sweep="budgets = [1e300]"), "1e+300"),
    "formula": (
        manifest(model=MODEL + f"sizes = [8]\nderive = {{ x = '{'1+' * 100_000}1' }}"), "200,001"
    ),
    "bootstrap": (manifest(report="bootstrap = 1000000000"), "1000000000"),
    "workers": (manifest(execution="workers = 1000000000"), "1000000000"),
    "rates": (manifest(transfer="rates = 1000000000"), "1000000000"),
    "reach of rates": (manifest(transfer="rates = 101\nstep = 10.0"), "1e50"),
    "name": (manifest(top=f'name = "{"a" * 300}"'), "200 bytes"),
    "escape code": (manifest(top='name = "\\u001b[2J"'), "control characters"),
    "comment": ("# " + "x" * 50_000_000, "50,000,002"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_manifest_that_asks_for_too_much_is_refused_at_once_with_the_number(tmp_path, text, said):
    path = tmp_path / "m.toml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert time.monotonic() - began < 1.0
    assert said in caught.value.message
    assert len(caught.value.message) < 1000


def test_a_grid_of_too_many_trials_is_refused_at_once_with_the_number():
    read = parse_manifest(
        manifest(sweep=f'design = "grid"\ntokens_per_param = {numbers(900)}\nreplicates = 200'),
        where="m.toml",
    )
    sizes = [Size(k, 1000 * k, None, 6000.0 * k) for k in range(1, 6)]
    began = time.monotonic()
    with pytest.raises(PlanError, match=r"4,500 cells x 200 replicates are 900,000 trials"):
        lay_out(read.sweep, Ground(sizes, lambda size, tokens: 64, seeds=range(200)))
    assert time.monotonic() - began < 1.0


def test_a_manifest_is_read_through_a_link_and_no_fifo_is_waited_for(tmp_path):
    (tmp_path / "m.toml").write_text(manifest())
    (tmp_path / "link.toml").symlink_to("m.toml")
    assert read_manifest(tmp_path / "link.toml").name == "large"
    os.mkfifo(tmp_path / "fifo.toml")
    for path, said in (("fifo.toml", "a FIFO"), ("/dev/zero", "a device"), (".", "a directory")):
        with pytest.raises(ManifestError, match=said):
            read_manifest(tmp_path / path)
