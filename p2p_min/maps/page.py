"""The explorer: one HTML file, without server or network, in which one points at a word and sees what looked at it.

page.html and page.js are the page; here its data are gathered. live.py makes the same page with controls.
"""
import base64
import html
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .. import align
from ..checks import must
from ..ddim import bar
from ..editing import decode
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

    recorder  `Recorder(..., per_step=True)`, given to the run as `recorder=recorder`
    about     what to say of how the run was made: its command
    without   what the same prompts and noise give with no edit, to be shown beside: a `Result`, or its pictures
    labels    a text for each target, which tells it from the others: "fluffy × −2"; None: their numbers
    Raises ValueError where the recorder did not keep what the page shows, and for what does not belong to the run.
    """
    return write_page(page_data(model, result, recorder, about, without=without, labels=labels))


def write_page(data, policy=POLICY, scripts=("page.js",)):
    """The `Page` that holds the data, and may do what `policy` (a Content-Security-Policy) says."""
    page, *scripts = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.html", *scripts))
    # A "<" in a prompt must not end the script that holds the data. They come last: a prompt may say {{script}}.
    data = json.dumps(data).replace("<", "\\u003c")
    page = page.replace("{{policy}}", policy).replace("{{script}}", "\n".join(scripts))
    return Page(page.replace("{{data}}", data))


def page_data(model, result, recorder, about="", *, without=None, labels=None, progress=False):
    """What the page shows, as JSON can keep it. Arguments and errors as of `explorer`; progress as of a run."""
    images, prompts, times = result.images, result.prompts, recorder.times
    n, steps = len(images), len(times)
    must(recorder.prompts == prompts, "the recorder", f"of the result's prompts, {prompts}", recorder.prompts)
    if not times:
        raise ValueError("the page needs Recorder(..., per_step=True), given to the run as recorder=, and maps of at "
                         "most 32 × 32 pixels")
    plain = getattr(without, "images", without) or []
    belongs = len(plain) in (0, n) and getattr(without, "prompts", prompts) == prompts
    must(belongs, "without", f"the Result of the same prompts, or {n} pictures", without)
    labels = [None, *(labels or [None] * (n - 1))]
    must(len(labels) == n, "labels", f"one text for each target, {n - 1}", labels[1:])
    # The maps: a row for each word, and for a target's two, before and after the edit. Small sizes come first.
    rows = [
        (word, i, edited)
        for i in range(n)
        for word in recorder.words(i)
        for edited in (False, True)[:i + 1]]
    if not rows:
        raise ValueError("the page shows words, and these prompts have none")
    sizes = [size for size in recorder.sizes[::-1] if math.prod(size) <= SMALL]
    best = recorder.size if recorder.size in sizes else sizes[-1]
    every = math.ceil(len(rows) * steps * sum(map(math.prod, sizes)) / CELLS)
    kept = slice(None, None, every)
    # The prompts and their pictures. Targets that differ in weights alone share the one without injection.
    plain = [url(image) for image in plain]
    different = list(dict.fromkeys(plain))
    cards = []
    for i, image in enumerate(images):
        cards.append(of_prompt(recorder, rows, i, best, kept))
        cards[i] |= dict(picture=url(image), label=labels[i], without=different.index(plain[i]) if plain else None)
    # What some of the steps foresee.
    chosen = np.linspace(0, steps - 1, min(STRIP, steps)).round().astype(int).tolist()
    thumbs = []
    for step in bar(progress, chosen, "decoding"):
        foreseen = decode(model, recorder.predictions[times[step]].to(model.device))
        for picture in foreseen:
            picture.thumbnail((THUMB, THUMB))
        thumbs.append(map(url, foreseen))
    return dict(
        about=about, colours=COLOURS.tolist(),
        steps=steps, every=every, times=times[kept],
        sizes=sizes, size=sizes.index(best),
        maps=[map_sheet(recorder, rows, size, kept) for size in sizes],
        without=different,
        prompts=cards,
        strip=dict(steps=[step + 1 for step in chosen], pictures=list(zip(*thumbs))))


def url(image):
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def map_sheet(recorder, rows, size, kept):
    """All maps of one size as a grey picture: a row is the average, then the steps, and 0 to 255 is its range."""
    pictures, ranges = [], []
    for word, i, edited in rows:
        maps_of = partial(recorder.maps, word, i, edited=edited, size=size)
        maps = np.hstack([maps_of(), *maps_of(per_step=True)[kept]])
        low, high = min(0.0, float(maps.min())), max(1e-6, float(maps.max()))
        pictures.append((maps - low) / (high - low) * 255)
        ranges.append([low, high])
    grey = np.vstack(pictures).round().astype(np.uint8)
    return dict(sheet=url(Image.fromarray(grey)), ranges=ranges)


def of_prompt(recorder, rows, i, size, kept):
    """What the page knows of prompt i: its text cut at the words, each word's rows, partner in the source, and fate."""
    text, words = recorder.prompts[i], recorder.words(i)
    # [text, number of the word], or [text, None] between words.
    pieces, end = [], 0
    for piece in align.words(recorder.tokenizer, text):
        start, stop = piece.place
        pieces += [[text[end:start], None], [text[start:stop], words.index(piece.text)]]
        end = stop
    partners = [recorder.partner(word, i) for word in words]
    own, used = ([rows.index((word, i, edited)) for word in words] for edited in (False, i > 0))
    return dict(
        pieces=[*pieces, [text[end:], None]], words=words, partners=partners,
        own=own, used=used,
        fates=[fates(recorder, i, word, other, size)[kept] for word, other in zip(words, partners)])


def fates(recorder, i, word, other, size):
    """A letter for each step, what became of a word's map: its own "o", the source's "s", or something else "x"."""
    maps_of = partial(recorder.maps, size=size, per_step=True)
    own, used = maps_of(word, i, edited=False), maps_of(word, i)
    source = used * np.nan if other is None else maps_of(recorder.words()[other])
    same = partial(np.allclose, rtol=1e-4, atol=1e-6)
    return "".join("o" if same(M_hat, M_star) else "s" if same(M_hat, M) else "x"
                   for M, M_star, M_hat in zip(source, own, used))
