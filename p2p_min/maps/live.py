"""The live page: from its settings to what it shows. server.py passes both over HTTP.

A change of the settings computes only what depends on it. The source is kept as an inversion, of a picture or of its
own run, and every edit begins from it. So the same settings always give the same picture.
"""
import dataclasses
import hashlib
import io
import json
import reprlib
import shlex
import threading
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial
from itertools import count

import torch
from PIL import Image

from ..align import unknown_words
from ..blend import LocalBlend
from ..ddim import timesteps
from ..editing import prompt_to_prompt
from ..edits import auto, refine, replace, reweight, self_replace
from ..inversion import METHODS, invert
from ..networks.config import whole
from ..networks.text import spans
from ..pictures import fit, open_rgb
from .page import STRIP, page_data, partner, url, write_page
from .recorder import Recorder

KINDS = dict(auto=auto, replace=replace, refine=refine, none=None)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")     # of a picture from the browser; some others run programs
PIXELS = 50_000_000                            # of such a picture
KEPT = 8                                       # sources, pictures, answers: the last so many


def is_text(value):
    return isinstance(value, str) and len(value) <= 1000


def is_window(value):
    return isinstance(value, list) and len(value) == 2 and all(map(within(0, 1), value)) and value[0] <= value[1]


def within(low, high):
    return lambda x: isinstance(x, (int, float)) and not isinstance(x, bool) and low <= x <= high


WINDOW = "a window [from, to] of the steps, each from 0 to 1"
SETTINGS = {                                   # name: (at first, what fits, what that is)
    "source": ("a red car in the snow", is_text, "a text of at most 1000 characters"),
    "target": ("a red boat in the snow", is_text, "a text of at most 1000 characters"),
    "kind": ("auto", lambda x: x in list(KINDS), "auto, replace, refine or none"),
    "cross": ([0, 0.6], is_window, WINDOW),
    "self": ([0, 0.4], is_window, WINDOW),
    "guidance": (5, within(-100, 100), "a number from -100 to 100"),
    "steps": (20, *whole(1, 200)),
    "seed": (0, whole(0, 2 ** 63 - 1).fits, "a whole number from 0 to 2^63 - 1"),
    "weights": ({}, lambda x: isinstance(x, dict) and len(x) < 78 and all(map(within(-2, 2), x.values())),
                "an object {word: factor}, each factor from -2 to 2"),
    "blend": ([], lambda x: isinstance(x, list) and len(x) < 78 and all(map(is_text, x)), "a list of words"),
    "layers": ("", is_text, "the beginning of a module's name"),
    "picture": (None, lambda x: x is None or is_text(x), "null, or what the server called a picture"),
    "method": ("direct", lambda x: x in METHODS, ", ".join(METHODS)),
}


class Refused(ValueError):
    """What cannot be done, and the setting that it is about, or None."""

    def __init__(self, message, setting=None):
        super().__init__(" ".join(str(message).split()))
        self.setting = setting


class Replaced(Exception):
    """A newer request is there."""


@contextmanager
def about(setting):
    """A ValueError inside is about this setting."""
    try:
        yield
    except Refused:
        raise
    except ValueError as error:
        raise Refused(error, setting) from None


def check_settings(given):
    """All settings; those that are not given have their first value. Raises Refused for an invalid one."""
    if not isinstance(given, dict):
        raise Refused("the settings must be an object")
    for name in given.keys() - SETTINGS.keys():
        raise Refused(f"there is no setting {reprlib.repr(name)}; there are {', '.join(SETTINGS)}")
    for name, value in given.items():
        if not SETTINGS[name][1](value):
            raise Refused(f"{name} must be {SETTINGS[name][2]}, not {reprlib.repr(value)}", name)
    return {name: given.get(name, first) for name, (first, _, _) in SETTINGS.items()}


class Telling:
    """A network that calls `tell` before it computes. Everything else is the network's.

    decoded  a `Kept` of the VAE's pictures: those of a kept source come again with every change
    """

    def __init__(self, network, tell, decoded=None):
        self.network, self.tell, self.decoded = network, tell, decoded

    def __call__(self, *args):
        self.tell()
        return self.network(*args)

    def decode(self, z):
        def make():
            self.tell()
            return self.network.decode(z)
        return self.decoded.find(z.float().cpu().numpy().tobytes(), make)

    def __getattr__(self, name):
        return getattr(self.network, name)


class Seen:
    """A blend that tells its last mask afterwards."""

    def __init__(self, blend):
        self.blend = blend

    def begin(self, *args):
        look, blend = self.blend.begin(*args)

        def seen(z, z_star, t):
            self.last = partial(blend, torch.zeros_like(z), torch.ones_like(z_star), t)
            return blend(z, z_star, t)
        return look, seen

    @property
    def mask(self):
        """(height, width) of booleans: a blend takes z outside the mask and z_star inside, here zeros and ones."""
        return self.last()[0, 0] > 0


class Kept(OrderedDict):
    """The last few of what was made."""

    def __init__(self, most=KEPT):
        super().__init__()
        self.most = most

    def find(self, key, make):
        if key not in self:
            self[key] = make()
        self.move_to_end(key)
        while len(self) > self.most:
            self.popitem(last=False)
        return self[key]


class Session:
    """One model, and what the page has asked of it. One run at a time: a newer request replaces those before it.

    given  the arguments of `load` that the model was made with, by name, those of the command line too
    """

    def __init__(self, model, given):
        self.model, self.given = model, given
        self.pictures, self.sources, self.plain, self.answers = Kept(), Kept(), Kept(), Kept()
        self.decoded = Kept(4 * STRIP)                     # of the source and of the target, this time and the last
        self.change, self.newest, self.is_running = threading.Condition(), 0, False
        self.layers = [name for name, module in model.unet.named_modules() if hasattr(module, "to_q")]

    def close(self, seconds=30):
        """Ends what runs, and waits for it."""
        with self.change:
            self.newest = float("inf")
            self.change.notify_all()
            self.change.wait_for(lambda: not self.is_running, seconds)

    @contextmanager
    def turn(self):
        """Waits for the run before this one, which ends. Yields check(), which raises Replaced when it is our turn to.
        """
        with self.change:
            self.newest += 1
            number = self.newest
            self.change.notify_all()
            self.change.wait_for(lambda: number < self.newest or not self.is_running)
            if number < self.newest:
                raise Replaced
            self.is_running = True

        def check():
            if number < self.newest:
                raise Replaced
        try:
            yield check
        finally:
            with self.change:
                self.is_running = False
                self.change.notify_all()

    def keep_picture(self, content):
        """Keeps a picture file's bytes as the model takes them. Raises Refused if it is not a picture, or too large."""
        Image.init()
        formats = [name for name in FORMATS if name in Image.OPEN]
        with about("picture"):
            if self.model.size is None:
                raise ValueError("this model names no size of its own")
            try:
                width, height = Image.open(io.BytesIO(content), formats=formats).size
            except Exception:                              # see open_rgb
                raise ValueError(f"this cannot be read as a picture ({', '.join(formats)})") from None
            if width * height > PIXELS:
                raise ValueError(f"a picture of {width} × {height} is too large; at most {PIXELS:,} pixels")
            full = open_rgb(io.BytesIO(content), "white", "this", formats)
            picture = fit(full, min(self.model.size), self.model.vae.factor)
        name = hashlib.sha256(content).hexdigest()[:16]    # so that the same file is the same picture
        with self.change:
            self.pictures.find(name, lambda: picture)
        return dict(picture=name, size=full.size, taken=picture.size)

    def page(self, given, say):
        """The static page of these settings."""
        return dict(page=write_page(self.answer(given, say)["data"]))

    def answer(self, given, say):
        """What the page shows of these settings: its data, the blend's mask, and the code that does the same.

        say(message) hears of each step. Raises Refused for what cannot be, Replaced, and what `say` raises.
        """
        settings = check_settings(given)
        with self.turn() as check:
            return self.answers.find(json.dumps(settings, sort_keys=True), lambda: self.compute(settings, check, say))

    def compute(self, settings, check, say):
        tokenizer, s = self.model.tokenizer, settings
        prompts, steps, guidance = [s["source"], s["target"]], s["steps"], s["guidance"]
        for name in ("source", "target"):
            with about(name):
                spans(tokenizer, s[name])
        with about("steps"):
            timesteps(self.model.schedule, steps)
        recorder = Recorder(tokenizer, prompts, per_step=True)
        edit, own, blend, code = self.edits(s, recorder)

        def told(said, of):
            """What tells the page of each of its calls, which may be the last."""
            numbers = count(1)

            def tell():
                check()
                say(dict(said=said, step=min(next(numbers), of), of=of))
            return tell

        def telling(said, of):
            return dataclasses.replace(self.model, unet=Telling(self.model.unet, told(said, of)), vae=vae)

        vae = Telling(self.model.vae, told("decoding pictures", 2 + 2 * min(STRIP, steps)), self.decoded)

        def make_source():
            if s["picture"] is None:
                model = telling("generating the source", steps)
                return prompt_to_prompt(model, prompts[:1], steps=steps, guidance=guidance, seed=s["seed"]).inversion
            with about("picture"):
                if s["picture"] not in self.pictures:
                    raise ValueError("this picture is no longer here; choose it again")
                calls = steps * (13 if s["method"] == "null-text" and guidance != 1 else 1)
                return invert(telling("inverting the picture", calls), self.pictures[s["picture"]], *prompts[:1],
                              s["method"], steps, guidance)

        depends = s["picture"] is None or s["method"] == "null-text"
        key = (s["picture"], s["seed"] if s["picture"] is None else s["method"], s["source"], steps,
               guidance if depends else None)
        rest = dict(inversion=self.sources.find(key, make_source), steps=steps, guidance=guidance)
        plain = self.plain.find((key, s["target"], guidance), lambda: prompt_to_prompt(
            telling("generating the target without injection", steps), prompts, **rest).images)
        result = prompt_to_prompt(telling("generating the target", steps), prompts, edit, own, blend=blend,
                                  recorder=recorder, **rest)
        unknown = {name: unknown_words(tokenizer, s[name]) for name in ("source", "target")}
        notes = {name: f"This model does not know {', '.join(each)}." for name, each in unknown.items() if each}
        model = dataclasses.replace(self.model, vae=vae)
        return dict(
            code, data=page_data(model, result, recorder, code["command"] or "", without=plain),
            mask=None if blend is None else url(Image.fromarray(blend.mask.cpu().numpy())), notes=notes)

    def edits(self, s, recorder):
        """The edit of the cross-attention, of the self-attention, the blend, and dict(command=, python=)."""
        tokenizer, prompts = recorder.tokenizer, recorder.prompts
        cross, own = tuple(s["cross"]), tuple(s["self"])
        with about("kind"):
            edit = KINDS[s["kind"]] and KINDS[s["kind"]](tokenizer, prompts, cross)
        is_auto = edit is None or torch.equal(edit.A, auto(tokenizer, prompts, cross).A)
        python = [f"edit = p2p.{s['kind']}(model.tokenizer, prompts, {cross})" if edit else "edit = None"]
        if s["weights"]:
            with about("words"):
                base = edit or auto(tokenizer, prompts, 0)               # which does nothing
                edit = reweight(tokenizer, prompts, s["weights"], base)
            python[0] = python[0].replace("None", "p2p.auto(model.tokenizer, prompts, 0)")
            python += [f"edit = p2p.reweight(model.tokenizer, prompts, {s['weights']}, edit)"]
        own_edit, blend, chosen = self_replace(own), None, None
        python += [f"self_edit = p2p.self_replace({own})"]
        if s["layers"]:
            with about("layers"):
                if not any(f"{name}.".startswith(f"{s['layers']}.") for name in self.layers):
                    raise ValueError(f"no attention's name begins with {s['layers']!r}; they are in "
                                     + ", ".join(dict.fromkeys(name.split(".")[0] for name in self.layers)))
            edit, own_edit = {s["layers"]: edit}, {s["layers"]: own_edit}
            python += [f"edit, self_edit = {{{s['layers']!r}: edit}}, {{{s['layers']!r}: self_edit}}"]
        if s["blend"]:
            with about("words"):
                partners = dict.fromkeys(partner(recorder, 1, word) for word in s["blend"])
                chosen = [[recorder.words()[n] for n in partners if n is not None] or None, s["blend"]]
                blend = Seen(LocalBlend(tokenizer, prompts, chosen))
            python += [f"blend = p2p.LocalBlend(model.tokenizer, prompts, {chosen})"]
        return edit, own_edit, blend, self.code(s, python, chosen, is_auto)

    def code(self, s, edits, blend, is_auto):
        """dict(command=, python=) of the settings. command: None where the command line has no options for them."""
        given = {name: value for name, value in self.given.items() if value is not None and name != "model"}
        options = "".join(f", {name}={value!r}" for name, value in given.items())
        run = f"steps={s['steps']}, guidance={s['guidance']}"
        source = (f"p2p.prompt_to_prompt(model, prompts[:1], {run}, seed={s['seed']})" if s["picture"] is None else
                  f"p2p.invert(model, \"FILE\", prompts[0], {s['method']!r}, {run})")
        python = ["import p2p_min as p2p", "", f"model = p2p.load({self.given['model']!r}{options})",
                  f"prompts = {[s['source'], s['target']]}", f"source = {source}", *edits,
                  "result = p2p.prompt_to_prompt(model, prompts, edit, self_edit, inversion=source, "
                  f"{run}{', blend=blend' * bool(blend)})", 'result.images[1].save("target.png")']
        cross = [0, 0] if s["kind"] == "none" else s["cross"]
        command = ["python", "-m", "p2p_min", s["source"], s["target"]]
        for name, value in {"model": self.given["model"], **given}.items():
            command += [f"--{name}", str(value)]
        command += ["--steps", str(s["steps"]), f"--guidance={s['guidance']}"]
        command += [f"--cross-steps={cross[0]},{cross[1]}", f"--self-steps={s['self'][0]},{s['self'][1]}"]
        command += ["--seed", str(s["seed"])] if s["picture"] is None else ["--image", "FILE", "--invert", s["method"]]
        command += [part for word, c in s["weights"].items() for part in ("--reweight", f"{word}={c}")]
        command += ["--blend", *((of or ["-"])[0] for of in blend)] if blend else []
        fits = (is_auto and not s["layers"] and not any(len(of or []) > 1 for of in blend or [])
                and not any(prompt.startswith("-") for prompt in command[3:5]))
        return dict(python="\n".join(python), command=shlex.join(command) if fits else None)
