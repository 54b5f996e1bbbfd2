"""Small copies of hub data sets, in their real schema, and the original files of CIFAR-10."""

import pickle
from pathlib import Path

import numpy as np

STORIES = [
    f"Once upon a time there was a {kind} named {name}. {name} liked to {act} all day long.\n"
    for kind in ("cat", "dog", "girl", "boy", "bird", "fox", "bear")
    for name in ("Lily", "Tom", "Sue", "Max", "Ben", "Zoë")
    for act in ("run", "sing", "play", "draw", "sleep")
]


def tinystories_copy(folder: Path, times: int = 1) -> Path:
    """`roneneldan/TinyStories` as the hub holds it: Parquet files of a column `text` by split."""
    from datasets import Dataset

    for split, part in (("train", STORIES[12:]), ("validation", STORIES[:12])):
        file = folder / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"text": part * times}).to_parquet(file)
    return folder


def images(count: int, seed: int):
    """Images whose class shows in their colour: uint8 (count, 32, 32, 3), and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count)
    base = np.stack([labels * 25, 255 - labels * 25, (labels % 3) * 100], axis=-1)
    noise = random.integers(-20, 20, (count, 32, 32, 3))
    return np.clip(base[:, None, None] + noise, 0, 255).astype(np.uint8), labels


def cifar10_copy(folder: Path, counts: tuple[int, int] = (40, 20)) -> Path:
    """`uoft-cs/cifar10` as the hub holds it: Parquet files of `img` (PNG) and `label` by split."""
    from datasets import ClassLabel, Dataset, Features, Image

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
             "truck"]  # fmt: skip
    schema = Features({"img": Image(), "label": ClassLabel(names=names)})
    for seed, (split, count) in enumerate(zip(("train", "test"), counts, strict=True)):
        pixels, labels = images(count, seed)
        from PIL import Image as Picture

        rows = {"img": [Picture.fromarray(p) for p in pixels], "label": labels.tolist()}
        file = folder / "plain_text" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features=schema).to_parquet(file)
    return folder


def cifar10_batches(folder: Path, counts: tuple[int, int] = (40, 20)) -> Path:
    """The original Python batches: pickles of bytes keys, rows of 3,072 numbers by channel."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, count in enumerate(counts):
        pixels, labels = images(count, seed)
        rows = pixels.transpose(0, 3, 1, 2).reshape(count, -1)
        parts = [f"data_batch_{n}" for n in range(1, 6)] if seed == 0 else ["test_batch"]
        for number, name in enumerate(parts):
            mine = slice(number, None, len(parts))
            batch = {
                b"batch_label": name.encode(), b"labels": labels[mine].tolist(),
                b"data": rows[mine], b"filenames": [b"x.png"] * len(labels[mine]),
            }  # fmt: skip
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder
