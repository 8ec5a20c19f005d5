"""Pictures: read from files, as tensors, side by side with captions."""
import io
import os
import re
import warnings

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .checks import LARGEST_SIDE, is_whole

MARGIN = 12                                    # of a sheet
# Fonts that systems have, for captions with more than the ASCII that Pillow's own font has. (Those of coloured emoji
# have fixed sizes, and are not used.)
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc",
         "wqy-zenhei.ttc", "msyh.ttc", "malgun.ttf", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf",
         "Nirmala.ttf", "NotoEmoji-Regular.ttf", "Symbola.ttf", "Symbola_hint.ttf", "seguiemj.ttf")


def read_picture(path, ground="white"):
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
    """What `read_picture` says, also of an open file, and of some of Pillow's formats only; `name` is for the error."""
    try:
        image = Image.open(file, formats=formats)
        upright = ImageOps.exif_transpose(image)
        upright.format = image.format                      # of which `to_rgb` may know how many bits it has
        return to_rgb(upright, ground)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:                             # of a damaged file, Pillow may raise anything
        why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} cannot be read as a picture: {why}") from None


def to_rgb(image, ground="white"):
    """Any PIL picture as RGB, with `ground` behind transparent parts. Raises ValueError for anything else."""
    if not isinstance(image, Image.Image):
        raise ValueError("a picture or mask must be a PIL picture (PIL.Image.open, PIL.Image.fromarray), not "
                         f"{type(image).__name__}")
    if not image.width * image.height:
        raise ValueError(f"a picture or mask of {image.width} × {image.height} has no pixels")
    if image.mode.startswith(("F", "I")):
        image = to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return image.convert("RGB")


def to_8_bits(image):
    """A grey picture of floats, or of 16 or 32 bits. Raises ValueError if its numbers do not tell which is white."""
    numbers = np.asarray(image, np.float64)
    low, high = (round(float(n), 3) for n in (numbers.min(), numbers.max()))
    if image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM"):
        white = 65535
    else:
        kind, small, large = ("floating-point", 1, 255) if image.mode == "F" else ("32-bit", 255, 65535)
        is_unclear = 1 < high < 32 if image.mode == "F" else high == 1         # nearly black, or another white
        if not 0 <= low <= high <= large or is_unclear:
            raise ValueError(f"a {kind} picture must hold numbers from 0 to {small} or from 0 to {large}, not from "
                             f"{low:g} to {high:g}" + " (multiply an array of 0 and 1 by 255)" * (high == 1))
        white = small if high <= small else large
    return Image.fromarray((numbers * (255 / white)).clip(0, 255).round().astype(np.uint8))


def fit(image, size, factor, resample=Image.Resampling.LANCZOS):
    """The picture resized to `size` and cropped evenly to multiples of `factor`.

    size  pixels of the shorter side, keeping the aspect ratio; or (height, width), which the picture fills
    Raises ValueError for an invalid size.
    """
    pair = (size, size) if is_whole(size) else size
    if (not isinstance(pair, (tuple, list)) or len(pair) != 2
            or not all(is_whole(n) and factor <= n <= LARGEST_SIDE for n in pair)):
        raise ValueError("size must be pixels of the shorter side, or (height, width), from "
                         f"{factor} to {LARGEST_SIDE}, not {size!r}")
    image = to_rgb(image)
    scale = max(pair[0] / image.height, pair[1] / image.width)
    if is_whole(size):
        pair = round(scale * image.height), round(scale * image.width)
    height, width = (n // factor * factor for n in pair)
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"a picture of {image.width} × {image.height} becomes {width} × {height} pixels, more than "
                         f"{LARGEST_SIDE} a side")
    return ImageOps.fit(image, (width, height), resample)


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
    Warns of characters that no font here has.
    """
    columns = columns or len(images)
    factor = max(1, -(-side // max(images[0].size)))
    width, height = (factor * n for n in images[0].size)
    font = font_for("".join(captions), max(14, width // 18))
    texts = [wrap(text, font, width) for text in captions]
    line = font.getbbox("Ag" + "".join(map("".join, texts)))[3] + 4
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


def font_for(text, size):
    """The first font that has all characters of the text, or the one that lacks the fewest; warns of those."""
    letters, best, lacks = set("".join(text.split())), None, None
    for name in (None, *FONTS):
        try:
            font = ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
        except OSError:                                    # not on this system
            continue
        box = drawn(font, "\uffff")                        # which is no character, so that no font has it
        lacking = {letter for letter in letters if drawn(font, letter) == box}
        if best is None or len(lacking) < len(lacks):
            best, lacks = font, lacking
        if not lacks:
            return best
    warnings.warn(f"no font here has {' '.join(sorted(lacks))}, so captions show boxes there; install one, such as "
                  "Noto Sans CJK or Symbola", stacklevel=2)
    return best


def drawn(font, letter):
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


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
