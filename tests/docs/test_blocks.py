"""Every command and program that a page shows runs, in the order of the page."""

import re

import pytest
from documents import ROOT, pages, run_page

PAGES = [page for page in pages() if page.path.name != "README.md"]
WITH_COMMANDS = [page for page in PAGES if any(block.is_run for block in page.blocks)]
KNOWN = {"bash", "console", "python", "toml", "text", "json", "csv", "yaml", "latex", "bibtex"}


def named(page):
    return str(page.path.relative_to(ROOT / "docs"))


@pytest.mark.parametrize(
    "page",
    [pytest.param(each, marks=[pytest.mark.slow] * each.is_slow) for each in WITH_COMMANDS],
    ids=named,
)
def test_the_blocks_of_a_page_run_in_order(page, tmp_path):
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.path.stem)
def test_every_block_says_what_it_is_and_one_that_is_not_run_says_why(page):
    for block in page.blocks:
        assert block.language in KNOWN, (page.path.name, block.line)
        if block.how.startswith("skip"):
            assert len(block.how) > len("skip, no"), (page.path.name, block.line)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_command_stands_outside_of_a_block_that_is_run(page):
    text = re.sub(r"^ *```.*?^ *```", "", page.text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    assert not re.findall(r"^    +(?:flops-fit|python|pip|torchrun) .*$", text, re.MULTILINE)
