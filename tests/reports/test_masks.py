"""Pictures of masks: what is tinted, what is shown, what is said when something is missing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from selfpatch.pretrain.cli import UserError
from selfpatch.reports.masks import COLOURS, main, overlay, sequence_picture


def test_objects_are_tinted_background_and_void_are_not():
    frame = np.full((1, 4, 3), 100, np.uint8)
    tinted = overlay(frame, np.array([[0, 1, 2, 255]], np.uint8), opacity=1.0)
    assert tinted[0].tolist() == [[100] * 3, COLOURS[0].tolist(), COLOURS[1].tolist(), [100] * 3]


@pytest.fixture
def davis(tmp_path):
    """Two sequences of five frames, and the masks of two methods."""
    for sequence in ("ball", "box"):
        folders = ["JPEGImages/480p", "Annotations/480p", "one", "two"]
        for folder in folders:
            (tmp_path / folder / sequence).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / folders[0] / sequence / f"{number:05}.jpg")
            mask = np.zeros((48, 64), np.uint8)
            mask[10:30, 5 * number : 5 * number + 20] = 1
            for folder in folders[1:]:
                Image.fromarray(mask).save(tmp_path / folder / sequence / f"{number:05}.png")
    return tmp_path


def test_one_picture_a_sequence(davis, tmp_path):
    words = [f"DINO={davis / 'one'}", f"DINO+SelfPatch={davis / 'two'}"]
    main([*words, "--davis", str(davis), "--out", str(tmp_path / "out")])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ball.png", "box.png"]
    with Image.open(tmp_path / "out" / "ball.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert picture.width > picture.height
    assert (np.abs(colours - (0.45 * 90 + 0.55 * COLOURS[0])).max(1) < 12).any()


def test_a_long_name_is_not_cut_off(davis):
    names = ("DINO", "MoBY+SelfPatch (positives only), 200 epochs on COCO")
    figure = sequence_picture(davis, "ball", dict.fromkeys(names, davis / "one"))
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.02


def test_a_missing_mask_is_named(davis, tmp_path):
    (davis / "one" / "box" / "00004.png").unlink()
    with pytest.raises(UserError, match=r"00004\.png"):
        main([f"DINO={davis / 'one'}", "--davis", str(davis), "--out", str(tmp_path / "out")])


def test_a_folder_of_masks_that_is_not_there_is_named(davis, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in (("nowhere", "no such folder"), ("empty", "holds no folder of masks")):
        with pytest.raises(UserError, match=f"{folder}.*{words}"):
            main([f"DINO={tmp_path / folder}", "--davis", str(davis), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["text", "other size"])
def test_a_mask_that_does_not_fit_is_named(davis, tmp_path, fault):
    path = davis / "one" / "ball" / "00004.png"
    path.write_text("no image") if fault == "text" else Image.new("L", (9, 9)).save(path)
    with pytest.raises(UserError, match=r"one/ball/00004\.png") as raised:
        main([f"DINO={davis / 'one'}", "--davis", str(davis), "--out", str(tmp_path / "out")])
    assert "\n" not in str(raised.value)


def test_an_out_that_is_a_file_is_refused_first(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match=r"--out .* is a file"):
        main(["DINO=nowhere", "--out", str(tmp_path / "out")])


def test_a_method_without_a_folder_is_told_how_to_write_it():
    with pytest.raises(UserError, match="NAME=FOLDER"):
        main(["DINO"])
