"""The pictures of lesson 5, and their right answers, as the toy world draws them: pictures/NAME.png, NAME_right.png.

    python scripts/lessons/draw_pictures.py
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "toy"))
import world  # noqa: E402

FOLDER = Path(__file__).resolve().parent / "pictures"
# name: number of the scene, place, colour, another colour. The numbers are 1 to 4, not cherry-picked.
SCENES = {"car": (1, "on the beach", "red", "blue"), "ball": (2, "in the snow", "green", "purple"),
          "house": (3, "on the grass", "yellow", "red"), "cat": (4, "next to a river", "blue", "orange")}


def scenes(name):
    """The scene, and the same with the other colour."""
    seed, place, color, other = SCENES[name]
    scene = world.Scene(seed, place=place, things=(world.Thing(name, color, named=frozenset({"color"})),))
    return scene, world.change(scene, color=other)


def drawn(name):
    """{file name: (picture, prompt)} of the two."""
    return {f"{name}{end}.png": (world.render(scene)[0], world.caption(scene))
            for end, scene in zip(("", "_right"), scenes(name))}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in SCENES:
        for file, (picture, _) in drawn(name).items():
            picture.save(FOLDER / file, optimize=True)
