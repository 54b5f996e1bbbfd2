"""Images without a download and without end: letters and digits, drawn afresh for every index.

Each example is a glyph of one of the fonts that matplotlib ships, turned, sheared, scaled, shifted
and laid under noise. An example is a function of its number and the seed alone: what is drawn does
not depend on what was drawn before, on the batch, or on torch's generators, so a trial can begin
anywhere, and no example repeats. One unit of data is one image.

Random numbers come from a counter: the state of example i is i times an odd constant, scrambled by
the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators", figure 16).
"""

from __future__ import annotations

import hashlib
import math
import string
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic", "STIXGeneral",
    "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10",
    "cmtt10", "cmti10",
)  # fmt: skip
_DRAWN = 32
"""Glyphs are drawn once at this many pixels; images are sampled from the drawings."""

_MEAN, _DEVIATION = 0.10, 0.28
"""Of the pixels of the default images; the model sees near unit variance."""

_ENDLESS = 2**40


class Glyphs(Dataset[dict[str, torch.Tensor]]):
    """Endless images of glyphs; example i is always the same image.

    Args:
        drawings: float32, shape (classes, fonts, 32, 32): ink from 0 to 1.
        image_size: height and width of an image, in pixels.
        noise: standard deviation of the noise on each pixel, where ink is up to 1.
        distortion: 1 turns by up to 30 degrees, shears and scales by up to a fifth, shifts by up to
            an eighth of the image; 0 does nothing.
        seed: another seed gives other images.
    """

    def __init__(
        self,
        drawings: torch.Tensor,
        *,
        image_size: int,
        noise: float,
        distortion: float,
        seed: int,
    ) -> None:
        self.drawings = drawings
        self.image_size = image_size
        self.noise = noise
        self.distortion = distortion
        self.seed = seed

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        batch = self.batch_of(torch.tensor([index]))
        return {name: values[0] for name, values in batch.items()}

    def batch_of(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Many images at once; indices: int64, shape (batch,).

        Returns:
            `inputs`: float32, shape (batch, 1, image_size, image_size); `targets`: int64, shape
            (batch,), the number of the character.
        """
        indices = indices.to(self.drawings.device)
        state = _scramble(indices + _scramble(torch.tensor(self.seed)).to(indices.device))
        classes, fonts = self.drawings.shape[:2]
        chosen = _uniform(state[:, None] + torch.arange(8, device=state.device))
        which_class = (chosen[:, 0] * classes).long().clamp(max=classes - 1)
        which_font = (chosen[:, 1] * fonts).long().clamp(max=fonts - 1)
        ink = self.drawings[which_class, which_font][:, None]
        grid = functional.affine_grid(
            self._affine(2 * chosen[:, 2:7] - 1),
            [len(indices), 1, self.image_size, self.image_size],
            align_corners=False,
        )
        image = functional.grid_sample(ink, grid, align_corners=False)
        image = image * (0.6 + 0.4 * chosen[:, 7])[:, None, None, None]
        pixels = torch.arange(8, 8 + self.image_size**2, device=state.device)
        image = image + self.noise * _normal(state[:, None] + pixels).view_as(image)
        return {"inputs": (image - _MEAN) / _DEVIATION, "targets": which_class}

    def _affine(self, drawn: torch.Tensor) -> torch.Tensor:
        """Return the affine map from each image into its drawing: float32, shape (batch, 2, 3).

        Args:
            drawn: float32, shape (batch, 5), from -1 to 1: turn, shear, scale, shifts.
        """
        turn, shear, scale, right, down = (self.distortion * drawn).unbind(1)
        cos, sin = (turn * math.radians(30)).cos(), (turn * math.radians(30)).sin()
        size = 0.8 * torch.exp(scale * math.log(1.2))
        skew = 0.2 * shear
        rows = [size * cos, size * (skew * cos - sin), right / 4,
                size * sin, size * (skew * sin + cos), down / 4]  # fmt: skip
        return torch.stack(rows, dim=1).view(-1, 2, 3)

    @property
    def num_bytes(self) -> int:
        """Memory that the drawings take."""
        return self.drawings.numel() * self.drawings.element_size()

    def to(self, device: torch.device | str) -> Glyphs:
        """Return the same images, drawn on a device."""
        return Glyphs(
            self.drawings.to(device), image_size=self.image_size, noise=self.noise,
            distortion=self.distortion, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class GlyphData:
    """An endless training set and a fixed held-out one, with their facts."""

    train: Glyphs
    heldout: torch.utils.data.TensorDataset
    provenance: dict[str, Any]
    unit: str = "image"
    units_per_example: int = 1
    loss_unit: str = "nats per image"


def glyphs(
    image_size: int = 16,
    noise: float = 0.15,
    distortion: float = 1.0,
    characters: str = CHARACTERS,
    heldout_images: int = 4096,
    seed: int = 0,
) -> GlyphData:
    """Letters and digits in many fonts, distorted and noisy, drawn on the fly.

    Args:
        image_size: height and width of an image, in pixels.
        noise: standard deviation of the noise on each pixel, where ink is up to 1.
        distortion: how far glyphs are turned, sheared, scaled and shifted; 0 is not at all.
        characters: the classes, one a character.
        heldout_images: how many images are held out; they come from another stream of numbers.
        seed: another seed gives other images of the same kind.

    Raises:
        ValueError: there is no character, or one that the fonts lack.
    """
    if not characters or not characters.isascii() or not characters.isprintable():
        raise ValueError(f"`characters` is {characters!r}: expected printable ASCII, at least one")
    drawings = draw_glyphs(characters)
    made = {
        side: Glyphs(
            drawings, image_size=image_size, noise=noise, distortion=distortion,
            seed=2 * seed + number,
        )
        for number, side in enumerate(("train", "heldout"))
    }  # fmt: skip
    held = made["heldout"].batch_of(torch.arange(heldout_images))
    provenance = {
        "name": "glyphs",
        "fonts": len(_FONTS),
        "matplotlib": version("matplotlib"),
        "sha256": hashlib.sha256(drawings.numpy().tobytes()).hexdigest(),
    }
    return GlyphData(
        made["train"],
        torch.utils.data.TensorDataset(held["inputs"], held["targets"]),
        provenance,
    )


def draw_glyphs(characters: str) -> torch.Tensor:
    """Return each character in each font, centred: float32, (characters, fonts, 32, 32), 0 to 1."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    drawn = np.zeros((len(characters), len(_FONTS), _DRAWN, _DRAWN), dtype=np.float32)
    for column, name in enumerate(_FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), size=_DRAWN * 3 // 4)
        for row, character in enumerate(characters):
            image = Image.new("L", (_DRAWN, _DRAWN))
            # Capitals stand in the middle; letters keep their place on the line.
            place = (_DRAWN / 2, _DRAWN * 0.72)
            ImageDraw.Draw(image).text(place, character, fill=255, font=font, anchor="ms")
            drawn[row, column] = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(drawn)


def _scramble(state: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser of state times the golden constant: int64, any shape."""
    state = state * -7046029254386353131  # 0x9E3779B97F4A7C15; products wrap
    state = (state ^ _shifted(state, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    state = (state ^ _shifted(state, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return state ^ _shifted(state, 31)


def _shifted(state: torch.Tensor, count: int) -> torch.Tensor:
    """Return a shift to the right that brings in zeros, as for unsigned numbers."""
    return (state >> count) & ((1 << (64 - count)) - 1)


def _uniform(state: torch.Tensor) -> torch.Tensor:
    """Float32 from 0 to just under 1, one for each state."""
    return _shifted(_scramble(state), 40).float() * 2.0**-24


def _normal(state: torch.Tensor) -> torch.Tensor:
    """Standard normal float32, one for each state (Box and Muller 1958)."""
    bits = _scramble(state)
    radius = (-2 * torch.log1p(-_shifted(bits, 40).float() * 2.0**-24)).sqrt()
    angle = (bits & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
    return radius * torch.cos(angle)
