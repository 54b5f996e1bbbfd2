"""The page is one file that asks for nothing, runs nothing, and shows everything as text."""

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from planted_results import MANIFEST, observe, planted_result, run_directory, with_outlier

from flops_fit.errors import FitError, Note
from flops_fit.fitting.points import Excluded, Optimum

EVIL = (
    '<script>alert(1)</script>"><img src=http://canary.invalid/ onerror=alert(2)>'
    "'{{ 7 * 7 }}\x1b[31m"
)


class Reader(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory):
    """A page whose every text tries to break out."""
    tmp_path = tmp_path_factory.mktemp("evil")
    seen, excluded = with_outlier(observe([1e17, 3e17, 1e18, 3e18, 1e19]), 4)
    run = run_directory(tmp_path, manifest=MANIFEST + f"# {EVIL}\n".replace("\x1b", ""))
    result = planted_result(
        observations=seen,
        excluded=(*excluded, Excluded(EVIL, f"diverged: {EVIL}")),
        notes=(Note("odd", EVIL),),
        plan_warnings=(Note("odd", EVIL),),
        name=EVIL,
        unit="<i>token",
        loss_unit="<i>nats",
        run_dir=run,
    )
    return result.to_html()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of a good study with one target far away."""
    run = run_directory(tmp_path_factory.mktemp("good"))
    return planted_result(run_dir=run, targets=(1e23,)).to_html()


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(evil_page):
    reader = read(evil_page)
    names = [tag for tag, _ in reader.tags]
    assert not set(names) & {"iframe", "object", "embed", "form", "i", "b"}
    assert names.count("script") == 1
    assert all(a["href"].startswith("#") for tag, a in reader.tags if tag == "a")
    for tag, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, name)
    (policy,) = [a["content"] for t, a in reader.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    script = evil_page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "url(" not in evil_page


def test_text_from_a_manifest_or_a_plugin_stays_text(evil_page):
    reader = read(evil_page)
    assert reader.text.count("<script>alert(1)</script>") >= 5
    assert "{{ 7 * 7 }}" in reader.text
    assert "\x1b" not in reader.text


def test_the_verdict_stands_before_any_number(page):
    text = read(page).text
    assert text.index("Provisional") < text.index("For 1e23 FLOPs") < text.index("loss (nats)")
    assert "extrapolation" in text


def test_the_page_holds_answers_tables_figures_checklist_and_provenance(page):
    reader = read(page)
    assert "For 1e23 FLOPs: " in reader.text
    for title in (
        "Compute-optimal allocation", "Agreement of the methods", "Loss surface", "Residuals",
        "IsoFLOP curves", "Compute-optimal frontier", "IsoFLOP minima", "Laws",
        "Checklist of a credible study", "Observations", "Provenance", "Manifest",
    ):  # fmt: skip
        assert title in reader.text
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) >= 2
    assert all(a["src"].startswith("data:image/svg+xml;base64,") and a["alt"] for a in images)
    assert 'schedule = "cosine"' in reader.text


def test_the_contents_list_leads_to_every_section_and_figures_stand_before_folded_tables(page):
    reader = read(page)
    ids = [attributes["id"] for tag, attributes in reader.tags if "id" in attributes]
    links = [a["href"] for tag, a in reader.tags if tag == "a"]
    assert links == [f"#{name}" for name in ids]
    titles = re.findall(r'<li><a href="#s\d+">([^<]*)</a></li>', page)
    assert len(set(titles)) == len(titles) == len(ids)
    tags = [tag for tag, _ in reader.tags]
    assert tags.index("img") < tags.index("table") < tags.index("details")
    assert "open" not in {key for tag, a in reader.tags if tag == "details" for key in a}


def test_a_refused_result_has_a_page_too():
    failure = FitError("2 budgets, a fit needs 3", code="too_few_budgets")
    text = read(planted_result(fits={}, failures={"surface": failure}).to_html()).text
    assert "Refused" in text
    assert "2 budgets, a fit needs 3" in text
    assert "Observations" in text


def test_the_same_result_gives_the_same_page():
    pages = [planted_result((1e17, 1e18, 1e19), fits={}).to_html() for _ in range(2)]
    assert pages[0] == pages[1]


def test_an_interval_stands_below_its_value_and_in_the_answer(tmp_path):
    optimum = Optimum(5e19, 1.1e9, 8e9, 2.5, (1e9, 1.2e9), (7e9, 9e9), (2.4, 2.6), method="surface")
    page = planted_result(predictions=(optimum,)).to_html()
    assert '<td class="n" data-value="1100000000.0">1.1B<small>(1B\u20131.2B)</small></td>' in page
    assert "train 1.1B (1B to 1.2B) params on 8B (7B to 9B) tokens" in read(page).text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_chromium_opens_the_page_without_an_error_or_a_request(tmp_path, evil_page):
    file, shot, log = (tmp_path / name for name in ("page.html", "page.png", "net.json"))
    file.write_text(evil_page, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-component-update",
            "--disable-background-networking", "--enable-logging=stderr", f"--log-net-log={log}",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1400",
            f"--screenshot={shot}", file.as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert shot.stat().st_size > 20_000, done.stderr
    printed = tmp_path / "page.pdf"
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
         f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={printed}", file.as_uri()],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    assert printed.read_bytes().startswith(b"%PDF")
    assert printed.stat().st_size > 50_000
    assert "CONSOLE" not in done.stderr
    # The browser asks its maker for time and dictionaries; nothing else may be asked for.
    hosts = set(re.findall(r'"url":"(?:https?|wss?|ftp)://([^/"]*)', log.read_text("utf-8")))
    assert not [h for h in hosts if not h.endswith((".google.com", ".gvt1.com", "googleapis.com"))]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_script_runs_under_the_page_s_own_policy(tmp_path, page):
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    ended = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in ended.stderr
    drawn = read(ended.stdout)
    tables = [tag for tag, _ in drawn.tags].count("table")
    copies = [a for tag, a in drawn.tags if tag == "button" and a.get("class") == "copy"]
    assert len(copies) == tables > 0
    heads = [tag for tag, _ in drawn.tags].count("th")
    assert [tag for tag, _ in drawn.tags].count("button") == heads + tables
