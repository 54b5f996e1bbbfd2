"""`plugins` lists what is installed, the broken and the doubly claimed too, and never fails."""

import json
import os
import subprocess
import sys

import pytest

from flops_fit.errors import PluginError
from flops_fit.experiment.plugins import find_plugin, list_plugins

PACKAGES = {
    "nets-one": 'deep = "nets:Deep"\nrnn = "nets:Rnn"\n',
    "nets-two": 'rnn = "other:Rnn"\nends = "ends:Net"\nno = "nets:Nothing"\nnumber = "nets:SIZE"\n',
}
MODULES = {
    "nets": "class Deep: pass\nclass Rnn: pass\nSIZE = 3\n",
    "other": "import not_installed_anywhere\n",
    "ends": "import os\nos._exit(9)\n",
}


@pytest.fixture
def site(tmp_path):
    """A folder with two installed packages, as pip leaves them."""
    for name, points in PACKAGES.items():
        info = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = points.replace('"', "")
        (info / "entry_points.txt").write_text(f"[flops_fit.models]\n{lines}")
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_every_plugin_is_listed_with_its_package_and_what_is_wrong_with_it(site):
    path = os.pathsep.join([str(site), str(site)])  # a folder named twice lists nothing twice
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", "plugins", "--json"],
        capture_output=True, text=True, check=False, cwd=site,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    listed = json.loads(ended.stdout)["plugins"]
    found = {(each["name"], each["package"]): each for each in listed}
    assert len(found) == len(listed)
    deep = found["deep", "nets-one"]
    assert deep == {
        "name": "deep", "kind": "model", "group": "flops_fit.models", "package": "nets-one",
        "version": "1.2", "where": "nets:Deep", "also": [], "problem": None,
    }  # fmt: skip
    assert found["rnn", "nets-one"]["also"] == ["nets-two"]
    assert found["rnn", "nets-one"]["problem"] is None
    assert "No module named 'not_installed_anywhere'" in found["rnn", "nets-two"]["problem"]
    assert "other.py line 1" in found["rnn", "nets-two"]["problem"]
    assert "exit code 9" in found["ends", "nets-two"]["problem"]
    assert "Nothing" in found["no", "nets-two"]["problem"]
    assert "is a int" in found["number", "nets-two"]["problem"]
    ours = [each for each in listed if each["package"] == "flops-fit"]
    assert {"gpt", "stdlib-text", "cross-entropy", "local"} <= {each["name"] for each in ours}
    assert {each["problem"] for each in ours if each["kind"] != "executor"} == {None}


def test_a_name_that_two_packages_claim_is_refused_rather_than_drawn(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    assert [each.where for each in list_plugins() if each.name == "deep"] == ["nets:Deep"]
    assert find_plugin("model", "deep").value == "nets:Deep"
    with pytest.raises(PluginError, match="2 packages provide the model plugin `rnn`") as caught:
        find_plugin("model", "rnn")
    assert "`nets:Rnn`" in caught.value.hint
    assert "nets-two (`other:Rnn`)" in caught.value.message
