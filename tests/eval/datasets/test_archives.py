"""Unpacking what the user downloaded: the right places, whole or not at all, and nothing outside the folder."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from selfpatch.eval.datasets import ade20k, coco, davis, imagenet
from selfpatch.eval.datasets.archives import unpack_downloads
from selfpatch.pretrain.cli import UserError


def make_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in files.items():
            content.writestr(name, data)


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as content:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            content.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("beside", [True, False])
def test_zip_goes_to_its_place_and_only_once(tmp_path, beside):
    root = tmp_path / "data/coco"
    root.mkdir(parents=True)
    archive = (root.parent if beside else root) / "val2017.zip"
    make_zip(archive, {"val2017/1.jpg": b"one", "val2017/2.jpg": b"two"})
    assert "unpacked in" in unpack_downloads(coco.SOURCE, root)[0]
    assert listing(root) - {"val2017.zip"} == {"val2017/1.jpg", "val2017/2.jpg"}
    assert (root / "val2017/2.jpg").read_bytes() == b"two"
    assert "already" in unpack_downloads(coco.SOURCE, root)[0]


def test_folders_inside_are_renamed(tmp_path):
    top = "ADEChallengeData2016"
    files = {
        f"{top}/images/training/a.jpg": b"",
        f"{top}/annotations/training/a.png": b"",
        f"{top}/objectInfo150.txt": b"",
    }
    make_zip(tmp_path / f"{top}.zip", {**files, f"{top}/sceneCategories.txt": b""})
    unpack_downloads(ade20k.SOURCE, tmp_path / "ade20k")
    assert listing(tmp_path / "ade20k") == {name.removeprefix(f"{top}/") for name in files}


def test_imagenet_is_an_archive_of_archives_and_goes_on_where_it_stopped(tmp_path):
    inner = {f"n0{i}.tar": tar_of({f"n0{i}_{j}.JPEG": b"x" for j in range(2)}) for i in (1, 2)}
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    done = tmp_path / "imagenet/.unpacking-ILSVRC2012_img_train.tar/n01"
    done.mkdir(parents=True)
    (done / "kept.JPEG").write_bytes(b"from the run that was stopped")
    unpack_downloads(imagenet.SOURCE, tmp_path / "imagenet")
    expected = {"train/n01/kept.JPEG", "train/n02/n02_0.JPEG", "train/n02/n02_1.JPEG"}
    assert listing(tmp_path / "imagenet") == expected


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "val2017/../../outside.txt", "C:\\outside.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path, name, kind):
    root = tmp_path / "data/coco"
    root.mkdir(parents=True)
    files = {"val2017/1.jpg": b"", name: b"evil"}
    if kind == "zip":
        make_zip(root / "val2017.zip", files)
    else:
        (root / "val2017.zip").write_bytes(tar_of(files))
    with pytest.raises(UserError, match="outside"):
        unpack_downloads(coco.SOURCE, root)
    assert not (root / "val2017").exists()
    assert "outside.txt" not in {path.name for path in tmp_path.rglob("*")}


def test_links_are_refused(tmp_path):
    link = tarfile.TarInfo("n01")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as content:
        content.addfile(link)
    with pytest.raises(UserError, match="link"):
        unpack_downloads(imagenet.SOURCE, tmp_path)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.0])
def test_a_cut_archive_leaves_nothing_behind(tmp_path, kept):
    archive = tmp_path / "val2017.zip"
    make_zip(archive, {f"val2017/{i}.jpg": bytes(range(256)) * 40 for i in range(20)})
    archive.write_bytes(archive.read_bytes()[: int(kept * archive.stat().st_size)])
    with pytest.raises(UserError, match=r"val2017.zip"):
        unpack_downloads(coco.SOURCE, tmp_path)
    assert not (tmp_path / "val2017").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_damaged_member_leaves_nothing_in_place_and_the_right_file_mends_it(tmp_path, method):
    archive = tmp_path / "val2017.zip"
    with zipfile.ZipFile(archive, "w", method) as content:
        content.writestr("val2017/1.jpg", b"first picture")
        content.writestr("val2017/2.jpg", b"second picture" * 999)
        start = content.infolist()[1].header_offset + len("val2017/2.jpg") + 30  # of the second member's bytes
    sound = archive.read_bytes()
    damaged = bytearray(sound)
    damaged[start + 8 : start + 24] = bytes(byte ^ 0xFF for byte in damaged[start + 8 : start + 24])
    archive.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged"):
        unpack_downloads(coco.SOURCE, tmp_path)
    assert not (tmp_path / "val2017").exists()
    archive.write_bytes(sound)
    unpack_downloads(coco.SOURCE, tmp_path)
    assert listing(tmp_path / "val2017") == {"1.jpg", "2.jpg"}


def test_an_encrypted_archive_is_refused(tmp_path):
    archive = tmp_path / "val2017.zip"
    make_zip(archive, {"val2017/1.jpg": b"one"})
    content = bytearray(archive.read_bytes())
    for header, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # where each keeps its flags
        content[content.find(header) + place] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        unpack_downloads(coco.SOURCE, tmp_path)
    assert not (tmp_path / "val2017").exists()


def test_another_archive_of_that_name_is_refused(tmp_path):
    make_zip(tmp_path / "val2017.zip", {"photos/1.jpg": b""})
    with pytest.raises(UserError, match="holds no val2017"):
        unpack_downloads(coco.SOURCE, tmp_path)


def test_a_half_set_is_not_overwritten(tmp_path):
    (tmp_path / "DAVIS/JPEGImages").mkdir(parents=True)
    make_zip(tmp_path / "DAVIS-2017-trainval-480p.zip", {"DAVIS/JPEGImages/a.jpg": b""})
    assert "not unpacked" in unpack_downloads(davis.SOURCE, tmp_path / "DAVIS")[0]
    assert listing(tmp_path / "DAVIS") == set()
