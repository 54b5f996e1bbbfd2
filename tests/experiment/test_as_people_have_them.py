"""Models and data as their owners have them, without a wrapper, from a manifest to a trial."""

import sys
from types import SimpleNamespace

import pytest
import torch
from architectures import SIDE, VOCAB, Pictures, Vit, sequences
from torch import nn
from torch.utils.data import DataLoader, Dataset
from trials_of_one_call import train

from flops_fit.errors import ManifestError, PluginError
from flops_fit.experiment.checks.examination import examine
from flops_fit.experiment.describing import describe
from flops_fit.experiment.loading import load_experiment
from flops_fit.manifest.manifest import parse_manifest
from flops_fit.manifest.trials import Trial
from flops_fit.zoo.losses import ModelLoss, cross_entropy

transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

CONTEXT = 32


def qwen(hidden_size, layers=2):
    return transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=VOCAB, hidden_size=hidden_size, intermediate_size=2 * hidden_size,
            num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2,
            max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        )
    )  # fmt: skip


def t5(d_model):
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCAB, d_model=d_model, d_ff=2 * d_model, d_kv=d_model // 2, num_heads=2,
            num_layers=1, num_decoder_layers=1, decoder_start_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip


def bert(hidden_size):
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=VOCAB, hidden_size=hidden_size, intermediate_size=2 * hidden_size,
            num_hidden_layers=1, num_attention_heads=2, num_labels=4, max_position_embeddings=64,
        )
    )  # fmt: skip


def vit(hidden_size):
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=hidden_size, intermediate_size=2 * hidden_size, num_hidden_layers=1,
            num_attention_heads=2, image_size=SIDE, patch_size=4, num_labels=10,
        )
    )  # fmt: skip


def table(count, seed, labels):
    rows = sequences(count, seed)[:, :CONTEXT]
    columns = {"input_ids": rows.tolist(), "attention_mask": torch.ones_like(rows).tolist()}
    if labels is not None:
        columns["labels"] = labels(rows)
    return datasets.Dataset.from_dict(columns)


def split(labels=lambda rows: rows.tolist()):
    return datasets.DatasetDict(
        train=table(200, 0, labels), validation=table(64, 1, labels), test=table(8, 2, labels)
    )


def split_of_classes():
    return split(lambda rows: (rows[:, 0] % 4).tolist())


def with_collator():
    """Rows of different lengths, padded by the collator, which makes the labels too."""
    word = transformers.PreTrainedTokenizerFast(
        tokenizer_object=__import__("tokenizers").Tokenizer(
            __import__("tokenizers").models.WordLevel({"<pad>": 0}, unk_token="<pad>")
        ),
        pad_token="<pad>",
    )

    def cut(split):
        ids = [row[: 8 + at % 24] for at, row in enumerate(split["input_ids"])]
        return datasets.Dataset.from_dict({"input_ids": ids})

    made = split(None)
    collate = transformers.DataCollatorForLanguageModeling(word, mlm=False)
    return {"train": cut(made["train"]), "validation": cut(made["validation"]),
            "data_collator": collate}  # fmt: skip


class Photos(Dataset):
    """(picture, class) as torchvision's sets give them: a tensor and a plain number."""

    def __init__(self, count, seed):
        self.rows = Pictures().pairs(count, seed)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        picture, label = self.rows[index]
        return picture, int(label)


def photos():
    return Photos(200, 0), Photos(64, 1)


def named_photos():
    def named(rows):
        return [{"pixel_values": picture, "labels": label} for picture, label in rows]

    return {"train": named(Photos(200, 0)), "test": named(Photos(64, 1))}


def loaders():
    return DataLoader(split()["train"], batch_size=4), DataLoader(split()["test"], batch_size=4)


@pytest.fixture
def setup(monkeypatch):
    """(manifest, experiment) of a model and data of this file."""
    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(**globals()))

    def setup(model, data, loss, size_param="hidden_size", sizes="[32, 48]", more=""):
        text = (
            f'[model]\nplugin = "theirs:{model}"\nsize_param = "{size_param}"\nsizes = {sizes}\n'
            f'[data]\nplugin = "theirs:{data}"\n[loss]\nplugin = "{loss}"\n{more}'
            "[sweep]\nbudgets = [1e9]\n"
        )
        manifest = parse_manifest(text, where="m.toml")
        return manifest, load_experiment(manifest, search_path=[])

    return setup


def trained(experiment, folder, steps=60):
    size = describe(experiment).sizes[0]
    units = experiment.data.facts.units_per_example
    trial = Trial.of(
        budget_flops=1e6, size=size, tokens=8 * steps * units, batch_tokens=8 * units, seed=0
    )
    return train(
        trial, build=experiment.build, data=experiment.data, loss=experiment.loss,
        recipe=experiment.manifest.training, directory=folder, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "data", "loss", "size_param"),
    [
        ("qwen", "split", "model", "hidden_size"),
        ("qwen", "loaders", "model", "hidden_size"),
        ("qwen", "with_collator", "model", "hidden_size"),
        ("t5", "split", "model", "d_model"),
        ("bert", "split_of_classes", "model", "hidden_size"),
        ("bert", "split_of_classes", "cross-entropy", "hidden_size"),
        ("vit", "named_photos", "cross-entropy", "hidden_size"),
        ("vit", "photos", "cross-entropy", "hidden_size"),
        ("Vit", "photos", "cross-entropy", "width"),
    ],
)
def test_a_model_and_its_data_need_no_wrapper(setup, tmp_path, model, data, loss, size_param):
    manifest, experiment = setup(model, data, loss, size_param)
    found = examine(manifest, search_path=[])
    assert {each.status for each in found} <= {"passed", "skipped"}, found
    outcome = trained(experiment, tmp_path)
    assert outcome.status == "finished", outcome.error
    assert outcome.loss < outcome.details.untrained_loss


def test_tokens_of_a_table_are_counted_where_nobody_states_them(setup):
    _, experiment = setup("qwen", "split", "model")
    facts = experiment.data.facts
    assert (facts.unit, facts.units_per_example) == ("token", CONTEXT)
    _, padded = setup("qwen", "with_collator", "model")
    assert padded.data.facts.units_per_example == round(sum(8 + at % 24 for at in range(200)) / 200)


def test_unshifted_labels_under_another_loss_are_named_with_the_models_own(setup):
    manifest, _ = setup("qwen", "split", "cross-entropy")
    (finding,) = [each for each in examine(manifest, search_path=[]) if each.status == "warned"]
    assert "the targets are the inputs themselves" in finding.detail
    assert 'plugin = "model"' in finding.mend


def test_the_models_own_loss_counts_the_labels_that_it_is_the_mean_of():
    loss = ModelLoss().of_model(qwen(8))
    labels = torch.tensor([[5, 6, 7, -100], [5, 6, -100, -100]])
    assert int(loss.count(labels)) == 3
    assert int(ModelLoss().of_model(bert(8)).count(torch.tensor([1, 2, 3]))) == 3
    model = qwen(8).eval()
    logits = model(labels.clamp(min=0)).logits
    whole = cross_entropy(logits[:, :-1], labels[:, 1:])
    assert torch.allclose(loss(model(labels.clamp(min=0), labels=labels), labels), whole)


class Nano(nn.Module):
    """Logits and loss in a tuple, as nanoGPT's."""

    def __init__(self, width, depth=1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Embedding(VOCAB, width), *(nn.Linear(width, width) for _ in range(depth)),
            nn.Linear(width, VOCAB),
        )  # fmt: skip
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, idx, targets=None):
        logits = self.layers(idx)
        if targets is None:
            return logits, None
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


SHAPES = {"tiny": (8, 1), "small": (16, 1), "base": (24, 2)}


def by_name(size):
    return Nano(*SHAPES[size])


def shifted():
    from architectures import Text

    return Text()


@pytest.mark.parametrize("loss", ["model", "cross-entropy"])
def test_logits_and_loss_in_a_tuple_serve_both_losses(setup, tmp_path, loss):
    manifest, experiment = setup("Nano", "shifted", loss, "width")
    assert {each.status for each in examine(manifest, search_path=[])} <= {"passed", "skipped"}
    assert trained(experiment, tmp_path).status == "finished"
    notes = {note.code: note.message for note in describe(experiment).notes}
    assert "3 of " in notes["frozen_params"]


@pytest.mark.parametrize(
    ("model", "size_param", "sizes"),
    [
        ("by_name", "size", '["tiny", "small", "base"]'),
        ("Nano", "", "[{width=8, depth=1}, {width=16, depth=1}, {width=24, depth=2}]"),
    ],
)
def test_sizes_may_be_names_or_sets_of_arguments(setup, tmp_path, model, size_param, sizes):
    manifest, experiment = setup(model, "shifted", "cross-entropy", size_param, sizes)
    described = describe(experiment)
    assert [size.size_value for size in described.sizes] == [1, 2, 3]
    real = [sum(p.numel() for p in Nano(*shape).parameters()) - 3 for shape in SHAPES.values()]
    assert [size.params for size in described.sizes] == real
    (note,) = [note for note in described.notes if note.code == "named_sizes"]
    assert "1 = tiny" in note.message or "1 = width 8, depth 1" in note.message
    assert {each.status for each in examine(manifest, search_path=[])} <= {"passed", "skipped"}
    assert trained(experiment, tmp_path).status == "finished"


def test_sizes_of_several_kinds_or_without_their_argument_are_refused(setup):
    with pytest.raises(ManifestError, match="names alone"):
        setup("by_name", "shifted", "model", "size", '["tiny", 3]')
    with pytest.raises(ManifestError, match="size_param"):
        setup("by_name", "shifted", "model", "", '["tiny"]')


def test_the_innermost_cause_of_a_failed_import_is_shown(tmp_path):
    (tmp_path / "outer_of_two.py").write_text(
        "try:\n    import not_installed_at_all\nexcept ImportError as error:\n"
        "    raise RuntimeError('the library failed to load') from error\n"
    )
    text = (
        '[model]\nplugin = "outer_of_two:Net"\nsize_param = "w"\nsizes = [1]\n'
        '[data]\nplugin = "a:b"\n[loss]\nplugin = "model"\n[sweep]\nbudgets = [1e9]\n'
    )
    with pytest.raises(PluginError) as caught:
        load_experiment(parse_manifest(text, where="m.toml"), search_path=[tmp_path])
    assert "the library failed to load (outer_of_two.py line 4)" in caught.value.message
    assert "caused by ModuleNotFoundError: No module named 'not_installed_at_all'" in (
        caught.value.message
    )


assert Vit, "reached by its name in the manifest"
