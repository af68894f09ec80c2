"""J and F: the official values, their conventions at the edges, and the command that scores a folder of masks."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jf_plain as plain
import numpy as np
import pytest
from PIL import Image
from recorded import DATA, MORE, golden

from selfpatch.eval.measures import jf
from selfpatch.eval.measures.bitmaps import disk_radius, score_frame
from selfpatch.pretrain.cli import UserError, run_command
from selfpatch.pretrain.images import read_labels
from selfpatch.reports.metrics import VIDEO

GLOBAL = ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]


# --- the official values -------------------------------------------------------------------------------------------


def recorded_cases():
    """(recorded scores, folder of true masks, folder of predictions) of each recording there is."""
    cases = [
        ("jf", golden("jf/Annotations/480p"), golden("jf/pred")),
        ("davis", DATA / "davis-mini" / "Annotations" / "480p", golden("davis/masks")),
    ]
    for name, truth, prediction in cases:
        scores = golden(f"{name}/scores.json")
        if scores.is_file() and truth.is_dir() and prediction.is_dir():
            yield name, json.loads(scores.read_text()), truth, prediction


RECORDED = {name: case for name, *case in recorded_cases()}
needs_golden = pytest.mark.skipif(not RECORDED, reason=f"no scores.json with masks in {MORE} (SELFPATCH_GOLDEN)")


@needs_golden
@pytest.mark.parametrize(("name", "sequence"), [(n, s) for n, case in RECORDED.items() for s in case[0]["sequences"]])
def test_golden_every_j_and_f(name, sequence):
    recorded, truth, prediction = RECORDED[name]
    J, F = jf.score_folder(truth, prediction, [sequence]).sequences[sequence]
    np.testing.assert_allclose(J, recorded["sequences"][sequence]["J"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(F, recorded["sequences"][sequence]["F"], rtol=0, atol=1e-12)


@needs_golden
@pytest.mark.parametrize("name", RECORDED)
def test_golden_global_figures(name):
    recorded, truth, prediction = RECORDED[name]
    scores = jf.score_folder(truth, prediction, list(recorded["sequences"]))
    assert list(scores.summary()) == list(recorded["global"]) == GLOBAL
    assert scores.summary() == pytest.approx(recorded["global"], rel=0, abs=1e-12)
    for letter, means in recorded.get("per_object", {}).items():
        ours = {f"{row['sequence']}_{row['object']}": row[f"{letter}-mean"] for row in scores.rows()}
        assert ours == pytest.approx(means, rel=0, abs=1e-12)


@needs_golden
@pytest.mark.parametrize(("name", "sequence"), [(n, s) for n, case in RECORDED.items() for s in case[0]["sequences"]])
def test_golden_masks_score_the_same_bits_as_the_plain_formulation(name, sequence):
    _, truth, prediction = RECORDED[name]
    frames = sorted((truth / sequence).glob("*.png"))[:8]
    stacks = [np.stack([read_labels(folder / sequence / f.name) for f in frames]) for folder in (truth, prediction)]
    for ours, theirs in zip(jf.score_sequence(*stacks), plain.score_sequence(*stacks), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_golden_made_up_masks_score_as_the_official_evaluation_scored_them():
    """Blobs that move, vanish and are void, with what db_eval_iou, db_eval_boundary and db_statistics gave for them."""
    with np.load(golden("jf_made.npz")) as file:
        recorded = dict(file)
    names = sorted({key.split("/")[0] for key in recorded} - {"global"})
    scores = jf.Scores({n: jf.score_sequence(recorded[f"{n}/truth"], recorded[f"{n}/prediction"]) for n in names})
    for name, measures in scores.sequences.items():
        for letter, values in zip("JF", measures, strict=True):
            np.testing.assert_allclose(values, recorded[f"{name}/{letter}"], rtol=0, atol=1e-12)
    assert scores.summary() == pytest.approx(
        {key: float(recorded[f"global/{key}"]) for key in GLOBAL}, rel=0, abs=1e-12
    )


# --- equal bits to the plain formulation on made-up masks ----------------------------------------------------------


def rectangles(rng, frames, height, width, objects):
    """Masks of overlapping rectangles, many of which touch the image's edges, with specks and void on top."""
    masks = np.zeros((frames, height, width), np.uint8)
    for mask in masks:
        for _ in range(3 * objects):
            (y, x), (h, w) = rng.integers(0, (height, width)), rng.integers(1, (height, width), endpoint=True)
            mask[max(y - h // 2, 0) : y + h // 2 + 1, max(x - w // 2, 0) : x + w // 2 + 1] = rng.integers(objects + 1)
        specks = rng.random((height, width)) < 0.01
        mask[specks] = rng.integers(0, objects + 1, specks.sum())
    return masks


SHAPES = [(1, 9), (9, 1), (2, 2), (5, 7), (40, 64), (41, 63), (64, 129), (97, 200), (240, 427), (3, 1500), (6, 13000)]


@pytest.mark.parametrize("objects", [1, 4])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_equal_bits_to_the_plain_formulation(height, width, objects):
    rng = np.random.default_rng(height * width + objects)
    truth, prediction = (rectangles(rng, 6, height, width, objects) for _ in range(2))
    truth[0, 0, 0] = objects
    truth[:, -1, -1] = jf.VOID
    prediction[2] = truth[2] % jf.VOID
    prediction[3] = 0
    truth[4] = 0
    for ours, theirs in zip(jf.score_sequence(truth, prediction), plain.score_sequence(truth, prediction), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_equal_bits_on_noise(density):
    rng = np.random.default_rng(0)
    truth, prediction = (rng.random((2, 4, 70, 131)) < density).astype(np.uint8)
    truth[0] = 1
    for ours, theirs in zip(jf.score_sequence(truth, prediction), plain.score_sequence(truth, prediction), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shift", range(12))
def test_boundaries_agree_up_to_the_radius_and_no_further(shift):
    truth, prediction = np.zeros((2, 480, 854), np.uint8)
    truth[100:300, 400:] = 1  # a straight edge, cut off by the right edge of the image
    prediction[100:300, 400 - shift :] = 1
    _, (f,) = score_frame(truth, prediction, 1)
    assert disk_radius(480, 854) == 8
    assert (f == 1) == (shift <= 8)
    assert f == plain.boundary_accuracy(truth == 1, prediction == 1)


@pytest.mark.parametrize(("size", "radius"), [((480, 854), 8), ((1080, 1920), 18), ((600, 800), 8), ((2160, 3840), 36)])
def test_radius_is_rounded_up(size, radius):
    assert disk_radius(*size) == radius == int(np.ceil(0.008 * np.linalg.norm(size)))


# --- conventions ---------------------------------------------------------------------------------------------------


def frame(*boxes, size=(60, 80)):
    """A mask of (id, top, bottom, left, right) boxes."""
    mask = np.zeros(size, np.uint8)
    for index, top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = index
    return mask


EMPTY, BOX, FAR = frame(), frame((1, 5, 20, 5, 20)), frame((1, 40, 55, 50, 70))
FULL, VOID_ONLY = frame((1, 0, 60, 0, 80)), frame((255, 5, 20, 5, 20))


@pytest.mark.parametrize(
    ("truth", "prediction", "j", "f"),
    [
        pytest.param(BOX, BOX, 1, 1, id="equal"),
        pytest.param(EMPTY, EMPTY, 1, 1, id="in neither"),
        pytest.param(BOX, EMPTY, 0, 0, id="only true"),
        pytest.param(EMPTY, BOX, 0, 0, id="only predicted"),
        pytest.param(BOX, FAR, 0, 0, id="elsewhere"),
        pytest.param(FULL, FULL, 1, 1, id="no boundary at all"),
        pytest.param(FULL, BOX, 225 / 4800, 0, id="only a predicted boundary"),
        pytest.param(VOID_ONLY, EMPTY, 1, 1, id="void is background"),
        pytest.param(VOID_ONLY, BOX, 0, 0, id="an object on void counts as wrong"),
    ],
)
def test_conventions(truth, prediction, j, f):
    assert score_frame(truth, prediction, 1) == ([j], [f])


def test_the_first_and_the_last_frame_do_not_count():
    truth, prediction = np.stack([BOX] * 5), np.stack([FAR, BOX, EMPTY, BOX, FAR])
    J, F = jf.score_sequence(truth, prediction)
    assert J.tolist() == F.tolist() == [[1, 0, 1]]


def test_objects_are_those_up_to_the_highest_id_of_the_first_true_mask():
    first = frame((3, 5, 20, 5, 20))
    late = frame((3, 5, 20, 5, 20), (7, 40, 50, 40, 50))  # 7 appears later: ignored
    J, F = jf.score_sequence(np.stack([first, late, first, first]), np.stack([first, first, EMPTY, first]))
    assert J.tolist() == F.tolist() == [[1, 1], [1, 1], [1, 0]]  # 1 and 2 are missing in between, and count


def test_an_object_that_enters_late_is_scored():
    first = frame((2, 5, 20, 5, 20))
    late = frame((2, 5, 20, 5, 20), (1, 40, 50, 40, 50))
    J, _ = jf.score_sequence(np.stack([first, late, first]), np.stack([first] * 3))
    assert J.tolist() == [[0], [1]]


def test_a_predicted_id_above_the_maximum_is_refused_in_scored_frames_only():
    strange = frame((2, 5, 20, 5, 20))
    assert jf.score_sequence(np.stack([BOX] * 4), np.stack([strange, BOX, BOX, strange]))[0].tolist() == [[1, 1]]
    with pytest.raises(ValueError, match="holds id 2, the first true mask none above 1"):
        jf.score_sequence(np.stack([BOX] * 4), np.stack([BOX, BOX, strange, BOX]))


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_fewer_than_three_frames_cannot_be_scored(frames):
    masks = np.zeros((frames, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="n ≥ 3"):
        jf.score_sequence(masks, masks)


def statistics(values):
    """Mean, recall and decay of one object's values."""
    return tuple(statistic(values) for statistic in jf.STATISTICS.values())


@pytest.mark.parametrize(
    ("values", "mean", "recall", "decay"),
    [
        pytest.param([0.7], 0.7, 1, 0, id="one frame: every bin is that frame"),
        pytest.param([1, 0], 0.5, 0.5, 1, id="two frames: one in the first bin, the other in the last"),
        pytest.param([0.5, 0.5, 0.5], 0.5, 0, 0, id="recall is strictly above one half"),
        pytest.param([1, 1, 0.6, 0, 0], 0.52, 0.6, 1, id="five frames: bins of two share their ends"),
        pytest.param([1, 0, 0, 0, 0, 0, 0, 0, 0], 1 / 9, 1 / 9, 1 / 3, id="nine frames: bins of three"),
    ],
)
def test_statistics(values, mean, recall, decay):
    assert statistics(np.array(values, float)) == pytest.approx((mean, recall, decay), abs=1e-15)


@pytest.mark.parametrize("count", [*range(1, 40), 255, 256, 257, 300, 1000])
def test_decay_is_right_beyond_256_frames_too(count):
    values = np.linspace(1, 0, count)
    edges = [int(np.floor(1 + (count - 1) * i / 4 + 0.5)) - 1 for i in (1, 3)]  # round half up
    expected = values[: edges[0] + 1].mean() - values[edges[1] :].mean()
    assert statistics(values)[2] == pytest.approx(expected, abs=1e-12)
    assert statistics(values) == plain.statistics(values)


def test_global_means_pool_the_objects_of_all_sequences():
    one, three = np.full((1, 4), 0.8), np.full((3, 6), 0.2)
    scores = jf.Scores({"a": (one, one), "b": (three, three)})
    assert scores.summary()["J-Mean"] == pytest.approx((0.8 + 3 * 0.2) / 4)
    assert scores.summary("b")["J-Mean"] == pytest.approx(0.2)
    metrics = VIDEO.evaluate(scores.units())
    assert list(metrics) == ["J&F", "J", "J recall", "J decay", "F", "F recall", "F decay"]
    assert metrics["J&F"] == pytest.approx(35)
    units = scores.units()
    assert list(units) == ["sequence", "object", "frame", "J", "F"]
    assert {len(values) for values in units.values()} == {4 + 18}
    assert units["frame"][4:].tolist() == [1, 2, 3, 4, 5, 6] * 3
    assert units["object"][4:].tolist() == [1] * 6 + [2] * 6 + [3] * 6
    assert units["sequence"].tolist() == ["a"] * 4 + ["b"] * 18


# --- folders and the command ---------------------------------------------------------------------------------------


def save(masks, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for index, mask in enumerate(masks):
        image = Image.fromarray(mask)
        if mask.ndim == 2 and index % 2:  # palette and greyscale alike
            image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(folder / f"{index:05d}.png")


@pytest.fixture
def tree(tmp_path):
    """A DAVIS root with two sequences (one and two objects) beside a folder of predictions."""
    rng = np.random.default_rng(1)
    for name, objects in (("cat", 1), ("dogs", 2)):
        truth, prediction = (rectangles(rng, 7, 40, 56, objects) for _ in range(2))
        truth[0, 0, 0] = objects
        save(truth, tmp_path / "davis" / "Annotations" / "480p" / name)
        save(prediction, tmp_path / "masks" / name)
    lists = tmp_path / "davis" / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("dogs\ncat\n")
    (lists / "train.txt").write_text("cat\n")
    return tmp_path


def score(tree, *options, truth="davis"):
    jf.main([str(tree / truth), str(tree / "masks"), "--out", str(tree / "out"), *options])
    return json.loads((tree / "out" / "scores.json").read_text())


def test_an_out_that_is_a_file_is_refused_before_the_work(tree, monkeypatch):
    (tree / "out").touch()
    monkeypatch.setattr(jf, "score_folder", lambda *_: pytest.fail("it began"))
    with pytest.raises(UserError, match=r"--out .*out is a file"):
        jf.main([str(tree), str(tree / "masks"), "--out", str(tree / "out")])


def test_command_writes_scores_and_prints_the_global_figures(tree, capsys):
    content = score(tree)
    assert list(content) == ["sequences", "global"]
    assert list(content["global"]) == GLOBAL
    assert list(content["sequences"]) == ["dogs", "cat"]  # in the order of the list
    masks = [tree / "davis" / "Annotations" / "480p" / "dogs", tree / "masks" / "dogs"]
    stacks = [np.stack([read_labels(path) for path in sorted(folder.glob("*.png"))]) for folder in masks]
    J, F = plain.score_sequence(*stacks)
    assert content["sequences"]["dogs"] == {"J": J.tolist(), "F": F.tolist()}
    with open(tree / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["sequence", "object", "J-mean", "J-recall", "J-decay", "F-mean", "F-recall", "F-decay"]
    assert list(rows[0]) == columns
    assert [(row["sequence"], row["object"]) for row in rows] == [("dogs", "1"), ("dogs", "2"), ("cat", "1")]
    assert [float(rows[1][column]) for column in columns[2:5]] == list(plain.statistics(J[1]))
    assert f"{100 * content['global']['J&F-Mean']:.2f}" in capsys.readouterr().out
    assert sorted(path.name for path in (tree / "out").iterdir()) == ["scores.csv", "scores.json"]


def test_split_and_plain_folder_and_full_resolution_choose_the_sequences(tree):
    assert list(score(tree, "--split", "train")["sequences"]) == ["cat"]
    plain_folder = score(tree, truth="davis/Annotations/480p")
    assert list(plain_folder["sequences"]) == ["cat", "dogs"]
    (tree / "davis" / "Annotations" / "480p").rename(tree / "davis" / "Annotations" / "Full-Resolution")
    assert score(tree)["sequences"] == plain_folder["sequences"]


def test_several_processes_give_the_same_scores(tmp_path):
    rng = np.random.default_rng(2)
    for name in "ab":
        truth, prediction = (rectangles(rng, 160, 12, 12, 1) for _ in range(2))
        truth[0, 0, 0] = 1
        save(truth, tmp_path / "truth" / name)
        save(prediction, tmp_path / "masks" / name)
    calls = []
    folders = tmp_path / "truth", tmp_path / "masks", ["a", "b"]
    two = jf.score_folder(*folders, workers=2, progress=lambda *call: calls.append(call))
    assert two.to_json() == jf.score_folder(*folders).to_json()
    assert calls == [(160, 320), (320, 320)]


def rewrite(path, change):
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def save_jpeg(path):
    Image.open(path).convert("L").save(path, format="JPEG")


def resize(mask):
    return mask[:-1]


def colour(mask):
    return np.stack([mask] * 3, axis=-1)


def as_2016(mask):
    return np.where(mask > 0, 255, 0).astype(np.uint8)


BAD = {
    "missing frame": (lambda t: (t / "masks/dogs/00003.png").unlink(), "masks/dogs/00003.png", "missing"),
    "missing sequence": (lambda t: (t / "masks/dogs").rename(t / "gone"), "masks/dogs", "no such folder"),
    "missing truth": (
        lambda t: (t / "davis/Annotations/480p/cat").rename(t / "gone"),
        "Annotations/480p/cat",
        "no such folder",
    ),
    "wrong size": (lambda t: rewrite(t / "masks/cat/00002.png", resize), "masks/cat/00002.png", "56x39 pixels"),
    "RGB mask": (lambda t: rewrite(t / "masks/cat/00002.png", colour), "masks/cat/00002.png", "RGB"),
    "JPEG mask": (lambda t: save_jpeg(t / "masks/cat/00002.png"), "masks/cat/00002.png", "JPEG"),
    "RGB truth": (lambda t: rewrite(t / "davis/Annotations/480p/cat/00000.png", colour), "480p/cat/00000.png", "RGB"),
    "unknown id": (
        lambda t: rewrite(t / "masks/cat/00004.png", lambda mask: np.full_like(mask, 2)),
        "masks/cat/00004.png",
        "unknown id 2, the highest in",
    ),
    "2016 prediction": (lambda t: rewrite(t / "masks/cat/00004.png", as_2016), "masks/cat/00004.png", "DAVIS 2016"),
    "2016 truth": (
        lambda t: rewrite(t / "davis/Annotations/480p/cat/00000.png", as_2016),
        "480p/cat/00000.png",
        "void in DAVIS 2017",
    ),
    "no object": (
        lambda t: rewrite(t / "davis/Annotations/480p/cat/00000.png", np.zeros_like),
        "480p/cat/00000.png",
        "no object in the first mask",
    ),
    "not an image": (lambda t: (t / "masks/cat/00002.png").write_text("mask"), "masks/cat/00002.png", "cannot be read"),
    "cut-off image": (
        lambda t: (t / "masks/cat/00002.png").write_bytes((t / "masks/cat/00002.png").read_bytes()[:-30]),
        "masks/cat/00002.png",
        "cannot be read",
    ),
    "too few frames": (
        lambda t: [(t / f"davis/Annotations/480p/cat/{n:05d}.png").unlink() for n in range(2, 7)],
        "480p/cat",
        "at least 3",
    ),
    "no list": (lambda t: (t / "davis/ImageSets/2017/val.txt").unlink(), "2017/val.txt", "--split"),
    "empty list": (lambda t: (t / "davis/ImageSets/2017/val.txt").write_text("\n"), "2017/val.txt", "empty"),
    "no annotations": (lambda t: (t / "davis/Annotations/480p").rename(t / "gone"), "davis/Annotations", "480p"),
    "no truth": (lambda t: (t / "davis").rename(t / "gone"), "davis", "no such folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_costs_one_line_that_names_the_file(tree, capsys, case):
    spoil, name, reason = BAD[case]
    spoil(tree)
    with pytest.raises(SystemExit) as stop:
        run_command(jf.main, [str(tree / "davis"), str(tree / "masks"), "--out", str(tree / "out")])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert name in line
    assert reason in line
    assert not (tree / "out").exists()


def score_with(tree, capsys) -> str:
    jf.main([str(tree / "davis"), str(tree / "masks"), "--out", str(tree / "out")])
    return capsys.readouterr().out


@pytest.mark.parametrize("lost", ["00000.png", "last"])
def test_a_predicted_mask_that_is_not_scored_may_lack_as_in_the_official_evaluation(tree, capsys, lost):
    whole = score_with(tree, capsys)
    masks = sorted((tree / "masks/cat").iterdir())
    (masks[-1] if lost == "last" else masks[0]).unlink()
    noted = score_with(tree, capsys)
    assert "note: the first or the last predicted mask is not there, and not scored either: cat\n" in noted
    assert noted.partition("\n")[2] == whole


def test_frames_are_in_the_order_of_their_numbers_and_endings_may_be_capital(tree, capsys):
    for number in range(8, 14):  # with 8 frames in the original, 10 would come before 2
        for folder in ("davis/Annotations/480p/cat", "masks/cat"):
            shutil.copy(sorted((tree / folder).iterdir())[1], tree / folder / f"{number:05d}.png")
    whole = score_with(tree, capsys)
    for folder in ("davis/Annotations/480p/cat", "masks/cat"):
        for path in (tree / folder).iterdir():
            path.rename(path.with_name(f"{int(path.stem)}.PNG"))
        (tree / folder / "._0.png").write_bytes(b"of macOS")
    assert score_with(tree, capsys) == whole


def test_a_list_may_come_from_any_editor(tree, capsys):
    whole = score_with(tree, capsys)
    listing = tree / "davis/ImageSets/2017/val.txt"
    (tree / "davis/Annotations/480p/cat").rename(tree / "davis/Annotations/480p/my cat")
    (tree / "masks/cat").rename(tree / "masks/my cat")
    names = listing.read_text().split()
    listing.write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join(f"my {n}" if n == "cat" else n for n in names).encode() + b"\r\n\r\n"
    )
    assert [line.split()[-7:] for line in score_with(tree, capsys).splitlines()[1:-1]] == [
        line.split()[-7:] for line in whole.splitlines()[1:-1]
    ]


def test_skipped_objects_are_scored_as_the_official_evaluation_does_and_told(tree, capsys):
    for folder in ("davis/Annotations/480p/cat", "masks/cat"):
        for path in (tree / folder).iterdir():
            rewrite(path, lambda mask: np.where(mask == 1, 38, mask).astype(np.uint8))
    assert "skips 37 object ids" in score_with(tree, capsys)


def test_a_folder_without_masks_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither Annotations/480p nor a folder with PNG masks"):
        jf.find_sequences(tmp_path)


@pytest.mark.parametrize(("broken", "status"), [(False, 0), (True, 2)])
def test_the_module_runs_as_a_command(tree, broken, status):
    if broken:
        (tree / "masks/cat/00003.png").unlink()
    command = [
        sys.executable,
        "-m",
        "selfpatch.eval.measures.jf",
        tree / "davis",
        tree / "masks",
        "--out",
        tree / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree)
    assert done.returncode == status, done.stderr
    assert len((done.stderr if broken else done.stdout).splitlines()) == (1 if broken else 5)
    assert (tree / "out" / "scores.json").is_file() != broken


# --- the official package, where there is one ----------------------------------------------------------------------


class StubEvaluation:
    """Reads the tree that it is given as the official class does, and scores with the plain formulation."""

    def __init__(self, davis_root, task, gt_set, sequences="all", codalab=False):
        assert (task, gt_set) == ("semi-supervised", "val")
        root = Path(davis_root)
        self.truth = root / "Annotations" / "480p"
        self.names = (root / "ImageSets" / "2017" / f"{gt_set}.txt").read_text().split()
        assert all(list((root / "JPEGImages" / "480p" / name).glob("*.jpg")) for name in self.names)

    def evaluate(self, res_path, metric=("J", "F"), debug=False):
        result = {letter: {"M": [], "R": [], "D": [], "M_per_object": {}} for letter in "JF"}
        for name in self.names:
            folders = self.truth / name, Path(res_path) / name
            stacks = [np.stack([np.array(Image.open(p)) for p in sorted(f.glob("*.png"))]) for f in folders]
            for letter, values in zip("JF", plain.score_sequence(*stacks), strict=True):
                for index, row in enumerate(values):
                    figures = plain.statistics(row)
                    for key, value in zip("MRD", figures, strict=True):
                        result[letter][key].append(value)
                    result[letter]["M_per_object"][f"{name}_{index + 1}"] = figures[0]
        return result


def install_stub(monkeypatch, evaluation):
    module = types.ModuleType("davis2017.evaluation")
    module.DAVISEvaluation = evaluation
    monkeypatch.setitem(sys.modules, "davis2017", types.ModuleType("davis2017"))
    monkeypatch.setitem(sys.modules, "davis2017.evaluation", module)


@pytest.mark.parametrize("truth", ["davis", "davis/Annotations/480p"])
def test_official_scores_are_stored_beside_ours(tree, monkeypatch, capsys, truth):
    install_stub(monkeypatch, StubEvaluation)
    content = score(tree, "--official", truth=truth)
    assert list(content) == ["sequences", "global", "official"]
    assert content["official"]["global"] == pytest.approx(content["global"], abs=1e-12)
    assert set(content["official"]["per_object"]["J"]) == {"cat_1", "dogs_1", "dogs_2"}
    assert "official evaluation" in capsys.readouterr().out


def test_official_without_the_package_says_how_to_add_it(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "davis2017", None)  # what a failed import leaves
    with pytest.raises(UserError, match=r"github\.com/davisvideochallenge/davis2017-evaluation"):
        score(tree, "--official")
    assert not (tree / "out").exists()


def test_official_package_that_exits_is_an_error(tree, monkeypatch):
    class Exits(StubEvaluation):
        def evaluate(self, res_path, metric=("J", "F"), debug=False):
            sys.exit()

    install_stub(monkeypatch, Exits)
    with pytest.raises(UserError, match="gave up"):
        score(tree, "--official")
    assert not (tree / "out").exists()
