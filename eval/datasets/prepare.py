"""The command line of the data doctor: unpack what was downloaded, then tell what is there, missing or odd."""

import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from selfpatch.eval.datasets.archives import unpack_downloads
from selfpatch.pretrain.cli import UserError, command_parser
from selfpatch.pretrain.settings import check

DESCRIPTION = """Look at a data set: what is there, what is missing or odd, where to get it.

Archives that you have downloaded into its folder, or beside it, are unpacked first; a stopped unpacking leaves nothing
half done. Expected layout:
  data/imagenet   train/<wnid>/*.JPEG
  data/coco       annotations/instances_{train,val}2017.json, train2017/, val2017/
  data/ade20k     images/{training,validation}/, annotations/{training,validation}/ [, classes.json]
  data/DAVIS      JPEGImages/480p/, Annotations/480p/, ImageSets/2017/val.txt

Examples:
  tools/prepare_data.sh ade20k
  tools/prepare_data.sh coco --data /datasets/coco --all
"""


def sets() -> dict[str, ModuleType]:
    """Name → module of every data set: the modules beside this one that say where theirs comes from."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    names = [path.stem for path in files if re.search("^SOURCE = ", path.read_text(encoding="utf-8"), re.MULTILINE)]
    return {name: importlib.import_module(f"selfpatch.eval.datasets.{name}") for name in names}


def main(argv: Sequence[str]) -> None:
    """Unpack, check, print; UserError if anything is wrong."""
    from selfpatch.eval import tasks  # they stand above the data sets, and this command above both

    known = sets()
    loaded = {name: tasks.load(name) for name in tasks.names()}
    own = [
        name
        for name, task in loaded.items()
        if getattr(task, "SOURCE", name) not in known and not getattr(task, "DIAGNOSTIC", False)  # it has no set
    ]
    parser = command_parser(DESCRIPTION)
    parser.add_argument("set", choices=[*known, *own], help="which data set")
    parser.add_argument("--data", type=Path, metavar="DIR", help="its folder; without it: data/<set>")
    parser.add_argument("--images", type=Path, metavar="DIR", help="coco: the photographs, where they lie elsewhere")
    parser.add_argument("--all", action="store_true", help="open every file instead of a sample of large sets")
    given = parser.parse_args(argv)
    if given.set in own:
        _open(loaded[given.set], given.data)
        return
    module = known[given.set]
    root = given.data or Path(module.SOURCE.folder)
    for line in unpack_downloads(module.SOURCE, root):
        print(line)
    more = {"images": given.images} if "images" in inspect.signature(module.check).parameters else {}
    findings = module.check(root, thorough=given.all, **more)
    for finding in findings:
        print(f"{finding.level:<5}  {finding}")
    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        raise UserError(
            f"{given.set} in {root} cannot be used yet: {errors} thing{'s' * (errors > 1)} to mend, see above"
        )
    print(f"{given.set} in {root} is ready")


def _open(task: ModuleType, root: Path | None) -> None:
    """Look at the data of a task that brings its own, by what its evaluation opens it with."""
    settings = check(task.Settings, {} if root is None else {"data": root}, what="setting")
    for finding in task.open(settings).findings:
        print(f"warn   {finding}")
    print(f"{settings.data} is ready")
