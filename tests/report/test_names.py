"""Which of two groups a logged key is in."""

from __future__ import annotations

import pytest

from lightning_interactions.report.names import READ, Names


@pytest.mark.parametrize(
    ("prefix", "detail"),
    [
        ("interactions/", "interactions_detail/"),
        ("a/b/", "a/b_detail/"),
        ("mon_", "mon_detail_"),
        ("mon", "mon_detail_"),
    ],
)
def test_the_second_prefix_is_made_of_the_first(prefix: str, detail: str) -> None:
    assert Names(prefix).full("scale") == f"{detail}scale"
    assert Names(prefix).full("mean_order") == f"{prefix}mean_order"
    assert Names(prefix, one_group=True).full("scale") == f"{prefix}scale"


@pytest.mark.parametrize("part", ["", "val/", "train/"])
def test_the_part_that_names_a_split_does_not_matter(part: str) -> None:
    names = Names("x/")
    for key in READ:
        assert names.full(part + key) == f"x/{part}{key}"
    for key in ("mean_order_lower", "onset/q10", "strength/order_01_pos", "change/preserved_share", "boundary_line"):
        assert names.full(part + key) == f"x_detail/{part}{key}"


def test_both_groups_are_ours() -> None:
    names = Names("loss/")
    assert all(names.is_own(names.full(key)) for key in ("val_loss", "val/scale"))
    assert not names.is_own("loss_detailed/x")
    assert not names.is_own("loss")
