"""What the lessons draw and measure with: sheets of pictures and maps, matrices with
their labels, the overlap of outlines.

A notebook shows them below their cell. A script writes them to build/lessons, or to the folder LESSON_FIGURES.
"""
import io
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from p2p_min.align import unknown_words
from p2p_min.maps.sheet import colours
from p2p_min.pictures import sheet

FOLDER = Path(os.environ.get("LESSON_FIGURES", "build/lessons"))


def heat(array, low=0.0, high=None):
    """(height, width) as a PIL picture, from `low` (dark) to `high` (bright; None: the largest number)."""
    array = np.asarray(array, dtype=float)
    high = array.max() if high is None else high
    return Image.fromarray(colours(((array - low) / (high - low or 1)).clip(0, 1)))


def show(name, cells, captions, columns=None, side=192, scale="shared"):
    """One sheet of pictures and of maps (2-D arrays), each over its caption.

    scale  "shared": all maps from 0 to the largest number of them all; "own": each from 0 to its own largest
    """
    arrays = [cell for cell in cells if not isinstance(cell, Image.Image)]
    high = float(max((np.asarray(array).max() for array in arrays), default=1)) if scale == "shared" else None
    cells = [cell.resize((side, side), Image.Resampling.BICUBIC) if isinstance(cell, Image.Image)
             else heat(cell, high=high).resize((side, side), Image.Resampling.NEAREST) for cell in cells]
    return save(name, sheet(cells, captions, columns, side))


def matrix(name, array, rows, columns, cell=30):
    """A 2-D array as squares, with the names of its rows at the left and of its columns on top, turned upright."""
    font = ImageFont.load_default(size=cell // 2 + 2)
    left, top = (int(max(map(font.getlength, names))) + 16 for names in (rows, columns))
    squares = heat(array).resize((cell * len(columns), cell * len(rows)), Image.Resampling.NEAREST)
    page = Image.new("RGB", (left + squares.width + 12, top + squares.height + 12), "white")
    page.paste(squares, (left, top))
    draw = ImageDraw.Draw(page)
    for i, text in enumerate(rows):
        draw.text((left - 8, top + (i + 0.5) * cell), text, "black", font, anchor="rm")
    for j, text in enumerate(columns):
        upright = Image.new("RGB", (top - 8, cell), "white")
        ImageDraw.Draw(upright).text((0, cell / 2), text, "black", font, anchor="lm")
        page.paste(upright.rotate(90, expand=True), (left + j * cell, 0))
    for k in range(1, max(len(rows), len(columns))):
        if k < len(rows):
            draw.line([(left, top + k * cell), (left + squares.width, top + k * cell)], "white")
        if k < len(columns):
            draw.line([(left + k * cell, top), (left + k * cell, top + squares.height)], "white")
    return save(name, page)


def save(name, picture):
    if "ipykernel" in sys.modules:                         # in a notebook
        from IPython.display import Image as Shown
        from IPython.display import display
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=92)          # a third of a PNG, so that notebooks stay small
        display(Shown(content.getvalue(), format="jpeg"))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture.save(FOLDER / f"{name}.png", optimize=True)
    print(f"figure: {FOLDER / name}.png")


def overlap(a, b):
    """How far two pictures show one outline: of the pixels of strong colour in either, the share that both have.

    Meant for one thing on plain ground, which is pale; 1 is the same outline, 0 nothing in common.
    """
    a, b = (np.ptp(np.asarray(picture, float), axis=-1) > 70 for picture in (a, b))
    return (a & b).sum() / max(1, (a | b).sum())


def known(model, *prompts):
    """Tells which words of the prompts a small model does not know: to it they have no meaning. True if it knows all.

    A large vocabulary has no list of words that are known, so nothing is told there.
    """
    unknown = unknown_words(model.tokenizer, *prompts)
    if unknown:
        print(f"The model does not know: {', '.join(unknown)}. Its words: "
              f"{', '.join(sorted(model.tokenizer.init_kwargs['known_words']))}.")
    return not unknown


def claim(sentence, holds):
    """Prints whether that what an answer says of the lesson's own seeds, prompts and steps holds in this run too."""
    print(f"With the lesson's seeds and prompts, {sentence}. In this run: {'the same' if holds else 'not so'}.")


def tokens(tokenizer, prompt):
    """The prompt's tokens as text, "start" and "end" included, without the padding."""
    first, *middle, last = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    return ["start", *(token.removesuffix("</w>") for token in middle), "end"]


def picture(name):
    """One of the pictures that come with the lessons, by the name of its file in lessons/pictures."""
    with Image.open(Path(__file__).parent / "pictures" / f"{name}.png") as opened:
        return opened.convert("RGB")


def psnr(a, b):
    """Likeness of two pictures in dB: 20 where they are a tenth of the range apart, 40 where a hundredth."""
    error = ((np.asarray(a, float) - np.asarray(b, float)) ** 2).mean() / 255 ** 2
    return float(-10 * np.log10(max(1e-10, error)))


def curves(name, title, lines):
    """Lines over the steps, {label: numbers}, all on one scale from 0, each with its label at its end."""
    left, right, top, bottom, height = 56, 480, 50, 330, 24
    page, font = Image.new("RGB", (760, 380), "white"), ImageFont.load_default(size=18)
    draw, high = ImageDraw.Draw(page), max(max(map(float, line)) for line in lines.values())
    draw.text((left - 40, 12), title, "black", font)
    draw.line([(left, top), (left, bottom), (right, bottom)], "gray")
    for value in (0, high):
        draw.text((left - 8, bottom - (bottom - top) * value / high), f"{value:.1f}", "gray", font, anchor="rm")
    draw.text(((left + right) / 2, bottom + 10), "step", "gray", font, anchor="ma")
    ends, colors = {}, ("navy", "teal", "darkorange", "crimson", "purple", "gray")
    for (label, line), color in zip(lines.items(), colors):
        points = [(left + (right - left) * i / (len(line) - 1), bottom - (bottom - top) * float(y) / high)
                  for i, y in enumerate(line)]
        draw.line(points, color, 4)
        ends[label] = points[-1][1], color
    y = bottom + height
    for label, (end, color) in sorted(ends.items(), key=lambda item: -item[1][0]):       # from the lowest up
        y = min(end, y - height)
        draw.text((right + 10, y), label, color, font, anchor="lm")
    return save(name, page)
