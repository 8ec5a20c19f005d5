"""The lessons: each runs as a script, on few steps, and writes its figures."""
import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "scripts" / "lessons"
LESSONS = sorted(FOLDER.glob("[0-9]*.py"))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_and_draws(lesson, tmp_path, monkeypatch):
    """Its own asserts hold at few steps; each figure that it names is there, and is a picture."""
    monkeypatch.chdir(FOLDER.parents[1])
    monkeypatch.setenv("LESSON_STEPS", "5")
    monkeypatch.syspath_prepend(str(FOLDER))
    import figures
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    runpy.run_path(str(lesson), run_name="__main__")
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) >= 2
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 64 and max(picture.size) < 2000, f"{path.name} is {picture.size}"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_a_short_notebook(lesson):
    """Percent cells: the first is prose with the title, prose is all comments, and there are at most 130 lines."""
    text = lesson.read_text(encoding="utf-8")
    cells = re.split(r"^# %%", text, flags=re.M)
    assert cells[0] == "" and cells[1].startswith(f" [markdown]\n# # {lesson.name[0]}. ")
    assert len(text.splitlines()) <= 130
    for cell in cells[1:]:
        first, *lines = cell.rstrip().split("\n")
        assert first in ("", " [markdown]"), f"no kind of cell: {first!r}"
        assert first == "" or all(line.startswith("#") for line in lines), f"code among prose: {lines[0]!r}"
    assert any("assert" in cell for cell in cells), "a lesson checks what it says"
