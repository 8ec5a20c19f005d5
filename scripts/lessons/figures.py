"""What the lessons draw and measure with: sheets of pictures and maps, matrices with
their labels, the overlap of outlines.

A notebook shows them below their cell. A script writes them to build/lessons, or to the folder LESSON_FIGURES.
"""
import io
import os
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from p2p_min.align import pieces, unknown_words, words
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


def outline(picture):
    """Where a picture has a strong colour, (height, width) of True and False: one thing, if the ground is pale."""
    return np.ptp(np.asarray(picture, float), axis=-1) > 70


def shared(a, b):
    """Of the pixels that are in either of two outlines, the share that is in both."""
    return (a & b).sum() / max(1, (a | b).sum())


def overlap(a, b, share=shared):
    """How far two pictures show one outline: 1 is the same, 0 nothing in common. For one thing on pale ground.

    Where a picture has hardly any strong colour there is no outline to measure, and it is nan. `share` tells it of two
    outlines.
    """
    a, b = outline(a), outline(b)
    return float(share(a, b)) if min(a.mean(), b.mean()) > 0.025 else float("nan")


COLORS = dict(red=(219, 26, 32), orange=(255, 117, 13), yellow=(255, 231, 38), green=(36, 163, 64), blue=(40, 108, 224),
              purple=(117, 44, 168), pink=(255, 143, 193), black=(31, 32, 36), white=(245, 247, 250))
SIZES = "big", "small", "fluffy", "blossom"
PLACES = "beach", "grass", "snow", "river", "night", "sunset"
SMALL_WORDS = "a", "an", "the", "and", "in", "on", "at", "of", "to", "next", "with"


def word_list(model, prompt):
    """The words of a prompt, in order."""
    return [word.text for word in words(model.tokenizer, prompt)]


def named_tokens(tokenizer, prompt, marks=False):
    """{word: its tokens}, in order; of two equal words "red#1" and "red#2". marks: punctuation, too."""
    found = [piece for piece in pieces(tokenizer, prompt) if marks or piece.is_word]
    texts = [piece.text for piece in found]
    return {f"{text}#{texts[:n + 1].count(text)}" if texts.count(text) > 1 else text: piece.tokens
            for n, (text, piece) in enumerate(zip(texts, found))}


def token_counts(tokenizer, *prompts):
    """Tells how many tokens each word has, if that differs between the prompts. True if it does not."""
    counts = [{word: len(at) for word, at in named_tokens(tokenizer, prompt).items()} for prompt in prompts]
    is_same = all(list(each.values()) == list(counts[0].values()) for each in counts)
    if not is_same:
        print("The words do not have the same numbers of tokens:",
              "; ".join(", ".join(f"“{word}” {n}" for word, n in each.items()) for each in counts))
    return is_same


def bare(word):
    """A word without the number that tells it from an equal one: "red" of "red#2"."""
    return re.sub(r"(?<=.)#\d+$", "", word)


def roles(words):
    """size, color, thing, place: the first of the words that is each of them; None if no word is.

    The thing is the first word that is none of the others, or else the last word, so there always is one.
    """
    words = list(words)
    size, color, place = (next((word for word in words if bare(word) in kind), None)
                          for kind in (SIZES, COLORS, PLACES))
    others = [word for word in words if bare(word) not in (*SIZES, *COLORS, *PLACES, *SMALL_WORDS)]
    return size, color, (others or words[-1:])[0], place


def color_strength(image, color=None):
    """How strongly each pixel has a colour, in levels, (16, 16) of the picture made smaller; None: any strong colour.

    The part of its chroma, its difference from grey, that points where the colour's own does; black and white have no
    chroma, and are told by their brightness.
    """
    color = color and bare(color)
    rgb = np.asarray(image.resize((16, 16), Image.Resampling.BOX), float)
    if color is None:
        return np.ptp(rgb, axis=-1)
    if color in ("black", "white"):
        return 110 - rgb.max(-1) if color == "black" else rgb.min(-1) - 170
    chroma = np.array(COLORS[color]) - np.mean(COLORS[color])
    return (rgb - rgb.mean(-1, keepdims=True)) @ chroma / np.linalg.norm(chroma)


def known(model, *prompts):
    """Tells which words of the prompts a small model does not know: to it they have no meaning. True if it knows all.

    A large vocabulary has no list of words that are known, so nothing is told there.
    """
    unknown = unknown_words(model.tokenizer, *prompts)
    if unknown:
        print(f"The model does not know: {', '.join(unknown)}.")
        if not TOLD:                                       # once is enough, for so long a list
            print("It knows:", ", ".join(sorted(model.tokenizer.init_kwargs["known_words"])))
        TOLD.update(unknown)
    return not unknown


TOLD = set()


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
