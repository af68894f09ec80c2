"""Reading torch's pickled files without running what is in them: tensors come out, anything unknown as a placeholder.

Torch's own safe loader refuses a whole file for one foreign class in it; checkpoints of Lightning, fairseq, mmengine
or OmegaConf users hold such classes beside their tensors. Here a pickle may build tensors, storages, NumPy arrays and
plain containers. Every other class or function that it names becomes an inert :class:`Placeholder`, so that no code of
the file runs.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch

_numpy_core = np._core if hasattr(np, "_core") else np.core  # numpy 2 renamed it


class Placeholder(dict):
    """An object of a class that is not built: what it was made of, and no behaviour.

    Attributes:
        arguments: what its class or function was called with.
        state: what pickle would have set on it.
    """

    def __new__(cls, *arguments: Any, **_: Any) -> "Placeholder":
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __init__(self, *_: Any, **__: Any) -> None:  # the arguments are no items
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *arguments: Any, **_: Any) -> "Placeholder":
        return type(self)(*arguments)

    def append(self, item: Any) -> None:
        """Drop an item of a class derived from list or set."""

    add = extend = append
    __hash__ = object.__hash__

    def fields(self) -> dict[str, Any]:
        """The attributes that pickle would have set."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state if isinstance(state, dict) else {}


def _known() -> dict[tuple[str, str], Any]:
    """The classes and functions that build nothing but data, by the names that pickles have for them."""
    known = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),  # bytes of old NumPy scalars; no other codec
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
        ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
        # of a tensor of a derived type the plain one
        ("torch._tensor", "_rebuild_from_type_v2"): lambda build, kind, arguments, state: build(*arguments),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    plain = (set, frozenset, complex, slice)
    known |= {(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in plain}
    rebuild = ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "device_tensor_from_numpy")
    known |= {("torch._utils", f"_rebuild_{kind}"): getattr(torch._utils, f"_rebuild_{kind}") for kind in rebuild}
    constants = (torch.dtype, torch.layout)
    known |= {("torch", name): kind for name, kind in vars(torch).items() if isinstance(kind, constants)}
    for core in ("numpy.core", "numpy._core"):
        known[core + ".multiarray", "scalar"] = _numpy_core.multiarray.scalar
        known[core + ".multiarray", "_reconstruct"] = _numpy_core.multiarray._reconstruct
        known[core + ".numeric", "_frombuffer"] = _numpy_core.numeric._frombuffer
    known |= {("numpy.dtypes", type(kind).__name__): type(kind) for kind in map(np.dtype, "?bBhHiIlLqQefd")}
    return known


KNOWN = _known()


class Unpickler(pickle.Unpickler):
    """An unpickler that builds what :data:`KNOWN` lists, and placeholders of anything else."""

    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get((module, name))
        return type(name.rpartition(".")[2], (Placeholder,), {"__module__": module}) if known is None else known


PICKLE = SimpleNamespace(  # what torch.load takes instead of the module pickle
    Unpickler=Unpickler,
    load=lambda file, **options: Unpickler(file, **options).load(),
    UnpicklingError=pickle.UnpicklingError,
    __name__="inert",
)


def load_inert(source: str | Path | BinaryIO) -> Any:
    """Everything in a file of ``torch.save`` on the CPU, unknown objects as placeholders.

    Raises:
        Exception: of any kind, where the bytes are broken.
    """
    return torch.load(source, map_location="cpu", pickle_module=PICKLE)
