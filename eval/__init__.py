"""Downstream evaluation: a checkpoint goes in, a record of its score comes out.

From Python, the same as `tools/eval_davis.sh CKPT --data DIR` and its like do from the shell:

    from selfpatch.eval import evaluate, load_backbone

    backbone = load_backbone("checkpoint.pth")       # any family; raises UserError instead of guessing
    print(backbone.report())
    record = evaluate("davis", "checkpoint.pth", data="data/DAVIS", topk=7)
    print(record.metrics["J&F"])
"""

from importlib import import_module
from pathlib import Path
from typing import Any

PUBLIC = {  # name -> the module that defines it; imported at the first use, since most bring torch along
    "LoadedBackbone": "selfpatch.eval.checkpoints.load",
    "load_backbone": "selfpatch.eval.checkpoints.load",
    "evaluate": "selfpatch.eval.run",
}
__all__ = list(PUBLIC)
# modules that moved into rooms still answer to the names that older scripts know: selfpatch.eval.jf
__path__.append(str(Path(__file__).with_name("before_rooms")))


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
