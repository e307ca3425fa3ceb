"""Maps that treat all players alike, in a basis in which they fall apart into small blocks.

A map on ``(..., 2**n)`` that commutes with every renaming of the players cannot tell apart more than the symmetric
group lets it. For half of the players there is an orthogonal basis (that of coupled spins, built player by player)
whose vectors come in multiplets: the group mixes multiplets of one length ``2 j + 1`` among each other, a symmetric map
acts on their inside, and alike on all of them. With one half of the players in this basis, and the other as it is, a
symmetric map is one matrix for each length: for 10 players three, 192 x 192 the largest, where the full one has
1024 x 1024. With both halves in the basis the blocks are smaller still, but so many that calling them costs more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SymmetricMap(NamedTuple):
    """A linear map on ``(B, 2**n)`` that is symmetric and commutes with every renaming of the players."""

    forth: Tensor  # (2**h, 2**h), orthogonal: into the basis of the upper h = n - n // 2 players, one row a vector
    back: Tensor  # its transpose
    blocks: tuple[Tensor, ...]  # (size, size) each, symmetric, with size a multiplet's length times 2**(n // 2)
    rows: list[int]  # how many vectors of the basis belong to each block

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to ``x (B, 2**n)``."""
        high = len(self.forth)
        entries = torch.matmul(self.forth, x.view(len(x), high, x.shape[1] // high))
        parts = [
            (part.reshape(-1, len(block)) @ block).view_as(part)
            for part, block in zip(torch.split(entries, self.rows, 1), self.blocks, strict=True)
        ]
        return torch.matmul(self.back, torch.cat(parts, 1)).view_as(x)

    def inverse(self) -> SymmetricMap:
        """The inverse of a positive definite map."""
        inverses = (torch.linalg.inv(block) for block in self.blocks)
        return self._replace(blocks=tuple((block + block.T) / 2 for block in inverses))


def symmetric_map(apply: Callable[[Tensor], Tensor], n: int, device: torch.device) -> SymmetricMap:
    """Write the map ``apply`` on ``(B, 2**n)``, symmetric and blind to who is who, in blocks."""
    multiplets = [m.to(device) for m in _multiplets(n - n // 2)]
    others = torch.eye(2 ** (n // 2), dtype=torch.float64, device=device)
    blocks = []
    for same in multiplets:
        images = (apply(torch.kron(vector, others)).view(len(others), -1, len(others)) for vector in same[0])
        block = torch.stack([torch.einsum("yha,xh->yxa", image, same[0]) for image in images])
        size = block.shape[0] * block.shape[1]
        blocks.append(block.reshape(size, size))
    forth = torch.cat([m.flatten(0, 1) for m in multiplets])
    rows = [m.shape[0] * m.shape[1] for m in multiplets]
    return SymmetricMap(forth, forth.T.contiguous(), tuple((block + block.T) / 2 for block in blocks), rows)


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
