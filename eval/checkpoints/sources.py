"""What a checkpoint is made of: a file, or a folder as Hugging Face, timm or torch's distributed checkpoints write it.

Whatever it is, its tensors come out by name, and what the files beside the weights say of them: heads, the norms' eps,
the mean and standard deviation of the pixels. No pickle is executed.
"""

from __future__ import annotations

import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from selfpatch.eval.checkpoints.inert import Placeholder, load_inert
from selfpatch.pretrain.checkpoint import SAFETENSORS_META, raise_if_larger_than_stored
from selfpatch.pretrain.cli import UserError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of Hugging Face and timm, whole or as "<name>.index.json"
FOREIGN_FILES = {  # first bytes, or a file's ending, of what holds weights in another form
    b"GGUF": "a GGUF file, which holds quantised weights of a language model",
    b"\x89HDF": "an HDF5 file of Keras or TensorFlow",
    ".onnx": "an ONNX file, which holds a graph and no state dict: take the PyTorch weights it was exported from",
    ".msgpack": "a file of Flax: take the PyTorch weights",
    ".npz": "a NumPy archive, as JAX writes it: timm converts those of the published ViTs",
}
VISION = {  # model_type in a Hugging Face config: what was trained (None: it doesn't tell)
    "vit": None, "deit": "DeiT (supervised)", "vit_msn": "MSN", "vit_mae": "MAE", "ijepa": "I-JEPA",
    "dinov2": "DINOv2", "dinov2_with_registers": "DINOv2", "dinov3_vit": "DINOv3", "swin": None,
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What the files beside a checkpoint's weights say; None: they don't say it.

    Args:
        library: "transformers" or "timm".
        method: what was pretrained.
        heads: of the attention; a list for each stage of a Swin.
        eps: of the LayerNorms.
        mean, std: of the pixels, from 0 to 1, red first.
        rope_theta: the base of the rotary position embeddings' periods.
        stated: further figures that the tensors must agree with, under the names of the model's ``arch``.
    """

    library: str | None = None
    method: str | None = None
    heads: int | list[int] | None = None
    eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    rope_theta: float | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was read.

    Args:
        content: nested dictionaries that hold its tensors.
        files: those that were read: what the checkpoint's SHA-256 is over.
        facts: what the files beside the weights say.
    """

    content: Any
    files: tuple[Path, ...]
    facts: Facts = Facts()


def read_source(path: str | Path, unsafe: bool = False) -> Source:
    """Read a checkpoint, a file or a folder, onto the CPU.

    Args:
        path: the file, or a folder of Hugging Face, timm or ``torch.distributed.checkpoint``.
        unsafe: the user's word (``--unsafe-load``) that a file may run code while it is read.

    Raises:
        UserError: it is missing, not a checkpoint, cut short or in another library's form; a shard is missing.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UserError(f"no such checkpoint: {path}")
    config = path.with_name(CONFIG) if path.name in WEIGHTS and path.with_name(CONFIG).is_file() else None
    facts, beside = read_facts(path.parent) if config else (Facts(), ())
    return Source(_file(path, unsafe), (path, *beside), facts)


def _folder(folder: Path) -> Source:
    if (folder / ".metadata").is_file():
        return _distributed(folder)
    for name in WEIGHTS:
        weights, index = folder / name, folder / f"{name}.index.json"
        if weights.is_file() or index.is_file():
            files = (weights,) if weights.is_file() else _shards(index)
            facts, beside = read_facts(folder)
            content = {key: tensor for file in files for key, tensor in _state_dict(_file(file)).items()}
            return Source(content, (*files, *(() if weights.is_file() else (index,)), *beside), facts)
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds a LoRA adapter, not a network: merge it into its base model and save that")
    held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
    raise UserError(
        f"{folder} is a folder without {' or '.join(WEIGHTS)} or .metadata (it holds {held}): name a checkpoint's "
        "file, or the folder of a Hugging Face model, of a timm model or of a distributed checkpoint"
    )


def _state_dict(content: Any) -> Mapping[str, Any]:
    return content if isinstance(content, Mapping) else {}


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names, each once."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no weight_map from names of tensors to files")
    files = tuple(index.parent / name for name in sorted(set(names.values())))
    missing = [file.name for file in files if Path(file.name) != file.relative_to(index.parent) or not file.is_file()]
    if missing:
        raise UserError(f"{index} names {', '.join(missing)}, which is not in {index.parent}: download it, too")
    return files


# --- files -----------------------------------------------------------------------------------------------------------


def _file(path: Path, unsafe: bool = False) -> Any:
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    for sign, what in FOREIGN_FILES.items():
        if head.startswith(sign) if isinstance(sign, bytes) else path.suffix == sign:
            raise UserError(f"{path} is {what}")
    if path.suffix == ".safetensors" or head[8:] == b"{":  # eight bytes of length, then JSON
        return _safetensors(path)
    if head[:1] == b"\x08":  # the first field of ONNX's protocol buffer
        raise UserError(f"{path} is {FOREIGN_FILES['.onnx']}, or not a checkpoint at all")
    if not head.startswith((b"PK", b"\x80")):  # a zip archive, or, from before torch 1.6, a pickle
        raise UserError(f"{path} is not a checkpoint (neither torch.save's format nor safetensors)")
    if head.startswith(b"PK"):
        _raise_for_other_archives(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickle protocols: what cannot be read is told below
            content = torch.load(path, map_location="cpu", weights_only=not unsafe) if unsafe else load_inert(path)
    except ImportError as error:  # only where the user said that the file may import
        raise UserError(f"{path} needs a package that is not installed ({error})") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path} is not a checkpoint (neither torch.save's format nor safetensors)") from None
    except Exception as error:  # broken bytes raise anything: struct.error, AssertionError, RuntimeError, KeyError, ...
        raise UserError(_broken(path, error)) from None
    raise_if_larger_than_stored(path, content)
    return content


def _raise_for_other_archives(path: Path) -> None:
    """Raise UserError for a zip archive that is not of ``torch.save``: torch.load would run a TorchScript program's."""
    try:
        names = zipfile.ZipFile(path).namelist()
    except Exception:  # a broken directory raises anything
        return  # told when it is read
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path} is a TorchScript program, which holds code: save its state_dict() and take that")
    if any(name.endswith(".npy") for name in names):
        raise UserError(f"{path} is {FOREIGN_FILES['.npz']}")


def _broken(path: Path, error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"{path} is not a whole checkpoint ({line[:120]}): it is cut short or of another format"


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            meta = json.loads((file.metadata() or {}).get(SAFETENSORS_META, "null"))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): download or export it again") from None
    return tensors if meta is None else {"meta": meta, "state_dict": tensors}


def _distributed(folder: Path) -> Source:
    """The tensors of ``torch.distributed.checkpoint``, put together from the pieces that its processes saved."""
    try:
        metadata = load_pickle(folder / ".metadata").fields()
        tensors, files = {}, {folder / ".metadata"}
        for name, about in metadata["state_dict_metadata"].items():
            if "size" in about.fields():
                tensors[name] = None, about.fields()["size"]
        for index, place in metadata["storage_data"].items():
            key, where = index.fields(), place.fields()
            if key["fqn"] not in tensors:  # not a tensor: the epoch, arguments
                continue
            file = folder / Path(where["relative_path"]).name
            if not file.is_file():
                raise UserError(f"{folder}/.metadata names {file.name}, which is not there: copy it, too")
            files.add(file)
            with open(file, "rb") as opened:
                opened.seek(where["offset"])
                piece = load_inert(BytesIO(opened.read(where["length"])))
            whole, size = tensors[key["fqn"]]
            whole = (
                torch.full(size, math.nan, dtype=piece.dtype) if whole is None and piece.is_floating_point() else whole
            )
            whole = torch.zeros(size, dtype=piece.dtype) if whole is None else whole
            offset = key["offset"] or [0] * piece.ndim
            whole[tuple(slice(start, start + side) for start, side in zip(offset, piece.shape))] = piece
            tensors[key["fqn"]] = whole, size
    except UserError:
        raise
    except Exception as error:  # as for a broken file
        raise UserError(f"{folder} is not a whole distributed checkpoint ({type(error).__name__}: {error})") from None
    return Source({name: whole for name, (whole, _) in tensors.items() if whole is not None}, tuple(sorted(files)))


def load_pickle(path: Path) -> Placeholder:
    """A plain pickle's object, read inertly."""
    from selfpatch.eval.checkpoints.inert import Unpickler

    with open(path, "rb") as file:
        return Unpickler(file).load()


# --- what stands beside the weights -----------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        UserError: it holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def read_facts(folder: Path) -> tuple[Facts, tuple[Path, ...]]:
    """What the configuration in ``folder`` says of the weights, and the files that said it.

    Raises:
        UserError: the configuration is of a network of another kind, or of quantised weights.
    """
    files = tuple(folder / name for name in (CONFIG, PREPROCESSOR) if (folder / name).is_file())
    config = read_json(folder / CONFIG) if folder / CONFIG in files else {}
    pixels = read_json(folder / PREPROCESSOR) if folder / PREPROCESSOR in files else {}
    if "architecture" in config:
        return _timm_facts(config), files
    return _hugging_face_facts(folder, config, pixels), files


def _timm_facts(config: Mapping[str, Any]) -> Facts:
    trained = config.get("pretrained_cfg") if isinstance(config.get("pretrained_cfg"), dict) else config
    arguments = config.get("model_args") or {}
    return Facts(
        library="timm",
        heads=_plain_heads(arguments.get("num_heads")),
        mean=_colour(trained.get("mean")),
        std=_colour(trained.get("std"), above=0),
    )


def _hugging_face_facts(folder: Path, config: Mapping[str, Any], pixels: Mapping[str, Any]) -> Facts:
    kind = config.get("model_type")
    if "quantization_config" in config:
        raise UserError(f"{folder} holds quantised weights ({CONFIG}): take those it was quantised from")
    if kind is not None and kind not in VISION:
        known = ", ".join(VISION)
        raise UserError(f"{folder} holds a {kind} model ({CONFIG}), neither a ViT nor a Swin; known are {known}")
    if config.get("hidden_act", "gelu") not in ("gelu", "silu"):
        raise UserError(
            f"{folder}: {CONFIG} says hidden_act {config['hidden_act']}; this project's ViT has the exact gelu"
        )
    named = {"hidden_size": "dim", "num_hidden_layers": "depth"}
    if kind == "swin":
        named = {"embed_dim": "dim", "depths": "depths", "window_size": "window"}
    stated = {ours: config[name] for name, ours in (named | {"patch_size": "patch"}).items() if name in config}
    normalised = pixels.get("do_normalize", True)
    return Facts(
        library="transformers" if kind else None,
        method=VISION.get(kind),
        heads=_plain_heads(config.get("num_attention_heads", config.get("num_heads"))),
        eps=config.get("layer_norm_eps"),
        mean=_colour(pixels.get("image_mean")) if normalised else (0.0, 0.0, 0.0),
        std=_colour(pixels.get("image_std"), above=0) if normalised else (1.0, 1.0, 1.0),
        rope_theta=config.get("rope_theta"),
        stated=stated,
    )


def _plain_heads(value: Any) -> int | list[int] | None:
    if isinstance(value, (list, tuple)):
        return [int(count) for count in value]
    return int(value) if isinstance(value, (int, float)) else None


def _colour(value: Any, above: float = -math.inf) -> tuple[float, ...] | None:
    """Three finite numbers greater than ``above``; None: something else."""
    plain = isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)
    return tuple(map(float, value)) if plain and all(above < v < math.inf for v in value) else None
