"""Damaged picture files of every kind: each must be refused in one line, or be read as a picture.

    python scripts/hostile/pictures.py [--tries 2000] [--seed 1]

Prints how many of each format were read and refused, and each fault: another exception, a message of several lines, a
hang, or a part of a picture taken for the whole. The exit status is 1 if there is one.
"""
import argparse
import io
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from PIL import Image

from p2p_min.pictures import read_picture

SECONDS = 10                                   # a file of a few pixels must not take longer
PIXELS = 1_000_000                             # more need time and memory, in which a header may lie
FORMATS = dict(                                # format: modes
    PNG="RGB RGBA L LA P I;16 1", JPEG="RGB L CMYK", GIF="P L", TIFF="RGB RGBA L I;16 1 CMYK P", WEBP="RGB RGBA",
    BMP="RGB L P", DIB="RGB", ICO="RGBA", ICNS="RGBA", AVIF="RGB RGBA", JPEG2000="RGB L RGBA", PPM="RGB L 1",
    TGA="RGB RGBA L P", DDS="RGB RGBA", BLP="P", PCX="RGB L 1", SGI="RGB L", IM="RGB L P", MSP="1", XBM="1",
    MPO="RGB", QOI="RGB RGBA")     # not PCX with a palette: cut off, Pillow cannot tell that it was there
HAVE_EXIF = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "MPO")


class Hang(BaseException):
    """Not an Exception, of which Pillow catches many."""


def exif(rng):
    """Tags of wrong types, counts and places, the orientation among them."""
    entries = [(rng.choice([0x0112, 0x0112, 0x010F, 0x011A, 0x8769, 0x8825, 0xA005, 0x927C, rng.randrange(2 ** 16)]),
                rng.choice([*range(1, 14), 0, 99]), rng.choice([0, 1, 1, 1, 2, 5, 1000, 2 ** 32 - 1]),
                rng.choice([0, 3, 6, 8, 26, 2 ** 31, 2 ** 32 - 1, rng.randrange(200)]))
               for _ in range(rng.randrange(1, 6))]
    order = rng.choice("<>")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, rng.choice([len(entries), 500]))
    return b"Exif\0\0" + head + b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries) + rng.randbytes(40)


def whole_files(rng):
    """{(format, mode): bytes} of what this Pillow can write."""
    Image.init()
    files = {}
    for name in sorted(FORMATS.keys() & Image.SAVE.keys()):
        for mode in FORMATS[name].split():
            size = (32, 32) if name in ("ICO", "ICNS") else (23, 17)
            noise = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
            image = (noise.convert("I") if mode in ("I", "I;16") else noise).convert(mode)
            more = dict(save_all=True, append_images=[image.rotate(180)]) if name in ("GIF", "MPO") else {}
            more |= dict(exif=orientation()) if name in HAVE_EXIF else {}
            file = io.BytesIO()
            try:
                image.save(file, name, **more)
            except OSError:                                # an older Pillow has fewer
                continue
            files[name, mode] = file.getvalue()
    return files


def orientation():
    tags = Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x011A] = 6, "p2p", 72.0
    return tags.tobytes()


def flipped(rng, data, files):
    for _ in range(rng.choice([1, 1, 2, 10, 100])):
        data[int(len(data) * rng.random() ** rng.choice([1, 4]))] ^= 1 << rng.randrange(8)     # more in the header


def cut(rng, data, files):
    del data[rng.choice([rng.randrange(len(data)), rng.randrange(min(64, len(data))), len(data) - 1]):]


def inserted(rng, data, files):
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice([1, 2, 4, 100]))


def repeated(rng, data, files):
    start, length = rng.randrange(len(data)), rng.randrange(1, 100)
    data[start:start] = data[start:start + length] * rng.choice([1, 3, 50])


def removed(rng, data, files):
    start = rng.randrange(len(data))
    del data[start:start + rng.choice([1, 2, 8, 50])]


def another_head(rng, data, files):
    length = rng.choice([2, 4, 8, 16, 64])
    data[:length] = rng.choice(list(files.values()))[:length]


def number(rng, data, files):
    """A size, a count or a place."""
    at, size = rng.randrange(min(len(data), rng.choice([64, 64, 400]))), rng.choice([1, 2, 4])
    data[at:at + size] = rng.choice([b"\0" * size, b"\xff" * size, b"\x7f" + b"\xff" * (size - 1),
                                     b"\xff" * (size - 1) + b"\x7f", b"\0" * (size - 1) + b"\1", rng.randbytes(size)])


def bad_exif(rng, data, files):
    """Not damage after the fact: the file is written with these tags."""
    image = Image.open(io.BytesIO(bytes(data)))
    if image.format not in HAVE_EXIF:
        return flipped(rng, data, files)
    file = io.BytesIO()
    try:
        image.save(file, image.format, exif=exif(rng))
    except Exception:                                      # tags that even Pillow does not write
        return flipped(rng, data, files)
    data[:] = file.getvalue()


def twice(rng, data, files):
    for _ in range(2):
        rng.choice([flipped, inserted, repeated, removed, number])(rng, data, files)


DAMAGES = [flipped, cut, inserted, repeated, removed, another_head, number, bad_exif, twice]


def outcome(path, whole):
    """"read", "refused", or what is wrong. whole: the only picture that may be read, or None for any."""
    def stop(*_):
        raise Hang
    before, start = signal.signal(signal.SIGALRM, stop), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        picture = read_picture(path)
        told = "read" if picture.mode == "RGB" else f"a picture of mode {picture.mode}"
        if whole is not None and picture.tobytes() != whole.tobytes():
            told = "a part of the picture, read as the whole"
    except (ValueError, FileNotFoundError) as error:
        told = "refused" if str(path) in str(error) and "\n" not in str(error) else f"the message {str(error)!r}"
    except Hang:
        told = "a hang"
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return told if time.monotonic() - start < SECONDS else "a hang"


def attempt(tries, seed, folder):
    """Counter of (format, outcome), and a list of faults as texts."""
    counts, faults = Counter(), []
    path = Path(folder) / "picture"
    pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                # Pillow's
            files, whole = whole_files(random.Random(seed)), {}
            for kind, data in files.items():
                path.write_bytes(data)
                whole[kind] = read_picture(path)
            for n in range(tries):
                rng = random.Random(f"{seed} {n}")
                kind, damage = rng.choice(list(files)), rng.choice(DAMAGES)
                data = bytearray(files[kind])
                damage(rng, data, files)
                path.write_bytes(data)
                told = outcome(path, whole[kind] if damage is cut else None)
                counts[kind[0], told if told in ("read", "refused") else "fault"] += 1
                if told not in ("read", "refused"):
                    faults.append(f"try {n}, {' '.join(kind)}, {damage.__name__}: {told}")
    finally:
        Image.MAX_IMAGE_PIXELS = pixels
    return counts, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, faults = attempt(args.tries, args.seed, folder)
    print(f"{'format':10} {'read':>8} {'refused':>8} {'fault':>8}")
    for name in sorted({name for name, _ in counts}):
        print(f"{name:10} " + " ".join(f"{counts[name, told]:8}" for told in ("read", "refused", "fault")))
    print(*faults, sep="\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
