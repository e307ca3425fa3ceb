"""Two phases
==========

Training first removes medium and high orders, and then learns ever higher ones.

Claim (arXiv 2405.10262, figure 2; 2407.19198, figure 2): from a spindle at initialisation the interactions turn into
simple ones (phase 1); then their order rises (phase 2), and with it the gap between test and training loss.

Every record of every network is read in the package's way (bounded split): the strength of the salient interactions by
order, mean over the samples. The trough is the record with the lowest mean order, phase 1 the fall down to it, phase 2
the rise from it to the last record. The lowest of many noisy records is a little too low: falls and rises are too large
by that. The gap is test minus training loss. It widens from where it stays above its value at the trough by a tenth of
the lowest test loss, which cannot be before the trough; so the epoch from which it stays that much above its lowest
value in the whole run is given too ("alone"): that one knows nothing of the interactions.

::

    python examples/papers/phases.py [--seeds 0 1 2] [--again] [--fast]
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from reading import collect, curve, leave, spread
from recording import SETTINGS, Options, Recording, parse
from torch import Tensor

from lightning_interactions.functional import high_order_share, mean_order, order_distribution
from lightning_interactions.functional.strength import first_high_order
from lightning_interactions.metrics.drawing import BLUE, GREEN, ORANGE, ORDER_LABEL

NAMES = [name for name in SETTINGS if "relabelled" not in name]
LEAST, WIDENED, NEAR = 0.1, 0.1, 1.0
"""Orders of a fall or rise that counts; widening, as a share of the lowest test loss; octaves that are near."""


class Run(NamedTuple):
    """What is read off one recording."""

    seed: int
    epoch: Tensor  # (M,)
    strength: Tensor  # (M, 2, n), mean over the samples
    gap: Tensor  # (M,), test minus training loss
    numbers: dict[str, float]


# -- numbers ----------------------------------------------------------------------------------------------------------


def read(rec: Recording) -> Run:
    strength, gap = curve(rec).nanmean(1), rec.test_loss - rec.train_loss
    order, high = mean_order(strength), high_order_share(strength)
    amount = strength[..., first_high_order(strength.shape[-1]) :].sum((1, 2))
    trough = int(order.nan_to_num(math.inf).argmin())
    wide = WIDENED * rec.test_loss.min()
    numbers: dict[str, float] = {"seed": rec.seed}
    for key, at in (("start", 0), ("trough", trough), ("end", -1)):
        numbers |= {f"order_{key}": float(order[at]), f"high_share_{key}": float(high[at])}
        numbers[f"high_strength_{key}"] = float(amount[at])
    numbers |= {
        "trough_epoch": float(rec.epoch[trough]),
        "fall": float(order[0] - order[trough]),
        "rise": float(order[-1] - order[trough]),
        "widens_epoch": stays_from(rec.epoch, gap - gap[trough] > wide),
        "widens_alone_epoch": stays_from(rec.epoch, gap - gap.min() > wide),
        "lowest_test_loss_epoch": float(rec.epoch[rec.test_loss.argmin()]),
        "gap_end": float(gap[-1]),
    }
    for key in ("widens", "widens_alone", "lowest_test_loss"):
        numbers[f"{key}_octaves"] = octaves(numbers["trough_epoch"], numbers[f"{key}_epoch"])
    return Run(rec.seed, rec.epoch, strength, gap, numbers)


def stays_from(epoch: Tensor, true: Tensor) -> float:
    """Epoch from which on it is true to the end; ``nan`` if it is not at the end."""
    last = int(true.flip(0).long().cumprod(0).sum())
    return float(epoch[len(epoch) - last]) if last else math.nan


def octaves(before: float, after: float) -> float:
    """How often the epochs double from one to the other; ``nan`` where there is no saying."""
    return math.log2(after / before) if before > 0 and after > 0 else math.nan


# -- table ------------------------------------------------------------------------------------------------------------

ROWS = {"order": "mean order", "high_share": "high-order share", "high_strength": "high-order strength"}
PLACES = {"trough": "trough", "widens": "gap widens", "widens_alone": "alone", "lowest_test_loss": "lowest test loss"}


def tell(found: dict[str, list[Run]]) -> None:
    print("mean over the seeds (range); strength in units of the score")
    for name, runs in found.items():
        print(f"\n{name:22}" + "".join(f"{key:24}" for key in ("start", "trough", "end")))
        for key, label in ROWS.items():
            cells = (spread([run.numbers[f"{key}_{at}"] for run in runs], 3) for at in ("start", "trough", "end"))
            print(f"  {label:20}" + "".join(f"{cell:24}" for cell in cells))
        epochs = (f"{what} {spread([run.numbers[f'{key}_epoch'] for run in runs])}" for key, what in PLACES.items())
        print("  epochs: " + ", ".join(epochs))
    print("\nseeds in which it holds:")
    for name, runs in found.items():
        print(f"{name}: {verdict([run.numbers for run in runs])}")


def verdict(runs: list[dict[str, float]]) -> str:
    tests = {
        "phase 1": [run["fall"] >= LEAST for run in runs],
        "phase 2": [run["rise"] >= LEAST for run in runs],
        "both": [min(run["fall"], run["rise"]) >= LEAST for run in runs],
        "gap begins to widen within one octave of the trough": [run["widens_octaves"] <= NEAR for run in runs],
        "alone": [abs(run["widens_alone_octaves"]) <= NEAR for run in runs],
    }
    return ", ".join(f"{what} {sum(held)} of {len(held)}" for what, held in tests.items())


# -- figure -----------------------------------------------------------------------------------------------------------


def draw(found: dict[str, list[Run]], options: Options) -> Figure:
    figure = Figure(figsize=(3.3 * len(found) + 1, 9), layout="constrained")
    axes = figure.subplots(3, len(found), squeeze=False, sharex="col")
    for (name, runs), (top, middle, bottom) in zip(found.items(), axes.T, strict=True):
        mesh = draw_shares(top, runs[0])
        for run, colour in zip(runs, [BLUE, ORANGE, GREEN] * len(runs), strict=False):
            draw_curves(middle, bottom, run, colour)
        top.set_title(f"{name.replace('_', ' ')} (top: seed {runs[0].seed})")
        ticks(bottom, runs[0].epoch)
    labels = ORDER_LABEL, "mean order (players)", "test minus training loss (nats)"
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label)
    figure.colorbar(mesh, ax=list(axes[0]), extend="max", label="share of the strength")
    axes[1, 0].legend(handles=[mark("o", "trough")], frameon=False, fontsize=8)
    signs = mark("s", "gap begins to widen"), mark("v", "lowest test loss")
    axes[2, 0].legend(handles=[*signs, Line2D([], [], color="0.4", ls=":", label="trough")], frameon=False, fontsize=8)
    figure.suptitle(
        "Two phases: does the mean order fall and then rise, and does the loss gap begin to widen at its trough? "
        f"(a colour for each seed; size: {options.size})"
    )
    return figure


def draw_shares(ax: Axes, run: Run) -> QuadMesh:
    shares = order_distribution(run.strength)
    edges = along(run.epoch)
    edges = torch.cat([edges[:1], (edges[1:] * edges[:-1]).sqrt(), edges[-1:]])
    rows = torch.arange(shares.shape[-1] + 1) + 0.5
    mesh = ax.pcolormesh(edges.numpy(), rows.numpy(), shares.T.numpy(), cmap="cividis", vmin=0, vmax=0.6)
    ax.axvline(placed(run, "trough"), color="white", ls=":")
    ax.set_yticks(range(1, shares.shape[-1] + 1))
    return mesh


def draw_curves(middle: Axes, bottom: Axes, run: Run, colour: str) -> None:
    x, order, numbers = along(run.epoch), mean_order(run.strength), run.numbers
    middle.plot(x, order, color=colour, marker=".", ms=4)
    middle.plot(placed(run, "trough"), numbers["order_trough"], "o", color=colour, ms=9, mfc="none")
    bottom.plot(x, run.gap, color=colour, marker=".", ms=4)
    bottom.axvline(placed(run, "trough"), color=colour, ls=":")
    for key, marker in (("widens", "s"), ("lowest_test_loss", "v")):
        at = (run.epoch == numbers[f"{key}_epoch"]).nonzero().flatten()
        bottom.plot(x[at], run.gap[at], marker, color=colour, ms=9, mfc="none")


def along(epoch: Tensor) -> Tensor:
    """Where epochs are drawn: initialisation an octave before the first record."""
    return epoch.clamp(min=float(epoch[epoch > 0].min()) / 2)


def placed(run: Run, key: str) -> float:
    return max(run.numbers[f"{key}_epoch"], float(along(run.epoch)[0]))


def mark(marker: str, label: str) -> Line2D:
    return Line2D([], [], color="0.4", marker=marker, ls="none", ms=9, mfc="none", label=label)


def ticks(ax: Axes, epoch: Tensor) -> None:
    first, last = float(along(epoch)[0]), float(epoch[-1])
    known = [2.0**x for x in range(-2, 12, 2 if last > 8 else 1) if 1.5 * first < 2**x <= last]
    ax.set_xscale("log", base=2)
    ax.set_xticks([first, *known], labels=["0", *(f"{x:g}" for x in known)])
    ax.set_xlabel("epoch (0: initialisation)")


def main() -> None:
    options = parse(__doc__)
    found = collect(options, NAMES, read)
    tell(found)
    numbers: Any = {name: [run.numbers for run in runs] for name, runs in found.items()}
    leave(options, "phases", draw(found, options), numbers)


if __name__ == "__main__":
    main()
