"""The pen that draws shapes in the toy world's four styles, and its colours."""

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
HATCH_GAP = 0.1  # from stroke to stroke, in parts of the picture: finer ones are lost in the VAE
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
        self.notes: list[tuple[str, float, float]] = []  # parts that can be counted, and where they are
        self.stand(0.0, 0.0, 1.0)

    def stand(self, x: float, y: float, scale: float, lean: float = 0.0, flip: int = 1, ground: float = 0.0) -> None:
        """From now on the point (0, ground) lies at (x, y) of the picture, both in [0, 1]."""
        self.x, self.y, self.scale, self.flip, self.ground = x, y, scale, flip, ground
        self.cos, self.sin = math.cos(lean), math.sin(lean)

    def note(self, part: str, x: float, y: float) -> None:
        """A sun, a head or a wheel is here: who reads the picture can then be asked how many there are."""
        (px, py), = self._to_pixels([(x, y)])
        self.notes.append((part, px / self.pixels, py / self.pixels))

    def polygon(self, points: Sequence[Point], color: Color, hatch: bool = True) -> None:
        """A filled shape, with the outline and the hatching of the style."""
        shape = self._wobble(self._to_pixels(points))
        if self.style == CRAYON:
            self._fill(shape, lighter(color, 0.2 + 0.25 * luma(color) / 255), color, 0.04 if hatch else 0,
                       mix(color, INK, 0.8), 0.02)
        elif self.style == PENCIL:
            tone = round(luma(color))
            grey = 92 + tone * 5 // 8
            stroke = 48 + tone * 11 // 16
            self._fill(shape, (grey,) * 3, (stroke,) * 3, 0.032 if hatch else 0, (48, 48, 50), 0.018)
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
        self._wobble([])  # only to stay in step with the drawn styles
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
        if min(wide, high) < 0.1 * self.pixels:
            self.draw.polygon(shape, fill=color)
            return
        inside = Image.new("L", (wide, high))
        ImageDraw.Draw(inside).polygon([(x - left, y - top) for x, y in shape], fill=255)
        strokes = Image.new("L", (wide, high))
        draw = ImageDraw.Draw(strokes)
        gap, reach = HATCH_GAP * self.pixels, wide + high
        dx, dy = math.cos(self.hatch_angle) * reach, math.sin(self.hatch_angle) * reach
        jitter = Random(0)  # of its own, so that the wobble of the next shape stays in step
        offset = -reach / 2
        while offset < reach / 2:
            shift = offset + jitter.uniform(-0.12, 0.12) * gap
            x, y = wide / 2 - dy / reach * shift, high / 2 + dx / reach * shift
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=255, width=max(1, round(width * self.pixels)))
            offset += gap
        self.layer.paste(color, (left, top, right, bottom), ImageChops.multiply(inside, strokes))
