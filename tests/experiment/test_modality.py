"""One machine for every kind of data: nothing outside the plugins knows text from images."""

import ast
import sys
from pathlib import Path

from torch.utils.data import Subset
from trials_of_one_call import train

import flops_fit
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Size, Trial
from flops_fit.training.data.batches import LoadedData
from flops_fit.training.data.facts import DataFacts
from flops_fit.zoo.glyphs import glyphs
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy
from flops_fit.zoo.stdlib_text import stdlib_text
from flops_fit.zoo.vit import ViT

PACKAGE = Path(flops_fit.__file__).parent
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.relative_to(PACKAGE).parts[0] != "zoo"]
WORDS = ("pixel", "vocab", "audio", "modality")
# `token` is the house's word for one unit of data, `text` and `bytes` are kinds of column.
KINDS = {"word", "character", "image", "pixel", "patch", "audio", "sentence"}


def test_no_name_speaks_of_a_kind_of_data_and_no_comparison_asks_for_one():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [getattr(node, field, None) for field in ("id", "attr", "name", "arg")]
            for name in names:
                spoken = isinstance(name, str) and any(word in name.lower() for word in WORDS)
                assert not spoken, (path, node.lineno, name)
            if isinstance(node, ast.Compare | ast.MatchValue):
                asked = {
                    constant.value.lower().removesuffix("s") for constant in ast.walk(node)
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                }  # fmt: skip
                assert not asked & KINDS, (path, node.lineno)


def lines_run(call):
    """(file, line) of every line of ours, the plugins left out, that a call runs."""
    seen = set()
    watched = {str(path) for path in FILES}

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in watched:
            return None
        if event == "line":
            seen.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return seen


def test_a_trial_on_text_and_one_on_images_run_the_same_lines(tmp_path):
    text, images = (
        stdlib_text(context=16, heldout_windows=64),
        glyphs(characters="01", heldout_images=1),
    )
    sides = {
        "text": (GPT, text.train, text.heldout, 16),
        "images": (ViT, images.train, images.train, 1),
    }
    ran = {}
    for name, (build, data, heldout, units) in sides.items():
        loaded = LoadedData(data, Subset(heldout, range(64)), DataFacts(units_per_example=units))
        trial = Trial.of(
            budget_flops=1e6, size=Size(8, 1000, None, 1.0), tokens=4 * units * 60,
            batch_tokens=4 * units, seed=0,
        )  # fmt: skip

        def run(build=build, loaded=loaded, trial=trial, folder=tmp_path / name):
            outcome = train(
                trial, build=build, data=loaded, loss=cross_entropy, recipe=Recipe(),
                directory=folder, device="cpu",
            )  # fmt: skip
            assert outcome.status == "finished"

        run()  # what only the first trial of a process does
        ran[name] = lines_run(lambda run=run, name=name: run(folder=tmp_path / f"{name} again"))
    assert len(ran["text"]) > 300
    assert ran["text"] == ran["images"]
