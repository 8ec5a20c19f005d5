"""How each object of the toy world is drawn: draw(pen, color, rng, amount[, wheels or heads]).

Objects are drawn in a box of [-1, 1] x [-1, 1], y downwards, standing on y = 1. A drawing takes its
random numbers from `rng` alone and always the same number of them, whatever the colour, the amount
or the style, so that one attribute can be changed and all the rest stays as it was. What has wheels or
heads can be drawn with a wrong number of them: such pictures teach the judge to count.
"""

import math
from random import Random

from pen import DARK, GLASS, LAMPLIGHT, Color, Pen, Point, box, darker, ellipse, lighter, luma, mix


def fur(pen: Pen, rng: Random, at: Point, radii: Point, color: Color, amount: float, inner: bool = False) -> None:
    """Tufts around a body (drawn before it) or, if `inner`, on it; `amount` is only their length.

    They are few and bold, and as long on small things as on others: finer hair is lost in the VAE.
    """
    (x, y), (rx, ry) = at, radii
    count, reach, thick = (8, 0.4, 0.12) if inner else (16, max(0.62, 0.15 / pen.scale), 0.19)
    for i in range(count):
        angle = 2 * math.pi * (i + 0.4 * rng.random()) / count
        root = math.sqrt(rng.uniform(0.05, 0.45)) if inner else 0.9
        length = amount * reach * rng.uniform(0.75, 1.0)
        heading = angle + rng.uniform(-0.15, 0.15)
        if amount <= 0:
            continue
        px, py = x + rx * root * math.cos(angle), y + ry * root * math.sin(angle)
        side_x, side_y = -thick * math.sin(heading), thick * math.cos(heading)
        tip = (px + length * math.cos(heading), min(1.0, py + length * math.sin(heading)))
        tone = darker(color, 0.4) if luma(color) > 60 else lighter(color, 0.3)
        pen.dab([(px - side_x, py - side_y), tip, (px + side_x, py + side_y)], tone if inner or i % 2 else color)


def bicycle(pen: Pen, color: Color, rng: Random, amount: float, wheels: int = 2) -> None:
    radius, tyre, tube = rng.uniform(0.41, 0.45), rng.uniform(0.11, 0.13), rng.uniform(0.15, 0.17)
    hub_y = 1 - radius - tyre / 2
    rear, front, pedal = (-0.56, hub_y), (0.56, hub_y), (-0.08, hub_y + 0.05)
    saddle, head = (-0.27, -0.24), (0.33, -0.3)
    hubs = {1: [rear], 2: [rear, front], 3: [(0.0, hub_y), rear, front]}[wheels]
    for x, y in hubs:  # pale discs, since thin spokes turn into noise
        pen.dab(ellipse(x, y, radius, radius), (226, 231, 238))
        pen.ring(x, y, radius, DARK, tyre)
        pen.note("wheel", x, y)
    pen.line([pedal, rear, saddle, head, pedal, saddle], color, tube)
    pen.line([saddle, (-0.32, -0.5)], color, tube * 0.8)
    pen.line([(-0.48, -0.54), (-0.16, -0.54)], DARK, 0.15)
    pen.line([front, head, (0.26, -0.62)], color, tube)
    pen.line([(0.18, -0.66), (0.44, -0.7), (0.56, -0.52)], DARK, 0.12)
    pen.disc(*pedal, 0.1, DARK)


def car(pen: Pen, color: Color, rng: Random, amount: float, wheels: int = 2) -> None:
    roof, rear, front = rng.uniform(-0.38, -0.22), rng.uniform(-0.62, -0.48), rng.uniform(0.22, 0.36)
    waist, pillar = 0.2, (rear + front) / 2 + rng.uniform(-0.05, 0.05)
    pen.polygon([(rear - 0.24, waist + 0.08), (rear, roof), (front, roof), (front + 0.34, waist + 0.08)], color)
    upper, post = roof + 0.12, 0.06
    for window in ([(rear - 0.08, waist), (rear + 0.08, upper), (pillar - post, upper), (pillar - post, waist)],
                   [(pillar + post, waist), (pillar + post, upper), (front - 0.04, upper), (front + 0.16, waist)]):
        pen.polygon(window, GLASS, hatch=False)
    pen.polygon([(-1, waist + 0.1), (-0.92, waist), (0.72, waist), (0.95, waist + 0.12), (1, 0.5), (1, 0.78),
                 (-1, 0.78)], color)
    pen.line([(-0.95, 0.72), (0.95, 0.72)], darker(color, 0.35), 0.07)
    pen.disc(0.88, 0.42, 0.1, (255, 240, 150))
    pen.disc(-0.93, 0.42, 0.07, (225, 60, 50))
    for x in (-0.55, 0.55, 0.0)[:wheels]:
        pen.note("wheel", x, 0.72)
        pen.disc(x, 0.72, 0.28, DARK)
        pen.disc(x, 0.72, 0.12, (205, 207, 214))


def ball(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    radius, tilt = 0.7, rng.uniform(-0.5, 0.5)
    x, y = 0.0, 1 - radius
    fur(pen, rng, (x, y), (radius, radius), color, amount * 0.8)
    pen.polygon(ellipse(x, y, radius, radius, corners=40), color)
    band = [(x + dx * math.cos(tilt) - dy * math.sin(tilt), y + dx * math.sin(tilt) + dy * math.cos(tilt))
            for dx, dy in ellipse(0, 0, radius * 0.97, radius * 0.2)]
    pen.polygon(band, lighter(color, 0.5) if luma(color) < 235 else darker(color, 0.25), hatch=False)
    fur(pen, rng, (x, y), (radius, radius), color, amount, inner=True)
    pen.polygon(ellipse(-0.32, y - 0.42, 0.17, 0.11, -0.6), lighter(color, 0.75), hatch=False)


def castle(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    wall, keep, roof = rng.uniform(0.0, 0.15), rng.uniform(-0.5, -0.35), _roof(color)
    opening = DARK if luma(color) > 60 else LAMPLIGHT
    pen.polygon(box(-0.27, keep, 0.27, 0.9), darker(color, 0.1))
    pen.polygon([(-0.38, keep), (0, keep - 0.48), (0.38, keep)], roof)
    pen.polygon(box(-0.8, wall, 0.8, 1), color)
    for i in range(4):
        pen.polygon(box(-0.5 + 0.28 * i, wall - 0.13, -0.34 + 0.28 * i, wall + 0.03), color, hatch=False)
    for x in (-0.74, 0.74):
        top = wall - rng.uniform(0.22, 0.38)
        pen.polygon(box(x - 0.24, top, x + 0.24, 1), color)
        pen.polygon([(x - 0.32, top), (x, top - 0.46), (x + 0.32, top)], roof)
        pen.polygon(box(x - 0.07, top + 0.2, x + 0.07, top + 0.46), opening)
    for x in ((0,), (-0.74, 0.74))[rng.random() < 0.3]:
        tip = keep - 0.45 if x == 0 else wall - 0.6
        pen.polygon([(x, tip - 0.2), (x + 0.26, tip - 0.1), (x, tip)], (235, 60, 60))
    arch = [(0.23 * math.cos(i * math.pi / 6), 0.66 - 0.26 * math.sin(i * math.pi / 6)) for i in range(7)]
    pen.polygon([(0.23, 1), *arch, (-0.23, 1)], opening)


def _roof(color: Color) -> Color:
    """The walls' colour, but clearly darker, or lighter than black walls."""
    return darker(color, 0.5) if luma(color) > 60 else lighter(color, 0.4)


def house(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    eaves, peak, half = rng.uniform(-0.22, -0.1), rng.uniform(-0.98, -0.82), rng.uniform(0.74, 0.84)
    roof = rng.choice([(128, 66, 52), (92, 84, 96), (150, 74, 52)])
    chimney, door = rng.choice([-0.48, 0.44]), rng.choice([-0.42, 0.0, 0.42])
    pen.polygon(box(chimney - 0.11, peak + 0.02, chimney + 0.11, eaves), (140, 84, 72))
    pen.polygon(box(-half, eaves - 0.05, half, 1), color)
    pen.polygon([(-half - 0.17, eaves), (0, peak), (half + 0.17, eaves)], roof)
    pen.polygon(box(door - 0.16, 0.36, door + 0.16, 1), (96, 62, 46))
    for x in (-0.47, 0.0, 0.47):
        if abs(x - door) > 0.4:
            pen.polygon(box(x - 0.17, 0.12, x + 0.17, 0.46), LAMPLIGHT, hatch=False)
            pen.line([(x, 0.14), (x, 0.44)], (120, 90, 80), 0.045)


def tree(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    trunk, is_fir = rng.uniform(0.12, 0.16), rng.random() < 0.25
    pen.polygon([(-trunk * 0.8, 0.1), (trunk * 0.8, 0.1), (trunk * 1.3, 1), (-trunk * 1.3, 1)], (116, 76, 46))
    crown = [(0.5 * math.cos(k * 1.257), -0.3 + 0.36 * math.sin(k * 1.257), rng.uniform(0.33, 0.42)) for k in range(5)]
    if is_fir:
        crown = [(0, -0.62, 0.25), (0, -0.2, 0.4), (0, 0.22, 0.52)]
        for top, half in ((-0.1, 0.82), (-0.58, 0.64), (-1.0, 0.46)):
            pen.polygon([(-half, top + 0.66), (0, top), (half, top + 0.66)], mix(color, darker(color, 0.25), top + 1))
    else:
        pen.polygon(ellipse(0, -0.3, 0.4, 0.36), color)
        for i, (x, y, radius) in enumerate(crown):
            pen.polygon(ellipse(x, y, radius, radius), darker(color, 0.05 * (i % 3)))
    _blossom(pen, rng, crown, color, amount)


def _blossom(pen: Pen, rng: Random, crown: list[tuple[float, float, float]], color: Color, amount: float) -> None:
    """Petals over a tree's crown, opening one after the other as the amount grows."""
    deep = (232, 70, 140) if color[0] > 200 and color[2] > 120 else (255, 160, 200)
    count = 32
    for i in range(count):
        x, y, radius = rng.choice(crown)
        angle, out, size = rng.uniform(0, 6.28), math.sqrt(rng.random()), rng.uniform(0.11, 0.15)
        size = max(size, 0.028 / pen.scale)
        if i < amount * count:
            px, py = x + out * radius * math.cos(angle), y + out * radius * math.sin(angle)
            pen.dab(ellipse(px, py, size, size, corners=8), deep if i % 3 == 0 else (255, 240, 246))


def boat(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    mast, sail = rng.uniform(-0.14, 0.02), rng.choice([(252, 250, 243), (246, 236, 208)])
    height, jib = rng.uniform(-0.98, -0.86), rng.uniform(-0.75, -0.55)
    pen.line([(mast, 0.5), (mast, height)], (112, 76, 50), 0.09)
    pen.polygon([(mast + 0.08, height + 0.02), (mast + 0.08, 0.28), (mast + 0.86, 0.28)], sail, hatch=False)
    pen.polygon([(mast - 0.08, jib), (mast - 0.08, 0.28), (mast - 0.66, 0.28)], lighter(color, 0.25))
    pen.polygon([(-1, 0.38), (1, 0.38), (0.84, 0.74), (0.62, 1), (-0.66, 1), (-0.86, 0.74)], color)
    pen.line([(-0.88, 0.52), (0.88, 0.52)], lighter(color, 0.55) if luma(color) < 235 else (120, 130, 160), 0.07)


def cat(pen: Pen, color: Color, rng: Random, amount: float, heads: int = 1) -> None:
    tip = rng.uniform(-0.25, 0.1)
    pen.line([(0.3, 0.88), (0.66, 0.84), (0.84, 0.58), (0.78, 0.3), (0.88, tip)], darker(color, 0.15), 0.2)
    fur(pen, rng, (0, 0.5), (0.48, 0.5), color, amount * 0.8)
    pen.polygon(ellipse(0, 0.52, 0.48, 0.48), color)
    fur(pen, rng, (0, 0.5), (0.46, 0.42), color, amount, inner=True)
    for x in (-1, 1):
        pen.polygon(ellipse(x * 0.22, 0.9, 0.19, 0.1), lighter(color, 0.3))
    for middle in ((), (0.0,), (-0.5, 0.5))[heads]:
        _cat_head(pen, color, rng, amount, middle)


def _cat_head(pen: Pen, color: Color, rng: Random, amount: float, middle: float) -> None:
    mark = DARK if luma(color) > 60 else (245, 215, 90)
    pen.note("head", middle, -0.26)
    fur(pen, rng, (middle, -0.28), (0.54, 0.44), color, amount * 0.7)
    for x in (-1, 1):
        pen.polygon([(middle + x * 0.54, -0.25), (middle + x * 0.55, -1), (middle + x * 0.06, -0.6)], color)
        pen.dab([(middle + x * 0.46, -0.5), (middle + x * 0.48, -0.82), (middle + x * 0.24, -0.6)], (245, 150, 165))
    pen.polygon(ellipse(middle, -0.26, 0.56, 0.43), color)
    for x in (-1, 1):
        pen.dab(ellipse(middle + x * 0.23, -0.34, 0.12, 0.16), mark)
        for y in (-0.16, -0.02):
            pen.line([(middle + x * 0.3, -0.08), (middle + x * 0.74, y)], mark, 0.045)
    pen.dab([(middle - 0.14, -0.17), (middle + 0.14, -0.17), (middle, -0.02)], (240, 110, 130))


def dog(pen: Pen, color: Color, rng: Random, amount: float, heads: int = 1) -> None:
    wag = rng.uniform(-0.35, -0.1)
    pen.line([(-0.62, 0.2), (-0.84, 0.05), (-0.9, wag)], color, 0.18)
    fur(pen, rng, (-0.12, 0.33), (0.66, 0.36), color, amount * 0.72)
    for x, tone in ((-0.42, 0.25), (0.22, 0.25), (-0.62, 0.0), (0.42, 0.0)):
        pen.polygon(box(x - 0.11, 0.4, x + 0.11, 1), darker(color, tone))
    pen.polygon(ellipse(-0.1, 0.32, 0.68, 0.35), color)
    fur(pen, rng, (-0.12, 0.33), (0.64, 0.32), color, amount, inner=True)
    for side in (1, -1)[:heads]:
        _dog_head(pen, color, rng, amount, side)


def _dog_head(pen: Pen, color: Color, rng: Random, amount: float, side: int) -> None:
    """Neck, collar and head; at the tail's end if `side` is -1."""
    mark = (20, 20, 26) if luma(color) > 60 else (238, 238, 240)
    collar = (60, 110, 220) if color[0] > color[2] else (225, 60, 55)
    pen.note("head", side * 0.5, -0.32)
    pen.polygon([(side * 0.12, 0.2), (side * 0.3, -0.3), (side * 0.72, -0.1), (side * 0.54, 0.4)], color, hatch=False)
    pen.line([(side * 0.26, 0.02), (side * 0.64, 0.1)], collar, 0.12)
    fur(pen, rng, (side * 0.48, -0.32), (0.36, 0.34), color, amount * 0.6)
    pen.polygon(ellipse(side * 0.5, -0.32, 0.38, 0.34), color)
    pen.polygon(ellipse(side * 0.8, -0.18, 0.24, 0.18), lighter(color, 0.3))
    pen.dab(ellipse(side * 0.95, -0.26, 0.12, 0.11), mark)
    pen.dab(ellipse(side * 0.58, -0.42, 0.11, 0.13), mark)
    pen.polygon(ellipse(side * 0.24, -0.22, 0.16, 0.36, side * 0.25), darker(color, 0.35))


def cake(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    layers, candles = rng.choice([2, 2, 3]), rng.choice([1, 2, 3])
    icing = lighter(color, 0.62) if luma(color) < 225 else (250, 170, 195)
    pen.polygon(ellipse(0, 0.9, 1, 0.1), (214, 218, 232), hatch=False)
    bottom, half, high = 0.92, 0.88, 1.3 / layers
    for _ in range(layers):
        pen.polygon(box(-half, bottom - high, half, bottom), color)
        pen.polygon(_drips(half, bottom - high, high), icing, hatch=False)
        bottom, half = bottom - high, half * 0.7
    for i in range(candles):
        x = (i - (candles - 1) / 2) * 0.3
        pen.line([(x, bottom), (x, bottom - 0.24)], (250, 250, 255), 0.1)
        pen.dab(ellipse(x, bottom - 0.38, 0.08, 0.13), (255, 170, 30))


def _drips(half: float, top: float, high: float) -> list[Point]:
    """Icing that runs down the side of a layer in four tongues."""
    steps = 24
    edge = [(half - 2 * half * i / steps, top + high * (0.3 - 0.14 * math.cos(8 * math.pi * i / steps)))
            for i in range(steps + 1)]
    return [(-half - 0.03, top - 0.03), (half + 0.03, top - 0.03), *edge]


def flower(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    bend, petals, turn = rng.uniform(-0.12, 0.12), rng.choice([5, 6, 7]), rng.uniform(0, 1)
    heart = rng.choice([(252, 208, 60), (120, 74, 42)])
    pen.line([(0, -0.3), (bend, 0.4), (bend * 0.6, 0.97)], (52, 140, 62), 0.13)
    for side in (-1, 1):
        pen.polygon(ellipse(bend + side * 0.3, 0.62 + rng.uniform(-0.1, 0.1), 0.28, 0.13, -0.45 * side), (70, 160, 72))
    for i in range(petals):
        angle = turn + i * 2 * math.pi / petals
        pen.polygon(ellipse(0.37 * math.cos(angle), -0.36 + 0.37 * math.sin(angle), 0.3, 0.23, angle),
                    darker(color, 0.1 * (i % 2)))
    pen.disc(0, -0.36, 0.21, heart)


def butterfly(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    spread, spot = rng.uniform(0.92, 1.04), lighter(color, 0.6) if luma(color) < 200 else darker(color, 0.4)
    for side in (-1, 1):
        pen.polygon(ellipse(side * 0.42 * spread, 0.42, 0.42, 0.33, 0.75 * side), darker(color, 0.16))
        pen.polygon(ellipse(side * 0.52 * spread, -0.3, 0.56, 0.4, -0.7 * side), color)
        pen.dab(ellipse(side * 0.66 * spread, -0.45, 0.15, 0.15), spot)
        pen.dab(ellipse(side * 0.5 * spread, 0.5, 0.11, 0.11), spot)
        pen.line([(0, -0.4), (side * 0.1, -0.75), (side * 0.28, -0.92)], DARK, 0.06)
    pen.polygon(ellipse(0, 0.08, 0.11, 0.58), DARK)


OBJECTS = {draw.__name__: draw for draw in
           (bicycle, car, ball, castle, house, tree, boat, cat, dog, cake, flower, butterfly)}
