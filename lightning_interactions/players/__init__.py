"""Who the players are and how absence looks, for each kind of input."""

from lightning_interactions.players.auto import check_players, choose_players
from lightning_interactions.players.base import Players, RegionPlayers, with_background
from lightning_interactions.players.image import ImagePatches
from lightning_interactions.players.regions import FeatureMask
from lightning_interactions.players.tabular import TabularFeatures

__all__ = [
    "FeatureMask",
    "ImagePatches",
    "Players",
    "RegionPlayers",
    "TabularFeatures",
    "check_players",
    "choose_players",
    "with_background",
]
