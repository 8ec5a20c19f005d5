"""Pictures from files, and as tensors."""
import numpy as np
import torch
from PIL import Image, ImageOps

from .layers import is_whole

LARGEST = 4096                                 # pixels a side: beyond that, attention needs days or memory runs out


def read(path, ground="white"):
    """A picture file as an RGB picture: turned as its camera was held, laid on `ground` where it is transparent.

    Raises FileNotFoundError or ValueError, in one line, for what Pillow cannot read.
    """
    try:
        image = ImageOps.exif_transpose(Image.open(path))
        image.load()
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"there is no picture at {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from None
    return to_rgb(image, ground)


def to_rgb(image, ground="white"):
    """Any PIL picture as RGB, laid on `ground` where it is transparent."""
    if image.mode.startswith("I"):                         # 16 bits of grey, which Pillow would clip to 8
        image = Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return image.convert("RGB")


def fit(image, size, factor, resample=Image.Resampling.LANCZOS):
    """The picture resized to `size` and cropped evenly to multiples of `factor`.

    size  pixels of the shorter side, the shape being kept; or (height, width), filled by the picture
    Raises ValueError for a size that is none.
    """
    pair = (size, size) if is_whole(size) else size
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(is_whole(n) and factor <= n <= LARGEST for n in pair):
        raise ValueError(f"size must be pixels of the shorter side, or (height, width), from {factor} to {LARGEST}, not {size!r}")
    scale = max(pair[0] / image.height, pair[1] / image.width)
    if is_whole(size):
        pair = round(scale * image.height), round(scale * image.width)
    height, width = (n // factor * factor for n in pair)
    if max(height, width) > LARGEST:
        raise ValueError(f"a picture of {image.width} × {image.height} becomes {width} × {height} pixels, more than {LARGEST} a side")
    return ImageOps.fit(to_rgb(image), (width, height), resample)


def to_tensor(image):
    """An RGB picture as (1, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_image(x):
    """(3, height, width) in [-1, 1] as a PIL picture."""
    return Image.fromarray(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())
