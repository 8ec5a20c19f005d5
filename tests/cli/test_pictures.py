"""Pictures from files: the right way up, the right colours, the right size; and one line for what is none."""
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFont

import p2p_min as p2p
from conftest import refuses
from p2p_min import pictures
from p2p_min.pictures import fit, font_for, read_picture, sheet, to_image, to_rgb, to_tensor, wrap

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def quarters(height=20, width=30):
    """Red, green, blue and black, from the top left, row by row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    y, x = height // 2, width // 2
    pixels[:y, :x], pixels[:y, x:], pixels[y:, :x] = RED, GREEN, BLUE
    return Image.fromarray(pixels)


def corners(image):
    """From the top left, row by row."""
    x, y = image.width - 1, image.height - 1
    return [image.getpixel(at) for at in ((0, 0), (x, 0), (0, y), (x, y))]


def saved(tmp_path, image, suffix="png", **arguments):
    image.save(tmp_path / f"it.{suffix}", **arguments)
    return read_picture(tmp_path / f"it.{suffix}")


# ---- orientation, transparency, modes ------------------------------------------------------------------------------

@pytest.mark.parametrize("orientation, shape, expected", [
    (1, (30, 20), [RED, GREEN, BLUE, BLACK]), (2, (30, 20), [GREEN, RED, BLACK, BLUE]),
    (3, (30, 20), [BLACK, BLUE, GREEN, RED]), (4, (30, 20), [BLUE, BLACK, RED, GREEN]),
    (5, (20, 30), [RED, BLUE, GREEN, BLACK]), (6, (20, 30), [BLUE, RED, BLACK, GREEN]),
    (7, (20, 30), [BLACK, GREEN, BLUE, RED]), (8, (20, 30), [GREEN, BLACK, RED, BLUE])])
def test_a_picture_is_turned_as_its_camera_was_held(tmp_path, orientation, shape, expected):
    """All eight orientations of EXIF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = saved(tmp_path, quarters(), exif=exif)
    assert image.size == shape and corners(image) == expected


@pytest.mark.parametrize("alpha, expected", [(255, (40, 80, 120)), (0, WHITE), (51, (212, 220, 228))])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_transparency_is_laid_on_white(tmp_path, suffix, alpha, expected):
    """Whatever colour lies under it: what is half transparent is half white."""
    image = saved(tmp_path, Image.new("RGBA", (4, 4), (40, 80, 120, alpha)), suffix, **(
        dict(lossless=True, exact=True) if suffix == "webp" else {}))
    assert image.mode == "RGB" and image.getpixel((0, 0)) == pytest.approx(expected, abs=1)


def test_a_ground_of_another_colour(tmp_path):
    """The mask of a blend is laid on black."""
    Image.new("RGBA", (1, 1), (255, 255, 255, 51)).save(tmp_path / "mask.png")
    assert read_picture(tmp_path / "mask.png", "black").getpixel((0, 0)) == (51, 51, 51)
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 255, 255, 51)), "black").getpixel((0, 0)) == (51, 51, 51)
    assert to_rgb(Image.new("LA", (1, 1), (255, 0)), "black").getpixel((0, 0)) == BLACK


@pytest.mark.parametrize("suffix, transparent, expected", [
    ("png", None, [RED, GREEN, BLUE, BLACK]), ("gif", None, [RED, GREEN, BLUE, BLACK]),
    ("png", 1, [RED, WHITE, BLUE, BLACK]), ("gif", 1, [RED, WHITE, BLUE, BLACK]),
    ("png", bytes([255, 0, 255, 204]), [RED, WHITE, BLUE, (51, 51, 51)])], ids=repr)
def test_palettes(tmp_path, suffix, transparent, expected):
    """Colours by number, none, one or (in a PNG) each of them transparent to its own degree."""
    image = Image.new("P", (30, 20))
    image.putpalette([*RED, *GREEN, *BLUE, *BLACK])
    image.putdata([2 * (y >= 10) + (x >= 15) for y in range(20) for x in range(30)])
    image = saved(tmp_path, image, suffix, **({} if transparent is None else dict(transparency=transparent)))
    assert image.mode == "RGB" and corners(image) == expected


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(tmp_path, suffix):
    """0 is black, 65535 is white, and what lies between is in proportion; Pillow alone makes all above 255 white."""
    values = np.array([[0, 128, 257, 1000, 32768, 65000, 65535]], np.uint16)
    image = saved(tmp_path, Image.fromarray(values), suffix)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.repeat((values / 257).round()[..., None], 3, axis=2))


@pytest.mark.parametrize("mode, suffix, color, expected", [
    ("L", "png", 100, (100, 100, 100)), ("L", "jpg", 100, (100, 100, 100)), ("1", "png", 1, WHITE),
    ("1", "png", 0, BLACK), ("LA", "png", (100, 255), (100, 100, 100)), ("LA", "png", (100, 0), WHITE),
    ("LA", "png", (0, 51), (204, 204, 204)), ("CMYK", "jpg", (0, 0, 0, 0), WHITE),
    ("CMYK", "jpg", (0, 255, 255, 0), RED), ("CMYK", "tif", (255, 255, 0, 0), BLUE),
    ("CMYK", "tif", (0, 0, 0, 255), BLACK), ("RGB", "bmp", (10, 20, 30), (10, 20, 30))])
def test_every_mode_is_read_in_its_colours(tmp_path, mode, suffix, color, expected):
    """Grey, black and white, grey with alpha, the four inks of a printer."""
    image = saved(tmp_path, Image.new(mode, (8, 8), color), suffix)
    assert image.mode == "RGB" and image.getpixel((4, 4)) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int16"])
def test_floats_and_32_bits_say_what_mends_them(tmp_path, dtype):
    """What is white in them is not known: neither guessed nor black. The advice works."""
    array = np.array([[0, 0.5, 1]], dtype)
    refuses(lambda: to_rgb(Image.fromarray(array)), "make it one of 8 bits", "Image.fromarray((255 * array)")
    if dtype in ("float32", "int32"):
        Image.fromarray(array).save(tmp_path / "it.tif")
        refuses(lambda: read_picture(tmp_path / "it.tif"), "it.tif cannot be read as a picture", "make it one of 8")
    mended = to_rgb(Image.fromarray((255 * array).astype(np.uint8)))
    assert np.asarray(mended)[..., 0].tolist() == [[0, 0 if "int" in dtype else 127, 255]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_single_transparent_colour(tmp_path, mode):
    """A PNG may name one colour that is to be seen through."""
    image = Image.new(mode, (8, 8), 100 if mode == "L" else (100, 0, 0))
    image.paste(7 if mode == "L" else (0, 7, 0), (0, 0, 4, 4))
    image = saved(tmp_path, image, transparency=7 if mode == "L" else (0, 7, 0))
    assert image.getpixel((0, 0)) == WHITE and image.getpixel((7, 7)) == ((100,) * 3 if mode == "L" else (100, 0, 0))


def profile(space=b"RGB ", primaries=None, gamma=None):
    """A minimal ICC profile: the three primaries in XYZ under D50, and the curve of sRGB or a power; or grey."""
    fixed = lambda *numbers: struct.pack(f">{len(numbers)}i", *(round(65536 * x) for x in numbers))
    curve = b"para\0\0\0\0" + (struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
                                if gamma is None else struct.pack(">HH", 0, 0) + fixed(gamma))
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}
    tags |= {b"kTRC": curve} if space == b"GRAY" else {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    tags |= {name + b"XYZ": b"XYZ \0\0\0\0" + fixed(*xyz) for name, xyz in zip((b"r", b"g", b"b"), primaries or [])}
    table, content = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(content), len(tag))
        content += tag.ljust(-(-len(tag) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s12s4s", 132 + 12 * len(tags) + len(content), b"", 0x04000000, b"mntr", space,
                       b"XYZ ", b"\x07\xea\0\1\0\1" + bytes(6), b"acsp").ljust(68, b"\0") + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + content


P3 = profile(primaries=[(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)])
ADOBE = profile(gamma=2.2, primaries=[(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087),
                                       (0.14919, 0.06322, 0.74457)])


@pytest.mark.parametrize("icc, color, expected", [
    (P3, (184, 56, 36), (200, 40, 20)), (P3, (128, 128, 128), (128, 128, 128)), (P3, (255, 255, 255), WHITE),
    (ADOBE, (176, 45, 25), (205, 41, 16)), (P3, (184, 56, 36, 255), (200, 40, 20)), (P3, (184, 56, 36, 0), WHITE)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colors_are_those_of_the_profile(tmp_path, icc, color, expected, suffix):
    """Display P3, as of every recent phone, and Adobe RGB. They are converted once, also of a picture from Pillow."""
    image = Image.new("RGB" if len(color) == 3 else "RGBA", (8, 8), color)
    read = saved(tmp_path, image, suffix, icc_profile=icc)
    assert read.getpixel((4, 4)) == pytest.approx(expected, abs=2) and "icc_profile" not in read.info
    of_pillow = fit(Image.open(tmp_path / f"it.{suffix}"), 8, 8)
    assert of_pillow.tobytes() == read.tobytes() == fit(read, 8, 8).tobytes()


def test_srgb_with_its_profile_stays_as_it_is(tmp_path):
    """To the last bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(np.asarray(saved(tmp_path, Image.fromarray(pixels), icc_profile=icc)), pixels)


@pytest.mark.parametrize("mode, suffix", [("L", "jpg"), ("L", "png"), ("LA", "png"), ("CMYK", "jpg"), ("CMYK", "tif"),
                                          ("RGB", "jpg"), ("P", "png"), ("1", "png"), ("I;16", "png")])
@pytest.mark.parametrize("icc", [P3, profile(b"GRAY", gamma=1.8), P3[:200], b"broken"], ids="P3 grey cut none".split())
def test_a_profile_that_is_broken_or_another_mode_s(tmp_path, mode, suffix, icc):
    """Is at most a warning, and the picture is read as without it."""
    image = Image.new(mode, (8, 8), 0 if mode in ("1", "P", "I;16") else 100 if mode == "L" else (100,) * len(mode))
    plain = saved(tmp_path, image, suffix)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read = saved(tmp_path, image, suffix, icc_profile=icc)
    assert read.mode == "RGB" and read.size == (8, 8) and len(told) <= 1
    if told:
        assert "profile cannot be used" in str(told[0].message) and read.tobytes() == plain.tobytes()
    assert told or icc not in (b"broken", P3[:200])


def test_grey_with_the_profile_of_its_grey(tmp_path):
    """Of gamma 1.8: lighter in sRGB, which is darker in the middle."""
    read = saved(tmp_path, Image.new("L", (8, 8), 100), icc_profile=profile(b"GRAY", gamma=1.8))
    assert read.getpixel((0, 0)) == pytest.approx((118,) * 3, abs=3)


def test_reading_leaves_an_rgb_picture_as_it_is(tmp_path):
    """To the last bit; and the file is closed again."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert np.array_equal(np.asarray(saved(tmp_path, Image.fromarray(pixels))), pixels)


# ---- resizing ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape, size, becomes", [
    ((64, 64), 32, (32, 32)), ((64, 96), 32, (32, 48)), ((96, 64), 32, (48, 32)), ((10, 10), 64, (64, 64)),
    ((100, 150), 64, (64, 96)), ((333, 500), 64, (64, 96)), ((64, 99), 64, (64, 96)), ((64, 103), 64, (64, 96)),
    ((49, 98), 32, (32, 64)),
    ((64, 104), 64, (64, 104)), ((1000, 64), 20, (312, 16)), ((64, 64), 39, (32, 32)), ((30, 31), 8, (8, 8)),
    ((64, 64), (32, 48), (32, 48)), ((40, 90), (64, 16), (64, 16)), ((64, 64), [33, 50], (32, 48)),
    ((7, 9), (8, 8), (8, 8))])
def test_fit_gives_the_size_asked_for_in_multiples_of_the_factor(shape, size, becomes):
    """A number is the shorter side, the other keeps the shape; (height, width) is both. A picture and a factor of 8."""
    assert fit(quarters(*shape), size, 8).size == becomes[::-1]
    of_numpy = size if isinstance(size, int) else tuple(map(np.int64, size))
    assert fit(quarters(*shape), of_numpy, np.int64(8)).size == becomes[::-1]


@pytest.mark.parametrize("factor", [1, 4, 8, 16])
def test_a_picture_of_the_right_size_is_not_touched(factor):
    """Not resampled: to the last bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    for size in (32, (32, 48)):
        assert np.array_equal(np.asarray(fit(Image.fromarray(pixels), size, factor)), pixels)


@pytest.mark.parametrize("shape, size, window", [
    ((32, 96), (32, 32), (32, 0, 64, 32)), ((96, 32), (32, 32), (0, 32, 32, 64)),
    ((64, 192), (32, 64), (32, 0, 160, 64)), ((32, 46), 32, (3, 0, 43, 32)), ((62, 32), 32, (0, 3, 32, 59)),
    ((300, 100), (40, 40), (0, 100, 100, 200))])
def test_what_is_too_much_is_cropped_evenly(shape, size, window):
    """The middle of the picture stays, as much of it as can: every pixel says where it was."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    image = Image.fromarray(np.stack([x * 255 / width, y * 255 / height, 0 * x], 2).round().astype(np.uint8))
    found = fit(image, size, 8)
    expected = image.crop(window).resize(found.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= 2


def test_circles_stay_round():
    """Both directions are scaled alike, as far as whole pixels go."""
    y, x = np.mgrid[:200, :300]
    image = Image.fromarray((255 * ((x - 150) ** 2 + (y - 100) ** 2 < 60 ** 2)).astype(np.uint8))
    for size, radius in ((64, 60 * 64 / 200), ((64, 64), 60 * 64 / 200), ((32, 96), 60 * 96 / 300)):
        white = np.asarray(fit(image, size, 8))[..., 0] > 127
        height, width = white.shape
        assert white[height // 2].sum() == pytest.approx(min(2 * radius, width), abs=1.5)
        assert white[:, width // 2].sum() == pytest.approx(min(2 * radius, height), abs=1.5)


def test_shrinking_averages():
    """A fine chequerboard becomes grey, not black or white (no pixels are skipped)."""
    board = Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8))
    for more in ((), (Image.Resampling.BOX,)):
        grey = np.asarray(fit(board, 32, 8, *more))[4:-4, 4:-4]
        assert np.abs(grey.astype(int) - 127).max() <= 3
    edge = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 64, axis=1).repeat(128, 0))
    assert set(fit(edge, 32, 8, Image.Resampling.BOX).convert("L").tobytes()) == {0, 255}     # and a box rings nowhere


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "LA", "1", "I;16"])
def test_any_picture_can_be_fitted(mode):
    """A picture that was not read from a file is made RGB first; the caller's own is not changed."""
    image = Image.new(mode, (40, 40))
    before = image.tobytes()
    found = fit(image, 32, 8)
    assert (found.mode, found.size) == ("RGB", (32, 32)) and (image.mode, image.tobytes()) == (mode, before)


@pytest.mark.parametrize("size", [0, -8, 7, 4097, 32.0, "32", True, (), (32,), (32, 32, 32), (32, 7), (4097, 32),
                                  (32, "32"), (32, None), {32, 64}], ids=str)
def test_size_that_is_none(size):
    """From the factor to 4096, whole numbers only."""
    refuses(lambda: fit(quarters(), size, 8), "size must be pixels of the shorter side, or ", "8 to 4096", repr(size))


def test_picture_that_would_be_too_long():
    """A long strip, its shorter side enlarged."""
    refuses(lambda: fit(Image.new("RGB", (1000, 10)), 64, 8), "1000 × 10", "at most 4096", "6400")
    assert fit(Image.new("RGB", (1000, 10)), (64, 64), 8).size == (64, 64)


# ---- tensors -------------------------------------------------------------------------------------------------------

def test_tensor_and_back():
    """(1, 3, height, width) from −1 to 1, red first; every one of the 256 levels comes back."""
    x = to_tensor(quarters())
    assert x.shape == (1, 3, 20, 30) and x.dtype == torch.float32
    assert x[0, :, 0, 0].tolist() == [1, -1, -1] and x[0, :, 19, 0].tolist() == [-1, -1, 1]
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    assert to_image(to_tensor(levels)[0]).tobytes() == levels.tobytes()
    assert to_image(torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1)).getpixel((0, 0)) == (0, 128, 255)


# ---- what cannot be read -------------------------------------------------------------------------------------------

def test_picture_that_is_not_there(tmp_path):
    """Nothing, or a folder."""
    for path in (tmp_path / "nowhere.png", tmp_path, str(tmp_path / "no" / "where.png")):
        refuses(lambda path=path: read_picture(path), f"there is no picture at {path}", error=FileNotFoundError)


@pytest.mark.parametrize("address", ["https://example.org/a.png", "http://x/" + 300 * "a", "s3://bucket/a.png"])
def test_picture_that_is_an_address(address):
    refuses(lambda: read_picture(address), f"{address} is an address, not a file; download", error=FileNotFoundError)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3), np.uint8), torch.zeros(3, 8, 8), [[0, 0], [0, 0]], None],
                         ids=lambda x: type(x).__name__)
def test_picture_that_is_neither_pil_nor_a_path(model, image):
    """An array or a list as a picture to invert, or as a mask; and a path as a mask."""
    refuses(lambda: p2p.invert(model, image, "a car", steps=5), "a PIL picture, or the path of a file, not ")
    for mask in (image, "mask.png"):
        if mask is not None:                               # None is no mask
            refuses(lambda mask=mask: p2p.LocalBlend(model.tokenizer, ["a car", "a dog"], None, mask=mask),
                    "mask must be a PIL picture, such as Image.fromarray(array), not ")


@pytest.mark.parametrize("content", [b"", b"a car", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a",
                                     b"<svg></svg>"], ids=repr)
def test_file_that_is_no_picture(tmp_path, content):
    """Whatever it is called."""
    (tmp_path / "it.png").write_bytes(content)
    refuses(lambda: read_picture(tmp_path / "it.png"), f"{tmp_path / 'it.png'} cannot be read as a picture")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_picture_that_is_cut_off(tmp_path, suffix, share):
    """No half picture is edited. (Other damage: scripts/hostile/pictures.py.)"""
    path = tmp_path / f"it.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(share * len(whole))])
    refuses(lambda: read_picture(path), "cannot be read as a picture", error=ValueError)


def test_picture_of_too_many_pixels(tmp_path, monkeypatch):
    """Pillow's guard against files that unpack to more than memory holds."""
    quarters().save(tmp_path / "it.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refuses(lambda: read_picture(tmp_path / "it.png"), "cannot be read as a picture", error=ValueError)


@pytest.mark.parametrize("error, says", [
    (RuntimeError("Failed to decode\nimage"), "Failed to decode image"), (SyntaxError("broken PNG"), "broken PNG"),
    (struct.error("unpack requires 4 bytes"), "unpack requires"), (ZeroDivisionError(), "ZeroDivisionError"),
    (PermissionError(13, "Permission denied", "it.png"), "Permission denied")], ids=repr)
def test_whatever_pillow_raises_is_one_line(tmp_path, monkeypatch, error, says):
    """Of a damaged file, that may be anything."""
    def broken(*args, **more):
        raise error
    quarters().save(tmp_path / "it.png")
    monkeypatch.setattr(Image.Image, "load", broken)
    refuses(lambda: read_picture(tmp_path / "it.png"), f"cannot be read as a picture: {says}", error=ValueError)


# ---- captions ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["a cat", "“a 'dog'…”", ""])
def test_font_of_most_captions_is_pillow_s_own(text):
    """So that they look the same everywhere."""
    assert font_for(text, 14).getname() == ImageFont.load_default(14).getname()


def test_font_of_captions_in_other_letters():
    """The first of the system that has most of them; here one that is nearly everywhere on Linux."""
    try:
        ImageFont.truetype("DejaVuSans.ttf", 14)
    except OSError:
        pytest.skip("DejaVu Sans is not on this system")
    for text in ("café", "3 × 4", "кошка", "fluffy × −2"):
        assert font_for(text, 14).getname()[0] == "DejaVu Sans"


def test_sheet_without_a_font_for_its_captions(monkeypatch):
    """It is made all the same, with boxes; a long word without spaces is broken into lines."""
    monkeypatch.setattr(pictures, "FONTS", ("nowhere.ttf",))
    assert sheet([quarters()] * 2, ["a cat", 200 * "猫"]).height > 300


@pytest.mark.parametrize("text", ["", "a", "a cat on the grass " * 9, "W" * 99, "a " + "i" * 300, "  two   spaces\n"])
@pytest.mark.parametrize("width", [40, 128, 300])
def test_wrap_keeps_lines_within_their_width(text, width):
    """Without losing a letter."""
    font = ImageFont.load_default(14)
    lines = wrap(text, font, width)
    assert all(0 < font.getlength(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
