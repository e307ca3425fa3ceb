"""Tokens of a text as players."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lightning_interactions.errors import BatchError, bad_argument, is_whole
from lightning_interactions.functional.coalitions import MIN_PLAYERS
from lightning_interactions.model.batch import SPECIAL_KEY, Padding
from lightning_interactions.model.packing import ATTENTION_KEY
from lightning_interactions.players.base import BACKGROUND, MaskedRegions
from lightning_interactions.players.picture import ATTACHED, Picture, WordsContent, count_of
from lightning_interactions.players.rows import shorten
from lightning_interactions.players.spelling import Speller

MOST_PARTS = 200
"""Tokens of a text that are shown, at most."""

AROUND = 3
"""Tokens on either side of a player that are shown before others."""


class Tokens(MaskedRegions):
    """Tokens of a text; an absent one is replaced by the mask token (arXiv 2407.19198, appendix).

    Padding and special tokens are never players, and the attention mask stays as it is. What is padding is read from
    the batch's attention mask; without one, from the padding id of the tokenizer, or of the model's embedding.

    A text with fewer tokens than ``num_players`` plays with those it has. Its missing players have no elements, so no
    interaction contains one, and it adds no strength to the orders above its number of tokens: the mean over samples
    is a mean of strengths at the same absolute order, never of shares.

    Args:
        mask_token_id: Id shown in place of an absent token. ``None``: that of the model's or data module's
            ``tokenizer``, or of the model's ``config``; or else, as language models have none, the tokenizer's id of
            an unknown word.
        special_token_ids: Ids that are never players, besides those the tokenizer calls special.

    Raises:
        ArgumentError: If an id is not an integer from 0 on.

    Example:
        >>> tokens = Tokens(mask_token_id=9, special_token_ids=(0,))
        >>> text = torch.tensor([5, 6, 0])
        >>> players = tokens.draw(text, 2, torch.Generator())
        >>> tokens.mask(text, players, torch.tensor([[True, False], [False, True]]))
        tensor([[5, 9, 0],
                [9, 6, 0]])
    """

    uneven = True

    def __init__(self, mask_token_id: int | None = None, special_token_ids: Sequence[int] = ()) -> None:
        if mask_token_id is not None and not is_whole(mask_token_id, 0):
            raise bad_argument("mask_token_id", "an integer from 0 on, or None", mask_token_id)
        ids = isinstance(special_token_ids, (Sequence, Set)) and not isinstance(special_token_ids, (str, bytes))
        if not ids or not all(is_whole(x, 0) for x in special_token_ids):
            raise bad_argument("special_token_ids", "integers from 0 on", special_token_ids)
        self.mask_token_id = mask_token_id
        self.special_token_ids = tuple(special_token_ids)
        self._mask = mask_token_id
        self._special = sorted({*self.special_token_ids, *([] if mask_token_id is None else [mask_token_id])})
        self._pad: int | None = None
        self._vocabulary: int | None = None
        self._rows: tuple[str, ...] = ()
        self._speller = Speller()

    def suit(self, model: nn.Module, fields: Sequence[str] = (), tokenizer: Any = None) -> None:
        """Find the mask, padding and special tokens, and the size of the vocabulary."""
        config = next((found for part in model.modules() if (found := getattr(part, "config", None)) is not None), None)
        tables = _embeddings_of(model)
        if self._mask is None:
            places = tokenizer, "mask_token_id", config, "mask_token_id", tokenizer, "unk_token_id"
            self._mask = _first_id(*places)
        padded = next((table for table in tables if table.padding_idx is not None), None)
        self._pad = _first_id(tokenizer, "pad_token_id", config, "pad_token_id", padded, "padding_idx")
        ends = [getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep")]
        known = [*(getattr(tokenizer, "all_special_ids", None) or []), *ends, self._mask, self._pad]
        self._special = sorted({*self._special, *(x for x in known if is_whole(x, 0))})
        self._vocabulary = max((table.num_embeddings for table in tables), default=None)
        self._rows = tuple(fields)
        self._speller = Speller(tokenizer)

    def fit(self, samples: Tensor) -> None:
        """Check that these are token ids, and that the mask token is known and within the vocabulary."""
        _check_ids(samples, 3 if len(self._rows) > 1 else 2)
        if self._mask is None:
            raise BatchError(
                "Token ids need a mask token to show in place of an absent one, and neither a `tokenizer` with a mask "
                "token nor a `config.mask_token_id` was found on the model or data module. Give "
                "`players=Tokens(mask_token_id=...)` (103 for BERT's uncased vocabulary; an unknown-word id will do). "
                "If these are no tokens but columns, give `players=TabularFeatures()`."
            )
        if self._vocabulary is not None and self._mask >= self._vocabulary:
            expected = f"below {self._vocabulary}, the size of the model's vocabulary"
            raise bad_argument("mask_token_id", expected, self._mask)

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Give every token its position; -1 for padding, special tokens and companions of the ids."""
        plays = self._plays(sample.unsqueeze(0))[0]
        labels = torch.where(plays, torch.arange(sample.shape[-1]), BACKGROUND)
        if sample.ndim == 1:
            return labels
        return torch.cat([labels.unsqueeze(0), torch.full_like(sample[1:], BACKGROUND)])

    def names(self, players: Tensor) -> list[str]:
        """Call each token by its position in the sequence, from ``token 1`` on; padding before it counts.

        Example:
            >>> Tokens().names(torch.tensor([-1, 0, -1, 1]))
            ['token 2', 'token 4']
        """
        labels = players.reshape(-1, players.shape[-1])[0]  # row 0 has the ids
        places = [(labels == i).nonzero().flatten().tolist() for i in range(count_of(labels))]
        return [f"token {found[0] + 1}" if found else f"player {i}" for i, found in enumerate(places)]

    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        """Show the text without its padding, by the tokenizer where there is one, else as ids.

        Of a long text the beginning is shown, and what stands next to players.
        """
        names = self.names(players)
        if players.shape != sample.shape or sample.ndim > 2 or sample.is_floating_point():
            told = f"{str(sample.dtype).removeprefix('torch.')} of shape {tuple(sample.shape)}"
            return Picture(names, None, f"not shown as a text: {told}, players {tuple(players.shape)}")
        ids, labels = (sample[0], players[0]) if sample.ndim == 2 else (sample, players)
        counts = torch.ones_like(ids, dtype=torch.bool)
        if self.padding is not None and self.padding.packed == (sample.ndim == 2):
            counts = self.padding.present(sample)
        owners = labels[counts].tolist()
        texts = self._speller.parts(ids[counts].tolist(), special=self._special)
        for text, player in zip(texts, owners, strict=True):
            if player >= 0:
                names[player] = shorten(text.removeprefix(ATTACHED))
        return Picture(names, WordsContent(_parts(texts, owners)))

    def playable(self, samples: Tensor) -> Tensor:
        """Tell which texts have at least 2 tokens that can play."""
        return self._plays(samples).sum(1) >= MIN_PLAYERS

    @property
    def padding(self) -> Padding | None:
        """Padding by the attention mask, or by the padding id; ``None`` if neither is known."""
        row = self._rows.index(ATTENTION_KEY) if ATTENTION_KEY in self._rows else None
        if row is None and self._pad is None:
            return None
        return Padding(self._pad or 0, row, packed=len(self._rows) > 1)

    def absent(self, samples: Tensor, players: Tensor) -> Tensor:
        """See `MaskedRegions.absent`: the mask token."""
        if self._mask is None:
            raise bad_argument("mask_token_id", "known by now: call suit(model) first, or give it", None)
        return samples.new_tensor(self._mask)

    def describe(self) -> str:
        """Name the mask token in use."""
        return f"Tokens(mask_token_id={self._mask})"

    def _plays(self, samples: Tensor) -> Tensor:
        _check_ids(samples, 3 if len(self._rows) > 1 else 2)
        packed = samples.ndim == 3
        ids = samples[:, 0] if packed else samples
        special = torch.tensor(self._special, dtype=ids.dtype, device=ids.device)
        plays = ~torch.isin(ids, special)
        if self.padding is not None:
            plays &= self.padding.present(samples)
        if packed and SPECIAL_KEY in self._rows:
            plays &= samples[:, self._rows.index(SPECIAL_KEY)] == 0
        return plays


def _parts(texts: Sequence[str], owners: Sequence[int]) -> list[tuple[str, int]]:
    """Texts and their players; of a long text some, with dots where others are left out."""
    near = [i for i, player in enumerate(owners) if player >= 0]
    around = [j for i in near for j in range(max(i - AROUND, 0), min(i + AROUND + 1, len(texts)))]
    kept = sorted(list(dict.fromkeys([*near, *around, *range(len(texts))]))[:MOST_PARTS])
    parts, before = [], -1
    for i in kept:
        if i > before + 1:
            parts.append(("...", BACKGROUND))
        parts.append((texts[i] if i == before + 1 else texts[i].removeprefix(ATTACHED), owners[i]))
        before = i
    return [*parts, ("...", BACKGROUND)] if before + 1 < len(texts) else parts


def _check_ids(samples: Tensor, dimensions: int) -> None:
    whole = not samples.is_floating_point() and not samples.is_complex() and samples.dtype != torch.bool
    if not whole or samples.ndim != dimensions:
        raise BatchError(
            f"Tokens needs integer ids of shape (B, L), but got {samples.dtype} of shape {tuple(samples.shape)}. "
            "Give `input_fn=batch -> ids`, or other players."
        )


def _first_id(*places: Any) -> int | None:
    """First id found at ``owner, attribute, owner, attribute, ...``."""
    values = (getattr(owner, name, None) for owner, name in zip(places[::2], places[1::2], strict=True))
    return next((value for value in values if is_whole(value, 0)), None)


def _embeddings_of(model: nn.Module) -> list[nn.Embedding]:
    """The embedding the model names as that of its inputs, else all it has (positions and segments among them)."""
    named = getattr(model, "get_input_embeddings", None)
    try:
        found = named() if callable(named) else None
    except (NotImplementedError, AttributeError):
        found = None
    return [found] if isinstance(found, nn.Embedding) else [m for m in model.modules() if isinstance(m, nn.Embedding)]
