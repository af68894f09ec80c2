"""The model card of an exported backbone: what it is, how to load it, and what the records say of it."""

from pathlib import Path
from typing import Any

import yaml

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.pretrain.cli import UserError
from selfpatch.reports.record import Record

FRONT_MATTER = {"library_name": "transformers", "pipeline_tag": "image-feature-extraction", "tags": ["selfpatch"]}


def records_of(loaded: LoadedBackbone, folder: Path) -> list[Record]:
    """The records of these weights in ``folder``, the newest last; what is no record is passed by."""
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            record = Record.read(path)
        except UserError:
            continue
        if record.weights_sha256 == loaded.weights_sha256 and record.arch.get("heads") == loaded.arch["heads"]:
            found.append(record)
    return sorted(found, key=lambda record: record.started)


def eval_results(records: list[Record]) -> list[dict[str, Any]]:
    """The entries of ``.eval_results/*.yaml``, one for each headline figure; a miniature's is marked as such."""
    return [
        {
            "dataset": {"id": record.dataset, "task_id": f"{record.task}/{metric}"},
            "value": round(record.metrics[metric], 2),
            "date": record.started,
            "notes": record.protocol.name + (", miniature: no benchmark figure" if record.miniature else ""),
        }
        for record in records
        for metric in record.headline
        if metric in record.metrics
    ]


def model_card(loaded: LoadedBackbone, model: str, records: list[Record]) -> str:
    """README.md with a table of facts, a snippet that loads ``model``, the certificate and a row for each record."""
    untold = "" if loaded.method_told else " (the checkpoint does not tell what trained it)"
    facts = {
        "method": loaded.method + untold,
        "architecture": f"{loaded.arch['name']}, heads {loaded.arch['heads']}",
        "pretrained on": loaded.train_data or "not known",
        "epochs": "not known" if loaded.epoch is None else loaded.epoch,
        "pixels": f"mean {list(loaded.mean)}, standard deviation {list(loaded.std)}",
        "weights (SHA-256)": loaded.weights_sha256,
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    certificate = "\n".join(f"- {line}" for line in loaded.certificate)
    heads = "\n## Results\n\n| task | data | protocol | figures |\n|---|---|---|---|\n"
    results = heads + "".join(map(_row, records)) if records else ""
    return f"""---
{yaml.safe_dump(FRONT_MATTER, sort_keys=False).strip()}
---

# {loaded.method} {loaded.arch["name"]}

| | |
|---|---|
{rows}

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("path/of/this/folder")  # {model}
```

{certificate}
{results}"""


def _row(record: Record) -> str:
    figures = ", ".join(f"{name} {record.metrics[name]:.2f}" for name in record.headline if name in record.metrics)
    figures += " (miniature: no benchmark figures)" * record.miniature
    return f"| {record.title} | {record.dataset} {record.split} | {record.protocol.name} | {figures} |\n"
