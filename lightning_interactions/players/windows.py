"""Windows of time as players: series, sounds, sequences of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lightning_interactions.errors import BatchError, bad_argument, is_whole
from lightning_interactions.functional.coalitions import MIN_PLAYERS
from lightning_interactions.players.base import Baseline, RegionPlayers, mean_of_finite
from lightning_interactions.players.evidence import Layer, time_axis, widths
from lightning_interactions.players.picture import Picture, RowsContent, count_of
from lightning_interactions.players.rows import number

WINDOWS = 10
"""As many windows as there are players by default, so that all of a sample plays."""

SHOWN_CHANNELS = 3
"""Channels of a window whose means are shown, at most."""


class TimeWindows(RegionPlayers):
    """Windows of equal length along time: of a series ``(T, F)``, a sound ``(C, T)`` or ``(T,)``, vectors ``(L, D)``.

    Samples may differ in length; each is cut by its own.

    Args:
        num_windows: Windows per sample; a sample with fewer steps has a window for each.
        axis: Dimension of a sample along which time goes: 0 of ``(T, F)`` and ``(L, D)``, 1 of ``(C, T)``. ``None``:
            the one that is not of size 1; or else the first layer of the model that takes as many numbers as the
            sample has in one dimension says that the other one is time.
        baseline: What an absent window shows: ``"mean"`` (of each channel over all steps of the watched samples),
            ``"zero"``, a number, or a tensor that broadcasts to a sample.

    Raises:
        ArgumentError: If an argument has another form.

    Example:
        >>> windows = TimeWindows(num_windows=2, axis=0)
        >>> series = torch.tensor([[1.0, 10], [2, 10], [3, 40], [6, 60]])
        >>> windows.fit(series.unsqueeze(0))
        >>> players = windows.draw(series, 2, torch.Generator())
        >>> windows.names(players)
        ['steps 0-1', 'steps 2-3']
        >>> windows.mask(series, players, torch.tensor([[True, False]]))[0].tolist()
        [[1.0, 10.0], [2.0, 10.0], [3.0, 30.0], [3.0, 30.0]]
    """

    any_size = True

    def __init__(self, num_windows: int = WINDOWS, axis: int | None = None, baseline: Baseline = "mean") -> None:
        super().__init__(baseline)
        if not is_whole(num_windows, MIN_PLAYERS):
            raise bad_argument("num_windows", f"an integer of at least {MIN_PLAYERS}", num_windows)
        if axis is not None and (isinstance(axis, bool) or axis not in (0, 1)):
            raise bad_argument("axis", "0, 1 or None", axis)
        self.num_windows = num_windows
        self.axis = axis
        self._layers: tuple[Layer, ...] = ()
        self._told: str = ""  # what was found, for people to read

    def suit(self, model: nn.Module, fields: Sequence[str] = (), tokenizer: Any = None) -> None:
        """Find out how many numbers the model's layers take at each step."""
        self._layers = widths(model)

    def see(self, samples: Tensor) -> None:
        """Take note how samples are cut, for `describe`."""
        axis = self._axis_of(samples.shape[1:])
        cloud = self.axis is None and list(samples.shape[1:]).count(3) == 1
        self._told = f", along dimension {axis + 1}" + ("; for clouds of points: players=PointClusters()" * cloud)

    def describe(self) -> str:
        """Say along which dimension of the batch time goes."""
        return f"TimeWindows(num_windows={self.num_windows}, baseline={self._baseline_in_words()}{self._told})"

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Number the windows: ``(T, 1)`` for a sample ``(T, F)``, ``(T,)`` for ``(C, T)`` and ``(T,)``."""
        axis = self._axis_of(sample.shape)
        steps = sample.shape[axis]
        if steps < MIN_PLAYERS:
            raise BatchError(
                f"TimeWindows needs at least {MIN_PLAYERS} steps of time, but a sample of shape {tuple(sample.shape)} "
                f"has {steps} along its dimension {axis}. Give `players=TimeWindows(axis={int(sample.ndim == 2) - axis}"
                ")`, or other players."
            )
        windows = torch.arange(steps) * min(self.num_windows, steps) // steps
        return windows if axis == sample.ndim - 1 else windows.unsqueeze(1)

    def names(self, players: Tensor) -> list[str]:
        """Call each window by its steps, which are counted from 0.

        Example:
            >>> TimeWindows().names(torch.tensor([0, 0, -1, 1]))
            ['steps 0-1', 'step 3']
        """
        return [_steps(players.flatten() == player) or f"player {player}" for player in range(count_of(players))]

    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        """Show a row for every window, with the mean of its channels; of a single channel its range too."""
        names, axis = self.names(players), sample.ndim - 1 if players.ndim == 1 else 0
        fits = 1 <= sample.ndim <= 2 and not sample.is_complex() and players.numel() == sample.shape[axis]
        if not fits:
            shapes = f"shape {tuple(sample.shape)}, players {tuple(players.shape)}"
            return Picture(names, None, f"not shown as windows of time: {shapes}")
        steps = sample.double().movedim(axis, 0).reshape(players.numel(), -1)
        own = players.flatten()
        return Picture(names, RowsContent([(name, _summary(steps[own == i]), i) for i, name in enumerate(names)]))

    def _axis_of(self, shape: Sequence[int]) -> int:
        if len(shape) == 1:
            return 0
        if len(shape) != 2:
            raise BatchError(
                f"TimeWindows needs samples of shape (T, F), (C, T) or (T,), but got {tuple(shape)}. "
                "Give `input_fn=batch -> inputs`, or other players."
            )
        axis = self.axis if self.axis is not None else time_axis(self._layers, shape)
        if axis is None:
            raise BatchError(
                f"Cannot tell which dimension of a sample of shape {tuple(shape)} is time. Give "
                f"`players=TimeWindows(axis=0)` for {shape[0]} steps, or axis=1 for {shape[1]}."
            )
        return axis

    def _mean(self, samples: Tensor) -> Tensor:
        """Mean of every channel over all steps, which broadcasts to a sample."""
        axis = 1 + self._axis_of(samples.shape[1:])
        return mean_of_finite(samples, (0, axis)).unsqueeze(axis - 1)

    def _baseline_in_words(self) -> str:
        return f"tensor{tuple(self.baseline.shape)}" if isinstance(self.baseline, Tensor) else repr(self.baseline)


def _steps(mine: Tensor) -> str:
    """The first and last step of a window."""
    found = mine.nonzero().flatten().tolist()
    if not found:
        return ""
    return f"steps {found[0]}-{found[-1]}" if len(found) > 1 else f"step {found[0]}"


def _summary(window: Tensor) -> str:
    """Describe the numbers of a window ``(steps, channels)`` shortly."""
    if not window.numel():
        return ""
    means = [number(value) for value in window.mean(0).tolist()]
    if len(means) == 1:
        return f"{means[0]} ({number(float(window.min()))} to {number(float(window.max()))})"
    return ", ".join(means[:SHOWN_CHANNELS] + ["..."] * (len(means) > SHOWN_CHANNELS))
