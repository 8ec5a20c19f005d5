"""How each place of the toy world is drawn: draw(back, feature, horizon, away, rng[, suns]).

`back` is the whole picture; `feature` is a layer over it, what the place's words are about. `away`
is the side (-1 or 1) where the first object is not, or 0 if both are taken. `suns` is how many suns or
moons a sky has that has any: more than one only to teach the judge to count.
"""

import math
from random import Random

from pen import CRAYON, PENCIL, Color, Pen, box, darker, ellipse


def _land(pen: Pen, height: float, color: Color, rng: Random, swell: float = 0.015) -> None:
    """Everything below a gently waving line."""
    phase, waves = rng.uniform(0, 6.28), rng.uniform(3, 7)
    crest = [(i / 16, height + swell * math.sin(waves * i / 16 + phase)) for i in range(-1, 18)]
    pen.polygon([(-0.1, 1.1), *crest, (1.1, 1.1)], color)


def _clouds(pen: Pen, rng: Random, horizon: float) -> None:
    for _ in range(rng.randint(0, 2)):
        x, y, size = rng.uniform(0.1, 0.9), rng.uniform(0.07, horizon * 0.5), rng.uniform(0.045, 0.07)
        for dx, dy in ((-1, 0), (1, 0), (0, 0.5)):
            pen.dab(ellipse(x + dx * size, y - dy * size, size * 1.05, size * 0.7), (252, 253, 255))


def _across(x: float, count: int) -> list[float]:
    """x, and for further suns places apart from it."""
    return [0.1 + (x - 0.1 + i * 0.37) % 0.8 for i in range(count)]


def _day(pen: Pen, rng: Random, horizon: float) -> None:
    pen.sky((112, 184, 246), (206, 232, 252), horizon)
    _clouds(pen, rng, horizon)


def _meadow(pen: Pen, rng: Random, horizon: float) -> Color:
    green = (112 + rng.randint(-10, 10), 190 + rng.randint(-10, 8), 84)
    _land(pen, horizon, green, rng)
    return green


def plain(back: Pen, feature: Pen, horizon: float, away: int, rng: Random, suns: int = 1) -> None:
    wall = tuple(rng.randint(212, 244) for _ in range(3))
    back.sky(wall, wall, horizon)
    if back.style in (CRAYON, PENCIL):
        back.line([(-0.1, horizon), (1.1, horizon)], darker(wall, 0.35), 0.008)
    else:
        back.polygon(box(-0.1, horizon, 1.1, 1.1), darker(wall, 0.14))


def grass(back: Pen, feature: Pen, horizon: float, away: int, rng: Random, suns: int = 1) -> None:
    _day(back, rng, horizon)
    green = _meadow(back, rng, horizon)
    for i in range(12):
        x, y, lean = rng.random(), rng.uniform(horizon + 0.1, 1.02), rng.uniform(-0.02, 0.02)
        for side in (-0.5, 0.5):
            back.dab([(x - 0.02, y), (x + lean + 0.06 * side, y - 0.09), (x + 0.02, y)], darker(green, 0.35))
        if i % 3 == 0:
            back.dab(ellipse(x + 0.06, y - 0.04, 0.024, 0.024, corners=10), (255, 252, 225))


def river(back: Pen, feature: Pen, horizon: float, away: int, rng: Random, suns: int = 1) -> None:
    _day(back, rng, horizon)
    _meadow(back, rng, horizon)
    side = away or rng.choice([-1, 1]) * 0.15
    source, mouth = 0.5 + side * rng.uniform(0.12, 0.25), 0.5 + side * rng.uniform(0.36, 0.44)
    bend, swing, wide = rng.uniform(0.05, 0.09), rng.uniform(-0.8, 0.8), rng.uniform(0.21, 0.26)
    left, right, middle = [], [], []
    for i in range(15):
        t = i / 14
        x = source + (mouth - source) * t + bend * math.sin(6 * t + swing) * (0.5 + t)
        half, y = 0.035 + (wide - 0.035) * t ** 1.2, horizon + 0.015 + (1.06 - horizon) * t
        left.append((x - half, y))
        right.append((x + half, y))
        middle.append((x, y))
    feature.polygon(left + right[::-1], (40, 122, 226))
    for x, y in middle[4::2]:
        dx = rng.uniform(-0.08, 0.08) * (y - horizon) * 2
        feature.line([(x + dx - 0.05, y), (x + dx, y - 0.018), (x + dx + 0.05, y)], (196, 226, 252), 0.018)


def beach(back: Pen, feature: Pen, horizon: float, away: int, rng: Random, suns: int = 1) -> None:
    _day(back, rng, horizon)
    first, y = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.17)
    for x in _across(first, suns):
        back.note("sun", x, y)
        back.disc(x, y, 0.075, (255, 222, 70))
    feature.polygon(box(-0.1, horizon - 0.03, 1.1, 1.1), (30, 132, 208))
    shore, phase = horizon + rng.uniform(0.09, 0.14), rng.uniform(0, 6)
    edge = [(i / 14, shore + 0.018 * math.sin(i * 0.6 + phase)) for i in range(-1, 17)]
    feature.polygon([(-0.1, 1.1), *edge, (1.1, 1.1)], (242, 216, 154))
    feature.line(edge, (250, 252, 255), 0.022)
    for _ in range(8):
        x, y = rng.random(), rng.uniform(shore + 0.06, 1)
        feature.dab(ellipse(x, y, 0.024, 0.013, corners=10), (212, 180, 120))


def snow(back: Pen, feature: Pen, horizon: float, away: int, rng: Random, suns: int = 1) -> None:
    back.sky((150, 172, 204), (206, 218, 234), horizon)
    _land(back, horizon - 0.03, (222, 232, 245), rng, 0.03)
    _land(back, horizon + 0.03, (246, 249, 254), rng)
    for _ in range(16):
        x, y, size = rng.random(), rng.random(), rng.uniform(0.019, 0.027)
        back.dab(ellipse(x, y, size, size, corners=8), (255, 255, 255) if y < horizon else (206, 218, 238))


def night(back: Pen, feature: Pen, horizon: float, away: int, rng: Random, suns: int = 1) -> None:
    back.sky((12, 14, 52), (50, 56, 128), horizon)
    for _ in range(11):
        x, y, size = rng.random(), rng.uniform(0, horizon), rng.uniform(0.02, 0.028)
        back.dab([(x, y - size), (x + size, y), (x, y + size), (x - size, y)], (255, 248, 205))
    first, y = rng.uniform(0.12, 0.88), rng.uniform(0.11, 0.18)
    for x in _across(first, suns):
        back.note("sun", x, y)
        back.dab(ellipse(x, y, 0.085, 0.085), (255, 246, 200))
        back.dab(ellipse(x + 0.03, y - 0.02, 0.02, 0.02, corners=10), (232, 218, 168))
    _land(back, horizon, (46, 70, 96), rng)


def sunset(back: Pen, feature: Pen, horizon: float, away: int, rng: Random, suns: int = 1) -> None:
    back.sky((118, 62, 150), (255, 158, 74), horizon)
    for x in _across(rng.uniform(0.15, 0.85), suns):
        back.note("sun", x, horizon - 0.08)
        back.disc(x, horizon - 0.03, 0.14, (255, 226, 110))
    _land(back, horizon, (122, 78, 98), rng, 0.012)


PLACES = {"": plain, "next to a river": river, "on the beach": beach, "in the snow": snow,
          "at night": night, "on the grass": grass, "at sunset": sunset}
