"""Who the players are and how absence looks: the contract every kind of player keeps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from lightning_interactions.errors import ArgumentError, BatchError, bad_argument, is_number
from lightning_interactions.functional.coalitions import MIN_PLAYERS
from lightning_interactions.model.batch import Padding
from lightning_interactions.model.packing import Table
from lightning_interactions.model.quiet import memory_format_of
from lightning_interactions.players.picture import Picture, numbered

BACKGROUND = -1
"""Region id of elements that belong to no player: they always stay."""

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Baseline = str | float | Tensor
"""``"zero"``, ``"mean"`` (of the watched samples, where they are finite), a number, or a tensor like a sample."""


class Players(ABC):
    """Base of all kinds of players.

    A new kind gives two methods. `partition` says which elements of a sample belong together: an integer tensor of
    region ids, of any shape that suits the kind. `mask` puts regions to their baseline. Everything else is inherited:
    the package draws ``n`` of the regions as players of that sample, renumbers them ``0 .. n-1``, gives all other
    regions the id -1 (background: always present), and keeps the result for the whole run.

    Where people look at samples, `names` says what the players are called and `picture` how a sample looks. Without
    them the players are numbered, and a sample is a list of bars.

    Example:
        The two halves of every row are the players, and an absent half is replaced by noise-free zeros:

        >>> class Halves(Players):
        ...     def partition(self, sample, generator):
        ...         return (torch.arange(sample.shape[-1]) >= sample.shape[-1] // 2).long()
        ...
        ...     def mask(self, sample, players, coalitions):
        ...         present = with_background(coalitions)[:, players]  # (C, F)
        ...         return torch.where(present, sample, 0.0)
        >>> halves = Halves()
        >>> labels = halves.draw(torch.ones(4), num_players=2, generator=torch.Generator())
        >>> halves.mask(torch.ones(4), labels, torch.tensor([[True, False], [True, True]])).sum(-1)
        tensor([2., 4.])

    Attributes:
        uneven: Whether samples may differ in their number of regions, as texts do.
        any_size: Whether samples may differ in their shape, as images do.
    """

    uneven = False
    any_size = False

    @abstractmethod
    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Assign every element of one sample to a region.

        Args:
            sample: One input without batch dimension, on the CPU.
            generator: The only source of randomness allowed; seeded by the sample's content, so a sample gets the
                same regions in every run, on every rank and after a resume.

        Returns:
            Long tensor of region ids ``0 .. R-1``; -1 for background. Its shape is the kind's own choice, but must be
            the same for all samples of a run.
        """

    @abstractmethod
    def mask(self, sample: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        """Put the absent players of one sample to their baseline value, for many coalitions at once.

        Args:
            sample: One input without batch dimension, on the model's device.
            players: What `draw` returned for this sample: player ids ``0 .. n-1``, -1 for background.
            coalitions: Boolean ``(C, n)``: which players are present.

        Returns:
            ``(C, *sample.shape)``, same dtype and device as ``sample``; background elements as in ``sample``.
        """

    def suit(self, model: nn.Module, fields: Sequence[str] = (), tokenizer: Any = None) -> None:  # noqa: B027
        """Learn from the model what samples alone cannot tell, once, before `fit` (for example the mask token).

        Args:
            model: The model.
            fields: Names of the rows of packed samples, see `read_batch`; empty where samples are not packed.
            tokenizer: The tokenizer, where the model or the data module has one.
        """

    def suit_table(self, table: Table) -> None:
        """Learn that samples are columns ``(F,)`` of several types, packed: see `Table`; after `suit`.

        Raises:
            BatchError: If this kind of players cannot mask them, as only `TabularFeatures` can.
        """
        raise BatchError(
            f"{type(self).__name__} cannot mask {table.describe()}, which are of several types. Give "
            "`players=TabularFeatures()`, or `input=` the name of one of them."
        )

    def see(self, samples: Tensor) -> None:  # noqa: B027
        """Look at the first samples that came, once, after `suit` and before `fit`: what `describe` can say of them.

        Args:
            samples: ``(B, *shape)`` on any device.
        """

    def playable(self, samples: Tensor) -> Tensor:
        """Tell which samples have players enough; the others are not watched.

        Args:
            samples: ``(B, *shape)`` on any device, after `suit`.

        Returns:
            Boolean ``(B,)``; by default all of them.
        """
        return torch.ones(len(samples), dtype=torch.bool, device=samples.device)

    @property
    def note(self) -> str | None:
        """What the last `fit` had to work around, in a sentence without a full stop; ``None`` if nothing."""
        return None

    @property
    def padding(self) -> Padding | None:
        """How samples of different length are brought to one; ``None`` where all must have one shape."""
        return None

    def fit(self, samples: Tensor) -> None:  # noqa: B027  # an optional step, not a forgotten abstract one
        """Learn from all watched samples, once, before they are partitioned (for example mean baselines).

        Args:
            samples: ``(B, *shape)`` on the CPU; the same on every rank.

        Raises:
            BatchError: If the samples do not suit this kind of players.
        """

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        """`mask` for several samples that share the same coalitions; override it when it can be done in one go.

        Args:
            samples: ``(S, *shape)``.
            players: ``(S, ...)``.
            coalitions: Boolean ``(C, n)``.

        Returns:
            ``(S * C, *shape)``, the coalitions of the first sample first.
        """
        return torch.cat([self.mask(x, labels, coalitions) for x, labels in zip(samples, players, strict=True)])

    def draw(self, sample: Tensor, num_players: int, generator: Generator) -> Tensor:
        """Partition one sample and draw its players.

        Args:
            sample: One input without batch dimension, on the CPU.
            num_players: How many to draw. A sample with fewer regions keeps them all; the missing players have no
                elements, so every interaction that contains one is zero.
            generator: Source of randomness.

        Returns:
            Long tensor of player ids ``0 .. n-1``, -1 for background; same shape as the partition.

        Raises:
            BatchError: If the sample has fewer than 2 regions.
        """
        labels = self.partition(sample, generator)
        regions: Tensor = torch.unique(labels[labels >= 0])
        if len(regions) < MIN_PLAYERS:
            raise BatchError(
                f"{type(self).__name__} found {len(regions)} region(s) in a sample of shape {tuple(sample.shape)}; "
                f"at least {MIN_PLAYERS} are needed to have interactions. Use a finer partition."
            )
        chosen = regions[torch.randperm(len(regions), generator=generator)[:num_players]].sort().values
        place = torch.searchsorted(chosen, labels).clamp(max=len(chosen) - 1)
        return torch.where(chosen[place] == labels, place, BACKGROUND)

    def finer(self, num_players: int) -> str:
        """Say, as code, which players of this kind have so many regions, where samples have fewer; "" if none has."""
        return ""

    def call_columns(self, names: Sequence[str]) -> None:  # noqa: B027
        """Take note of what the data calls its columns; only kinds that have columns do so."""

    def names(self, players: Tensor) -> list[str]:
        """Say what the players of one sample are called, without any of its content, which may be private.

        Args:
            players: What `draw` returned for the sample.

        Returns:
            A word or two for each of the players ``0 .. n-1``.
        """
        return numbered(players)

    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        """Show how a sample looks, and where in it the players are; by default only their names.

        It must not change anything. What cannot be shown is no error, but a picture with a `Picture.note`.

        Args:
            sample: One input of the model, on the CPU, not masked. Where the output of a layer is masked it is not
                that output, and may have another shape.
            players: What `draw` returned for what is masked.
        """
        return Picture(self.names(players))

    def describe(self) -> str:
        """Say in a few words who the players are, with what was found from model and data; for people to read."""
        return repr(self)

    def __repr__(self) -> str:
        """Show the public settings, as they were given."""
        settings = ", ".join(f"{k}={_short(v)}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({settings})"


def player_counts(labels: Tensor) -> Tensor:
    """Count the players every sample has, long ``(B,)``, by what `Players.draw` returned for each."""
    return labels.flatten(1).amax(1) + 1


def with_background(coalitions: Tensor) -> Tensor:
    """Append a column of ``True`` so that indexing with player id -1 (background) always finds it present.

    Example:
        >>> with_background(torch.tensor([[False, True]]))[:, torch.tensor([0, -1])]
        tensor([[False,  True]])
    """
    return torch.cat([coalitions, coalitions.new_ones(len(coalitions), 1)], 1)


class MaskedRegions(Players):
    """Players that are regions of a tensor, masked in one go on the device.

    A subclass gives `absent` and `partition`, whose region ids must broadcast to the sample, aligned at the last
    dimensions (``(H, W)`` ids serve a ``(C, H, W)`` sample).
    """

    @abstractmethod
    def absent(self, samples: Tensor, players: Tensor) -> Tensor:
        """Say what every element shows when its player is absent, of dtype and device of the samples.

        The tensor broadcasts to one sample, or is ``(S, *shape)`` where samples differ.
        """

    def mask(self, sample: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        """See `Players.mask`."""
        return self.mask_batch(sample.unsqueeze(0), players.unsqueeze(0), coalitions)

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        """See `Players.mask_batch`; vectorised on the device.

        It is ``where(present, samples, absent)``, computed on the bits: a `where` on the CPU branches at each element,
        which with masks at random takes twenty times as long.
        """
        size, shape, cells = len(coalitions), samples.shape[1:], players.shape[1:]
        # Words of all ones where the player is in the coalition or background, else of all zeros.
        words = pad(-coalitions.int(), (0, 1), value=-1)
        # `index_select` only copies, but it copies float32 seven times faster than integers.
        present = words.view(torch.float32).index_select(1, players.flatten() % words.shape[1]).view(torch.int32)
        present = present.view(size, len(samples), *(1,) * (len(shape) - len(cells)), *cells).transpose(0, 1)
        word = _WORDS[samples.element_size()]
        absent = self.absent(samples, players).view(word)
        layout = memory_format_of(samples)
        out = torch.empty(len(samples) * size, *shape, dtype=samples.dtype, device=samples.device, memory_format=layout)
        bits = out.view(word).view(len(samples), size, *shape)
        torch.bitwise_and((samples.view(word) ^ absent).unsqueeze(1), present.to(word), out=bits)
        bits ^= absent.unsqueeze(1) if absent.ndim == samples.ndim else absent
        return out


class RegionPlayers(MaskedRegions):
    """Regions whose elements take baseline values where their player is absent.

    A subclass gives `partition`; it may override `_mean`.

    Args:
        baseline: ``"zero"``, ``"mean"`` (mean over the watched samples, one per channel or column), a number, or a
            tensor that broadcasts to a sample.

    Raises:
        ArgumentError: If ``baseline`` is none of these.

    Attributes:
        takes_integers: Whether samples need not be floating point.
    """

    takes_integers = False

    def __init__(self, baseline: Baseline = "zero") -> None:
        known = isinstance(baseline, Tensor) or (isinstance(baseline, str) and baseline in ("zero", "mean"))
        if not known and not (is_number(baseline) and math.isfinite(baseline)):
            raise bad_argument("baseline", '"zero", "mean", a finite number or a tensor', baseline)
        self.baseline = baseline
        self._values: Tensor | None = None
        self._note: str | None = None

    def fit(self, samples: Tensor) -> None:
        """Resolve the baseline: samples must be floating point, and a tensor baseline broadcast to one of them."""
        if not self.takes(samples):
            raise BatchError(
                f"{type(self).__name__} needs floating-point inputs, but got {samples.dtype}. "
                "Give `input_fn=batch -> inputs` that converts them, or players made for such inputs."
            )
        self._note = None
        self._values = self._resolve(samples)
        try:
            torch.broadcast_to(self._values, samples.shape[1:])
        except RuntimeError:
            raise ArgumentError(
                f"Expected argument `baseline` to broadcast to a sample of shape {tuple(samples.shape[1:])}, "
                f"but got shape {tuple(self._values.shape)}."
            ) from None

    def takes(self, samples: Tensor) -> bool:
        """Whether samples are of a type these players can mask."""
        return samples.is_floating_point() or (self.takes_integers and not samples.is_complex())

    @property
    def note(self) -> str | None:
        """See `Players.note`: a mean of one sample is that sample, so zeros take its place."""
        return self._note

    def absent(self, samples: Tensor, players: Tensor) -> Tensor:
        """See `MaskedRegions.absent`: the baseline, the same for all samples."""
        if self._values is None:
            if isinstance(self.baseline, str) and self.baseline == "mean":
                raise ArgumentError(f'{type(self).__name__}(baseline="mean") has no mean yet: call fit(samples) first.')
            self._values = self._resolve(samples)
        self._values = self._values.to(samples)  # moves once, then returns itself
        return self._values

    def _resolve(self, samples: Tensor) -> Tensor:
        if isinstance(self.baseline, str):
            return self._mean(samples) if self.baseline == "mean" else samples.new_tensor(0)
        given = self.baseline
        wanted = given if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float64)
        values = wanted.to(samples.dtype)
        if not samples.is_floating_point() and not torch.equal(values.to(wanted.dtype), wanted):
            raise bad_argument("baseline", f"whole numbers for inputs of {samples.dtype}", self.baseline)
        return values

    def _mean(self, samples: Tensor) -> Tensor:
        """Mean over the watched samples of every element; a subclass shares it over positions where that fits."""
        if len(samples) == 1 or bool((samples == samples[:1]).all()):
            self._note = (
                f'{type(self).__name__}(baseline="mean") has no mean of samples that are all the same: it would be '
                "the sample itself, and masking would change nothing. An absent part is 0 instead; give more samples, "
                "or a `baseline` of your own"
            )
            return torch.zeros_like(samples[0])
        return self._typical(samples)

    def _typical(self, samples: Tensor) -> Tensor:
        """Typical value ``(*shape)`` of every element of samples that are not all the same: their mean."""
        return mean_of_finite(samples, (0,))


def mean_of_finite(samples: Tensor, dims: Sequence[int]) -> Tensor:
    """Average over some dimensions what is finite, so that one bad number does not become everyone's baseline.

    It is ``nan`` where nothing is finite. Without bad numbers it is the plain mean, to the bit.
    """
    dims, finite = tuple(dims), samples.isfinite()
    mean: Tensor = torch.where(finite, samples, 0).mean(dims)  # not a sum, which could be too large for float16
    return (mean.double() / finite.double().mean(dims)).to(samples.dtype)


def plain(value: Any) -> Any:
    """Return any sequences and mappings, such as omegaconf's, as Python's own, also inside of each other.

    What is a list, a tuple, a dict or no container stays what it is.

    Example:
        >>> from collections import UserDict, UserList
        >>> plain(UserList([UserList([0, 1]), UserDict(a=(2,)), "text"]))
        [[0, 1], {'a': (2,)}, 'text']
    """
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, range)):
        return tuple(map(plain, value)) if isinstance(value, tuple) else list(map(plain, value))
    return value


def _short(value: object) -> str:
    return f"tensor{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
