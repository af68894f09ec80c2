"""What goes into a checkpoint can be read back by a loader that runs no code."""

import numpy as np
import pytest
import torch

from selfpatch.pretrain.checkpoint import plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.__version__, str(torch.__version__)),  # a subclass of str
        (np.float64(1.5), 1.5),  # a subclass of float
        (True, True),
        (None, None),
        ({"a": (1, np.str_("b"))}, {"a": [1, "b"]}),
    ],
)
def test_plain_leaves_only_builtin_types(tmp_path, value, expected):
    torch.save(plain(value), tmp_path / "meta.pth")
    read = torch.load(tmp_path / "meta.pth", weights_only=True)
    assert read == expected
    assert type(read) is type(expected)
