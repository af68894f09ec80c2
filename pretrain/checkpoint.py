"""Reading checkpoints without running what is in them, and writing them whole or not at all."""

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import atomic_path, sweep, temporary_name

LARGE = 1 << 28  # bytes that a tensor may claim without storing them
SAFETENSORS_META = "selfpatch"  # under this name, as JSON, our metadata stands in a safetensors file's own


def load_file(path: str | Path) -> Any:
    """Read a checkpoint of this project's training onto the CPU, without running what it may pickle.

    All others come in by :mod:`selfpatch.eval.checkpoints`.

    Raises:
        UserError: the file is missing, is not a checkpoint, is cut short, or holds what could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such checkpoint: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickle protocols: what cannot be read is told below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # broken bytes raise anything: struct.error, AssertionError, RuntimeError, KeyError, ...
        raise UserError(cut_short(path, error)) from None
    raise_if_larger_than_stored(path, content)
    return content


def cut_short(path: Path, error: Exception) -> str:
    """One line for whatever broken bytes have raised."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"{path} is not a whole checkpoint ({line[:120]}): it is cut short or of another format"


def raise_if_larger_than_stored(path: Path, content: Any) -> None:
    """A tensor may claim terabytes of which a single number is stored: any copy of it would take the memory."""
    inside = [content]
    while inside:
        value = inside.pop()
        if isinstance(value, Mapping):
            inside += value.values()
        elif isinstance(value, torch.Tensor) and value.layout == torch.strided:
            claimed, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
            if claimed > max(LARGE, 8 * stored):
                sizes = f"{claimed:,} bytes, of which {stored:,} are stored"
                raise UserError(f"{path} has a tensor of {sizes}: do not use it")


def _refusal(path: Path, reason: str) -> str:
    """One line for torch's page of advice: which object was refused, or that the file is no pickle at all."""
    for sign in ("Unsupported global: GLOBAL ", "Unsupported class ", "Trying to load unsupported GLOBAL "):
        if sign in reason:
            name = reason.split(sign, 1)[1].split()[0].rstrip(".,:")
            return f"{path} holds a {name} object, which could run code when read: no checkpoint of this project does"
    if zipfile.is_zipfile(path):
        return f"{path} holds something that cannot be read safely: no checkpoint of this project does"
    return f"{path} is not a checkpoint (neither torch.save's format nor safetensors)"


def save_file(content: Any, path: str | Path) -> None:
    """Write ``content`` with ``torch.save``, atomically; what killed saves of ``path`` have left goes."""
    sweep(path)
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def point_to(path: Path, pointer: Path) -> None:
    """Make ``pointer`` another name of the file ``path``, replacing what it named in one step."""
    sweep(pointer)
    temporary = temporary_name(pointer)
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        os.symlink(path.name, temporary)
    os.replace(temporary, pointer)


def plain(value: Any) -> Any:
    """``value`` with everything but tensors, containers and plain scalars turned into text: what a safe load opens."""
    if isinstance(value, dict):
        return {key if isinstance(key, (str, int)) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):  # subclasses (torch's version, numpy's float64) pickle as a class of their own
        if isinstance(value, kind):
            return kind(value)
    return value if value is None or isinstance(value, torch.Tensor) else str(value)
