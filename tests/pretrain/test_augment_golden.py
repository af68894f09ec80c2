"""The augmentation's crops follow the distribution of the published pipeline's (golden/augment.npz)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.stats import ks_2samp

from selfpatch.pretrain.augment import MultiCrop
from selfpatch.pretrain.data import list_images

VIEWS = {  # of DINO and SelfPatch; fewer local crops, which only costs time
    "global1": {"size": 224, "scale": (0.25, 1.0)},
    "global2": {"size": 224, "scale": (0.25, 1.0), "blur": 0.1, "solarize": 0.2},
    "local": {"size": 96, "scale": (0.05, 0.25), "blur": 0.5, "count": 2},
}


def statistics(crop: np.ndarray) -> list[float]:
    """What the golden file holds of each crop (3, S, S): its columns, in their order."""
    pixels = crop.astype(np.float64) / 255
    luma = np.tensordot([0.299, 0.587, 0.114], pixels, 1)
    laplacian = cv2.Laplacian(luma, cv2.CV_64F)[1:-1, 1:-1]
    saturation = (pixels.max(0) - pixels.min(0)).mean()
    sharpness = np.log10(laplacian.var() + 1e-12)
    return [*pixels.mean((1, 2)), *pixels.std((1, 2)), saturation, sharpness, float(saturation == 0)]


def test_golden_each_statistic_of_the_crops_is_distributed_as_published(golden_augment, data_root):
    golden, multi_crop = np.load(golden_augment), MultiCrop(VIEWS)
    found = {view: [] for view in VIEWS}
    for number, path in enumerate(list_images(data_root / "imagenet-mini")[::2]):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        (first, second), local = multi_crop(picture, np.random.default_rng([0, number]))
        found["global1"].append(statistics(first.numpy()))
        found["global2"].append(statistics(second.numpy()))
        found["local"] += [statistics(crop.numpy()) for crop in local]
    for view, rows in found.items():
        for name, ours, published in zip(golden["columns"], np.transpose(rows), golden[view].T):
            if name == "saturation":  # the published gray crops went through a float round trip
                ours, published = ours.round(3), published.round(3)
            assert ks_2samp(ours, published).pvalue > 1e-3, f"{view}: {name}"


@pytest.mark.parametrize("change", [{"blur": 0.5}, {"jitter": 0.0}, {"grayscale": 0.0}])
def test_golden_another_augmentation_is_told_apart(golden_augment, data_root, change):
    """The comparison can fail: a change of one argument shows in a column."""
    golden, multi_crop = np.load(golden_augment)["global1"], MultiCrop({"global1": {**VIEWS["global1"], **change}})
    rows = []
    for number, path in enumerate(list_images(data_root / "imagenet-mini")[::2]):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        rows.append(statistics(multi_crop(picture, np.random.default_rng([1, number]))[0][0].numpy()))
    assert min(ks_2samp(a.round(3), b.round(3)).pvalue for a, b in zip(np.transpose(rows), golden.T)) < 1e-3
