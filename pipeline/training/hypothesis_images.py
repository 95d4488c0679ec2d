"""Files of the images of a hypothesis, which are marked as imputed ones are."""

from typing import Any

from pipeline.store.hypotheses import HypothesisTables
from pipeline.store.made_images import DESCRIPTION, IMPUTED, image_file, numbers_file
from pipeline.store.marking import Marker
from pipeline.training.grid_images import GridImages
from synthesis.grid import LEVELS
from synthesis.hypothesis_images import ExpectedImages


def write_images(
    hypothesis: str,
    target: str,
    found: ExpectedImages,
    says: str,
    *,
    grid: GridImages,
    out: HypothesisTables,
    marker: Marker,
) -> dict[str, Any]:
    """Write the images of a hypothesis and target; return their row of `images.csv`.

    As arrays, before, after, difference and standard deviation; as files for viewers the first two, with a watermark,
    and of volumes the others too. Pictures have 256 levels, which is too few for small differences.

    Args:
        hypothesis: in a line.
        target: modality.
        found: images.
        says: association, or what it takes for an effect.
        grid: that they are on.
        out: where they go.
        marker: marks those that look like scans.
    """
    kind, path = grid.kinds[target], out.stem(hypothesis, target)
    stem = path.rpartition("/")[2]
    facts = {
        "origin": IMPUTED, "hypothesis": hypothesis, "modality": target, "patients": found.patients,
        "what": "expected by a joint model of training patients, mean over test patients; of nobody, never measured",
        "says": says, "decoder": "pca", "levels": 255 if kind == "image" else LEVELS,
    }  # fmt: skip
    images = {name: getattr(found, name) for name in ("before", "after", "difference", "sd")}
    for what in ("before", "after"):
        name, description = f"{stem}_{what}", DESCRIPTION.format(f"mean {what}")
        file, content = image_file(
            images[what], name, kind, spacing_mm=grid.spacing_mm, pixels=grid.pixels, marker=marker,
            description=description,
        )  # fmt: skip
        out.save_image(file, content, {**facts, "statistic": f"mean {what}", **marker.facts(name)})
    for what, statistic in {"difference": "mean difference", "sd": "sd of the mean difference"}.items():
        if kind == "volume":
            file, content = numbers_file(
                images[what], f"{stem}_{what}", spacing_mm=grid.spacing_mm, description=DESCRIPTION.format(statistic)
            )
            out.save_image(file, content, {**facts, "statistic": statistic, "mark": None})
    shape = grid.shape_of(target)
    file, content_hash = out.save_arrays(path, {name: values.reshape(shape) for name, values in images.items()})
    return {
        "hypothesis": hypothesis, "target": target, "kind": kind, "patients": found.patients, "images": path,
        "file": file, "sha256": content_hash,
    }  # fmt: skip
