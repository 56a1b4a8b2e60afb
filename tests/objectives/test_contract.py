"""What every objective of the table promises, on every recipe in the tree."""

import pytest

from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.recipes import list_recipes

RECIPES = sorted(list_recipes("pretrain"))


def test_every_objective_has_a_recipe_in_the_tree():
    assert {load_pretrain_recipe(name).objective_name for name in RECIPES} == set(OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "clips"),
    [("mae/demo", 8), ("mvd/demo", 4), ("carl/demo", 2), ("tcc/demo", 1), ("teg/demo", 2)],
)
def test_the_settings_tell_how_many_clips_a_record_gives(name, clips):
    assert load_pretrain_recipe(name).objective.clips_per_record == clips
