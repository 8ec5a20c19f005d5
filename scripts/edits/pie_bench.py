"""PIE-Bench (Ju et al. 2023): 700 pictures with prompts, masks and blend words; a folder with mapping_file.json.

    "000000000000": {"image_path": "0_random_140/000000000000.jpg", under annotation_images/
                     "original_prompt": "a [cat] on a chair", "editing_prompt": "a [dog] on a chair",
                     "editing_type_id": "0", "blended_word": "cat dog" or "",
                     "mask": [start, length, start, length, ...]}

Brackets mark what differs and are no part of a prompt. The mask's runs count pixels row by row; white may change.
"""
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from p2p_min.pictures import fit, read_picture

KINDS = ("random", "change object", "add object", "delete object", "change content", "change pose", "change colour",
         "change material", "change background", "change style")
FILE = "mapping_file.json"


@dataclass(frozen=True)
class Annotated:
    """An edit of PIE-Bench; fields as of drawn_scenes.Scenes."""
    key: str
    kind: str
    prompts: list
    words: tuple
    path: Path
    runs: list
    factors: dict = field(default_factory=dict)
    compares_with_right = False

    def pictures(self, size, factor):
        """The source, no right answer, and what may change, a (height, width) array of truths."""
        source = read_picture(self.path)
        mask = Image.fromarray(decode(self.runs, source.height, source.width).astype(np.uint8) * 255)
        mask = fit(mask, size, factor, Image.Resampling.NEAREST)
        return fit(source, size, factor), None, np.asarray(mask)[..., 0] > 0


def decode(runs, height, width):
    """Runs [start, length, ...] as a (height, width) array of truths. The border counts as masked, as published."""
    mask = np.zeros(height * width, bool)
    for start, length in zip(runs[::2], runs[1::2]):
        mask[start:start + length] = True
    mask = mask.reshape(height, width)
    mask[[0, -1]] = mask[:, [0, -1]] = True
    return mask


def items(folder, count=None):
    """The edits in `folder`, or `count` of them, evenly spread. Raises FileNotFoundError or ValueError, in one line."""
    file = Path(folder) / FILE
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is not PIE-Bench: it has no {FILE}") from None
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{file} holds no edits")
    found = [item(folder, key, entry) for key, entry in entries.items()]
    count = len(found) if count is None else min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def item(folder, key, entry):
    try:
        runs, number = entry["mask"], int(entry["editing_type_id"])
        prompts = [re.sub(r"[\[\]]", "", entry[name]) for name in ("original_prompt", "editing_prompt")]
        words = (*entry["blended_word"].split()[:2], None, None)[:2]
        path = Path(folder) / "annotation_images" / entry["image_path"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{FILE}: {key} is not as PIE-Bench writes it ({type(error).__name__}: {error})") from None
    if not re.fullmatch(r"[\w-]+", key) or not 0 <= number < len(KINDS):
        raise ValueError(f"{FILE}: {key!r} of type {number} is none of PIE-Bench's")
    if not isinstance(runs, list) or len(runs) % 2 or not all(type(n) is int and n >= 0 for n in runs):
        raise ValueError(f"{FILE}: the mask of {key} is not a list of starts and lengths")
    return Annotated(key, KINDS[number], prompts, words, path, runs)


def fingerprint(folder):
    return hashlib.sha256((Path(folder) / FILE).read_bytes()).hexdigest()[:16]
