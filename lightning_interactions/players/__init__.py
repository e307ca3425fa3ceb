"""Who the players are and how absence looks, for each kind of input."""

from lightning_interactions.players.auto import check_players, choose_players, of_layer, suited_players, two_rows
from lightning_interactions.players.base import MaskedRegions, Players, RegionPlayers, player_counts, with_background
from lightning_interactions.players.image import ImagePatches
from lightning_interactions.players.picture import (
    ATTACHED,
    ImageContent,
    Picture,
    PointsContent,
    RowsContent,
    WordsContent,
    names_of,
    picture_of,
)
from lightning_interactions.players.points import PointClusters
from lightning_interactions.players.regions import FeatureMask
from lightning_interactions.players.tabular import TabularFeatures
from lightning_interactions.players.text import Tokens
from lightning_interactions.players.windows import TimeWindows

__all__ = [
    "ATTACHED", "FeatureMask", "ImageContent", "ImagePatches", "MaskedRegions", "Picture", "Players", "PointClusters",
    "PointsContent", "RegionPlayers", "RowsContent", "TabularFeatures", "TimeWindows", "Tokens", "WordsContent",
    "check_players", "choose_players", "names_of", "of_layer", "picture_of", "player_counts", "suited_players",
    "two_rows", "with_background",
]  # fmt: skip
