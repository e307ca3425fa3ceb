"""Inverses of maps that treat all players alike, in the basis in which they fall apart into small blocks.

A map on ``(..., 2**n)`` that commutes with every renaming of the players cannot tell apart more than the symmetric
group lets it. For half of the players there is an orthogonal basis (that of coupled spins, built player by player)
whose vectors come in multiplets: the group mixes multiplets of one length ``2 j + 1`` among each other, a symmetric map
acts on their inside, and alike on all of them. With both halves of the players in this basis a symmetric map is one
small matrix for each pair of lengths: 9 matrices of at most 36 x 36 for 10 players, where the full one has 1024 x 1024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.functional._kronecker import KroneckerPower


class Block(NamedTuple):
    """One pair of lengths: entries ``start`` to ``stop`` are vectors on which ``inverse`` acts alike."""

    start: int
    stop: int
    inverse: Tensor  # (size, size), symmetric


class SymmetricInverse(NamedTuple):
    """The inverse of a symmetric positive definite map that commutes with every renaming of the players."""

    forth: KroneckerPower  # into the basis
    back: KroneckerPower
    order: Tensor  # (2**n,), which gathers the entries of each block
    places: Tensor  # (2**n,), where they came from
    blocks: tuple[Block, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to ``x (B, 2**n)``."""
        entries = self.forth(x).index_select(1, self.order)
        parts = [
            (entries[:, start:stop].reshape(-1, len(inverse)) @ inverse).view(len(x), stop - start)
            for start, stop, inverse in self.blocks
        ]
        return self.back(torch.cat(parts, 1).index_select(1, self.places))


def invert(apply: Callable[[Tensor], Tensor], n: int, device: torch.device) -> SymmetricInverse:
    """Invert the map ``apply`` on ``(B, 2**n)``: linear, symmetric, positive definite, blind to who is who."""
    upper, lower = _multiplets(n - n // 2), _multiplets(n // 2)
    rows, columns = (torch.cat([m.flatten(0, 1) for m in half]) for half in (upper, lower))
    place = torch.arange(2**n).view(2 ** (n - n // 2), 2 ** (n // 2))
    order, blocks, start, above = [], [], 0, 0
    for high in upper:
        left = 0
        for low in lower:
            size = high.shape[1] * low.shape[1]
            inside = place[above : above + high[..., 0].numel(), left : left + low[..., 0].numel()]
            inside = inside.reshape(*high.shape[:2], *low.shape[:2])  # copies, size, copies, size
            order.append(inside.transpose(1, 2).flatten())
            vectors = torch.einsum("ax,by->abxy", high[0], low[0]).reshape(size, -1).to(device)
            inverse = torch.linalg.inv(apply(vectors) @ vectors.T)
            stop = start + order[-1].numel()
            blocks.append(Block(start, stop, (inverse + inverse.T) / 2))
            left, start = left + low[..., 0].numel(), stop
        above += high[..., 0].numel()
    gathered = torch.cat(order).to(device)
    rows, columns = rows.to(device), columns.to(device)
    forth, back = KroneckerPower(rows, columns.T.contiguous()), KroneckerPower(rows.T.contiguous(), columns)
    return SymmetricInverse(forth, back, gathered, gathered.argsort(), tuple(blocks))


def _multiplets(n: int) -> Sequence[Tensor]:
    """The basis for ``n`` players: for each length a tensor ``(copies, length, 2**n)``.

    A multiplet of length ``d = 2 j + 1`` and one player more make one of length ``d + 1`` and one of ``d - 1``, with
    the Clebsch-Gordan coefficients of spin 1/2. Its vectors are ordered by how many players are present.
    """
    known = {1: torch.ones(1, 1, 1, dtype=torch.float64)}
    for _ in range(n):
        grown: dict[int, list[Tensor]] = {}
        for length, vectors in known.items():
            absent, present = (torch.zeros(*vectors.shape[:2], 2 * vectors.shape[2]).to(vectors) for _ in range(2))
            absent[..., : vectors.shape[2]], present[..., vectors.shape[2] :] = vectors, vectors
            for longer in (True, False):
                if longer or length > 1:
                    grown.setdefault(length + (1 if longer else -1), []).append(_couple(absent, present, longer))
        known = {length: torch.cat(parts) for length, parts in grown.items()}
    return list(known.values())


def _couple(absent: Tensor, present: Tensor, longer: bool) -> Tensor:
    """Couple multiplets ``(copies, d, ...)`` without and with one player more to ones of ``d + 1`` or ``d - 1``."""
    length = absent.shape[1]
    out = absent.new_zeros(absent.shape[0], length + 1 if longer else length - 1, absent.shape[2])
    for k in range(out.shape[1]):  # so many players present, beyond the fewest
        if longer:
            with_it, without = math.sqrt(k / length), math.sqrt((length - k) / length)
        else:
            with_it, without = -math.sqrt((length - 1 - k) / length), math.sqrt((k + 1) / length)
        before = k - 1 if longer else k
        if before >= 0:
            out[:, k] += with_it * present[:, before]
        if before + 1 < length:
            out[:, k] += without * absent[:, before + 1]
    return out
