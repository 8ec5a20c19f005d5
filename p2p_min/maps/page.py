"""The explorer: one HTML file in which one points at a word and sees what looked at it, step by step.

page.html and page.js beside this file are the page; here its data are gathered and everything is put into one file,
which asks for nothing else: no server, no network. live.py makes the same page with controls.
"""
import base64
import html
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..align import tokens_of
from ..align import words as words_of
from ..editing import decode
from ..edits import auto
from ..pictures import png
from .recorder import SMALL
from .sheet import COLOURS

CELLS = 2_500_000                              # bytes of maps at most, before compression; else fewer steps are kept
STRIP, THUMB = 8, 128                          # steps whose predicted picture is shown, and its longest side in pixels
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Page(str):
    """A page as text, to be written to a file. A notebook shows it, in a frame that may run its script only."""

    def _repr_html_(self):
        return (f'<iframe srcdoc="{html.escape(self)}" sandbox="allow-scripts" title="p2p_min explorer" '
                'style="width: 100%; height: 900px; border: 0"></iframe>')


def explorer(model, result, recorder, about="", *, without=None, labels=None):
    """The page of a run, as text (a `Page`, which a notebook shows).

    result    of the run
    recorder  `Recorder(..., per_step=True)`, given to it as `recorder=recorder`
    about     what to say of how the run was made: its command
    without   the same prompts from the same noise with no edit: a `Result`, or its pictures, source first; that of
              each target is shown beside it
    labels    a text for each target, which tells it from the others: "fluffy × −2"; None: their numbers
    Raises ValueError where the recorder did not keep what the page shows, and for what does not belong to the run.
    """
    return write_page(page_data(model, result, recorder, about, without=without, labels=labels))


def write_page(data, policy=POLICY, scripts=("page.js",)):
    """The `Page` that holds the data, and may do what `policy` (a Content-Security-Policy) says."""
    page, *scripts = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.html", *scripts))
    # A "<" in a prompt must not end the script that holds the data.
    parts = dict(policy=policy, script="\n".join(scripts), data=json.dumps(data).replace("<", "\\u003c"))
    for name, part in parts.items():                       # the data last: a prompt may say {{script}}
        page = page.replace(f"{{{{{name}}}}}", part)
    return Page(page)


def page_data(model, result, recorder, about="", *, without=None, labels=None):
    """What the page shows, as JSON can keep it. Arguments and errors as of `explorer`."""
    if list(recorder.prompts) != list(result.prompts):
        raise ValueError(f"the recorder is of the prompts {recorder.prompts}, the result of {result.prompts}")
    sizes = [size for size in recorder.sizes[::-1] if size[0] * size[1] <= SMALL]
    if not recorder.times or not recorder.predictions:
        raise ValueError("the page needs Recorder(..., per_step=True), given to the run as recorder=recorder")
    rows = [(word, i, edited) for i in range(len(recorder.prompts)) for word in recorder.words(i)
            for edited in ((False, True) if i else (False,))]
    if not rows:
        raise ValueError("the page shows words, and these prompts have none")
    best = recorder.size if recorder.size in sizes else sizes[-1]
    plain = [url(image) for image in check_without(result, without)]
    different = list(dict.fromkeys(plain))                 # targets that differ in their weights alone share one
    labels = [None, *check_labels(result, labels)]
    every = -(-len(rows) * len(recorder.times) * sum(h * w for h, w in sizes) // CELLS)
    kept = slice(None, None, every)
    return dict(
        about=about, steps=len(recorder.times), every=every, times=recorder.times[kept], colours=COLOURS.tolist(),
        sizes=sizes, size=sizes.index(best), maps=[map_sheet(recorder, rows, size, kept) for size in sizes],
        without=different,
        prompts=[of_prompt(recorder, rows, i, best, kept)
                 | dict(picture=url(image), label=labels[i], without=different.index(plain[i]) if plain else None)
                 for i, image in enumerate(result.images)],
        strip=strip(model, recorder))


def check_without(result, without):
    """The pictures, or none. Raises ValueError unless there is one for each of the run's."""
    images = getattr(without, "images", without) or []
    if images and ([getattr(image, "size", None) for image in images] != [image.size for image in result.images]
                   or getattr(without, "prompts", result.prompts) != result.prompts):
        raise ValueError(f"without must be the result of the same prompts, {result.prompts}, or as many pictures, of "
                         f"{' × '.join(map(str, result.images[0].size))} pixels")
    return images


def check_labels(result, labels):
    """The texts, or None for each target. Raises ValueError unless there is one for each."""
    labels = [None] * (len(result.prompts) - 1) if labels is None else list(labels)
    if len(labels) != len(result.prompts) - 1:
        raise ValueError(f"{len(labels)} labels for {len(result.prompts) - 1} targets; give one for each")
    return labels


def url(image):
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def map_sheet(recorder, rows, size, kept):
    """All maps of one size as a grey picture: a row for each of `rows`, in it the average, then the steps.

    ranges: what 0 and 255 stand for in each row.
    """
    pictures, ranges = [], []
    for word, i, edited in rows:
        steps = recorder.maps(word, i, edited=edited, size=size, per_step=True)
        maps = np.concatenate([recorder.maps(word, i, edited=edited, size=size)[None], steps[kept]])
        low, high = min(0.0, float(maps.min())), max(1e-6, float(maps.max()))
        pictures.append(np.hstack((maps - low) / (high - low) * 255))
        ranges.append([low, high])
    return dict(sheet=url(Image.fromarray(np.vstack(pictures).round().astype(np.uint8))), ranges=ranges)


def of_prompt(recorder, rows, i, size, kept):
    """What the page knows of prompt i: its text cut at the words, each word's rows, partner in the source, and fate."""
    text, words = recorder.prompts[i], recorder.words(i)
    pieces, at = [], 0
    for piece in words_of(recorder.tokenizer, text):
        start, end = piece.place
        pieces += [[text[at:start], None], [text[start:end], words.index(piece.text)]]
        at = end
    partners = [partner(recorder, i, word) for word in words]
    return dict(
        pieces=[piece for piece in [*pieces, [text[at:], None]] if piece[0]], words=words, partners=partners,
        own=[rows.index((word, i, False)) for word in words],
        used=[rows.index((word, i, i > 0)) for word in words],
        fates=["".join(fates(recorder, i, word, other, size)[kept]) for word, other in zip(words, partners)])


def partner(recorder, i, word):
    """The word of the source that answers to a word of prompt i, by its number, or None: as `auto` aligns them."""
    if i == 0:
        return recorder.words().index(word)
    A = auto(recorder.tokenizer, recorder.prompts).A[i - 1]
    tokens = tokens_of(recorder.tokenizer, recorder.prompts[i], word)
    shares = [A[tokens_of(recorder.tokenizer, recorder.prompts[0], each)][:, tokens].sum().item()
              for each in recorder.words()]
    return int(np.argmax(shares)) if any(shares) else None


def fates(recorder, i, word, other, size):
    """For each step what became of a word's map: its own "o", the source's "s", or something else "x"."""
    own, used = (recorder.maps(word, i, edited=edited, size=size, per_step=True) for edited in (False, True))
    source = used * np.nan if other is None else recorder.maps(recorder.words()[other], size=size, per_step=True)
    return ["o" if np.allclose(b, a, 1e-4, 1e-6) else "s" if np.allclose(b, c, 1e-4, 1e-6) else "x"
            for a, b, c in zip(own, used, source)]


def strip(model, recorder):
    """The pictures that some steps foresee: their numbers from 1 on, and for each prompt the pictures."""
    times = recorder.times
    chosen = sorted(set(np.linspace(0, len(times) - 1, STRIP).round().astype(int).tolist()))
    pictures = [decode(model, recorder.predictions[times[n]].to(model.device)) for n in chosen]
    for picture in (picture for of_step in pictures for picture in of_step):
        picture.thumbnail((THUMB, THUMB))
    return dict(steps=[n + 1 for n in chosen],
                pictures=[[url(picture) for picture in of_row] for of_row in zip(*pictures)])
