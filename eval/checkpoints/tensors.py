"""Reading a checkpoint's layout: which names it holds, of which family it is, which of them are a backbone's."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfpatch.eval.checkpoints.assembly import Parts, assemble
from selfpatch.eval.checkpoints.families import AVERAGES, BOOKKEEPING, FAMILIES, SYNONYMS, foreign_network
from selfpatch.eval.checkpoints.family import LAYER_SCALE, ONLY_MODEL, Family, fits_template
from selfpatch.eval.checkpoints.inert import Placeholder
from selfpatch.eval.checkpoints.libraries import TRAINERS
from selfpatch.eval.checkpoints.signs import fixed_table, has_cls, has_layer_scale, shape_text
from selfpatch.pretrain.cli import UserError, listed

WRAPPERS = re.compile(r"^((state_dict|model)\.)+")  # what training scripts put their one network under
# what DDP and others add
WRAPPED_MODULES = re.compile(r"(^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PATCH_EMBEDDINGS = re.compile(  # of every known family: where one stands, a backbone stands
    r"(patch_embed\.(proj|projection)|embeddings\.patch_embeddings(\.projection)?)\.weight$"
)


@dataclass(frozen=True)
class FoundBackbone:
    """The tensors of one network's backbone in a file."""

    family: Family
    which: str  # teacher, student or backbone
    prefix: str  # of its names in the file
    parts: Parts
    left_out: Counter[str]  # pattern -> how many tensors it explains that are no part of the backbone
    meta: dict[str, Any]  # our own checkpoints' metadata; empty for others

    @property
    def state(self) -> dict[str, Tensor]:
        """Our name -> tensor, float32."""
        return self.parts.state


def read_backbone(path: Path, content: Any, which: str | None = None, prefix: str | None = None) -> FoundBackbone:
    """Sort the tensors of a loaded checkpoint into the chosen backbone's and those that its family leaves out.

    Raises:
        UserError: the family is unknown, the network is not there, or a tensor is on no list.
    """
    if which == "ema":
        entries = [content.get(name) for name in AVERAGES] if isinstance(content, Mapping) else []
        averages = [entry for entry in entries if isinstance(entry, Mapping)]
        if not averages:
            raise UserError(f"{path} holds no average of the weights: it has no {' or '.join(AVERAGES)}")
        content, which = {"model": averages[0]}, None
    tensors, meta, left_out = named_tensors(path, content), metadata(content), Counter()
    if prefix is not None:
        prefix = prefix.rstrip(".") + "."
        inside = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if not inside:
            others = _places(tensors) or listed(sorted(tensors), 3)
            raise UserError(f"{path} has no tensor under --prefix {prefix}; {others}")
        left_out.update({"all outside --prefix": len(tensors) - len(inside)} if len(inside) < len(tensors) else {})
        tensors = {name.removeprefix(prefix): tensor for name, tensor in inside.items()}
    foreign = None if any(map(PATCH_EMBEDDINGS.search, tensors)) else foreign_network(tensors)
    family = None if foreign else locate(tensors, which, marks_of(content) if prefix is None else ())
    if family is None:
        raise UserError(_unknown(path, tensors))
    which, inner = _network(path, family, which, tensors, meta)
    # our own checkpoints list the parts of their method themselves: a new method needs no entry here
    own = meta.get("left_out", meta.get("beside", ()))  # its former name
    left_out_beside = (*(f"{p}*" for p in family.networks.values() if p != inner), *family.left_out, *own)
    left_out_within = family.backbone_left_out
    if not meta.get("arch", {}).get("final_norm", True):  # fresh in our export to a library whose class has one
        final = {theirs.partition("{")[0] + "*" for theirs, ours in family.names if ours.startswith("norm.")}
        left_out_within = (*left_out_within, *(["norm3.*"] if family.mmdet else sorted(final)))

    parts, unexplained = _parts(path, family, inner, tensors, left_out_beside, left_out_within, left_out)
    if unexplained:
        foreign, places = foreign_network(tensors), _places(unexplained)
        hint = f": {foreign}" if foreign else f"; {places}" if places else ""
        names = listed(sorted(unexplained))
        raise UserError(f"{path} ({family.name} layout) holds what it cannot explain: {names}{hint}")
    assemble(parts)
    return FoundBackbone(family, which, (prefix or "") + inner, parts, left_out, meta)


def _parts(
    path: Path,
    family: Family,
    prefix: str,
    tensors: Mapping[str, Tensor],
    left_out_beside: Collection[str],
    left_out_within: Collection[str],
    left_out: Counter[str],
) -> tuple[Parts, list[str]]:
    """The backbone's tensors under our names, and the names that nothing explains; counts those left out."""
    unexplained, parts = [], Parts(path, family, prefix, {}, {})
    inner_names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    used = [pair for pair in family.names if any(fits_template(name, pair[0]) for name in inner_names)]
    others = [pair for pair in family.names if pair not in used and "{i}" not in pair[0]]
    parts.family = family = replace(family, names=(*used, *others))  # so that what is lacking is named as in this file
    for name, tensor in tensors.items():
        inner, within = name.removeprefix(prefix), name.startswith(prefix)
        pattern = explaining(inner if within else name, left_out_within if within else left_out_beside)
        if pattern is not None:
            left_out[prefix + pattern if within else pattern] += 1
        elif not within or not tensor.is_floating_point():
            unexplained.append(name)
        else:
            ours, tensor = _from_mmdet(path, inner, tensor) if family.mmdet else (family.renamed(inner), tensor)
            if ours in parts.state:
                raise UserError(f"{path} ({family.name} layout): {parts.names[ours]} and {name} both come to {ours}")
            parts.state[ours], parts.names[ours] = tensor.detach().to(torch.float32).contiguous(), name
    return parts, unexplained


def named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its path through the nested dictionaries, without wrappers' names.

    Raises:
        UserError: there is none, or two come to the same name.
    """
    found: dict[str, Tensor] = {}

    def walk(value: Any, trail: str) -> None:
        if isinstance(value, Tensor):
            name = WRAPPERS.sub("", WRAPPED_MODULES.sub("", trail))
            if name in found:
                raise UserError(f"{path} holds two tensors that come to the name {name}")
            found[name] = value
        elif isinstance(value, Placeholder) and "_modules" in value.fields():  # a model that was pickled whole
            fields = value.fields()
            for part in ("_parameters", "_buffers", "_modules"):
                walk(fields.get(part) or {}, trail)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                inner = f"{trail}.{key}" if trail else str(key)
                if WRAPPERS.sub("", inner) not in BOOKKEEPING:
                    walk(item, inner)

    walk(content, "")
    if not found:
        raise UserError(f"{path} holds no tensors by name: it is not a checkpoint of a network")
    return found


def metadata(content: Any) -> dict[str, Any]:
    """The metadata of one of our own checkpoints or exports; empty for another's."""
    meta = content.get("meta", getattr(content, "meta", None)) if isinstance(content, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) and isinstance(meta.get("arch"), Mapping) else {}


def marks_of(content: Any) -> set[str]:
    """What a file's top level says beside the names of tensors: its entries, metadata, and what it is called there."""
    if not isinstance(content, Mapping):
        return set()
    marks = {str(entry) for entry in content} | {f"meta.{key}" for key in metadata(content)}
    if set(content) == {"model"}:
        marks.add(ONLY_MODEL)
    if isinstance(content.get("arch"), str):
        marks.add(f"arch={content['arch']}")
    return marks


def recognise(tensors: Mapping[str, Tensor], marks: Collection[str] = ()) -> Family | None:
    """The family of a checkpoint, from its tensors and the ``marks`` of its top level; None: unknown."""
    found = {*tensors, *marks}
    if has_layer_scale(tensors):
        found.add(LAYER_SCALE)
    if table := fixed_table(tensors.get("pos_embed")):
        found.add(table)
    return next((family for family in FAMILIES if family.fits(found, has_cls(tensors))), None)


def locate(
    tensors: Mapping[str, Tensor], which: str | None, marks: Collection[str] = (), depth: int = 3
) -> Family | None:
    """The family of the networks in a file, at its top level or under the names of a known training script or library.

    Returns:
        a family whose networks are those of the file; None: nothing of a known one is there.
    """
    family = recognise(tensors, marks)
    if family is not None or not depth:
        return family
    for trainer in TRAINERS:
        places = {network: prefix for network, prefix in trainer.networks.items() if _any_under(prefix, tensors)}
        if not places or not all(any(fnmatchcase(name, sign) for name in tensors) for sign in trainer.signs):
            continue
        prefix = places.get(SYNONYMS.get(which, which), next(iter(places.values())))
        inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        inner = locate(inside, which, depth=depth - 1)
        if inner is None:
            continue
        if len(inner.networks) > 1:  # a wrapper round a file of several networks
            networks = {network: prefix + own for network, own in inner.networks.items()}
        else:
            (own,) = inner.networks.values()
            networks = {network: place + own for network, place in places.items()}
        left_out = (*(place + pattern for place in places.values() for pattern in inner.left_out), *trainer.left_out)
        return replace(inner, networks=networks, left_out=left_out, method=trainer.method or inner.method)
    return None


def _any_under(prefix: str, names: Collection[str]) -> bool:
    return any(name.startswith(prefix) for name in names)


def _unknown(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """One line for a file of no known family: what it is instead, or where a backbone stands in it."""
    if foreign := foreign_network(tensors):
        return f"{path} holds {foreign}"
    if places := _places(tensors):
        return f"{path} is of no known layout, but {places}"
    known = ", ".join(family.name for family in FAMILIES)
    return f"{path} is of no known family, neither a ViT nor a Swin ({listed(sorted(tensors), 3)}); known are {known}"


def _places(names: Collection[str]) -> str | None:
    """Where a patch embedding stands under a name: what ``--prefix`` can choose."""
    places = sorted({name[: found.start()] for name in names if (found := PATCH_EMBEDDINGS.search(name))})
    places = [place.rstrip(".") for place in places if place]
    if not places:
        return None
    return f"a backbone stands under {listed(places, 3)}: try --prefix {places[0]}"


def _network(
    path: Path, family: Family, which: str | None, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[str, str]:
    """The chosen network and the prefix of its backbone."""
    networks = {name: prefix for name, prefix in family.networks.items() if _any_under(prefix, tensors)}
    if not networks:
        raise UserError(f"{path} ({family.name} layout) has no tensor under {' or '.join(family.networks.values())}")
    if which is None:
        # before methods said it themselves, MoBY was the only one whose downstream tasks take the online network
        before = "student" if str(meta.get("method", "")).startswith("MoBY") else None
        stated = meta.get("downstream", before)
        which = stated if stated in networks else next(iter(networks))
    asked = SYNONYMS.get(which, which)
    if set(networks) == {"backbone"} and asked == "teacher":  # the one network is neither: nothing to choose
        asked = "backbone"
    if asked not in networks:
        raise UserError(f"{path} ({family.name} layout) holds no {which} network, only: {', '.join(networks)}")
    return asked, networks[asked]


def _from_mmdet(path: Path, name: str, tensor: Tensor) -> tuple[str, Tensor]:
    from selfpatch.pretrain.swin import from_mmdet

    try:
        return next(iter(from_mmdet({name: tensor}).items()))
    except (RuntimeError, IndexError):  # its channels do not come in fours
        raise UserError(f"{path}: {name} is of the wrong shape ({shape_text(tensor)})") from None


def explaining(name: str, patterns: Collection[str]) -> str | None:
    """The first of ``patterns`` that ``name`` matches."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)
