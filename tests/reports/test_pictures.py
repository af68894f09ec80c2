"""Pictures of the sequences that differ most, from the masks that the records were scored on and from no others."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from selfpatch.reports.report import main


@pytest.fixture
def world(davis, write_record, tmp_path):
    """Two methods' records, with masks of two of the sequences that they were scored on."""
    rng = np.random.default_rng(0)
    for method, shift in (("DINO", 0.0), ("DINO+SelfPatch", 0.05)):
        units = davis.units(shift)
        names = sorted(set(units["sequence"].tolist()))
        masks = tmp_path / method / "masks"
        kept = {"images": tmp_path / "images", "truth": tmp_path / "truth", "masks": masks}
        kept = {key: str(folder) for key, folder in kept.items()}
        path = write_record(method, metrics=davis.metrics(units), units=units, kept=kept)
        record = json.loads(path.read_text())
        made = {"weights_sha256": record["weights_sha256"], "protocol": record["protocol"]}
        for name in names:
            for folder in (masks / name, tmp_path / "images" / name, tmp_path / "truth" / name, masks.parent / "done"):
                folder.mkdir(parents=True, exist_ok=True)
            (masks.parent / "done" / f"{name}.json").write_text(json.dumps(made))
            for i in range(3):
                pixels = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"images/{name}/{i:05d}.jpg")
                for folder in (masks, tmp_path / "truth"):
                    Image.fromarray(np.eye(40, 60, dtype=np.uint8)).save(folder / name / f"{i:05d}.png")
    return tmp_path


def report(world, *more):
    main(["--records", str(world / "records"), "--out", str(world / "report"), "--resamples", "20", *more])
    return (world / "report/report.html").read_text()


def test_rows_of_units_lead_to_their_pictures(world):
    page = report(world, "--assets")
    files = sorted(path.name for path in (world / "report/assets").glob("*.webp"))
    assert len(files) >= 4
    for name in files:
        assert f'src="assets/{name}"' in page
        strip = Image.open(world / "report/assets" / name)
        assert strip.size == ((3 * 128, 85) if name.endswith("-clip.webp") else (3 * 240, 20 + 3 * 160))
        assert getattr(strip, "n_frames", 1) == (3 if name.endswith("-clip.webp") else 1)
        anchor = name.removesuffix(".webp").removesuffix("-clip")
        assert f'href="#{anchor}"' in page
        assert f'id="{anchor}"' in page


def test_the_page_alone_holds_all(world):
    page = report(world)
    assert "data:image/webp;base64," in page
    assert not (world / "report/assets").exists()
    start = page.index("data:image/webp;base64,") + 23
    assert Image.open(io.BytesIO(base64.b64decode(page[start : page.index('"', start)]))).format == "WEBP"


def test_masks_of_another_evaluation_are_not_shown(world, capsys):
    for sidecar in (world / "DINO/done").glob("*.json"):
        sidecar.write_text(json.dumps({"weights_sha256": "0", "protocol": {"name": "x"}}))
    assert "data:image/webp" not in report(world)
    assert "are of another evaluation by now" in capsys.readouterr().out


def test_without_a_baseline_the_units_on_which_rows_differ_are_shown(world):
    assert "data:image/webp;base64," in report(world, "--baseline", "none")
