"""Edits of the drawn world, whose right answer is known: scenes with one thing changed, and both rendered.

Captions say all of a scene but the medium size, so that nothing is left to the model's taste. Seeds are far from those
of the toy model's training and of the judge's.
"""
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

import judge as judging
import world

FIRST_SEED = 30_000_000
SAID = frozenset({"color", "size", "amount"})
PLACES = tuple(place for place in world.PLACES if place)
FURRY = tuple(world.AMOUNT_WORD)
RIGHT_PLACES = "colour", "background"          # the kinds whose right answer is compared pixel by pixel
COUNT = 112


@dataclass(frozen=True)
class Scenes:
    """An edit of a drawn scene.

    words    the blend words that one would annotate, of source and target; None: no such word
    factors  of re-weighting, by word
    changed  the attribute that the edit is about, as the judge calls it
    region   where that may be seen: "object 0", "place" or "style" (everywhere)
    """
    key: str
    kind: str
    source: world.Scene
    right: world.Scene
    changed: str
    region: str
    words: tuple = (None, None)
    factors: dict = field(default_factory=dict)

    @property
    def prompts(self):
        return [world.caption(self.source), world.caption(self.right if not self.factors else self.source)]

    def pictures(self, size, factor):
        """The source, the right answer, and what may change, a (height, width) array of truths.

        That is the object in both pictures, or all but the object, or everything; and the shadow that moves with it.
        """
        side = size // factor * factor
        (source, before), (right, after) = (world.render(scene, side) for scene in (self.source, self.right))
        own = {"object 0": (before["object 0"] > 0) | (after["object 0"] > 0), "place": before["object 0"] < 1,
               "style": np.ones((side, side), bool)}[self.region]
        return source, right, own | (np.asarray(source) != np.asarray(right)).any(-1)

    @property
    def compares_with_right(self):
        return self.kind in RIGHT_PLACES

    def read(self, judge, image):
        """target: whether the judge reads what the edit is about as in the right answer; kept: the share of the other
        attributes that it reads so."""
        reading = judging.read(judge, [image.resize((judging.SIDE, judging.SIDE), Image.Resampling.BICUBIC)])
        right = attributes(judging.truth(self.right), reading, self.right.things[0].kind)
        if self.changed == "amount":           # nearer to the right answer than to the source
            k = judging.KINDS.index(self.right.things[0].kind)
            before, after = (scene.things[0].amount for scene in (self.source, self.right))
            right["amount"] = abs(reading.amounts[0, k].item() - after) < abs(reading.amounts[0, k].item() - before)
        target = right.pop(self.changed)
        return dict(target=float(target), kept=sum(right.values()) / len(right))


def attributes(truth, reading, kind):
    """Whether each attribute of a scene of one object is read right; those that it does not have are left out."""
    k = judging.KINDS.index(kind)
    read = dict(object=reading.kinds[0].argmax() == k, size=reading.size[0].argmax() == truth.size,
                place=reading.place[0].argmax() == truth.place, style=reading.style[0].argmax() == truth.style)
    if truth.colors[k] >= 0:
        read["color"] = reading.colors[0, k].argmax() == truth.colors[k]
    if truth.amounts[k] >= 0:
        read["amount"] = abs(reading.amounts[0, k] - truth.amounts[k]) < 0.25
    return {name: bool(right) for name, right in read.items()}


# ---- the edits: each (random numbers, a scene of one object, its number) -> the arguments of Scenes after `kind` -----

def with_thing(scene, **attributes):
    return replace(scene, things=(replace(scene.things[0], **attributes),))


def another(rng, choices, but):
    return rng.choice([choice for choice in choices if choice != but])


def swap_object(rng, scene, n):
    source = with_thing(scene, amount=0.0)
    kind = another(rng, world.KINDS, source.things[0].kind)
    return source, world.change(source, kind=kind), "object", "object 0", (source.things[0].kind, kind)


def swap_colour(rng, scene, n):
    thing = scene.things[0]
    right = world.change(scene, color=another(rng, tuple(world.COLORS), thing.color))
    return scene, right, "color", "object 0", (thing.kind,) * 2


def swap_background(rng, scene, n):
    source = replace(scene, place=scene.place or rng.choice(PLACES))
    right = world.change(source, place=another(rng, PLACES, source.place))
    return source, right, "place", "place", (source.place.split()[-1], right.place.split()[-1])


def swap_style(rng, scene, n):
    """From a photo, or from a style that has colours."""
    source = replace(scene, style=rng.choice((world.PHOTO, world.CRAYON, world.WATERCOLOR)))
    return source, world.change(source, style=another(rng, world.STYLES, source.style)), "style", "style"


def swap_size(rng, scene, n):
    sizes = ("small", "big") if n % 2 else ("big", "small")
    source = with_thing(scene, size=sizes[0])
    return source, world.change(source, size=sizes[1]), "size", "object 0", (source.things[0].kind,) * 2


def add_phrase(rng, scene, n):
    """A place, fur or blossom, or a style, in turn."""
    if n % 3 == 0:
        source = replace(scene, place="")
        return source, world.change(source, place=rng.choice(PLACES)), "place", "place"
    if n % 3 == 1:
        source = with_thing(scene, kind=rng.choice(FURRY), amount=0.0)
        right = world.change(source, amount=rng.uniform(0.7, 1.0))
        return source, right, "amount", "object 0", (source.things[0].kind,) * 2
    source = replace(scene, style="")
    return source, world.change(source, style=rng.choice((world.CRAYON, world.WATERCOLOR))), "style", "style"


def reweight_fluff(rng, scene, n):
    """More of it and less of it, in turn; the right answers are the most and none."""
    source = with_thing(scene, kind=rng.choice(FURRY), amount=0.5)
    kind = source.things[0].kind
    right = world.change(source, amount=0.0 if n % 2 else 1.0)
    return source, right, "amount", "object 0", (kind,) * 2, {world.AMOUNT_WORD[kind]: -2.0 if n % 2 else 2.0}


EDITS = dict(object=swap_object, colour=swap_colour, background=swap_background, style=swap_style, size=swap_size,
             phrase=add_phrase, fluff=reweight_fluff)


def items(count=None):
    """The first `count` edits, the kinds in turn; which these are does not depend on the count."""
    found = []
    for i in range(COUNT if count is None else count):
        n, (kind, edit) = i // len(EDITS), list(EDITS.items())[i % len(EDITS)]
        scene = replace(world.sample(FIRST_SEED + i, two=False, styled=False), says_place=True)
        rng = world.stream(FIRST_SEED + i, "edit")
        found.append(Scenes(f"{kind}-{n:03}", kind, *edit(rng, with_thing(scene, named=SAID), n)))
    return found


def fingerprint():
    """Changes where the scenes may."""
    drawing = [Path(world.__file__).with_name(f"{name}.py") for name in ("world", "objects", "places", "pen")]
    files = [Path(__file__), *drawing]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
