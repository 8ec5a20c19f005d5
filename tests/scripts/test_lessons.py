"""The lessons: each runs as a script, on few steps, from any folder; and its notebook says the same and was run."""
import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from make_notebooks import LARGEST, SOURCES, STUDENTS, cells_of, script, students, teachers
from p2p_min.lessons import figures
from p2p_min.lessons.__main__ import main as copy_lessons

LESSONS = sorted(SOURCES.glob("[0-9]_*.py"))

each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def run(lesson, folder, monkeypatch):
    """Its own asserts hold, and each figure is a picture."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(figures, "FOLDER", folder / "figures")
    exec(compile(script(lesson), str(lesson), "exec"), {"__name__": "__main__"})
    pictures = sorted(folder.glob("figures/*.png"))
    assert len(pictures) >= 2
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 64 and max(picture.size) < 2000, f"{path.name} is {picture.size}"


@each_lesson
def test_a_lesson_runs_and_draws(lesson, tmp_path, monkeypatch):
    """In short: one seed, few steps, and another default dtype than in its notebook."""
    few = "5" if lesson.name[0] in "13" else "3"           # those two need 5 for their asserts
    monkeypatch.setenv("LESSON_STEPS", few)
    monkeypatch.setenv("LESSON_SEEDS", "1")
    torch.set_default_dtype(torch.float64)
    try:
        run(lesson, tmp_path, monkeypatch)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.long
@each_lesson
def test_a_lesson_is_right_as_a_learner_runs_it(lesson, tmp_path, monkeypatch):
    """All steps and all seeds: the asserts too that few steps leave out, on which the text's numbers rest."""
    run(lesson, tmp_path, monkeypatch)


@each_lesson
def test_a_lesson_fits_a_projector(lesson):
    """The first cell is prose with the title, prose is all comments, and no code has more than 100 characters."""
    text = lesson.read_text(encoding="utf-8")
    before, first, *cells = re.split(r"^# %%", text, flags=re.M)
    assert before == "" and first.startswith(f" [markdown]\n# # {lesson.name[0]}. ")
    for cell in cells:
        marker, *lines = cell.rstrip().split("\n")
        if marker.startswith(" [markdown]"):
            assert all(line.startswith("#") for line in lines), f"code among prose: {lines[0]!r}"
    code = [line for cell in cells_of(lesson) if cell.kind == "code" for line in cell.text.splitlines()]
    assert max(map(len, code)) <= 100


def without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | (dict(execution_count=None, outputs=[]) if cell["cell_type"] == "code" else {}) for cell in cells]


@each_lesson
def test_the_notebooks_are_made_of_the_source(lesson):
    for folder, made in (SOURCES, teachers(lesson)), (STUDENTS, students(lesson)):
        path = folder / f"{lesson.stem}.ipynb"
        assert path.stat().st_size <= LARGEST
        assert without_outputs(path) == made["cells"], "run scripts/make_notebooks.py"


@each_lesson
def test_a_teachers_notebook_was_run(lesson):
    """All cells in their order, without an error or a warning; figures are in it."""
    cells = json.loads(lesson.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    if not any(cell["execution_count"] for cell in code):
        pytest.skip("not run yet")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    shown = [output for output in outputs if "image/jpeg" in output.get("data", {})]
    drawn = re.findall(r"(?m)^(?:show|matrix|curves)\(\"", lesson.read_text(encoding="utf-8"))
    assert len(shown) >= max(2, len(drawn))


# ---- python -m p2p_min.lessons -------------------------------------------------------------------------------------

NOTEBOOKS = [lesson.with_suffix(".ipynb").name for lesson in LESSONS]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_notebooks_can_be_copied_and_answers_are_left_alone(tmp_path):
    """From any folder; without a name into p2p_min_lessons."""
    copy = [sys.executable, "-m", "p2p_min.lessons"]
    subprocess.run(copy, check=True, capture_output=True, cwd=tmp_path, timeout=300)
    folder = tmp_path / "p2p_min_lessons"
    assert names(tmp_path) == ["p2p_min_lessons"] and names(folder) == NOTEBOOKS
    for name in NOTEBOOKS:
        assert (folder / name).read_bytes() == (STUDENTS / name).read_bytes()
    (folder / NOTEBOOKS[0]).write_text("my answers")
    (folder / NOTEBOOKS[1]).unlink()
    assert copy_lessons([str(folder)]) == 0 and names(folder) == NOTEBOOKS
    assert (folder / NOTEBOOKS[0]).read_text() == "my answers"


def test_help_is_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        copy_lessons(["--help"])
    assert ended.value.code == 0 and "FOLDER" in capsys.readouterr().out and not names(tmp_path)


def full_disk(path, content):
    with open(path, "wb") as file:
        file.write(content[:1000])
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("arguments, words", [
    (["--hepl"], "--hepl"), (["two", "folders"], "folders"), (["file"], "file: File exists"),
    (["file/below"], "Not a directory"), (["full"], "No space left on device")], ids=str)
def test_what_cannot_be_copied_is_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    """And leaves nothing, such as half a notebook that would later be taken for the learner's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    if arguments == ["full"]:
        monkeypatch.setattr(Path, "write_bytes", full_disk)
    assert copy_lessons(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and words in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]
