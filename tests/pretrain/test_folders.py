"""One walk: each real file once, in the order of numbers, and what is passed by is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import folders_in, list_files


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def names(root: Path, **options) -> list[str]:
    return [path.relative_to(root).as_posix() for path in list_files(root, **options).paths]


def test_numbers_in_names_are_numbers(tmp_path):
    fill(tmp_path, *(f"{i}.jpg" for i in (0, 1, 2, 10, 11, 100)), "v10/a.png", "v9/a.png", "01.jpg", "²3.jpg")
    order = ["0.jpg", "01.jpg", "1.jpg", "2.jpg", "10.jpg", "11.jpg", "100.jpg", "v9/a.png", "v10/a.png", "²3.jpg"]
    assert names(tmp_path) == order


def test_hidden_and_foreign_files_are_passed_by_and_counted(tmp_path):
    fill(tmp_path, "a/1.JPG", "a/._1.jpg", "a/.ipynb_checkpoints/1.jpg", "__MACOSX/a/1.jpg", "a/@eaDir/1.jpg")
    fill(tmp_path, "a/2.tif", "a/3.TIF", "a/notes.txt", "a/plain")
    listing = list_files(tmp_path)
    assert [path.name for path in listing.paths] == ["1.JPG"]
    assert len(listing.hidden) == 4
    assert listing.unread == {".tif": 2, ".txt": 1, "": 1}
    hidden, unread = listing.passed_by()
    assert "4 hidden" in hidden
    assert "4 files are passed by (2 .tif, " in unread


def test_a_hidden_root_is_what_was_asked_for(tmp_path):
    assert names(fill(tmp_path / ".cache/photos", "1.jpg")) == ["1.jpg"]


def test_links_are_followed_once(tmp_path):
    root, store = fill(tmp_path / "root", "a/1.jpg", "a/2.jpg"), fill(tmp_path / "store", "x/1.jpg", "y.jpg", "blob")
    (root / "a/up").symlink_to(root)  # a cycle
    (root / "a/again.jpg").symlink_to(root / "a/1.jpg")
    (root / "above").symlink_to(root.parent)
    (root / "b").symlink_to(root / "a")
    (root / "c").symlink_to(store)
    (root / "d").symlink_to(store / "x")
    (store / "self").symlink_to(store)
    (store / "home").symlink_to(root)
    (root / "e.jpg").symlink_to(store / "blob")
    (root / "f.jpg").symlink_to(store / "blob")
    (root / "g.jpg").symlink_to(root / "nowhere.jpg")
    (root / "h.jpg").symlink_to(root / "h.jpg")
    assert names(root) == ["a/1.jpg", "a/2.jpg", "c/x/1.jpg", "c/y.jpg", "e.jpg"]
    assert len(list_files(root).links) == 10
    assert "10 links" in list_files(root).passed_by()[-1]


def test_what_links_alone_lead_to_is_read(tmp_path):
    fill(tmp_path, ".annex/1.jpg", "blobs/ab12", "deep/2.jpg")
    (tmp_path / "a").symlink_to(tmp_path / ".annex")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "blobs/ab12")
    (tmp_path / "c.jpg").symlink_to("deep/2.jpg")
    assert names(tmp_path) == ["a/1.jpg", "b.jpg", "deep/2.jpg"]
    assert names(tmp_path, deep=False) == ["b.jpg", "c.jpg"]


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    fill(tmp_path, "1.jpg/2.jpg")
    assert names(tmp_path) == ["1.jpg/2.jpg"]


def test_one_stem_twice_is_named(tmp_path):
    with pytest.raises(UserError, match=r"1\.jpg and 1\.png"):
        list_files(fill(tmp_path, "1.jpg", "1.png")).by_stem()


def test_folders_of_a_folder(tmp_path):
    fill(tmp_path, "a10/x", "a9/x", ".b/x", "__MACOSX/x", "c")
    assert [path.name for path in folders_in(tmp_path)] == ["a9", "a10"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere cannot be listed"):
        list_files(tmp_path / "nowhere")
