"""The pictures of lesson 5 are what the toy world draws."""
import runpy
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

LESSONS = Path(__file__).parents[2] / "scripts" / "lessons"


@pytest.fixture
def drawing(monkeypatch):
    import sys
    monkeypatch.setattr(sys, "path", list(sys.path))       # the script adds the toy's folder
    return runpy.run_path(str(LESSONS / "draw_pictures.py"))


def test_the_files_are_what_the_world_draws(drawing):
    wanted = {file: both for name in drawing["SCENES"] for file, both in drawing["drawn"](name).items()}
    assert {path.name for path in (LESSONS / "pictures").iterdir()} == set(wanted)
    for file, (picture, _) in wanted.items():
        with Image.open(LESSONS / "pictures" / file) as kept:
            apart = np.abs(np.asarray(kept, float) - np.asarray(picture)).mean()
            # They were drawn by Pillow 13; older ones draw the edges of shapes a little differently.
            assert apart == 0 if int(PIL.__version__.split(".")[0]) >= 13 else apart < 1, file


def test_the_lesson_describes_them_as_the_world_does(drawing):
    text = (LESSONS.parent / "teaching" / "5_real_pictures.py").read_text(encoding="utf-8")
    for name in drawing["SCENES"]:
        (_, P), (_, P_star) = drawing["drawn"](name).values()
        assert f'"{name}": ("{P}", "{P_star}")' in text
