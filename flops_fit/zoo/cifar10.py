"""CIFAR-10: 60,000 photographs of ten kinds of things, 32 x 32 pixels. One unit is one image.

From the Hugging Face hub, a local copy of its files, or the folder of the original Python batches.
Source of the data: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from flops_fit.zoo.hub import kept_array, load_split

NAME = "uoft-cs/cifar10"
_COLUMNS = (("img", "label"), ("image", "label"))
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_MEAN = (0.4914, 0.4822, 0.4465)
"""Of the training images' channels, from 0 to 1."""
_DEVIATION = (0.2470, 0.2435, 0.2616)
_SHIFT = 4
"""Augmented images are shifted by up to this many pixels."""


class Images(Dataset[dict[str, torch.Tensor]]):
    """Labelled images in memory.

    Args:
        pixels: uint8, shape (images, 3, height, width).
        labels: int64, shape (images,).
        is_augmented: shift each image by up to 4 pixels and mirror every other one, differently
            each time; what is drawn comes from torch's generator, which a trial seeds.
    """

    def __init__(
        self, pixels: torch.Tensor, labels: torch.Tensor, *, is_augmented: bool = False
    ) -> None:
        self.pixels = pixels
        self.labels = labels
        self.is_augmented = is_augmented
        self._mean = torch.tensor(_MEAN, device=pixels.device)[:, None, None]
        self._deviation = torch.tensor(_DEVIATION, device=pixels.device)[:, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        batch = self.batch_of(torch.tensor([index]))
        return {name: values[0] for name, values in batch.items()}

    def batch_of(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Many images at once; indices: int64, shape (batch,).

        Returns:
            `inputs`: float32, shape (batch, 3, height, width), near unit variance; `targets`:
            int64, shape (batch,).
        """
        indices = indices.to(self.pixels.device)
        images = (self.pixels[indices].float() / 255 - self._mean) / self._deviation
        if self.is_augmented:
            images = _augment(images)
        return {"inputs": images, "targets": self.labels[indices]}

    @property
    def num_bytes(self) -> int:
        """Memory that the images take."""
        return self.pixels.numel() + self.labels.numel() * self.labels.element_size()

    def to(self, device: torch.device | str) -> Images:
        """Return the same images on a device."""
        return Images(
            self.pixels.to(device), self.labels.to(device), is_augmented=self.is_augmented
        )


@dataclass(frozen=True)
class Cifar10:
    """A training and a held-out set, with their facts."""

    train: Images
    heldout: Images
    unique_units: int
    provenance: dict[str, Any]
    unit: str = "image"
    units_per_example: int = 1
    loss_unit: str = "nats per image"


def cifar10(path: str | None = None, augment: bool = True) -> Cifar10:
    """CIFAR-10; the test images are the held-out set.

    Args:
        path: the folder of the original Python batches (or the one that holds it), or a local copy
            of the hub's files; None: the hub.
        augment: shift and mirror training images, differently each time.

    Raises:
        ModuleNotFoundError: the package `datasets` is not installed, and is needed.
        ConnectionError: the hub cannot be reached; the message says how to do without.
        ValueError: the local copy is not one.
    """
    folder = None if path is None else _find_batches(Path(path))
    if folder is not None:
        train, test = _read_batches(folder, _BATCHES), _read_batches(folder, ("test_batch",))
    else:
        train, test = _from_hub("train", path), _from_hub("test", path)
    return Cifar10(
        train=Images(*train, is_augmented=augment),
        heldout=Images(*test),
        unique_units=len(train[1]),
        provenance={
            "name": NAME,
            "images": len(train[1]),
            "heldout_images": len(test[1]),
            "augmented": augment,
            "sha256": hashlib.sha256(train[0].numpy().tobytes()).hexdigest(),
        },
    )


def _augment(images: torch.Tensor) -> torch.Tensor:
    """Shift each image by up to 4 pixels and mirror every other one, at random."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (_SHIFT,) * 4)
    down, right = torch.randint(0, 2 * _SHIFT + 1, (2, count)).to(images.device)
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    is_mirrored = (torch.rand(count) < 0.5).to(images.device)
    columns = torch.where(is_mirrored[:, None], columns.flip(1), columns)
    each = torch.arange(count, device=images.device)[:, None, None]
    cut = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)


def _from_hub(split: str, path: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and labels of one split of the hub's data set."""
    rows = load_split(NAME, split, path)
    named = next((pair for pair in _COLUMNS if set(pair) <= set(rows.column_names)), None)
    if named is None:
        raise ValueError(
            f"the split `{split}` has no columns `img` and `label`; it has "
            f"{', '.join(map(repr, rows.column_names))}"
        )

    def make() -> np.ndarray[Any, Any]:
        images = [np.asarray(image.convert("RGB")) for image in rows[named[0]]]
        return np.stack(images).transpose(0, 3, 1, 2)

    pixels = kept_array({"split": rows._fingerprint, "rows": len(rows)}, make)
    return torch.from_numpy(pixels), torch.tensor(rows[named[1]], dtype=torch.int64)


def _find_batches(path: Path) -> Path | None:
    """Return the folder of the original batches: `path` or the usual one in it, or None."""
    for folder in (path, path / "cifar-10-batches-py"):
        if (folder / "test_batch").is_file():
            return folder
    return None


def _read_batches(folder: Path, names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and labels of some of the original batches."""
    pixels, labels = [], []
    for name in names:
        place = folder / name
        if not place.is_file():
            raise ValueError(f"`{folder}` has no `{name}`: expected all six of the original files")
        try:
            batch = _ArraysOnly(io.BytesIO(place.read_bytes()), encoding="bytes").load()
            pixels.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
            labels += batch[b"labels"]
        except (pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError) as error:
            raise ValueError(f"`{place}` is not a batch of CIFAR-10: {error}") from None
    return torch.from_numpy(np.concatenate(pixels)), torch.tensor(labels, dtype=torch.int64)


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays, numbers and texts; a file that asks for anything else is refused."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return the few names that an array's pickle needs."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it loads `{module}.{name}`, which is not an array")
        module = module.replace("numpy.core", "numpy._core")
        return super().find_class(module, name)
