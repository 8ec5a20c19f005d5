"""Maps as pictures."""
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..checks import must
from ..pictures import MARGIN, sheet, wrap

# Colours from -1 to 1, in steps of equal lightness: blues, black at 0, and matplotlib's "inferno".
TABLE = """e9f6f9 b5dcea 86c2dc 5ba3cc 3a86bb 2169a0 174f7e 0f3355 061a30
           000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4"""
COLOURS = np.array([list(bytes.fromhex(colour)) for colour in TABLE.split()])
HEAT = 0.7                                     # how much of a map and how little of the picture below it one sees


def colours(values):
    """Numbers from -1 to 1 as colours, (..., 3) of bytes; what lies beyond takes the colour of its end."""
    places = np.linspace(-1, 1, len(COLOURS))
    channels = [np.interp(values, places, channel) for channel in COLOURS.T]
    return np.stack(channels, -1).round().astype(np.uint8)


def overlay(image, values, top):
    """A picture in grey under a map (height, width) in colours, spread over it: 0 is dark, `top` the brightest."""
    heat = Image.fromarray(np.asarray(values, np.float32) / max(top, 1e-12))
    heat = heat.resize(image.size, Image.Resampling.BILINEAR)
    grey = image.convert("L").convert("RGB")
    return Image.blend(grey, Image.fromarray(colours(np.asarray(heat))), HEAT)


def word_sheet(recorder, images, side=160):
    """The maps of all words of a run as one picture, on one named scale: a row for the source's M, and two for
    each target: M_star, its own, and M_hat, which it used. images: the run's (`Result.images`)."""
    n = len(recorder.prompts)
    must(len(images) == n, "images", f"one for each of the recorder's {n} prompts, source first", images)
    rows = []                                              # (picture, caption, {word: map})
    for i, (image, prompt) in enumerate(zip(images, recorder.prompts)):
        kinds = {"M_star, before the edit,": False, "M_hat, after it,": True} if i else {"M": True}
        for kind, edited in kinds.items():
            maps = {word: recorder.maps(word, i, edited=edited) for word in recorder.words(i)}
            rows.append((image, f"{kind} of “{prompt}”", maps))
    # One scale for all, and a cell for each; shorter rows are filled up.
    values = np.array([each for _, _, maps in rows for each in maps.values()])
    top = abs(values).max(initial=0)
    columns = 1 + max(len(maps) for _, _, maps in rows)
    cells = []
    for image, caption, maps in rows:
        cells.append((image, caption))
        cells += [(overlay(image, each, top), word) for word, each in maps.items()]
        cells += [(Image.new("RGB", image.size, "white"), "")] * (-len(cells) % columns)
    body = sheet(*zip(*cells), columns, side)
    # Above them, what the colours mean.
    height, width = recorder.size
    text = (f"0 to {top:.2g} of a pixel's attention: one scale for all maps. They are {height} by {width}, averaged "
            "over steps, layers and heads.")
    if (values < 0).any():
        text += " What re-weighting put below 0 is blue."
    head = legend(text, body.width)
    page = ImageOps.expand(body, (0, head.height, 0, 0), "white")
    page.paste(head)
    return page


def legend(text, width):
    """The bar of colours over its text, as a strip for the head of a page."""
    font = ImageFont.load_default(size=14)
    lines = wrap(text, font, width - 2 * MARGIN)
    strip = Image.new("RGB", (width, MARGIN + 20 + 20 * len(lines)), "white")
    bar = colours(np.tile(np.linspace(0, 1, 160), (16, 1)))
    strip.paste(Image.fromarray(bar), (MARGIN, MARGIN))
    draw = ImageDraw.Draw(strip)
    for n, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + 18 + 20 * n), line, "black", font)
    return strip
