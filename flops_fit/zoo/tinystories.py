"""TinyStories: short stories in simple English, from the Hugging Face hub or a local copy of it.

Stories are put one after another, each ended by a separator, and cut into windows of `context`
tokens with the next token as target: no padding, no token skipped. Source of the data: Eldan and
Li 2023 (arXiv:2305.07759), `roneneldan/TinyStories`, 2.1 million stories for training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flops_fit.zoo.hub import kept_array, load_split
from flops_fit.zoo.windows import Windows, spaced_windows

NAME = "roneneldan/TinyStories"
_COLUMN = "text"
_STORIES_AT_ONCE = 1000
_TRAINED_ON = 100_000
"""Stories that an own tokenizer is trained on."""

_ENDS = ("<|endoftext|>", "</s>", "<eos>", "[SEP]")
"""What tokenizers call the end of a text, the first that a tokenizer knows."""


@dataclass(frozen=True)
class Stories:
    """A training and a held-out set, with their facts."""

    train: Windows
    heldout: Windows
    units_per_example: int
    unique_units: int
    provenance: dict[str, Any]
    unit: str
    loss_unit: str
    causal: bool = True


@dataclass(frozen=True)
class _Encoder:
    """A tokenizer: stories to token ids, each story ended by a separator.

    Attributes:
        key: what identifies it.
        encode: a list of stories to one row of token ids.
    """

    key: str
    vocab_size: int
    encode: Callable[[list[str]], np.ndarray[Any, Any]]


def tinystories(
    context: int = 256,
    tokenizer: str = "bytes",
    path: str | None = None,
    stories: int | None = None,
    heldout_windows: int = 2048,
) -> Stories:
    """TinyStories, packed into windows with next-token targets.

    Args:
        context: tokens in a window.
        tokenizer: `bytes` (a vocabulary of 256); `bpe:4096`, trained on the first stories with a
            vocabulary of that many; a file `tokenizer.json`; or the name of one on the hub. The
            model's `vocab_size` must be at least its vocabulary's.
        path: a local copy: a folder with the hub's files, or one that `save_to_disk` wrote.
        stories: take only the first so many; None: all.
        heldout_windows: how many windows, evenly spaced over the validation split, are evaluated.

    Raises:
        ModuleNotFoundError: `datasets` or `tokenizers` is not installed.
        ConnectionError: the hub cannot be reached; the message says how to do without.
        ValueError: the local copy or the tokenizer is not one, or holds too little text.
    """
    splits = {side: load_split(NAME, side, path) for side in ("train", "validation")}
    for side, split in splits.items():
        if _COLUMN not in split.column_names:
            raise ValueError(
                f"the split `{side}` has no column `{_COLUMN}`; it has "
                f"{', '.join(map(repr, split.column_names))}"
            )
    if stories is not None:
        splits["train"] = splits["train"].select(range(min(stories, len(splits["train"]))))
    encoder = _find_encoder(tokenizer, splits["train"])
    ids = {side: _ids(split, encoder) for side, split in splits.items()}
    for side, row in ids.items():
        if len(row) <= context:
            raise ValueError(
                f"the split `{side}` holds {len(row)} tokens: too few for a window of {context}"
            )
    unit = "byte" if tokenizer == "bytes" else "token"
    train = Windows(ids["train"], context=context)
    return Stories(
        train=train,
        heldout=spaced_windows(ids["validation"], context=context, count=heldout_windows),
        units_per_example=context,
        unique_units=len(train) * context,
        provenance={
            "name": NAME,
            "stories": len(splits["train"]),
            "tokens": len(ids["train"]),
            "tokenizer": encoder.key,
            "vocab_size": encoder.vocab_size,
            "sha256": hashlib.sha256(ids["validation"].numpy().tobytes()).hexdigest(),
        },
        unit=unit,
        loss_unit=f"nats per {unit}",
    )


def _ids(split: Any, encoder: _Encoder) -> torch.Tensor:
    """All stories of a split as one row of token ids, kept in the cache."""

    def make() -> np.ndarray[Any, Any]:
        parts = [encoder.encode(batch) for batch in _batches(split)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)

    # The fingerprint of a split changes with its content and with every selection from it.
    key = {"split": split._fingerprint, "rows": len(split), "tokenizer": encoder.key}
    return torch.from_numpy(kept_array(key, make))


def _batches(split: Any, most: int | None = None) -> Iterator[list[str]]:
    """The stories, many at a time."""
    taken = split if most is None else split.select(range(min(most, len(split))))
    for batch in taken.iter(_STORIES_AT_ONCE):
        yield [story.strip() for story in batch[_COLUMN]]


def _find_encoder(tokenizer: str, train: Any) -> _Encoder:
    """Return the tokenizer of that name."""
    if tokenizer == "bytes":
        return _Encoder("bytes", 256, _encode_bytes)
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "this tokenizer needs the package `tokenizers`: pip install 'flops-fit[data]', or set "
            'tokenizer = "bytes"',
            name="tokenizers",
        ) from None
    kind, _, count = tokenizer.partition(":")
    if kind == "bpe" and count.isdecimal():
        made = _train_bpe(train, int(count))
    elif tokenizer.endswith(".json"):
        if not Path(tokenizer).exists():
            raise ValueError(
                f"`tokenizer` is `{tokenizer}`, which does not exist (seen from `{Path.cwd()}`)"
            )
        made = Tokenizer.from_file(tokenizer)
    else:
        try:
            made = Tokenizer.from_pretrained(tokenizer)
        except Exception as error:  # The library raises plain `Exception`s.
            raise ConnectionError(
                f"the tokenizer `{tokenizer}` cannot be loaded from the Hugging Face hub "
                f"({error}); "
                'without a network, set tokenizer = "bytes" or "bpe:4096", or the path of a '
                "`tokenizer.json`"
            ) from None
    return _encoder_of(tokenizer, made)


def _encode_bytes(stories: list[str]) -> np.ndarray[Any, Any]:
    """UTF-8, a zero byte after each story: uint8."""
    text = "".join(f"{story}\0" for story in stories)
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _encoder_of(name: str, made: Any) -> _Encoder:
    """Return a tokenizer of the `tokenizers` package as an encoder."""
    end = next((made.token_to_id(end) for end in _ENDS if made.token_to_id(end) is not None), None)
    if end is None:
        raise ValueError(
            f"the tokenizer `{name}` has no token for the end of a text: expected one of "
            f"{', '.join(_ENDS)}"
        )

    def encode(stories: list[str]) -> np.ndarray[Any, Any]:
        encoded = made.encode_batch(stories, add_special_tokens=False)
        return np.concatenate([np.array([*each.ids, end], dtype=np.int32) for each in encoded])

    digest = hashlib.sha256(made.to_str().encode()).hexdigest()[:12]
    return _Encoder(f"{name} {digest}", made.get_vocab_size(), encode)


def _train_bpe(train: Any, vocab_size: int) -> Any:
    """Return a byte-level BPE tokenizer with a vocabulary of that many tokens at most."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    least = 257  # every byte, and the end of a text
    if vocab_size < least:
        raise ValueError(f"`tokenizer` is `bpe:{vocab_size}`: expected {least} tokens or more")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_ENDS[0]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_batches(train, _TRAINED_ON), trainer=trainer)
    return made
