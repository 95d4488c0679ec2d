"""The page of slices: what is in its sheets, its letters, and that nothing but its own script may run."""

import base64
import hashlib
import io
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reporting.viewer import LONGEST_SIDE, viewer_page

SHAPE = (10, 12, 7)


def volume() -> NDArray[np.float32]:
    """Smooth, so that JPEG keeps it, and different along each axis."""
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in SHAPE), indexing="ij")
    return (0.5 * x + 0.3 * y + 0.2 * z).astype(np.float32)


def sheet(page: str, name: str) -> NDArray[np.float64]:
    """The voxels (X, Y, Z) of a sheet, read as the script reads them."""
    uri = re.search(rf'<img id="{name}" src="data:image/\w+;base64,([^"]+)"', page)
    assert uri
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri[1]))))
    found = re.search(r'data-shape="([\d ]+)" data-columns="(\d+)"', page)
    assert found
    (width, height, slices), columns = map(int, found[1].split()), int(found[2])
    out = np.zeros((width, height, slices))
    for z in range(slices):
        for y in range(height):
            row = z // columns * height + y
            out[:, y, z] = pixels[row, z % columns * width : (z % columns + 1) * width]
    return out


def test_sheets_hold_the_voxels() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3:7, 4:8, 2:5] = True
    occlusion = np.zeros(SHAPE, np.float32)
    occlusion[1, 2, 3], occlusion[8, 9, 5] = 2.0, -1.0
    page = viewer_page("a", volume(), (1.0, 1.0, 1.0), mask=mask, occlusion=occlusion, occlusion_of="AD")
    low, high = np.percentile(volume(), (1, 99.5))
    expected = 255 * np.clip((volume() - low) / (high - low), 0, 1)
    assert np.abs(sheet(page, "grey") - expected).mean() < 4
    np.testing.assert_array_equal(sheet(page, "mask") > 127, mask)
    heat = sheet(page, "map")
    assert (heat[1, 2, 3], heat[8, 9, 5], heat[0, 0, 0]) == (255, 64, 128)
    assert "lowers the odds of AD" in page
    assert 'id="slice0" min="0" max="9" value="4"' in page  # the middle of the mask, 4.5


@pytest.mark.parametrize(
    ("convention", "sides"), [("radiological", ["A", "P", "R", "L", "R", "L"]), ("neurological", list("PALRLR"))]
)
def test_letters_are_those_of_the_convention(convention: str, sides: list[str]) -> None:
    page = viewer_page("a", volume(), (1.0, 1.0, 1.0), convention=convention)
    assert re.findall(r'class="(?:left|right)">(\w)<', page) == sides
    assert re.findall(r'class="(?:top|bottom)">(\w)<', page) == ["S", "I", "S", "I", "A", "P"]
    assert f'data-convention="{convention}"' in page
    assert f"({convention} convention)" in page


def test_only_the_script_of_the_page_runs_and_nothing_is_loaded() -> None:
    evil = "<script>alert(1)</script>\"'&"
    page = viewer_page(evil, volume(), (1.0, 1.0, 1.0), words=evil, back="../report.html", occlusion_of=evil)
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    assert f"{policy}{digest}'; base-uri 'none'; form-action 'none'\"" in page
    assert not re.search(r"https?:|src=\"(?!data:)|@import|url\(|\bon\w+=|fetch\(|XMLHttp|import\(", page)
    assert page.count("alert(1)") == page.count("&lt;script&gt;alert(1)&lt;/script&gt;")


def test_large_volumes_are_shown_coarser_and_stay_small() -> None:
    large = np.random.default_rng(0).random((160, 150, 60), np.float32)
    page = viewer_page("a", large, (1.0, 1.0, 2.5))
    shape = re.search(r'data-shape="([\d ]+)"', page)
    assert shape
    assert [int(n) for n in shape[1].split()] == [LONGEST_SIDE, 90, 90]
    assert len(page) < 700_000  # noise is the worst case of JPEG
    assert 'id="mask' not in page


def test_layers_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a: the volume is \(10, 12, 7\), its mask \(2, 2, 2\)"):
        viewer_page("a", volume(), (1.0, 1.0, 1.0), mask=np.ones((2, 2, 2), bool))
