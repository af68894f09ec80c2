"""One parser for lists and one for JSON, whatever program wrote them."""

from __future__ import annotations

import codecs
import json

import pytest

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import read_json, read_lines


@pytest.mark.parametrize(
    "content", [b"my walk\ndog\n", b"\xef\xbb\xbfmy walk\r\ndog\r\n", b"\n  my walk \n\n\tdog", b"my walk\rdog\r"]
)
def test_a_list_is_its_lines_whatever_program_wrote_it(tmp_path, content):
    (tmp_path / "val.txt").write_bytes(content)
    assert read_lines(tmp_path / "val.txt") == ["my walk", "dog"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        (b"a\na\n", "names a twice"),
        (b"\xff\xfe\xff", "no list"),
        (b"../x\n", "no list of names"),
        (b"a" * 300, "no list of names"),
        (b"a\0b", "no list of names"),
    ],
)
def test_what_is_no_list_is_one_line(tmp_path, content, said):
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"val\.txt {said}|val\.txt is {said}"):
        read_lines(tmp_path / "val.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_any_encoding(tmp_path, encoding):
    (tmp_path / "x.json").write_text(json.dumps({"ü": 1}, ensure_ascii=False), encoding=encoding)
    assert read_json(tmp_path / "x.json") == {"ü": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"9" * 5000, codecs.BOM_UTF16_LE + b"x", b"\xff"])
def test_what_is_no_json_is_one_line(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json is no JSON"):
        read_json(tmp_path / "x.json")


def test_a_user_error_is_one_line_whatever_stands_in_it():
    assert str(UserError("no\nsuch\r\n file")) == "no such file"
    assert (
        str(UserError("Caught UserError in process 0.\nTraceback\n  selfpatch.UserError: x.jpg is cut\n"))
        == "x.jpg is cut"
    )
