"""What a work dir holds already, and whether a run may go on from it: same recipe, same images, same batches."""

from pathlib import Path

from mmengine.config import Config

from selfpatch.pretrain.checkpoint import load_file, plain
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.renamed import modern

RECIPE = ("method", "model", "views", "schedule", "optimizer", "precision", "seed")  # of a config
UNTRAINED = "Random"  # the method that the checkpoint of an untrained network names


def read_meta(checkpoint: Path) -> dict:
    """The metadata of a checkpoint of this project's pretraining; UserError: the file is no such checkpoint."""
    content = load_file(checkpoint)
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict) or not {"method", "config", "epoch"} <= meta.keys():
        raise UserError(f"{checkpoint} does not come from a pretraining run of this project: choose another --work-dir")
    return meta


def check_resume(checkpoint: Path, config: Config, run: dict) -> None:
    """Refuse to go on with a run under another recipe, on other images or with other batches.

    Args:
        run: what its checkpoints will say of its images and batches (:func:`selfpatch.pretrain.train.check_run`).

    Raises:
        UserError: what differs; or the checkpoint is of no run.
    """
    meta = read_meta(checkpoint)
    if meta["method"] == UNTRAINED:
        raise UserError(f"{checkpoint} is of an untrained network: choose another --work-dir")
    if changed := changed_recipe(meta, config):
        raise UserError(
            f"{checkpoint} was trained with another {', '.join(changed)}: resume with the same config, "
            "or choose another --work-dir"
        )
    if meta.get("data") != run["data"]:
        then = (meta.get("data") or {}).get("images", "an unknown number of")
        raise UserError(
            f"{checkpoint} was trained on other images, by their names: {then} then, {run['data']['images']} now; "
            "give the same folder with --data, or choose another --work-dir"
        )
    if meta.get("batch") != run["batch"] or meta.get("iterations") != run["iterations"]:
        raise UserError(
            f"{checkpoint} was trained in batches of {meta.get('batch')}, and these are of {run['batch']}, which would "
            "move its schedules: choose data.batch_size and --gpus with the same product, or another --work-dir"
        )


def check_untrained(checkpoint: Path, config: Config) -> None:
    """Raise :class:`UserError` unless ``checkpoint`` is the untrained network of this very config."""
    meta = read_meta(checkpoint)
    if meta["method"] != UNTRAINED:
        raise UserError(
            f"{checkpoint} is of a trained network (epoch {meta['epoch']}), which --untrained would overwrite: "
            "choose another --work-dir"
        )
    if changed := changed_recipe(meta, config):
        raise UserError(f"{checkpoint} is untrained with another {', '.join(changed)}: choose another --work-dir")


def changed_recipe(meta: dict, config: Config) -> list[str]:
    """The sections of the recipe in which ``config`` differs from the one in a checkpoint's metadata."""
    then, now = modern(meta["config"]), plain(config.to_dict())
    return [section for section in RECIPE if then.get(section) != now[section]]
