"""Files of images that nobody took."""

import json
from pathlib import Path

from pipeline.store.made_images import write_image


def test_every_image_has_a_json_of_its_own_beside_it_whatever_dots_its_name_has(tmp_path: Path) -> None:
    names = {"sub.1_PET.nii.gz": "sub.1_PET.json", "sub.2_PET.nii.gz": "sub.2_PET.json", "a.png": "a.json"}
    for name in names:
        write_image(tmp_path / name, b"content", {"origin": "imputed", "file": name})
    assert {path.name for path in tmp_path.iterdir()} == {*names, *names.values()}
    assert all(json.loads((tmp_path / beside).read_text("utf-8"))["file"] == name for name, beside in names.items())
