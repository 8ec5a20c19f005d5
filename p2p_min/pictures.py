"""Pictures: read from files, as tensors, side by side with captions."""
import io
import os
import re

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .networks.config import is_whole

LARGEST = 4096                                 # pixels per side: beyond that, attention takes days or memory runs out
MARGIN = 12                                    # of a sheet


def read(path, ground="white"):
    """A picture file as an RGB picture, rotated as its EXIF data say, with `ground` behind transparent parts.

    Raises FileNotFoundError or ValueError, with a one-line message, for anything that Pillow cannot read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"a picture must be a PIL picture, or the path of a file, not {type(path).__name__}")
    if re.match(r"\w\w+:/", str(path)) and not os.path.exists(path):
        address = re.sub(":/+", "://", str(path), count=1)             # a Path keeps only one of the slashes
        raise FileNotFoundError(f"{address} is an address, not a file; download the picture, and give its path")
    try:
        return open_rgb(path, ground, path)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"there is no picture at {path}") from None


def open_rgb(file, ground, name, formats=None):
    """What `read` says, also of an open file, and of some of Pillow's formats only; `name` is for the error."""
    try:
        image = ImageOps.exif_transpose(Image.open(file, formats=formats))
        image.load()
        return to_rgb(image, ground)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from None


def to_rgb(image, ground="white"):
    """Any PIL picture as RGB, with `ground` behind transparent parts. Raises ValueError for anything else."""
    if not isinstance(image, Image.Image):
        raise ValueError("a picture or mask must be a PIL picture (PIL.Image.open, PIL.Image.fromarray), not "
                         f"{type(image).__name__}")
    if image.mode == "F":                                  # floats: the file does not say which number is white
        numbers = np.asarray(image)
        low, high = (round(float(n), 3) for n in (numbers.min(), numbers.max()))
        if not 0 <= low <= high <= 255 or 1 < high < 32:   # 1 … 32: nearly black, or brighter than white
            raise ValueError("a floating-point picture must hold numbers from 0 to 1 or from 0 to 255, not from "
                             f"{low:g} to {high:g}")
        image = Image.fromarray((numbers * (255 if high <= 1 else 1)).clip(0, 255).round().astype(np.uint8))
    if image.mode.startswith("I"):                         # 16-bit grey, which Pillow would clip to 8 bits
        image = Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return image.convert("RGB")


def fit(image, size, factor, resample=Image.Resampling.LANCZOS):
    """The picture resized to `size` and cropped evenly to multiples of `factor`.

    size  pixels of the shorter side, keeping the aspect ratio; or (height, width), which the picture fills
    Raises ValueError for an invalid size.
    """
    pair = (size, size) if is_whole(size) else size
    if (not isinstance(pair, (tuple, list)) or len(pair) != 2
            or not all(is_whole(n) and factor <= n <= LARGEST for n in pair)):
        raise ValueError(f"size must be pixels of the shorter side, or (height, width), from {factor} to {LARGEST}, "
                         f"not {size!r}")
    scale = max(pair[0] / image.height, pair[1] / image.width)
    if is_whole(size):
        pair = round(scale * image.height), round(scale * image.width)
    height, width = (n // factor * factor for n in pair)
    if max(height, width) > LARGEST:
        raise ValueError(f"a picture of {image.width} × {image.height} becomes {width} × {height} pixels, more than "
                         f"{LARGEST} a side")
    return ImageOps.fit(to_rgb(image), (width, height), resample)


def to_tensor(image):
    """An RGB picture as (1, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_image(x):
    """(3, height, width) in [-1, 1] as a PIL picture."""
    return Image.fromarray(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())


def sheet(images, captions, columns=None, side=256):
    """Pictures side by side, each above its caption.

    images    PIL pictures of one size; small ones are enlarged by a whole factor to at least `side` pixels
    captions  one text per picture
    columns   pictures per row; None: all in one row
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


def wrap(text, font, width):
    """The text as lines of at most `width` pixels, broken between words, or inside a word that is too long."""
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


def png(image, info=None):
    """A PIL picture as the bytes of a PNG file, optionally with text fields (Pillow's `PngInfo`)."""
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()
