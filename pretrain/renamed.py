"""Names from before: what older configs, checkpoints and views call things, and what they are called now."""

from collections.abc import Iterator, Mapping
from typing import Any

WORDS = {"centre": "center", "grey": "grayscale", "solarise": "solarize"}  # parts of keys, of buffers, of arguments
METHODS = {"MoBYSelfPatchPretraining": "moby_selfpatch"}  # model.type -> method, where method was another's


def renamed(name: str) -> str:
    """Today's form of a dotted name: ``cls_center`` for ``cls_centre``."""
    return ".".join("_".join(WORDS.get(word, word) for word in part.split("_")) for part in name.split("."))


def old_keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each key of a config, dotted, that has another name today, with that name."""
    for key, value in config.items():
        if renamed(key) != key:
            yield f"{prefix}{key}", f"{prefix}{renamed(key)}"
        elif f"{prefix}{key}" == "model.type":  # one name is enough
            yield "model.type", "method"
        elif isinstance(value, Mapping):
            yield from old_keys(value, f"{prefix}{key}.")


def modern(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of an older checkpoint or record, or one view of it, as it would be written today."""
    new = {renamed(key): modern(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    if isinstance(new.get("model"), dict) and "type" in new["model"]:
        new["method"] = METHODS.get(new["model"].pop("type"), new.get("method"))
    return new
