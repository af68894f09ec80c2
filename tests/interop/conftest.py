"""Real libraries to compare with: transformers, and timm with the torchvision that it imports."""

from __future__ import annotations

import pytest
from torchvision_operators import make_importable


@pytest.fixture(scope="session")
def transformers():
    module = pytest.importorskip("transformers", reason="the extra 'interop' is not installed")
    module.logging.set_verbosity_error()
    module.utils.logging.disable_progress_bar()
    return module


@pytest.fixture(scope="session")
def timm():
    make_importable()
    try:
        import timm
    except ImportError as error:
        pytest.skip(f"timm cannot be imported: {error}")
    return timm
