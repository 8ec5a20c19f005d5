"""The judge that ships: what the toy model's numbers rest on."""
import numpy as np
import pytest
import torch

import judge as judging
import world


@pytest.fixture(scope="module")
def judge():
    return judging.load()


def read(judge, scenes):
    return judging.read(judge, [world.render(scene)[0] for scene in scenes])


def test_the_file_is_small():
    assert judging.FILE.stat().st_size < 2 ** 20


def test_a_missing_file_is_told_plainly(tmp_path):
    with pytest.raises(FileNotFoundError, match="judge.py makes it"):
        judging.load(tmp_path / "none.safetensors")


def test_fresh_renders_are_read_right(judge):
    """Forty scenes that it has not seen: at most two wrong in each attribute."""
    scenes = [world.sample(seed) for seed in range(30_000_000, 30_000_040)]
    reading, true = read(judge, scenes), [judging.truth(scene) for scene in scenes]
    kinds, colors, _, size, place, style, _ = (torch.tensor([list(t) if hasattr(t, "__len__") else t for t in part])
                                               for part in zip(*true))
    for wrong in (((reading.kinds > 0) != (kinds > 0)).any(1), (reading.colors.argmax(2) != colors)[colors >= 0],
                  reading.place.argmax(1) != place, reading.style.argmax(1) != style,
                  (reading.size.argmax(1) != size)[size >= 0]):
        assert wrong.sum() <= 2


def test_each_of_two_objects_has_its_own_colour(judge):
    """The same two objects with their colours exchanged are two readings."""
    for colors in (("red", "blue"), ("blue", "red")):
        things = [world.Thing(kind, color) for kind, color in zip(("car", "house"), colors)]
        scenes = [world.Scene(seed, things=tuple(things)) for seed in range(4)]
        reading = read(judge, scenes)
        for kind, color in zip(("car", "house"), colors):
            k = world.KINDS.index(kind)
            assert (reading.kinds[:, k] > 0).all()
            assert (reading.colors[:, k].argmax(1) == tuple(world.COLORS).index(color)).all()


def test_fur_is_told_from_none(judge):
    def amount(of):
        scenes = [world.Scene(seed, things=(world.Thing("cat", amount=of),)) for seed in range(4)]
        return read(judge, scenes).amounts[:, world.KINDS.index("cat")].mean()

    assert amount(0.0) < 0.25 < 0.7 < amount(1.0)


@pytest.mark.parametrize("name, count, scene", [
    ("sun", 1, dict(place="on the beach")), ("sun", 2, dict(place="on the beach", suns=2)), ("head", 1, {}),
    ("head", 2, dict(things=(world.Thing("dog", parts=2),))), ("wheel", 2, dict(things=(world.Thing("bicycle"),))),
    ("thing", 2, dict(things=(world.Thing("dog"), world.Thing("dog", "red"))))])
def test_it_counts(judge, name, count, scene):
    """Suns, heads, wheels, things, and a second one where there is: right in at least six of eight drawings each."""
    dog = (world.Thing("dog"),)
    counts = read(judge, [world.Scene(seed, **{"things": dog, **scene}) for seed in range(8)]).counts
    assert (counts[:, judging.COUNTED.index(name)].round() == count).sum() >= 6


@pytest.mark.parametrize("style", ["", *world.STYLES])
def test_all_sizes_show_the_same_drawing(style):
    """A picture of 64 pixels is the one of 128, reduced."""
    for seed in range(4):
        scene = world.Scene(seed, style, "at sunset", (world.Thing("cat", amount=1.0),))
        small, large = (world.render(scene, size)[0] for size in (64, 128))
        assert np.abs(np.asarray(small, float) - np.asarray(large.reduce(2), float)).max() <= 1


def test_it_says_where(judge):
    """The object's cells lie where the object was drawn, and nowhere else but for its rim."""
    picture, masks = world.render(world.Scene(3, things=(world.Thing("house"),)))
    inside = torch.from_numpy(masks["object 0"]).reshape(16, 8, 16, 8).mean((1, 3))
    where = judging.read(judge, [picture]).where[0, world.KINDS.index("house")] > 0
    assert where[inside > 0.9].float().mean() > 0.9 and not where[inside == 0].any()
