"""What a checkpoint is made of: a file, or a folder as Hugging Face, timm or torch's distributed checkpoints write it.

Whatever it is, its tensors come out by name, and what the files beside the weights say of them: heads, the norms' eps,
the mean and standard deviation of the pixels. No pickle is executed.
"""

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

from selfpatch.eval.checkpoints.inert import Unpickler, load_inert
from selfpatch.pretrain.checkpoint import SAFETENSORS_META, cut_short, raise_if_larger_than_stored
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import read_json

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
    """What the files beside a checkpoint's weights say; None: they don't say it."""

    library: str | None = None  # "transformers" or "timm"
    method: str | None = None  # what was pretrained
    heads: int | list[int] | None = None  # of the attention; a list for each stage of a Swin
    eps: float | None = None  # of the LayerNorms
    mean: tuple[float, ...] | None = None  # of the pixels, from 0 to 1, red first
    std: tuple[float, ...] | None = None
    rope_theta: float | None = None  # the base of the rotary position embeddings' periods
    # further figures that the tensors must agree with, under the names of the model's arch
    stated: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was read."""

    content: Any  # nested dictionaries that hold its tensors
    files: tuple[Path, ...]  # those that were read: what the checkpoint's SHA-256 is over
    facts: Facts = Facts()  # what the files beside the weights say


def read_source(path: str | Path, unsafe: bool = False) -> Source:
    """Read a checkpoint, a file or a folder, onto the CPU.

    Raises:
        UserError: it is missing, not a checkpoint, cut short or in another library's form; a shard is missing.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UserError(f"no such checkpoint: {path}")
    configured = path.name in WEIGHTS and path.with_name(CONFIG).is_file()
    facts, configs = read_facts(path.parent) if configured else (Facts(), ())
    return Source(_file(path, unsafe), (path, *configs), facts)


def _folder(folder: Path) -> Source:
    if (folder / ".metadata").is_file():
        return _distributed(folder)
    for name in WEIGHTS:
        weights, index = folder / name, folder / f"{name}.index.json"
        if weights.is_file() or index.is_file():
            shards = (weights,) if weights.is_file() else _shards(index)
            facts, configs = read_facts(folder)
            states = (content for content in map(_file, shards) if isinstance(content, Mapping))
            content = {key: tensor for state in states for key, tensor in state.items()}
            return Source(content, (*shards, *([] if weights.is_file() else [index]), *configs), facts)
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds a LoRA adapter, not a network: merge it into its base model and save that")
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
    raise UserError(
        f"{folder} is a folder without {' or '.join(WEIGHTS)} or .metadata (it holds {there}): name a checkpoint's "
        "file, or the folder of a Hugging Face model, of a timm model or of a distributed checkpoint"
    )


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names, each once."""
    names = _read_object(index).get("weight_map")
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
        raise UserError(cut_short(path, error)) from None
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
        with open(folder / ".metadata", "rb") as file:
            metadata = Unpickler(file).load().fields()
        tensors, files = {}, {folder / ".metadata"}
        about = {name: entry.fields() for name, entry in metadata["state_dict_metadata"].items()}
        for index, place in metadata["storage_data"].items():
            key, where = index.fields(), place.fields()
            name = key["fqn"]
            if "size" not in about[name]:  # not a tensor: the epoch, arguments
                continue
            path = folder / Path(where["relative_path"]).name
            if not path.is_file():
                raise UserError(f"{folder}/.metadata names {path.name}, which is not there: copy it, too")
            files.add(path)
            with open(path, "rb") as file:
                file.seek(where["offset"])
                piece = load_inert(BytesIO(file.read(where["length"])))
            if name not in tensors:
                lacking = math.nan if piece.is_floating_point() else 0
                tensors[name] = torch.full(about[name]["size"], lacking, dtype=piece.dtype)
            offset = key["offset"] or [0] * piece.ndim
            tensors[name][tuple(slice(start, start + side) for start, side in zip(offset, piece.shape))] = piece
    except UserError:
        raise
    except Exception as error:  # as for a broken file
        raise UserError(f"{folder} is not a whole distributed checkpoint ({type(error).__name__}: {error})") from None
    return Source(tensors, tuple(sorted(files)))


# --- what stands beside the weights -----------------------------------------------------------------------------------


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def read_facts(folder: Path) -> tuple[Facts, tuple[Path, ...]]:
    """What the configuration in ``folder`` says of the weights, and the files that said it.

    Raises:
        UserError: the configuration is of a network of another kind, or of quantised weights.
    """
    files = tuple(folder / name for name in (CONFIG, PREPROCESSOR) if (folder / name).is_file())
    config, pixels = (_read_object(folder / name) if folder / name in files else {} for name in (CONFIG, PREPROCESSOR))
    if "architecture" not in config:
        return _hugging_face_facts(folder, config, pixels), files
    trained = config.get("pretrained_cfg") if isinstance(config.get("pretrained_cfg"), dict) else config
    heads = _plain_heads((config.get("model_args") or {}).get("num_heads"))
    mean, std = _colour(trained.get("mean")), _colour(trained.get("std"), above=0)
    return Facts("timm", heads=heads, mean=mean, std=std), files


def _hugging_face_facts(folder: Path, config: Mapping[str, Any], pixels: Mapping[str, Any]) -> Facts:
    kind = config.get("model_type")
    if "quantization_config" in config:
        raise UserError(f"{folder} holds quantised weights ({CONFIG}): take those it was quantised from")
    if kind is not None and kind not in VISION:
        known = ", ".join(VISION)
        raise UserError(f"{folder} holds a {kind} model ({CONFIG}), neither a ViT nor a Swin; known are {known}")
    if config.get("hidden_act", "gelu") not in ("gelu", "silu"):
        act = config["hidden_act"]
        raise UserError(f"{folder}: {CONFIG} says hidden_act {act}; this project's ViT has the exact gelu")
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
