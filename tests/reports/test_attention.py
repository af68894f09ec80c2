import numpy as np

from selfpatch.reports.attention import enlarged, heat, principal_colours


def test_one_basis_for_all_images_and_every_component_from_end_to_end():
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(4, 5, 8)) * np.arange(1, 9), rng.normal(size=(3, 2, 8))]
    first, second = principal_colours(tokens)
    assert first.shape == (4, 5, 3)
    assert second.shape == (3, 2, 3)
    assert first.min() == 0
    assert first.max() == 255
    both = principal_colours([np.concatenate([one.reshape(1, -1, 8) for one in tokens], axis=1)])[0]
    assert np.array_equal(both[0], np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)]))


def test_the_brightest_place_is_where_the_map_is_largest():
    values = np.zeros((2, 3))
    values[1, 2] = 0.4
    drawn = heat(np.full((20, 30, 3), 100, np.uint8), values)
    assert drawn.shape == (20, 30, 3)
    assert drawn[15, 25].sum() == drawn.sum(axis=2).max()
    assert drawn[5, 5].sum() == drawn.sum(axis=2).min()
    assert enlarged(np.zeros((2, 3, 3), np.uint8), (20, 30)).shape == (20, 30, 3)
