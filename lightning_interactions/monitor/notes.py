"""What is told of a measurement besides its numbers: sentences without a full stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lightning_interactions.measure.games import Game, Rules
from lightning_interactions.measure.measurement import Found, interactions_in
from lightning_interactions.measure.reading import Reading
from lightning_interactions.monitor.options import Options


def shortages(split: str, game: Game, options: Options) -> Iterator[str]:
    """Say what there is less of than was asked for, and what the players had to do without."""
    wanted = options.num_players
    if game.players.note:
        yield game.players.note
    if len(game.samples) < options.num_samples:
        yield f"only {len(game.samples)} {split} samples to watch, num_samples={options.num_samples}"
    fewer = game.player_counts[game.player_counts < wanted]
    if len(fewer) == len(game.samples) and len(set(fewer.tolist())) == 1:
        finer = game.players.finer(wanted)
        more = f" (players={finer} has more, if they are large enough)" if finer else ""
        yield f"num_players={wanted}, but the {split} samples have only {int(fewer[0])}{more}"
    elif len(fewer):
        yield (
            f"{len(fewer)} of {len(game.samples)} {split} samples have fewer than {wanted} players (the fewest "
            f"{int(fewer.min())}); "
            + ("they add no strength to orders above their number of players" if options.pairs is None
               else "the mean degree of each is that of its own game")
        )  # fmt: skip


def doubts(found: Mapping[str, Found], rules: Rules, reading: Reading, *, trained: bool = True) -> Iterator[str]:
    """Say what makes a measurement, of a network that was ``trained`` for an epoch at least, worth little."""
    split_up = interactions_in(found).values()
    if not rules.doubtful and any(measurement.is_noisy for measurement in split_up):
        own = rules.model.precision is not None
        yield "rounding noise of the forward passes may exceed the strength of the high orders; " + (
            'use precision="32-true"' if own else "do not read much into them"
        )
    # At initialisation that is what networks look like.
    if trained and any(measurement.is_rough for measurement in split_up):
        yield "most of the strength is rough detail that cancels, so the orders look like a spindle of noise; " + (
            "a larger noise_bound leaves it out, and mean_degree is not dominated by it"
            if reading.noise_bound
            else "noise_bound=0.05, the default, leaves it out"
        )
    for split, measurement in found.items():
        if measurement.is_blank:
            yield (
                f"masking {rules.masked} changes the score of no {split} sample, so there is nothing to measure. If "
                "that stays so, the players are wrong: give `players=`, or `input=` for the tensor that matters"
            )
