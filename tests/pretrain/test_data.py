"""Images and crops: any folder, addressed randomness, honest handling of what cannot be read."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader

from selfpatch.pretrain.augment import MultiCrop, View, gaussian_blur, random_box, resized_crop, shift_hue
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.data import (
    AddressSampler,
    CropDataset,
    ImageFolder,
    allowed_unreadable,
    collate_crops,
    list_images,
)
from selfpatch.pretrain.images import read_picture

VIEWS = {
    "global1": {"size": 32, "scale": (0.25, 1.0)},
    "global2": {"size": 32, "scale": (0.25, 1.0), "blur": 0.1, "solarize": 0.2},
    "local": {"size": 16, "scale": (0.05, 0.25), "blur": 0.5, "count": 4},
}


@pytest.fixture
def photos(tmp_path):
    """A dozen noisy images, nested, in every format."""
    random = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / ("nested" if number % 2 else ".") / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{('jpg', 'png', 'webp', 'JPEG')[number % 4]}")
    return tmp_path


def test_every_image_format_at_any_depth(photos):
    (photos / "notes.txt").write_text("no image")
    assert len(list_images(photos)) == 12


def test_a_sample_depends_on_its_address_alone(photos):
    one, other = CropDataset(photos, VIEWS, seed=1), CropDataset(photos, VIEWS, seed=1)
    other[(0, 3)], np.random.rand(3), torch.rand(3)  # what was drawn before has no say
    for first, second in zip(one[(2, 5)]["crops"], other[(2, 5)]["crops"]):
        assert torch.equal(first, second)
    addresses = [one[(2, 5)], one[(3, 5)], one[(2, 6)], CropDataset(photos, VIEWS, seed=2)[(2, 5)]]
    assert len({sample["crops"][0].numpy().tobytes() for sample in addresses}) == 4


def test_crops_are_grouped_by_size_view_by_view(photos):
    dataset = CropDataset(photos, VIEWS, seed=0)
    batch = collate_crops([dataset[(0, i)] for i in range(3)])
    assert [tuple(crop.shape) for crop in batch["crops"]] == [(2, 3, 3, 32, 32), (4, 3, 3, 16, 16)]
    assert batch["crops"][0].dtype == torch.uint8
    assert torch.equal(batch["crops"][1][:, 2], dataset[(0, 2)]["crops"][1])


class Numbers(list):
    """Stands in for images: in a random order as they are."""

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_processes(monkeypatch, world):
    def batches(rank: int, world: int) -> np.ndarray:
        monkeypatch.setattr("selfpatch.pretrain.data.get_dist_info", lambda: (rank, world))
        sampler = AddressSampler(Numbers(range(50)), batch_size=8 // world, seed=3)
        sampler.set_epoch(4)
        assert len(list(sampler)) == len(sampler)
        assert {epoch for epoch, _ in sampler} == {4}
        return np.array([index for _, index in sampler]).reshape(-1, 8 // world)

    shared = np.stack([batches(rank, world) for rank in range(world)], axis=2)  # (batch, place, process)
    np.testing.assert_array_equal(shared.reshape(6, 8), batches(0, 1))


def test_epochs_are_ordered_differently():
    sampler = AddressSampler(Numbers(range(50)), batch_size=50)
    first = [index for _, index in sampler]
    sampler.set_epoch(1)
    assert sorted(first) == sorted(index for _, index in sampler) == list(range(50))
    assert first != [index for _, index in sampler]


def test_an_epoch_goes_on_at_a_batch_and_the_next_one_is_whole():
    sampler = AddressSampler(Numbers(range(50)), batch_size=8)
    whole = list(sampler)
    sampler.start = 4
    assert list(sampler) == whole[32:]
    assert list(sampler) == whole


def test_too_few_images_for_a_batch_are_named():
    with pytest.raises(UserError, match="50 images do not fill one batch of 64"):
        AddressSampler(Numbers(range(50)), batch_size=64)


def test_an_unreadable_image_is_replaced_and_reported(photos):
    broken = list_images(photos)[4]
    broken.write_bytes(broken.read_bytes()[:200])  # its header is whole
    dataset = CropDataset(photos, VIEWS, seed=0)
    sample = dataset[(0, 4)]
    assert sample["unreadable"] == [4]
    assert sample["crops"][0].float().std() > 1  # not black
    assert collate_crops([sample, dataset[(0, 5)]])["unreadable"] == [4]


def test_too_many_unreadable_images_stop_before_training(photos):
    for path in list_images(photos)[:2]:
        path.write_text("no image")
    with pytest.raises(UserError, match="2 of 12 images cannot be read"):
        CropDataset(photos, VIEWS, seed=0)


@pytest.mark.parametrize(("images", "allowed"), [(1, 1), (1000, 1), (5000, 5), (1_281_167, 1281)])
def test_a_thousandth_may_be_unreadable(images, allowed):
    assert allowed_unreadable(images) == allowed


@pytest.mark.parametrize("make", [None, "empty", "text"])
def test_folders_without_images_are_named(tmp_path, make):
    folder = tmp_path / "photos"
    if make:
        folder.mkdir()
    if make == "text":
        (folder / "only.jpg").write_text("no image")
    with pytest.raises(UserError, match="photos"):
        CropDataset(folder, VIEWS, seed=0)


def test_boxes_keep_to_the_scale_and_the_image():
    random = np.random.default_rng(0)
    for _ in range(300):
        left, upper, right, lower = random_box(100, 60, (0.05, 0.25), random)
        assert 0 <= left < right <= 100
        assert 0 <= upper < lower <= 60
        assert 0.04 < (right - left) * (lower - upper) / 6000 < 0.27
        assert 0.6 < (right - left) / (lower - upper) < 1.6


def test_a_narrow_image_gives_its_largest_allowed_box():
    left, upper, right, lower = random_box(400, 3, (1.0, 1.0), np.random.default_rng(0))
    assert (right - left, lower - upper) == (4, 3)
    assert left == 198


def test_hue_turns_colours_and_spares_grey():
    red, gray = np.full((2, 2, 3), (255, 0, 0), np.uint8), np.full((2, 2, 3), 90, np.uint8)
    for turn, color in ((1 / 3, (0, 255, 0)), (-1 / 3, (0, 0, 255)), (1 / 6, (255, 255, 0))):
        assert np.abs(shift_hue(red, turn)[0, 0] - np.array(color)).max() <= 6  # hue has 256 levels
    assert np.array_equal(shift_hue(gray, 1 / 3), gray)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("box", [(0, 0, 90, 60), (20, 7, 50, 40), (3, 3, 13, 17)])
def test_crops_are_resized_as_pillow_does(box, interpolation):
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8), (3, 3), 0)
    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation]
    expected = np.asarray(Image.fromarray(picture).crop(box).resize((24, 24), method)).astype(int)
    assert np.abs(expected - resized_crop(picture, box, 24, interpolation)).max() <= 2  # both round in between


@pytest.mark.parametrize("radius", [0.1, 0.45, 1.0, 1.37, 2.0])
def test_the_blur_is_pillows(radius):
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius))).astype(float)
    difference = np.abs(gaussian_blur(picture, radius) - expected)
    assert difference.mean() < 1.1  # of 255, in noise: both round their weights or in between
    assert difference[8:-8, 8:-8].max() <= 5  # at the edges Pillow repeats pixels box by box


def test_a_large_picture_is_decoded_no_larger_than_its_crops_need(tmp_path):
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8), (0, 0), 9)
    Image.fromarray(picture).save(tmp_path / "large.jpg", quality=95)
    far, near = (
        MultiCrop({"a": {"size": 32, "scale": (0.5, 1.0)}}),
        MultiCrop({"a": {"size": 224, "scale": (0.5, 1.0)}}),
    )
    rng = np.random.default_rng
    for crops, factor in ((far, 8), (near, 1)):
        assert crops.largest_reduction(crops.draw_boxes(400, 600, rng(5))) == factor
        found, whole = (
            crops.read(tmp_path / "large.jpg", rng(5))[0],
            crops(read_picture(tmp_path / "large.jpg"), rng(5))[0],
        )
        assert torch.equal(found, whole) == (factor == 1)
        assert (found.float() - whole.float()).abs().mean() < 3


@pytest.mark.parametrize("workers", [1, 4])
def test_crops_are_equal_bit_by_bit_for_any_number_of_workers_and_after_a_resume(photos, workers):
    def batches(workers: int, epochs: list[int]) -> list[torch.Tensor]:
        dataset = CropDataset(photos, VIEWS, seed=3)
        sampler = AddressSampler(dataset.images, batch_size=4, seed=3)
        loader = DataLoader(
            dataset, 4, sampler=sampler, num_workers=workers, collate_fn=collate_crops, persistent_workers=workers > 0
        )
        found = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            found += [crops for batch in loader for crops in batch["crops"]]
        return found

    alone, shared = batches(0, [0, 1]), batches(workers, [0, 1])
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone[len(alone) // 2 :], batches(workers, [1]), strict=True))


@pytest.mark.parametrize("change", ["blur", "solarize", "grayscale", "jitter", "flip"])
def test_each_change_happens_as_often_as_it_says(change):
    """With probability 0 nothing but the crop is left; with 1 the picture is another."""
    picture, box = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), (3, 5, 40, 44)
    off = dict.fromkeys(("blur", "solarize", "grayscale", "jitter", "flip"), 0.0)
    plain = View(size=16, scale=(0.5, 0.5), **off)(picture, box, np.random.default_rng(1))
    changed = View(size=16, scale=(0.5, 0.5), **{**off, change: 1.0})(picture, box, np.random.default_rng(1))
    again = View(size=16, scale=(0.5, 0.5), **off)(picture, box, np.random.default_rng(1))
    assert np.array_equal(plain, again)
    assert not np.array_equal(plain, changed)


def test_a_view_may_be_left_out():
    crops = MultiCrop({**VIEWS, "local": {**VIEWS["local"], "count": 0}})
    assert crops.groups == [(False, 32)]


def test_local_crops_stay_apart_and_behind_whatever_their_size_and_place():
    local = {"size": 32, "scale": (0.05, 0.25), "count": 3}
    crops = MultiCrop({"local": local, "local_far": {**local, "size": 16, "count": 1}, **{**VIEWS, "local": local}})
    assert crops.groups == [(False, 32), (True, 32), (True, 16)]
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shapes = [tuple(group.shape) for group in crops(picture, np.random.default_rng(0))]
    assert shapes == [(2, 3, 32, 32), (3, 3, 32, 32), (1, 3, 16, 16)]


def test_views_of_two_sizes_are_two_groups():
    views = {name: {"size": size, "scale": (0.2, 1.0)} for name, size in (("view1", 32), ("view2", 48))}
    assert MultiCrop(views).groups == [(False, 32), (False, 48)]


def test_a_view_of_before_its_keys_new_names_still_reads(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "0.png")
    old, new = ({"global1": {"size": 16, "scale": (0.9, 1.0), key: 0.0}} for key in ("grey", "grayscale"))
    first, again = (ImageFolder(tmp_path, views, 0)[(0, 0)] for views in (old, new))
    assert all(torch.equal(a, b) for a, b in zip(first["crops"], again["crops"]))
