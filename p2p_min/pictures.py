"""Pictures: read from files, as tensors, side by side with captions."""
import io
import os
import textwrap
import warnings
from contextlib import suppress

import numpy as np
import torch
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps

from .checks import LARGEST_SIDE, is_whole, must

MARGIN = 12                                    # of a sheet, whose captions may have letters that Pillow's font lacks
FONTS = "DejaVuSans", "LiberationSans-Regular", "NotoSans-Regular", "arial", "Arial Unicode", "NotoSansCJK-Regular"


def read_picture(path, ground="white"):
    """A picture file in sRGB, turned as EXIF says, on `ground` where transparent; FileNotFoundError or ValueError."""
    must(isinstance(path, (str, os.PathLike)), "a picture", "a PIL picture, or the path of a file", path)
    if "://" in str(path):
        raise FileNotFoundError(f"{path} is an address, not a file; download the picture, and give its path")
    return open_rgb(path, ground, path)


def open_rgb(file, ground, name, formats=None):
    """What `read_picture` says, also of an open file, and of some of Pillow's formats only; `name` is for the error."""
    try:
        return to_rgb(ImageOps.exif_transpose(Image.open(file, formats=formats)), ground)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"there is no picture at {name}") from None
    except Exception as error:                             # of a damaged file, Pillow may raise anything
        why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} cannot be read as a picture: {why}") from None


def to_rgb(image, ground="white"):
    """Any PIL picture of 8 or 16 bits in sRGB, with `ground` behind transparent parts. Raises ValueError for others."""
    must(isinstance(image, Image.Image), "a picture or mask", "a PIL picture, such as Image.fromarray(array)", image)
    if image.mode in ("F", "I"):
        raise ValueError("a picture of floats or of 32 bits does not say which number is white; make it one of 8 bits, "
                         "such as Image.fromarray((255 * array).astype(np.uint8))")
    rgb = image
    if image.mode.startswith("I;16"):                      # Pillow would make all above 255 white
        rgb = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if rgb.has_transparency_data:
        rgb = rgb.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, ground), rgb)
    rgb = rgb.convert("RGB")
    # From the colours of its ICC profile; grey and inks may have one of their own.
    if profile := image.info.get("icc_profile"):
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            is_own = dict(L="GRAY", CMYK="CMYK").get(image.mode) == profile.profile.xcolor_space.strip()
            srgb = ImageCms.createProfile("sRGB")
            rgb = ImageCms.profileToProfile(image if is_own else rgb, profile, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ImportError) as error:
            warnings.warn(f"a picture's colours are read as sRGB, as its profile cannot be used: {error}", stacklevel=2)
        rgb.info.pop("icc_profile", None)                  # so that nobody converts it again
    return rgb


def fit(image, size, factor, resample=Image.Resampling.LANCZOS):
    """The picture resized to `size` and cropped evenly to multiples of `factor`. Raises ValueError for invalid sizes.

    size  pixels of the shorter side, keeping the aspect ratio; or (height, width), which the picture fills
    """
    pair = (size, size) if is_whole(size) else size
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    must(is_pair and all(is_whole(n) and factor <= n <= LARGEST_SIDE for n in pair),
         "size", f"pixels of the shorter side, or (height, width), from {factor} to {LARGEST_SIDE}", size)
    image = to_rgb(image)
    if is_whole(size):
        pair = [round(size / min(image.size) * n) for n in (image.height, image.width)]
    height, width = (n // factor * factor for n in pair)
    must(max(height, width) <= LARGEST_SIDE, f"the longer side of a picture of {image.width} × {image.height}",
         f"at most {LARGEST_SIDE} pixels at this size", max(height, width))
    return ImageOps.fit(image, (width, height), resample)


def to_tensor(image):
    """An RGB picture as (1, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_image(x):
    """(3, height, width) in [-1, 1] as a PIL picture."""
    return Image.fromarray(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())


def sheet(images, captions, columns=None, side=256):
    """PIL pictures of one size above their captions, enlarged by a whole factor to at least `side` pixels."""
    columns = columns or len(images)
    factor = max(1, -(-side // max(images[0].size)))
    width, height = (factor * n for n in images[0].size)
    font = font_for("".join(captions), max(14, width // 18))
    texts = [wrap(text, font, width) for text in captions]
    line = font.getbbox("Ag" + "".join(map("".join, texts)))[3] + 4
    cell_w, cell_h = width + MARGIN, height + max(map(len, texts)) * line + MARGIN
    page = Image.new("RGB", (columns * cell_w + MARGIN, -(-len(images) // columns) * cell_h + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for i, (image, text) in enumerate(zip(images, texts)):
        x, y = MARGIN + i % columns * cell_w, MARGIN + i // columns * cell_h
        page.paste(image.resize((width, height), Image.Resampling.BICUBIC), (x, y))
        for n, words in enumerate(text):
            draw.text((x, y + height + 4 + n * line), words, "black", font)
    return page


def font_for(text, size):
    """Of Pillow's own font and those of the system, the first that has the most letters of the text."""
    fonts, letters = [ImageFont.load_default(size)], set("".join(text.split()))
    for name in () if text.isascii() else FONTS:
        with suppress(OSError):                            # it is not on this system
            fonts.append(ImageFont.truetype(name, size))
    def lacking(font):
        box = bytes(font.getmask("\uffff"))                # a noncharacter, which a font draws as its missing-glyph box
        return sum(bytes(font.getmask(letter)) == box for letter in letters)
    return min(fonts, key=lacking)


def wrap(text, font, width):
    """The text as lines of at most `width` pixels, broken between words, or inside a word that is too long."""
    columns = max(1, width // 4)
    while columns > 1 and any(font.getlength(line) > width for line in textwrap.wrap(text, columns)):
        columns -= 1
    return textwrap.wrap(text, columns)


def png(image, info=None):
    """A PIL picture as the bytes of a PNG file, optionally with text fields (Pillow's `PngInfo`)."""
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()
