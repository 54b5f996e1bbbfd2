"""The site builds strictly and without a network, and its pages load nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_NETWORK = """
import socket

def refused(*arguments, **more):
    raise OSError("no network in this test")

socket.create_connection = socket.socket.connect = socket.getaddrinfo = refused
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder / "site"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder / "site"


def test_every_page_is_in_the_navigation_and_is_built(site):
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert {path.with_suffix(".html") for path in pages} <= {
        path.relative_to(site) for path in site.rglob("*.html")
    }
    assert (site / "report.schema.json").is_file()


def test_no_page_loads_anything_from_another_server(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"([^\"]+)\"", text)
        foreign = [address for address in loaded if re.match(r"(https?:)?//", address)]
        assert not foreign, (page.name, foreign)


def test_the_reference_of_python_shows_signatures_and_docstrings(site):
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "python.html").read_text())
    for words in ("compute_budgets", "Train a sweep of a model", "params_non_embedding"):
        assert words in text
