"""The toy world: random scenes, their captions, and their pictures with a mask for every phrase.

A scene says what is in the picture. Everything else (where, how large, which pose, which clouds) is
drawn from streams of random numbers that are named and independent, so the layout is no function
of the caption, and a scene with one attribute changed is the same picture with that changed.
"""

import argparse
import colorsys
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from objects import OBJECTS
from pen import CRAYON, PAPER, PENCIL, WATERCOLOR, Color, Pen, darker, ellipse
from places import PLACES

COLORS = {  # hue, saturation, value
    "red": (0.995, 0.88, 0.86), "orange": (0.072, 0.95, 1.0), "yellow": (0.148, 0.85, 1.0),
    "green": (0.37, 0.78, 0.64), "blue": (0.605, 0.82, 0.88), "purple": (0.765, 0.74, 0.66),
    "pink": (0.925, 0.44, 1.0), "black": (0.65, 0.12, 0.14), "white": (0.6, 0.02, 0.98)}
NATURAL = {"tree": "green", "castle": "white", "cake": "pink", "house": "orange", "cat": "orange", "dog": "black"}
KINDS = tuple(OBJECTS)
STYLES = (CRAYON, PENCIL, WATERCOLOR)
PHOTO = "photo of"  # looks the same as no style at all
AMOUNT_WORD = {"ball": "fluffy", "cat": "fluffy", "dog": "fluffy", "tree": "blossom"}
AMOUNT_CHANCE = {"ball": 0.5, "cat": 0.35, "dog": 0.35, "tree": 0.35}
HALF_WIDTHS = {"small": (0.175, 0.20), "medium": (0.23, 0.31), "big": (0.35, 0.40)}
HALF_WIDTHS_OF_TWO = {"small": (0.165, 0.175), "medium": (0.185, 0.205), "big": (0.205, 0.21)}
Part = tuple[str, float, float]  # "sun", "head" or "wheel", and where it is
WITH_SUN = ("on the beach", "at night", "at sunset")  # or a moon
FEATURES = ("next to a river", "on the beach")  # places whose words mean a part of the picture
CANVAS = 384  # every picture is drawn at this size and then reduced, so that all sizes show the same drawing


@dataclass(frozen=True)
class Thing:
    """An object; `named` tells which of "color", "size" and "amount" the caption says."""
    kind: str
    color: str = "red"
    size: str = "medium"
    amount: float = 0.0
    named: frozenset[str] = frozenset()
    parts: int | None = None  # how many wheels or heads, if not as many as it should have


@dataclass(frozen=True)
class Scene:
    """All that a caption could say of a picture, and the seed of all that it could not."""
    seed: int
    style: str = ""
    place: str = ""
    things: tuple[Thing, ...] = ()
    says_place: bool = True
    suns: int = 1  # or moons, in a sky that has any


def stream(seed: int, *name: object) -> Random:
    """The random numbers for one purpose, independent of those for any other."""
    return Random("/".join(map(str, (seed, *name))))


# --- scenes and captions --------------------------------------------------------------------------

def sample(seed: int, two: bool | None = None, styled: bool | None = None) -> Scene:
    """A random scene; `two` and `styled` force two objects or one, a style or none."""
    rng = stream(seed, "scene")
    has_two, has_style = rng.random() < 0.2, rng.random() < 0.4
    has_two = has_two if two is None else two
    has_style = has_style if styled is None else styled
    plain_style = PHOTO if rng.random() < 0.2 else ""
    style = rng.choice(STYLES) if has_style else plain_style
    place = rng.choice([name for name in PLACES if name]) if rng.random() < 0.62 else ""
    says_place = rng.random() < 0.95
    kinds = rng.sample(KINDS, 2 if has_two else 1)
    things = tuple(_sample_thing(stream(seed, "thing", i), kind, has_two) for i, kind in enumerate(kinds))
    return Scene(seed, style, place, things, says_place)


def _sample_thing(rng: Random, kind: str, is_of_two: bool) -> Thing:
    """Attributes are drawn first and named afterwards, so that an unnamed one still varies."""
    named = {word for word, chance in (("color", 0.68), ("size", 0.92), ("amount", 0.92)) if rng.random() < chance}
    color = rng.choice(list(COLORS))
    if "color" not in named and kind in NATURAL and rng.random() < 0.5:
        color = NATURAL[kind]
    size = rng.choice(["big", "small"]) if rng.random() < 0.5 and not is_of_two else "medium"
    amount = rng.uniform(0.3, 1.0) if rng.random() < AMOUNT_CHANCE.get(kind, 0) else 0.0
    return Thing(kind, color, size, amount, frozenset(named))


def change(scene: Scene, thing: int = 0, **changes: object) -> Scene:
    """The scene with another color, kind, size or amount of one thing, or another place or style.

    What is changed is named in the new caption.
    """
    of_scene = {key: value for key, value in changes.items() if key in ("place", "style")}
    of_thing = {key: value for key, value in changes.items() if key not in of_scene}
    things = list(scene.things)
    named = things[thing].named | (of_thing.keys() & {"color", "size", "amount"})
    things[thing] = replace(things[thing], **of_thing, named=named)
    says_place = scene.says_place or "place" in changes
    return replace(scene, **of_scene, things=tuple(things), says_place=says_place)


def words(scene: Scene) -> list[tuple[str, str]]:
    """The caption in pieces, each with its role: "style", "object 0", "object 1", "place" or ""."""
    pieces = [(scene.style, "style")] if scene.style else []
    for i, thing in enumerate(scene.things):
        if i:
            pieces.append(("and", ""))
        pieces += [(word, f"object {i}") for word in _phrase(thing, says_color=scene.style != PENCIL)]
    if scene.place and scene.says_place:
        pieces.append((scene.place, "place"))
    return pieces


def _phrase(thing: Thing, says_color: bool) -> list[str]:
    """The words for one thing; a pencil sketch shows no colour, so its caption says none."""
    size = thing.size if "size" in thing.named and thing.size != "medium" else ""
    amount = AMOUNT_WORD.get(thing.kind, "") if "amount" in thing.named and thing.amount > 0 else ""
    color = thing.color if "color" in thing.named and says_color else ""
    order = [size, color, amount, thing.kind] if amount == "blossom" else [size, amount, color, thing.kind]
    said = [word for word in order if word]
    return ["an" if said[0][0] in "aeiou" else "a", *said]


def caption(scene: Scene) -> str:
    return " ".join(text for text, _ in words(scene))


# --- pictures -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Spot:
    """Where a thing stands (its ground point) and how: all in parts of the picture's side."""
    x: float
    y: float
    half: float
    lean: float
    flip: int
    lift: float
    side: int


def _horizon(scene: Scene) -> float:
    return stream(scene.seed, "horizon").uniform(0.42, 0.56)


def _spot(scene: Scene, index: int) -> Spot:
    """The spot depends on the seed, the thing's size and the number of things, and on nothing else."""
    rng = stream(scene.seed, "layout", index)
    across, down, within, lean, lift = (rng.random() for _ in range(5))
    flip = rng.choice([-1, 1])
    is_alone = len(scene.things) == 1
    low, high = (HALF_WIDTHS if is_alone else HALF_WIDTHS_OF_TWO)[scene.things[index].size]
    half = low + (high - low) * within
    if is_alone:
        side = 1 if across > 0.5 else -1
        x = 0.5 + (2 * across - 1) * (0.47 - half)
    else:
        first = stream(scene.seed, "layout", "sides").choice([-1, 1])
        side = first if index == 0 else -first
        x = 0.5 + side * (0.24 + 0.015 * across)
    highest = max(_horizon(scene) + 0.1, 2 * half + 0.06)
    return Spot(x, highest + (0.96 - highest) * down, half, (lean - 0.5) * 0.1, flip, lift, side)


def _pigment(scene: Scene, index: int) -> Color:
    """The colour's exact shade, a little different in every picture."""
    rng = stream(scene.seed, "colour", index)
    hue, saturation, value = COLORS[scene.things[index].color]
    shift = (rng.uniform(-0.012, 0.012), rng.uniform(-0.06, 0.06), rng.uniform(-0.05, 0.0))
    if scene.things[index].color not in ("black", "white"):
        hue, saturation = (hue + shift[0]) % 1, min(1.0, saturation + shift[1])
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value + shift[2]))


def _draw_thing(scene: Scene, index: int, spot: Spot, pixels: int) -> tuple[Image.Image, list[Part]]:
    """One thing on a clear layer of its own (the layer's alpha is its mask), and its parts."""
    thing, color = scene.things[index], _pigment(scene, index)
    layer = Image.new("RGBA", (pixels, pixels))
    pen = Pen(layer, scene.style, stream(scene.seed, "hand", index))
    lift = 0.0
    if thing.kind == "butterfly":  # it hovers over its ground point, if there is air above it
        lift = min(0.03 + 0.12 * spot.lift, max(0.0, spot.y - 2 * spot.half - 0.02))
    pen.stand(spot.x, spot.y - lift, spot.half, spot.lean, spot.flip, ground=1.0)
    count = [] if thing.parts is None else [thing.parts]
    OBJECTS[thing.kind](pen, color, stream(scene.seed, "details", index), thing.amount, *count)
    if scene.style not in STYLES:
        _model(layer, spot, pixels)
    return _rim(layer, _rim_color(scene.style, thing.color, color), max(1, round(0.010 * pixels))), pen.notes


def _model(layer: Image.Image, spot: Spot, pixels: int) -> None:
    """Shade the lower half of a thing, so that it looks solid."""
    shade = Image.new("L", layer.size)
    side = round(2 * spot.half * pixels)
    ramp = Image.linear_gradient("L").resize((pixels, side)).point(lambda level: level * 34 // 255)
    shade.paste(ramp, (0, round(spot.y * pixels) - side))
    alpha = layer.getchannel("A")
    layer.paste((18, 10, 50), (0, 0), ImageChops.multiply(shade, alpha))
    layer.putalpha(alpha)


def _rim_color(style: str, name: str, color: Color) -> Color:
    """What parts a thing from any place: bare paper round a drawing, else an outline."""
    if style in (CRAYON, PENCIL):
        return PAPER
    return {"black": (188, 194, 210), "white": (112, 118, 138)}.get(name, darker(color, 0.55))


def _rim(layer: Image.Image, color: Color, width: int) -> Image.Image:
    """The thing with an outline of one width, whatever its colour, so that colours share a silhouette."""
    alpha = grown = layer.getchannel("A")
    near = round(width * 0.7)
    steps = [(dx, dy) for dx in (-near, near) for dy in (-near, near)]
    for dx, dy in (*steps, (width, 0), (-width, 0), (0, width), (0, -width)):
        grown = ImageChops.lighter(grown, alpha.transform(alpha.size, Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy)))
    rimmed = Image.new("RGBA", layer.size, color)
    rimmed.paste(layer, (0, 0), alpha)
    rimmed.putalpha(grown)
    return rimmed


def _draw_place(scene: Scene, away: int, pixels: int) -> tuple[Image.Image, Image.Image, list[Part]]:
    """The place as a picture, the mask of what its words mean (before things hide some of it), and its suns."""
    picture, layer = Image.new("RGB", (pixels, pixels), PAPER), Image.new("RGBA", (pixels, pixels))
    back = Pen(picture, scene.style, stream(scene.seed, "hand", "back"))
    feature = Pen(layer, scene.style, stream(scene.seed, "hand", "feature"))
    PLACES[scene.place](back, feature, _horizon(scene), away, stream(scene.seed, "place"), scene.suns)
    alpha = layer.getchannel("A")
    picture.paste(layer, (0, 0), alpha)
    mask = alpha if scene.place in FEATURES else Image.new("L", picture.size, 255)
    return picture, mask, back.notes


def _cast_shadow(picture: Image.Image, spot: Spot) -> None:
    shadow = Image.new("L", picture.size)
    outline = ellipse(spot.x, spot.y - 0.008, spot.half * 0.95, spot.half * 0.13)
    ImageDraw.Draw(shadow).polygon([(x * picture.width, y * picture.width) for x, y in outline], fill=70)
    picture.paste((14, 12, 40), (0, 0), shadow)


def _wash(picture: Image.Image, rng: Random) -> Image.Image:
    """Watercolour: pigment that pools unevenly, a ragged border of bare paper, soft edges."""
    side = picture.width
    pools = Image.frombytes("L", (9, 9), rng.randbytes(81)).resize(picture.size, Image.Resampling.BICUBIC)
    pool = np.asarray(pools, np.float32)[..., None] / 255
    steps = np.linspace(0, 1, side, dtype=np.float32)
    edge = np.minimum(steps, 1 - steps)
    border = np.minimum(edge[:, None], edge[None, :])[..., None] + 0.05 * (pool - 0.5)
    cover = np.clip((border - 0.02) / 0.03, 0, 1) * (0.8 + 0.3 * pool)
    paper = np.array(PAPER, np.float32)
    painted = paper - (paper - np.asarray(picture, np.float32)) * cover
    return Image.fromarray(painted.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(side * 0.0055))


def render(scene: Scene, size: int = 128) -> tuple[Image.Image, dict[str, np.ndarray]]:
    """The picture, and for every role of `words` the share of each pixel that it covers; `size` divides CANVAS."""
    return render_with_parts(scene, size)[:2]


def render_with_parts(scene: Scene, size: int = 128) -> tuple[Image.Image, dict[str, np.ndarray], list[Part]]:
    """As `render`, and all parts that can be counted and are not hidden."""
    picture, masks, parts = _draw(scene, CANVAS)
    smaller = {role: np.asarray(mask.reduce(CANVAS // size), np.float32) / 255 for role, mask in masks.items()}
    return picture.reduce(CANVAS // size), smaller, parts


def _draw(scene: Scene, pixels: int) -> tuple[Image.Image, dict[str, Image.Image], list[Part]]:
    spots = [_spot(scene, i) for i in range(len(scene.things))]
    picture, place, parts = _draw_place(scene, -spots[0].side if len(spots) == 1 else 0, pixels)
    masks = {"style": Image.new("L", picture.size, 255)}
    for i, spot in enumerate(spots):
        if scene.style not in (CRAYON, PENCIL):
            _cast_shadow(picture, spot)
        layer, own_parts = _draw_thing(scene, i, spot, pixels)
        alpha = layer.getchannel("A")
        parts = [part for part in parts if not _covers(alpha, part)] + own_parts
        picture.paste(layer, (0, 0), alpha)
        place = ImageChops.subtract(place, alpha)
        masks[f"object {i}"] = alpha
    masks["place"] = place
    if scene.style == WATERCOLOR:
        picture = _wash(picture, stream(scene.seed, "paper"))
    if scene.style == PENCIL:
        picture = picture.convert("L").convert("RGB")
    return picture, masks, parts


def _covers(alpha: Image.Image, part: Part) -> bool:
    x, y = (min(alpha.width - 1, max(0, int(share * alpha.width))) for share in part[1:])
    return alpha.getpixel((x, y)) > 0


# --- contact sheet --------------------------------------------------------------------------------

def contact_sheet(scenes: list[Scene], size: int = 128, columns: int = 8) -> Image.Image:
    """All pictures in a grid, each over its caption."""
    font = ImageFont.load_default(size=10)
    wide, high = max(size, 128) + 8, size + 40
    sheet = Image.new("RGB", (columns * wide, -(-len(scenes) // columns) * high), "white")
    draw = ImageDraw.Draw(sheet)
    for i, scene in enumerate(scenes):
        x, y = i % columns * wide + 4, i // columns * high + 4
        sheet.paste(render(scene, size)[0], (x, y))
        draw.multiline_text((x, y + size), _wrapped(caption(scene), font, wide - 8), "black", font, spacing=1)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text broken into lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw random scenes with their captions on one sheet.")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()
    contact_sheet([sample(options.seed + i) for i in range(options.count)], options.size).save(options.out)


if __name__ == "__main__":
    main()
