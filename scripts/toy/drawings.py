"""How each object and each place of the toy world is drawn, and the pen that draws it in four styles.

Objects are drawn in a box of [-1, 1] x [-1, 1], y downwards, standing on y = 1. A drawing takes its
random numbers from `rng` alone and always the same number of them, whatever the colour, the amount
or the style, so that one attribute can be changed and all the rest stays as it was.
"""

import math
from random import Random
from typing import Sequence

from PIL import Image, ImageChops, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

PAPER: Color = (253, 251, 245)
INK: Color = (38, 34, 48)
DARK: Color = (42, 42, 50)
GLASS: Color = (196, 230, 248)
LAMPLIGHT: Color = (255, 238, 165)
CRAYON, PENCIL, WATERCOLOR = "children drawing of", "pencil sketch of", "watercolor of"


def mix(first: Color, second: Color, share: float) -> Color:
    """The first colour with `share` of the second in it."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second))


def lighter(color: Color, share: float) -> Color:
    return mix(color, (255, 255, 255), share)


def darker(color: Color, share: float) -> Color:
    return mix(color, (12, 10, 30), share)


def luma(color: Color) -> float:
    """Brightness as the eye sees it, 0 to 255."""
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, corners: int = 26) -> list[Point]:
    """An ellipse as a polygon, turned by `turn` radians."""
    points = []
    for i in range(corners):
        angle = 2 * math.pi * i / corners
        dx, dy = rx * math.cos(angle), ry * math.sin(angle)
        points.append((x + dx * math.cos(turn) - dy * math.sin(turn), y + dx * math.sin(turn) + dy * math.cos(turn)))
    return points


def box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


class Pen:
    """Draws polygons and lines on a layer in one of the styles; its wobble comes from `hand` alone."""

    def __init__(self, layer: Image.Image, style: str, hand: Random):
        self.layer, self.style, self.hand = layer, style, hand
        self.draw = ImageDraw.Draw(layer)
        self.pixels = layer.width
        self.hatch_angle = hand.uniform(0.5, 1.1)
        self.stand(0.0, 0.0, 1.0)

    def stand(self, x: float, y: float, scale: float, lean: float = 0.0, flip: int = 1, ground: float = 0.0) -> None:
        """From now on the point (0, ground) lies at (x, y) of the picture, both in [0, 1]."""
        self.x, self.y, self.scale, self.flip, self.ground = x, y, scale, flip, ground
        self.cos, self.sin = math.cos(lean), math.sin(lean)

    def polygon(self, points: Sequence[Point], color: Color, hatch: bool = True) -> None:
        """A filled shape, with the outline and the hatching of the style."""
        shape = self._wobble(self._to_pixels(points))
        if self.style == CRAYON:
            self._fill(shape, lighter(color, 0.16 + 0.2 * luma(color) / 255), color, 0.017 if hatch else 0, mix(color, INK, 0.8), 0.017)
        elif self.style == PENCIL:
            tone = round(luma(color))
            grey = 92 + tone * 5 // 8
            stroke = 48 + tone * 11 // 16
            self._fill(shape, (grey,) * 3, (stroke,) * 3, 0.007 if hatch else 0, (48, 48, 50), 0.012)
        elif self.style == WATERCOLOR:
            self._fill(shape, lighter(color, 0.12), color, 0, darker(color, 0.12), 0.008)
        else:
            self.draw.polygon(shape, fill=color)

    def disc(self, x: float, y: float, radius: float, color: Color) -> None:
        self.polygon(ellipse(x, y, radius, radius), color)

    def dab(self, points: Sequence[Point], color: Color) -> None:
        """A small shape with neither outline nor hatching: hair, petals, stars."""
        self.draw.polygon(self._to_pixels(points), fill=self._flat(color))

    def line(self, points: Sequence[Point], color: Color, width: float) -> None:
        """A stroke with round ends."""
        path = self._wobble(self._to_pixels(points))
        thick = max(2, round(width * self.scale * self.pixels))
        fill = self._flat(color)
        self.draw.line(path, fill=fill, width=thick, joint="curve")
        for x, y in (path[0], path[-1]):
            self.draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=fill)

    def ring(self, x: float, y: float, radius: float, color: Color, width: float) -> None:
        self.line([*ellipse(x, y, radius, radius), (x + radius, y)], color, width)

    def sky(self, top: Color, bottom: Color, horizon: float) -> None:
        """The whole picture as sky, a gradient down to the horizon where the style has gradients."""
        if self.style in (CRAYON, PENCIL):
            middle = mix(top, bottom, 0.7)
            is_dark = luma(middle) < 170
            self.polygon(box(-0.1, -0.1, 1.1, 1.1), middle if is_dark else lighter(middle, 0.45), hatch=is_dark)
            return
        for row in range(self.pixels):
            share = min(1.0, row / (self.pixels * horizon))
            self.draw.line((0, row, self.pixels, row), fill=mix(top, bottom, share))

    def _to_pixels(self, points: Sequence[Point]) -> list[Point]:
        size = self.scale * self.pixels
        left, top = self.x * self.pixels, self.y * self.pixels
        placed = []
        for x, y in points:
            dx, dy = x * self.flip * size, (y - self.ground) * size
            placed.append((left + dx * self.cos - dy * self.sin, top + dx * self.sin + dy * self.cos))
        return placed

    def _wobble(self, shape: list[Point]) -> list[Point]:
        """The unsteady hand of the style; it draws its numbers in every style to stay in step."""
        phases = [self.hand.uniform(0, 6.28) for _ in range(4)]
        reach = {CRAYON: 0.006, PENCIL: 0.003, WATERCOLOR: 0.004}.get(self.style, 0.0) * self.pixels
        if not reach:
            return shape
        slow, quick = 19 / self.pixels, 31 / self.pixels
        return [(x + reach * (math.sin(y * slow + phases[0]) + 0.5 * math.sin(x * quick + phases[1])),
                 y + reach * (math.sin(x * slow + phases[2]) + 0.5 * math.sin(y * quick + phases[3])))
                for x, y in shape]

    def _flat(self, color: Color) -> Color:
        """A colour as a stroke of the style shows it."""
        if self.style == PENCIL:
            return (round(45 + luma(color) * 0.75),) * 3
        return mix(color, INK, 0.12) if self.style == CRAYON else color

    def _fill(self, shape: list[Point], fill: Color, stroke: Color, hatch: float,
              edge: Color, edge_width: float) -> None:
        """Fill, then hatch with strokes of width `hatch` if it is not 0, then draw the edge."""
        self.draw.polygon(shape, fill=fill)
        if hatch:
            self._hatch(shape, stroke, hatch)
        self.draw.line(shape + shape[:2], fill=edge, width=max(2, round(edge_width * self.pixels)), joint="curve")

    def _hatch(self, shape: list[Point], color: Color, width: float) -> None:
        """Parallel strokes inside the shape; small shapes are filled, since strokes would not be seen."""
        xs, ys = [x for x, _ in shape], [y for _, y in shape]
        left, top = max(0, int(min(xs))), max(0, int(min(ys)))
        right, bottom = min(self.pixels, int(max(xs)) + 1), min(self.pixels, int(max(ys)) + 1)
        wide, high = right - left, bottom - top
        if wide < 1 or high < 1:
            return
        if max(wide, high) < 0.1 * self.pixels:
            self.draw.polygon(shape, fill=color)
            return
        inside = Image.new("L", (wide, high))
        ImageDraw.Draw(inside).polygon([(x - left, y - top) for x, y in shape], fill=255)
        strokes = Image.new("L", (wide, high))
        draw = ImageDraw.Draw(strokes)
        gap, reach = 2.1 * width * self.pixels, wide + high
        dx, dy = math.cos(self.hatch_angle) * reach, math.sin(self.hatch_angle) * reach
        jitter = Random(round(reach))  # of its own, so that the wobble of the next shape stays in step
        offset = -reach / 2
        while offset < reach / 2:
            shift = offset + jitter.uniform(-0.3, 0.3) * gap
            x, y = wide / 2 - dy / reach * shift, high / 2 + dx / reach * shift
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=255, width=max(1, round(width * self.pixels)))
            offset += gap
        self.layer.paste(color, (left, top, right, bottom), ImageChops.multiply(inside, strokes))


# --- objects: draw(pen, color, rng, amount) -------------------------------------------------------

def fur(pen: Pen, rng: Random, at: Point, radii: Point, color: Color, amount: float, inner: bool = False) -> None:
    """Hair around a body (drawn before it) or, if `inner`, on it; `amount` is only the hairs' length."""
    (x, y), (rx, ry) = at, radii
    count, reach = (26, 0.24) if inner else (54, 0.46)
    for i in range(count):
        angle = 2 * math.pi * (i + rng.random()) / count
        root = math.sqrt(rng.uniform(0.02, 0.7)) if inner else 0.94
        length = amount * reach * rng.uniform(0.65, 1.0)
        heading = angle + rng.uniform(-0.4, 0.4)
        if amount <= 0:
            continue
        px, py = x + rx * root * math.cos(angle), y + ry * root * math.sin(angle)
        thick = 0.04 if inner else 0.065
        side_x, side_y = -thick * math.sin(heading), thick * math.cos(heading)
        tip = (px + length * math.cos(heading), min(1.0, py + length * math.sin(heading)))
        tone = darker(color, 0.2) if i % 2 else lighter(color, 0.18)
        pen.dab([(px - side_x, py - side_y), tip, (px + side_x, py + side_y)], tone)


def bicycle(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    radius, tyre, tube = rng.uniform(0.41, 0.45), rng.uniform(0.11, 0.13), rng.uniform(0.15, 0.17)
    hub_y = 1 - radius - tyre / 2
    rear, front, pedal = (-0.56, hub_y), (0.56, hub_y), (-0.08, hub_y + 0.05)
    saddle, head = (-0.27, -0.24), (0.33, -0.3)
    for x, y in (rear, front):  # pale discs, since thin spokes turn into noise at 64 pixels
        pen.dab(ellipse(x, y, radius, radius), (226, 231, 238))
        pen.ring(x, y, radius, DARK, tyre)
    pen.line([pedal, rear, saddle, head, pedal, saddle], color, tube)
    pen.line([saddle, (-0.32, -0.5)], color, tube * 0.8)
    pen.line([(-0.48, -0.54), (-0.16, -0.54)], DARK, 0.15)
    pen.line([front, head, (0.26, -0.62)], color, tube)
    pen.line([(0.18, -0.66), (0.44, -0.7), (0.56, -0.52)], DARK, 0.12)
    pen.disc(*pedal, 0.1, DARK)


def car(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    roof, rear, front = rng.uniform(-0.38, -0.22), rng.uniform(-0.62, -0.48), rng.uniform(0.22, 0.36)
    waist, pillar = 0.2, (rear + front) / 2 + rng.uniform(-0.05, 0.05)
    pen.polygon([(rear - 0.24, waist + 0.08), (rear, roof), (front, roof), (front + 0.34, waist + 0.08)], color)
    glass_top, post = roof + 0.12, 0.06
    for window in ([(rear - 0.08, waist), (rear + 0.08, glass_top), (pillar - post, glass_top), (pillar - post, waist)],
                   [(pillar + post, waist), (pillar + post, glass_top), (front - 0.04, glass_top), (front + 0.16, waist)]):
        pen.polygon(window, GLASS, hatch=False)
    pen.polygon([(-1, waist + 0.1), (-0.92, waist), (0.72, waist), (0.95, waist + 0.12), (1, 0.5), (1, 0.78), (-1, 0.78)], color)
    pen.line([(-0.95, 0.72), (0.95, 0.72)], darker(color, 0.35), 0.07)
    pen.disc(0.88, 0.42, 0.1, (255, 240, 150))
    pen.disc(-0.93, 0.42, 0.07, (225, 60, 50))
    for x in (-0.55, 0.55):
        pen.disc(x, 0.72, 0.28, DARK)
        pen.disc(x, 0.72, 0.12, (205, 207, 214))


def ball(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    radius, tilt = 0.75, rng.uniform(-0.5, 0.5)
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
    count = 56
    for i in range(count):
        x, y, radius = rng.choice(crown)
        angle, out, size = rng.uniform(0, 6.28), math.sqrt(rng.random()), rng.uniform(0.075, 0.11)
        if i < amount * count:
            px, py = x + out * radius * math.cos(angle), y + out * radius * math.sin(angle)
            pen.dab(ellipse(px, py, size, size, corners=8), deep if i % 3 == 0 else (255, 240, 246))


def boat(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    mast, sail, height = rng.uniform(-0.14, 0.02), rng.choice([(252, 250, 243), (246, 236, 208)]), rng.uniform(-0.98, -0.86)
    jib = rng.uniform(-0.75, -0.55)
    pen.line([(mast, 0.5), (mast, height)], (112, 76, 50), 0.09)
    pen.polygon([(mast + 0.08, height + 0.02), (mast + 0.08, 0.28), (mast + 0.86, 0.28)], sail, hatch=False)
    pen.polygon([(mast - 0.08, jib), (mast - 0.08, 0.28), (mast - 0.66, 0.28)], lighter(color, 0.25))
    pen.polygon([(-1, 0.38), (1, 0.38), (0.84, 0.74), (0.62, 1), (-0.66, 1), (-0.86, 0.74)], color)
    pen.line([(-0.88, 0.52), (0.88, 0.52)], lighter(color, 0.55) if luma(color) < 235 else (120, 130, 160), 0.07)


def cat(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    mark = DARK if luma(color) > 60 else (245, 215, 90)
    tip = rng.uniform(-0.25, 0.1)
    pen.line([(0.3, 0.88), (0.66, 0.84), (0.84, 0.58), (0.78, 0.3), (0.88, tip)], darker(color, 0.15), 0.2)
    fur(pen, rng, (0, 0.5), (0.48, 0.5), color, amount * 0.8)
    pen.polygon(ellipse(0, 0.52, 0.48, 0.48), color)
    fur(pen, rng, (0, 0.5), (0.46, 0.42), color, amount, inner=True)
    fur(pen, rng, (0, -0.28), (0.54, 0.44), color, amount * 0.7)
    for x in (-1, 1):
        pen.polygon(ellipse(x * 0.22, 0.9, 0.19, 0.1), lighter(color, 0.3))
        pen.polygon([(x * 0.54, -0.25), (x * 0.55, -1), (x * 0.06, -0.6)], color)
        pen.dab([(x * 0.46, -0.5), (x * 0.48, -0.82), (x * 0.24, -0.6)], (245, 150, 165))
    pen.polygon(ellipse(0, -0.26, 0.56, 0.43), color)
    for x in (-1, 1):
        pen.dab(ellipse(x * 0.22, -0.34, 0.085, 0.12), mark)
        for y in (-0.16, -0.02):
            pen.line([(x * 0.2, -0.1), (x * 0.72, y)], mark, 0.035)
    pen.dab([(-0.1, -0.2), (0.1, -0.2), (0, -0.08)], (240, 110, 130))


def dog(pen: Pen, color: Color, rng: Random, amount: float) -> None:
    mark = (20, 20, 26) if luma(color) > 60 else (238, 238, 240)
    wag, collar = rng.uniform(-0.35, -0.1), (60, 110, 220) if color[0] > color[2] else (225, 60, 55)
    pen.line([(-0.62, 0.2), (-0.84, 0.05), (-0.9, wag)], color, 0.18)
    fur(pen, rng, (-0.12, 0.33), (0.66, 0.36), color, amount * 0.72)
    for x, tone in ((-0.42, 0.25), (0.22, 0.25), (-0.62, 0.0), (0.42, 0.0)):
        pen.polygon(box(x - 0.11, 0.4, x + 0.11, 1), darker(color, tone))
    pen.polygon(ellipse(-0.1, 0.32, 0.68, 0.35), color)
    fur(pen, rng, (-0.12, 0.33), (0.64, 0.32), color, amount, inner=True)
    pen.polygon([(0.12, 0.2), (0.3, -0.3), (0.72, -0.1), (0.54, 0.4)], color, hatch=False)
    pen.line([(0.26, 0.02), (0.64, 0.1)], collar, 0.12)
    fur(pen, rng, (0.48, -0.32), (0.36, 0.34), color, amount * 0.6)
    pen.polygon(ellipse(0.5, -0.32, 0.38, 0.34), color)
    pen.polygon(ellipse(0.8, -0.18, 0.24, 0.18), lighter(color, 0.3))
    pen.dab(ellipse(0.96, -0.26, 0.09, 0.08), mark)
    pen.dab(ellipse(0.6, -0.42, 0.075, 0.09), mark)
    pen.polygon(ellipse(0.24, -0.22, 0.16, 0.36, 0.25), darker(color, 0.35))


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
        pen.polygon(ellipse(0.37 * math.cos(angle), -0.36 + 0.37 * math.sin(angle), 0.3, 0.23, angle), darker(color, 0.1 * (i % 2)))
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


# --- places: draw(back, feature, horizon, away, rng) ----------------------------------------------
# `back` is the whole picture; `feature` is a layer over it, what the place's words are about.
# `away` is the side (-1 or 1) where the first object is not, or 0 if both are taken.

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


def _day(pen: Pen, rng: Random, horizon: float) -> None:
    pen.sky((112, 184, 246), (206, 232, 252), horizon)
    _clouds(pen, rng, horizon)


def _meadow(pen: Pen, rng: Random, horizon: float) -> Color:
    green = (112 + rng.randint(-10, 10), 190 + rng.randint(-10, 8), 84)
    _land(pen, horizon, green, rng)
    return green


def plain(back: Pen, feature: Pen, horizon: float, away: int, rng: Random) -> None:
    wall = tuple(rng.randint(212, 244) for _ in range(3))
    back.sky(wall, wall, horizon)
    if back.style in (CRAYON, PENCIL):
        back.line([(-0.1, horizon), (1.1, horizon)], darker(wall, 0.35), 0.008)
    else:
        back.polygon(box(-0.1, horizon, 1.1, 1.1), darker(wall, 0.14))


def grass(back: Pen, feature: Pen, horizon: float, away: int, rng: Random) -> None:
    _day(back, rng, horizon)
    green = _meadow(back, rng, horizon)
    for i in range(26):
        x, y, lean = rng.random(), rng.uniform(horizon + 0.06, 1.02), rng.uniform(-0.02, 0.02)
        back.dab([(x - 0.014, y), (x + lean, y - 0.065), (x + 0.014, y)], darker(green, 0.4))
        if i % 4 == 0:
            back.dab(ellipse(x + 0.04, y - 0.02, 0.014, 0.014, corners=8), (255, 252, 225))


def river(back: Pen, feature: Pen, horizon: float, away: int, rng: Random) -> None:
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
        feature.line([(x + dx - 0.045, y), (x + dx, y - 0.014), (x + dx + 0.045, y)], (196, 226, 252), 0.014)


def beach(back: Pen, feature: Pen, horizon: float, away: int, rng: Random) -> None:
    _day(back, rng, horizon)
    back.disc(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.17), 0.075, (255, 222, 70))
    feature.polygon(box(-0.1, horizon - 0.03, 1.1, 1.1), (30, 132, 208))
    shore, phase = horizon + rng.uniform(0.09, 0.14), rng.uniform(0, 6)
    edge = [(i / 14, shore + 0.018 * math.sin(i * 0.6 + phase)) for i in range(-1, 17)]
    feature.polygon([(-0.1, 1.1), *edge, (1.1, 1.1)], (242, 216, 154))
    feature.line(edge, (250, 252, 255), 0.022)
    for _ in range(16):
        x, y = rng.random(), rng.uniform(shore + 0.06, 1)
        feature.dab(ellipse(x, y, 0.012, 0.007, corners=8), (205, 172, 112))


def snow(back: Pen, feature: Pen, horizon: float, away: int, rng: Random) -> None:
    back.sky((150, 172, 204), (206, 218, 234), horizon)
    _land(back, horizon - 0.03, (222, 232, 245), rng, 0.03)
    _land(back, horizon + 0.03, (246, 249, 254), rng)
    for _ in range(30):
        x, y, size = rng.random(), rng.random(), rng.uniform(0.012, 0.019)
        back.dab(ellipse(x, y, size, size, corners=8), (255, 255, 255) if y < horizon else (206, 218, 238))


def night(back: Pen, feature: Pen, horizon: float, away: int, rng: Random) -> None:
    back.sky((12, 14, 52), (50, 56, 128), horizon)
    for _ in range(20):
        x, y, size = rng.random(), rng.uniform(0, horizon), rng.uniform(0.009, 0.016)
        back.dab([(x, y - size), (x + size, y), (x, y + size), (x - size, y)], (255, 248, 205))
    x, y = rng.uniform(0.12, 0.88), rng.uniform(0.11, 0.18)
    back.dab(ellipse(x, y, 0.085, 0.085), (255, 246, 200))
    back.dab(ellipse(x + 0.03, y - 0.02, 0.02, 0.02, corners=10), (232, 218, 168))
    _land(back, horizon, (46, 70, 96), rng)


def sunset(back: Pen, feature: Pen, horizon: float, away: int, rng: Random) -> None:
    back.sky((118, 62, 150), (255, 158, 74), horizon)
    back.disc(rng.uniform(0.15, 0.85), horizon - 0.03, 0.14, (255, 226, 110))
    _land(back, horizon, (122, 78, 98), rng, 0.012)


PLACES = {"": plain, "next to a river": river, "on the beach": beach, "in the snow": snow,
          "at night": night, "on the grass": grass, "at sunset": sunset}
