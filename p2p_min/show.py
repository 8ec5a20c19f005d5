"""Results and maps as pictures."""
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 12
# Colours from -1 to 1, in steps of equal lightness: blues, black at 0, and matplotlib's "inferno".
COLOURS = np.array([list(bytes.fromhex(colour)) for colour in (
    "e9f6f9 b5dcea 86c2dc 5ba3cc 3a86bb 2169a0 174f7e 0f3355 061a30 "
    "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4").split()])
HEAT = 0.7                                     # how much of a map and how little of the picture below it one sees


def sheet(images, captions, columns=None, side=256):
    """Pictures side by side, each over its caption.

    images    PIL pictures of one size; small ones are enlarged, by a whole number, to at least `side` pixels
    captions  one text per picture
    columns   pictures a row; None: all in one row
    """
    columns = columns or len(images)
    factor = max(1, -(-side // max(images[0].size)))
    width, height = (factor * n for n in images[0].size)
    font = ImageFont.load_default(size=max(14, width // 18))
    texts = [wrap(text, font, width) for text in captions]
    line = font.getbbox("Ag")[3] + 4
    lines = max(len(text) for text in texts)
    cell_w, cell_h = width + MARGIN, height + lines * line + MARGIN
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * cell_w + MARGIN, rows * cell_h + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for i, (image, text) in enumerate(zip(images, texts)):
        x, y = MARGIN + i % columns * cell_w, MARGIN + i // columns * cell_h
        page.paste(image.resize((width, height), Image.Resampling.BICUBIC), (x, y))
        for n, words in enumerate(text):
            draw.text((x, y + height + 4 + n * line), words, "black", font)
    return page


def png(image, info=None):
    """A PIL picture as the bytes of a PNG file, which may hold texts (Pillow's `PngInfo`)."""
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def colours(values):
    """Numbers from -1 to 1 as colours, (..., 3) of bytes; what lies beyond takes the colour of its end."""
    places = np.linspace(-1, 1, len(COLOURS))
    return np.stack([np.interp(values, places, channel) for channel in COLOURS.T], -1).round().astype(np.uint8)


def overlay(image, values, top):
    """A picture in grey under a map in colours: 0 is dark, `top` the brightest.

    values  (height, width) numbers of any size, spread over the whole picture
    """
    heat = Image.fromarray(np.asarray(values, np.float32) / max(top, 1e-12)).resize(image.size, Image.Resampling.BILINEAR)
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray(colours(np.asarray(heat))), HEAT)


def word_sheet(recorder, images, side=160):
    """The maps of all words of a run as one picture, all on one scale, which it names.

    recorder  a `Recorder` that has watched the run
    images    its pictures, source first (`Result.images`)
    A row for the source's maps M, and two for each target: M_star, its own, and M_hat, what it used after the edit.
    """
    rows = []
    for i, (image, prompt) in enumerate(zip(images, recorder.prompts)):
        kinds = {"M_star, before the edit,": False, "M_hat, after it,": True} if i else {"M": True}
        for name, edited in kinds.items():
            maps = [(word, recorder.maps(word, i, edited=edited)) for word in recorder.words(i)]
            rows.append((image, f"{name} of “{prompt}”", maps))
    values = np.concatenate([maps.ravel() for _, _, words in rows for _, maps in words] or [np.ones(1)])
    top, below = abs(values).max(), " What re-weighting put below 0 is blue." if values.min() < 0 else ""
    columns = 1 + max(len(words) for _, _, words in rows)
    cells = []
    for image, name, words in rows:
        cells += [(image, name), *((overlay(image, maps, top), word) for word, maps in words)]
        cells += [(Image.new("RGB", image.size, "white"), "")] * (-len(cells) % columns)
    body = sheet(*zip(*cells), columns, side)
    head = legend(f"0 to {top:.2g} of a pixel's attention: one scale for all maps. They are {recorder.size[0]} by "
                  f"{recorder.size[1]}, averaged over steps, layers and heads.{below}", body.width)
    page = Image.new("RGB", (body.width, head.height + body.height), "white")
    page.paste(head, (0, 0))
    page.paste(body, (0, head.height))
    return page


def legend(text, width):
    """The bar of colours over its text, as a strip for the head of a page."""
    font = ImageFont.load_default(size=14)
    lines = wrap(text, font, width - 2 * MARGIN)
    strip = Image.new("RGB", (width, MARGIN + 20 + 20 * len(lines)), "white")
    strip.paste(Image.fromarray(colours(np.tile(np.linspace(0, 1, 160), (16, 1)))), (MARGIN, MARGIN))
    for n, line in enumerate(lines):
        ImageDraw.Draw(strip).text((MARGIN, MARGIN + 18 + 20 * n), line, "black", font)
    return strip


def wrap(text, font, width):
    """The text as lines of at most `width` pixels, broken between words, and in words that are longer than a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            lines += [""] if font.getlength(lines[-1] + letter) > width else []
            lines[-1] += letter
    return [line for line in lines if line]
