"""The live page: from its settings to what it shows. server.py passes both over HTTP.

A change computes only what depends on it. The source is kept as an inversion, of a picture or of its own run, and every
edit begins from it. So the same settings always give the same picture.
"""
import hashlib
import io
import json
import shlex
import threading
from contextlib import contextmanager
from functools import partial

import torch
from PIL import Image

from ..align import unknown_words
from ..blend import LocalBlend
from ..checks import is_number, is_whole, must
from ..editing import prompt_to_prompt
from ..edits import auto, refine, replace, reweight, self_replace
from ..inversion import invert
from ..networks.text import spans
from ..pictures import fit, open_rgb
from .page import page_data, partner, url, write_page
from .recorder import Recorder

KINDS = dict(auto=auto, replace=replace, refine=refine)
SETTINGS = dict(                               # and their initial values
    source="a red car in the snow", target="a red boat in the snow", kind="auto", cross=[0, 0.6], self=[0, 0.4],
    guidance=5, steps=20, seed=0, weights={}, blend=[], layers="", picture=None, method="direct")
NUMBERS = dict(                                # that one can type: what they are, from, to
    guidance=(is_number, "a number", -100, 100),
    steps=(is_whole, "a whole number", 1, 200),
    seed=(is_whole, "a whole number", 0, 2 ** 53))         # JavaScript knows no larger ones
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")     # of a picture from the browser; some others run programs
CACHE_SIZE = 8

PROGRAM = """\
import p2p_min as p2p

model = p2p.load({model})
prompts = {prompts}
source = p2p.{source}
{edits}
result = p2p.prompt_to_prompt(model, prompts, edit, self_edit, blend=blend, inversion=source, {run})
result.images[1].save("target.png")"""


class Superseded(Exception):
    """A newer request waits, or the server closes."""


@contextmanager
def blaming(setting):
    """A ValueError inside gets this setting as `setting`: the page shows the message at its control."""
    try:
        yield
    except ValueError as error:
        error.setting = setting
        raise


def check_settings(given):
    """All settings; those that are not given have their initial value. Raises ValueError for an invalid one."""
    must(given.keys() <= SETTINGS.keys(), "settings", f"some of {', '.join(SETTINGS)}", list(given))
    settings = SETTINGS | given
    for name, (is_kind, kind, low, high) in NUMBERS.items():
        with blaming(name):
            value = settings[name]
            must(is_kind(value) and low <= value <= high, name, f"{kind} from {low} to {high}", value)
    return settings


class Cache(dict):
    """The results that were used last, by what they depend on."""

    def find(self, key, make):
        result = self[key] = self.pop(key) if key in self else make()
        if len(self) > CACHE_SIZE:
            del self[next(iter(self))]
        return result


class MaskedBlend(LocalBlend):
    """A local blend that keeps its last mask, (height, width) of booleans."""

    def begin(self, *sizes):
        look, blend = super().begin(*sizes)

        def blend_and_keep(z, z_star, t):
            # A blend takes z outside its mask and z_star inside: here zeros and ones.
            self.last_mask = blend(torch.zeros_like(z), torch.ones_like(z_star), t)[0, 0] > 0
            return blend(z, z_star, t)
        return look, blend_and_keep


class Session:
    """One model, and what the page has asked of it. One run at a time: a newer request ends those before it.

    options  the arguments of `load` that made the model, by name, as the command line has them too
    """

    def __init__(self, model, options):
        self.model = model
        self.options = {name: value for name, value in options.items() if value is not None}
        self.pictures, self.sources, self.plain, self.answers = (Cache() for _ in range(4))
        self.running, self.newest, self.is_closed = threading.Lock(), None, False
        # What one can choose: the names of attention layers, and all their beginnings, the shortest first.
        names = [name.split(".") for kind in ("cross", "self") for name in model.unet.attention_names(kind)]
        self.layers = list(dict.fromkeys(".".join(name[:n]) for n in range(1, 9) for name in names))

    def close(self):
        """Ends what runs at its next step, and lets nothing else begin."""
        self.is_closed = True

    def keep_picture(self, content):
        """Keeps a picture file's bytes as the model takes them. Raises ValueError if they are no picture."""
        with blaming("picture"):
            try:
                full = open_rgb(io.BytesIO(content), "white", "this", FORMATS)
            except ValueError:                             # which names no file
                raise ValueError(f"this cannot be read as a picture ({', '.join(FORMATS)})") from None
            picture = fit(full, min(self.model.size), self.model.vae.factor)
        name = hashlib.sha256(content).hexdigest()[:16]    # so that the same file is the same picture
        self.pictures.find(name, lambda: picture)
        return dict(picture=name, size=full.size, taken=picture.size)

    def page(self, given, say):
        """The static page of these settings."""
        return dict(page=write_page(self.answer(given, say)["data"]))

    def answer(self, given, say):
        """What the page shows of these settings: its data, the blend's mask, and the code that does the same.

        say(message) is called before each step. Raises ValueError for what cannot be, with the `setting` to blame if it
        is one; Superseded; and what `say` raises.
        """
        settings = check_settings(given)
        self.newest = request = object()

        def check():
            if self.is_closed or self.newest is not request:
                raise Superseded

        def report(said, steps, desc=None):
            """The steps, each told to the page before it begins: the `progress` of a run."""
            for number, step in enumerate(steps, 1):
                check()
                say(dict(said=said, step=number, of=len(steps)))
                yield step

        with self.running:
            check()
            key = json.dumps(settings, sort_keys=True)
            return self.answers.find(key, lambda: self.compute(settings, report))

    def compute(self, s, report):
        tokenizer, prompts = self.model.tokenizer, [s["source"], s["target"]]
        # Invalid prompts and edits are refused before anything runs.
        for name in ("source", "target"):
            with blaming(name):
                spans(tokenizer, s[name])
        recorder = Recorder(tokenizer, prompts, per_step=True)
        edit, self_edit, blend, code = self.edits(s, recorder)

        # The source, by all that it depends on.
        depends_on = ["source", "steps", "guidance", "seed"]
        if s["picture"] is not None:
            depends_on = ["source", "steps", "picture", "method"] + ["guidance"] * (s["method"] == "null-text")
        key = tuple(s[name] for name in depends_on)
        source = self.sources.find(key, lambda: self.make_source(s, report))

        # The target without injection, then with it.
        run = partial(prompt_to_prompt, self.model, prompts, inversion=source, steps=s["steps"], guidance=s["guidance"])
        plain = self.plain.find((key, s["target"], s["guidance"]), lambda: run(
            progress=partial(report, "generating the target without injection")).images)
        result = run(edit, self_edit, blend=blend, recorder=recorder, progress=partial(report, "generating the target"))

        # What the page shows of it.
        data = page_data(self.model, result, recorder, code["command"] or "", without=plain,
                         progress=partial(report, "decoding pictures"))
        unknown = {name: ", ".join(unknown_words(tokenizer, s[name])) for name in ("source", "target")}
        return dict(
            code, data=data, mask=blend and url(Image.fromarray(blend.last_mask.cpu().numpy())),
            notes={name: f"This model does not know {words}." for name, words in unknown.items() if words})

    def make_source(self, s, report):
        """The inversion from which every edit begins."""
        run = dict(steps=s["steps"], guidance=s["guidance"])
        if s["picture"] is None:
            progress = partial(report, "generating the source")
            return prompt_to_prompt(self.model, [s["source"]], seed=s["seed"], progress=progress, **run).inversion
        with blaming("picture"):
            if s["picture"] not in self.pictures:
                raise ValueError("this picture is no longer here; choose it again")
            progress = partial(report, "inverting the picture")
            return invert(self.model, self.pictures[s["picture"]], s["source"], s["method"], progress=progress, **run)

    def edits(self, s, recorder):
        """cross_edit, self_edit, blend; and the code that does the same, dict(python=, command= or None)."""
        tokenizer, prompts = recorder.tokenizer, recorder.prompts
        # Which maps are injected, and when; in a window from 0 to 0, none.
        kind, cross, window = s["kind"], tuple(s["cross"]), tuple(s["self"])
        if kind == "none":
            kind, cross = "auto", (0, 0)
        with blaming("kind"):
            edit = KINDS[kind](tokenizer, prompts, cross)
        self_edit = self_replace(window)
        lines = [f"edit = p2p.{kind}(model.tokenizer, prompts, {cross})", f"self_edit = p2p.self_replace({window})"]
        # The weights of words.
        if s["weights"]:
            with blaming("words"):
                edit = reweight(tokenizer, prompts, s["weights"], edit)
            lines += [f"edit = p2p.reweight(model.tokenizer, prompts, {s['weights']}, edit)"]
        # In which layers.
        if layers := s["layers"]:
            with blaming("layers"):
                blocks = [name for name in self.layers if "." not in name]
                must(layers in self.layers, "layers", f"the beginning of a name in {', '.join(blocks)}", layers)
            edit, self_edit = {layers: edit}, {layers: self_edit}
            lines += [f"edit, self_edit = {{{layers!r}: edit}}, {{{layers!r}: self_edit}}"]
        # Where the picture may change: at words of the target, and at those of the source that answer to them.
        blend, words = None, []
        if s["blend"]:
            with blaming("words"):
                partners = dict.fromkeys(partner(recorder, 1, word) for word in s["blend"])
                words = [[recorder.words()[n] for n in partners if n is not None] or None, s["blend"]]
                blend = MaskedBlend(tokenizer, prompts, words)
        lines += [f"blend = p2p.LocalBlend(model.tokenizer, prompts, {words})" if blend else "blend = None"]
        # The command line has no options for a kind, for layers, or for several words; and takes "-x" for an option.
        has_many = any(len(of_prompt or []) > 1 for of_prompt in words)
        has_dash = any(prompt.startswith("-") for prompt in prompts)
        fits = kind == "auto" and not (layers or has_many or has_dash)
        return edit, self_edit, blend, dict(
            python=self.python(s, lines), command=self.command(s, cross, words) if fits else None)

    def python(self, s, edits):
        """The program that generates what the page shows."""
        options = dict(self.options)
        model = ", ".join([repr(options.pop("model")), *(f"{name}={value!r}" for name, value in options.items())])
        run = f"steps={s['steps']}, guidance={s['guidance']}"
        source = f"prompt_to_prompt(model, prompts[:1], seed={s['seed']}, {run})"
        if s["picture"] is not None:
            source = f"invert(model, \"FILE\", prompts[0], {s['method']!r}, {run})"
        return PROGRAM.format(
            model=model, prompts=[s["source"], s["target"]], source=source, edits="\n".join(edits), run=run)

    def command(self, s, cross, blend):
        """The same as a command; FILE is the picture."""
        options = {**self.options, "steps": s["steps"], "guidance": s["guidance"]}
        options |= {"cross-steps": "{},{}".format(*cross), "self-steps": "{},{}".format(*s["self"])}
        options |= dict(seed=s["seed"]) if s["picture"] is None else dict(image="FILE", invert=s["method"])
        command = ["python", "-m", "p2p_min", s["source"], s["target"]]
        command += [f"--{name}={value}" for name, value in options.items()]
        command += [f"--reweight={word}={c}" for word, c in s["weights"].items()]
        command += ["--blend", *((words or ["-"])[0] for words in blend)] if blend else []
        return shlex.join(command)
