"""Pictures from files: the right way up, the right colours, the right size; and one line for what is none."""
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

import p2p_min as p2p
from p2p_min import pictures
from p2p_min.pictures import fit, font_for, read_picture, sheet, to_image, to_rgb, to_tensor

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from hostile.pictures import attempt  # noqa: E402

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
    ("CMYK", "jpg", (0, 255, 255, 0), RED), ("CMYK", "tif", (255, 255, 0, 0), BLUE), ("F", "tif", 200.0, (200,) * 3),
    ("CMYK", "tif", (0, 0, 0, 255), BLACK), ("RGB", "bmp", (10, 20, 30), (10, 20, 30))])
def test_every_mode_is_read_in_its_colours(tmp_path, mode, suffix, color, expected):
    """Grey, black and white, grey with alpha, the four inks of a printer."""
    image = saved(tmp_path, Image.new(mode, (8, 8), color), suffix)
    assert image.mode == "RGB" and image.getpixel((4, 4)) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("values, levels", [
    ([0, 0.25, 0.5, 1], [0, 64, 128, 255]), ([0.2, 0.2, 0.2, 0.4], [51, 51, 51, 102]), ([0, 0, 0, 0], [0, 0, 0, 0]),
    ([-1e-4, 0, 1, 1.0001], [0, 0, 255, 255]), ([0, 1, 99.6, 255], [0, 1, 100, 255])])
def test_floating_point_of_0_to_1_and_of_0_to_255_is_scaled(tmp_path, values, levels):
    """Pillow alone makes all of 0 … 1 black. A mask is read alike."""
    image = Image.fromarray(np.array([values], np.float32))
    for found in (saved(tmp_path, image, "tif"), to_rgb(image, "black")):
        assert np.asarray(found).tolist() == [[[level] * 3 for level in levels]]


@pytest.mark.parametrize("values", [[0, 3.5], [-1, 1], [0, 300], [0, float("nan"), 1], [0, float("inf")]], ids=str)
def test_floating_point_of_other_ranges_is_refused(tmp_path, values):
    """What is white in it is not known: neither guessed nor black."""
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "it.tif")
    assert_says(ValueError, "must hold numbers from 0 to 1 or from 0 to 255, not from", tmp_path / "it.tif")


@pytest.mark.parametrize("dtype, values, levels", [
    ("int32", [0, 100, 255], [0, 100, 255]), ("int32", [0, 0, 128], [0, 0, 128]), ("int32", [0, 0, 0], [0, 0, 0]),
    ("int32", [0, 256, 65535], [0, 1, 255]), ("int32", [0, 257, 514], [0, 1, 2]), ("uint32", [0, 7, 255], [0, 7, 255]),
    ("int16", [0, 7, 255], [0, 7, 255]), ("uint16", [0, 257, 255], [0, 1, 1]), ("bool", [0, 1, 0], [0, 255, 0]),
    ("float64", [0, 0.5, 1], [0, 128, 255]), ("uint8", [0, 1, 2], [0, 1, 2])])
def test_an_array_of_any_numbers_is_read_by_its_range(dtype, values, levels):
    """What `Image.fromarray` makes of it; whole numbers of 32 bits hold 8 or 16 bits."""
    found = to_rgb(Image.fromarray(np.array([values], dtype)))
    assert np.asarray(found).tolist() == [[[level] * 3 for level in levels]]


@pytest.mark.parametrize("suffix", ["tif", "pgm"])
def test_a_dark_file_of_32_bits_is_read_by_its_range_and_one_of_16_is_dark(tmp_path, suffix):
    """A PGM file is known to have 16 bits, though Pillow makes 32 of them."""
    values = np.array([[0, 200]], np.int32)
    file = tmp_path / f"it.{suffix}"
    if suffix == "tif":
        Image.fromarray(values).save(file)
    else:
        file.write_bytes(b"P5 2 1 65535 " + values.astype(">u2").tobytes())    # which old versions of Pillow only read
    assert read_picture(file).getpixel((1, 0)) == ((200,) * 3 if suffix == "tif" else (1,) * 3)


@pytest.mark.parametrize("values, says", [
    ([0, 1], "not from 0 to 1 .multiply an array of 0 and 1 by 255"), ([1, 1], "not from 1 to 1 .multiply"),
    ([-1, 200], "not from -1 to 200$"), ([0, 65536], "not from 0 to 65536$"), ([0, 2 ** 31 - 1], "not from 0 to")])
def test_whole_numbers_of_other_ranges_are_refused(tmp_path, values, says):
    """What is white in them is not known, in a file or in an array."""
    image = Image.fromarray(np.array([values], np.int32))
    image.save(tmp_path / "it.tif")
    says = f"a 32-bit picture must hold numbers from 0 to 255 or from 0 to 65535, {says}"
    assert_says(ValueError, says, tmp_path / "it.tif")
    with pytest.raises(ValueError, match=says):
        to_rgb(image)


@pytest.mark.parametrize("mode", ["RGB", "L", "F", "I"])
@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels_says_so(size, mode):
    for use in (to_rgb, lambda image: fit(image, 32, 8)):
        with pytest.raises(ValueError, match=f"of {size[0]} × {size[1]} has no pixels"):
            use(Image.new(mode, size))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_single_transparent_colour(tmp_path, mode):
    """A PNG may name one colour that is to be seen through."""
    image = Image.new(mode, (8, 8), 100 if mode == "L" else (100, 0, 0))
    image.paste(7 if mode == "L" else (0, 7, 0), (0, 0, 4, 4))
    image = saved(tmp_path, image, transparency=7 if mode == "L" else (0, 7, 0))
    assert image.getpixel((0, 0)) == WHITE and image.getpixel((7, 7)) == ((100,) * 3 if mode == "L" else (100, 0, 0))


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
def test_a_size_that_is_none_says_so(size):
    """From the factor to 4096, whole numbers only."""
    says = "size must be pixels of the shorter side, or .*from 8 to 4096, not "
    with pytest.raises(ValueError, match=says) as caught:
        fit(quarters(), size, 8)
    assert repr(size) in str(caught.value)


def test_a_picture_that_would_be_too_long_says_so():
    """A long strip, its shorter side enlarged."""
    with pytest.raises(ValueError, match="a picture of 1000 × 10 becomes 6400 × 64 pixels, more than 4096"):
        fit(Image.new("RGB", (1000, 10)), 64, 8)
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

def assert_says(kind, says, path):
    with pytest.raises(kind, match=says) as caught:
        read_picture(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_say_so(tmp_path):
    for path in (tmp_path / "nowhere.png", tmp_path, str(tmp_path / "no" / "where.png")):
        assert_says(FileNotFoundError, "there is no picture at", path)


@pytest.mark.parametrize("address", ["https://example.org/a.png", "http://x/" + 300 * "a", "s3://bucket/a.png"])
def test_an_address_is_no_file_and_says_so(address):
    """As it was written, though a Path keeps one stroke of two."""
    for path in (address, Path(address)):
        with pytest.raises(FileNotFoundError, match=f"^{address} is an address, not a file; download"):
            read_picture(path)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3), np.uint8), torch.zeros(3, 8, 8), [[0, 0], [0, 0]], 5, None],
                         ids=lambda x: type(x).__name__)
def test_what_is_neither_a_picture_nor_a_path_says_what_is_taken(model, image):
    """An array or a list as a picture to invert, or as a mask; and a path as a mask."""
    kind = type(image).__name__
    with pytest.raises(ValueError, match=f"a PIL picture, or the path of a file, not {kind}"):
        p2p.invert(model, image, "a car", steps=5)
    for mask in (image, "mask.png"):
        if mask is not None:                               # None is no mask
            says = rf"mask must be a PIL picture \(.*fromarray\), not {type(mask).__name__}$"
            with pytest.raises(ValueError, match=says):
                p2p.LocalBlend(model.tokenizer, ["a car", "a dog"], None, mask=mask)


@pytest.mark.parametrize("content", [b"", b"a car", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a",
                                     b"<svg></svg>"], ids=repr)
def test_a_file_that_is_no_picture_says_so(tmp_path, content):
    """Whatever it is called."""
    (tmp_path / "it.png").write_bytes(content)
    assert_says(ValueError, "cannot be read as a picture", tmp_path / "it.png")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_a_truncated_picture_says_so(tmp_path, suffix, share):
    """No half picture is edited."""
    path = tmp_path / f"it.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(share * len(whole))])
    assert_says(ValueError, "cannot be read as a picture", path)


def test_a_png_with_a_broken_part_says_so(tmp_path):
    """Pillow calls that a SyntaxError."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)).save(tmp_path / "it.png")
    before, first, second, *rest = (tmp_path / "it.png").read_bytes().split(b"IDAT")
    (tmp_path / "it.png").write_bytes(before + b"IDAT" + first + b"\0DAT" + second + b"IDAT".join([b"", *rest]))
    assert_says(ValueError, "cannot be read as a picture: broken PNG", tmp_path / "it.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "gif", "tif", "webp", "bmp", "jpg"])
def test_a_damaged_picture_is_a_picture_or_an_error_that_says_so(tmp_path, monkeypatch, suffix):
    """Whichever byte is wrong: Pillow has many exceptions, and all of them are told alike."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)         # a wrong width would take its time
    path = tmp_path / f"it.{suffix}"
    quarters(8, 8).save(path)
    whole, told = path.read_bytes(), 0
    for i in range(0, min(len(whole), 250)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1:])
        try:
            assert read_picture(path).mode == "RGB"
        except ValueError as error:
            assert "cannot be read as a picture" in str(error)
            told += 1
    assert told


def test_a_picture_of_too_many_pixels_says_so(tmp_path, monkeypatch):
    """Pillow's guard against files that unpack to more than memory holds."""
    quarters().save(tmp_path / "it.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert_says(ValueError, "cannot be read as a picture", tmp_path / "it.png")


@pytest.mark.parametrize("error, says", [
    (RuntimeError("Failed to decode\nimage"), "Failed to decode image"), (NotImplementedError("BLP"), "BLP"),
    (struct.error("unpack requires 4 bytes"), "unpack requires"), (KeyError("mode"), "mode"), (MemoryError(), "Memory"),
    (RecursionError("too deep"), "too deep"), (ZeroDivisionError(), "ZeroDivisionError"), (IndexError("x"), "x"),
    (PermissionError(13, "Permission denied", "it.png"), "Permission denied$"), (AttributeError("'x'"), "'x'"),
    (Image.DecompressionBombWarning("exceeds limit"), "exceeds limit"), (Exception(), "Exception")], ids=repr)
def test_whatever_pillow_raises_is_one_line(model, tmp_path, monkeypatch, error, says):
    """Also on the live page."""
    from p2p_min.maps.live import Refused, Session

    def broken(*args, **more):
        raise error
    quarters().save(tmp_path / "it.png")
    session = Session(model, dict(model="weights/toy"))
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", broken)
        assert_says(ValueError, f"cannot be read as a picture: .*{says}", tmp_path / "it.png")
        with pytest.raises(Refused, match="this cannot be read as a picture"):
            session.keep_picture((tmp_path / "it.png").read_bytes())
    monkeypatch.setattr(Image.Image, "load", broken)
    assert_says(ValueError, f"cannot be read as a picture: .*{says}", tmp_path / "it.png")


def test_damaged_pictures_of_every_format_are_refused_in_one_line_or_read(tmp_path):
    """The first 200 of the thousands that scripts/hostile/pictures.py tries."""
    counts, faults = attempt(200, 1, tmp_path)
    assert not faults
    assert sum(counts.values()) == 200 and len({name for name, _ in counts}) > 10
    assert all(sum(n for (_, told), n in counts.items() if told == each) > 20 for each in ("read", "refused"))


# ---- captions ------------------------------------------------------------------------------------------------------

def fonts(monkeypatch, **has):
    """A system with these fonts; each has these characters. `default` is Pillow's own."""
    def of(name):
        if name not in has:
            raise OSError("cannot open resource")
        return name
    monkeypatch.setattr(pictures, "FONTS", tuple(has))
    monkeypatch.setattr(ImageFont, "truetype", lambda name, size: of(name))
    monkeypatch.setattr(ImageFont, "load_default", lambda size: of("default"))
    monkeypatch.setattr(pictures, "drawn", lambda font, letter: letter if letter in has[font] else "box")


@pytest.mark.parametrize("text, font, lacking", [
    ("cat", "default", ""), ("", "default", ""), ("a\tcat\u3000\n", "default", ""), ("café", "latin", ""),
    ("a 猫", "chinese", ""), ("猫é", "all", ""), ("猫 🚗", "chinese", "🚗"), ("é 🚗🛥", "latin", "🚗 🛥"),
    ("🛥", "default", "🛥")])
def test_a_sheet_takes_the_first_font_that_has_all_characters(monkeypatch, recwarn, text, font, lacking):
    """Else the one that lacks the fewest, and one warning says which are boxes."""
    fonts(monkeypatch, default="act", latin="acftéz", chinese="act猫", all="actfé猫")
    assert font_for(text, 14) == font
    assert [str(w.message).split(",")[0] for w in recwarn] == ([f"no font here has {lacking}"] if lacking else [])


def test_fonts_that_are_not_there_are_passed_over(monkeypatch):
    fonts(monkeypatch, default="act", latin="acté")
    monkeypatch.setattr(pictures, "FONTS", ("nowhere.ttf", "latin"))
    assert font_for("é", 14) == "latin"


def test_the_box_of_a_missing_character_is_told_from_characters():
    """With Pillow's own font, which has ASCII, and no Chinese."""
    font = ImageFont.load_default(14)
    box = pictures.drawn(font, "\uffff")
    assert {chr(n) for n in range(33, 127) if pictures.drawn(font, chr(n)) == box} == set()
    assert all(pictures.drawn(font, letter) == box for letter in "猫ق🚗")


def test_a_sheet_without_a_font_says_what_it_does_not_show(monkeypatch):
    """It is made all the same; a long word without spaces is broken into lines."""
    monkeypatch.setattr(pictures, "FONTS", ())
    with pytest.warns(UserWarning, match="^no font here has 猫, so captions show boxes there; install") as caught:
        page = sheet([quarters()] * 2, ["a cat", 200 * "猫"])
    assert len(caught) == 1 and page.height > 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sheet([quarters()] * 2, ["a cat", "“a 'dog'…”"])
