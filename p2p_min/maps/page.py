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
import torch
from PIL import Image

from .. import align
from ..blend import LocalBlend
from ..checks import must
from ..ddim import bar
from ..editing import decode
from ..edits import CrossEdit, Reweight, SelfReplace, auto
from ..networks.text import spans
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
    without   what the same prompts and noise give with no edit, to be shown beside: a `Result`; or, to show its maps
              too, a pair: the Result, and the `Recorder(..., per_step=True)` of its run
    labels    a text for each target, which tells it from the others: "fluffy × −2"; None: their numbers
    Raises ValueError where a recorder did not keep what the page shows, and for what does not belong to the run.
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
    # The run without an edit has each different target at least once.
    plain, seen = without if isinstance(without, tuple) else (without, None)
    theirs = getattr(plain, "prompts", [] if plain else prompts)
    must(theirs[:1] == prompts[:1] and {*prompts[1:]} <= {*theirs[1:]}, "without",
         "a Result of the same prompts, or a pair: that, and its Recorder", without)
    must(not seen or seen.times == times, "without's recorder", "of its run, with per_step=True and as many steps",
         seen)
    places = [0, *(1 + theirs[1:].index(prompt) for prompt in prompts[1:])]
    labels = [None, *(labels or [None] * (n - 1))]
    must(len(labels) == n, "labels", f"one text for each target, {n - 1}", labels[1:])
    # The prompts, and the rows of their words' maps: M; of a target M_star and M_hat, and M_star without an edit.
    rows, cards = [], []
    for i, image in enumerate(images):
        cards.append(of_prompt(recorder, i) | dict(picture=url(image), label=labels[i], without=places[i]))
        kinds = ("own", recorder, i, False), ("used", recorder, i, True), ("plain", seen, places[i], True)
        for kind, *source in kinds[:1 + (i > 0) * (1 + bool(seen))]:
            cards[i][kind] = len(rows)                     # the first of them
            rows += [(word, *source) for word in cards[i]["words"]]
    if not rows:
        raise ValueError("the page shows words, and these prompts have none")
    # Small sizes come first.
    sizes = [size for size in recorder.sizes[::-1] if math.prod(size) <= SMALL]
    best = recorder.size if recorder.size in sizes else sizes[-1]
    every = math.ceil(len(rows) * steps * sum(map(math.prod, sizes)) / CELLS)
    kept = slice(None, None, every)
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
        maps=[map_sheet(rows, size, kept) for size in sizes],
        without=[url(image) for image in plain.images] if plain else [],
        prompts=cards,
        edit=edits_of(recorder) if n > 1 else None, all_sizes=recorder.sizes,
        strip=dict(steps=[step + 1 for step in chosen], pictures=list(zip(*thumbs))))


def url(image):
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def edits_of(recorder):
    """What edits the recorder's run, in numbers; and what `auto` would align, which says what corresponds to what."""
    edits = auto(recorder.tokenizer, recorder.prompts), *recorder.edits
    return {name: numbers(edit, recorder.keys) for name, edit in zip(("aligned", "cross", "self", "blend"), edits)}


def numbers(x, keys):
    """What an edit or a blend holds, as JSON can keep it, of the first tokens; {}: a function of the user's own."""
    if torch.is_tensor(x):
        return x[..., :keys].tolist()
    if type(x) in (CrossEdit, Reweight, SelfReplace) or isinstance(x, LocalBlend):
        x = vars(x)
    if isinstance(x, dict):
        return {name: numbers(each, keys) for name, each in x.items()}
    return x if x is None or isinstance(x, (float, int)) else {}


def map_sheet(rows, size, kept):
    """All maps of one size as a grey picture: a row is the average, then the steps, and 0 to 255 is its range."""
    pictures, ranges = [], []
    for word, recorder, i, edited in rows:
        maps_of = partial(recorder.maps, word, i, edited=edited, size=size)
        maps = np.hstack([maps_of(), *maps_of(per_step=True)[kept]])
        low, high = min(0.0, float(maps.min())), max(1e-6, float(maps.max()))
        pictures.append((maps - low) / (high - low) * 255)
        ranges.append([low, high])
    grey = np.vstack(pictures).round().astype(np.uint8)
    return dict(sheet=url(Image.fromarray(grey)), ranges=ranges)


def of_prompt(recorder, i):
    """What the page knows of prompt i: its text cut at the words, their names and tokens, and each token's text."""
    text = recorder.prompts[i]
    found = align.words(recorder.tokenizer, text)
    texts = [piece.text for piece in found]
    # [text, number of the word], or [text, None] between words.
    pieces, end = [], 0
    for n, piece in enumerate(found):
        start, stop = piece.place
        pieces += [[text[end:start], None], [text[start:stop], n]]
        end = stop
    return dict(
        pieces=[*pieces, [text[end:], None]],
        words=[f"{name}#{texts[:n + 1].count(name)}" for n, name in enumerate(texts)],
        tokens=[piece.tokens for piece in found],
        texts=[text[start:stop] for start, stop in spans(recorder.tokenizer, text)])
