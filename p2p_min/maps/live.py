"""The live page: from its settings to what it shows. server.py passes both over HTTP.

A change computes only what depends on it. Every edit begins from the source's kept run or inversion, so that the same
settings always give the same picture.
"""
import hashlib
import io
import json
import shlex
import threading
from contextlib import contextmanager
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from PIL import Image

from ..align import unknown_words
from ..blend import LocalBlend
from ..checks import is_number, is_whole, must
from ..editing import prompt_to_prompt
from ..edits import auto, refine, replace, reweight, self_replace
from ..inversion import invert
from ..networks.text import spans
from ..pictures import fit, open_rgb, to_image, to_tensor
from .page import page_data, url
from .recorder import Recorder

KINDS = dict(auto=auto, replace=replace, refine=refine, none=auto)             # none: in a window from 0 to 0
SETTINGS = dict(                               # and their initial values
    source="a red car in the snow", target="a red boat in the snow", kind="auto", cross=[0, 0.6], self=[0, 0.4],
    guidance=5, steps=20, seed=0, weights={}, blend=[], layers="", picture=None, method="direct")
NUMBERS = dict(                                # that one can type; JavaScript has no larger whole ones
    guidance=(is_number, "a number", -100, 100), steps=(is_whole, "a whole number", 1, 200),
    seed=(is_whole, "a whole number", 0, 2 ** 53))
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")     # of a picture from the browser; some others run programs
CACHE_SIZE = 8


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


class Cache(dict):
    """The results that were used last, by what they depend on."""
    def find(self, key, make):
        result = self[key] = self.pop(key) if key in self else make()
        if len(self) > CACHE_SIZE:
            del self[next(iter(self))]
        return result


class KeptBlend(LocalBlend):
    """A local blend that keeps the function of its last run, `blend`."""
    def begin(self, *sizes):
        look, self.blend = super().begin(*sizes)
        return look, self.blend


def with_one(z):
    """Latents (channels, height, width) as (height, width, channels + 1), the last of which is 1."""
    return F.pad(z.float().cpu().movedim(0, -1), (0, 1), value=1)


class Session:
    """One model, and what the page has asked of it. One run at a time: a newer request, or `is_closed`, ends those
    before it at their next step. options: the arguments of `load` that made the model, by name, the model first."""
    def __init__(self, model, options):
        self.model = model
        self.options = {name: str(x).removeprefix("torch.") for name, x in options.items() if x is not None}
        self.pictures, self.sources, self.plain, self.answers = (Cache() for _ in range(4))
        self.running, self.reading = threading.Lock(), threading.Lock()
        self.newest, self.is_closed = None, False
        # What one can choose: prefixes that self-attention has as well as cross-attention, the shortest first.
        names = [name.split(".")[:-1] for name in model.unet.attention_names("cross")]
        self.layers = list(dict.fromkeys(".".join(name[:n]) for n in range(1, 9) for name in names))
        self.known = model.tokenizer.init_kwargs.get("known_words") or []             # none: it knows more than a list

    def keep_picture(self, content):
        """Keeps a picture file's bytes as the model takes them. Raises ValueError if they are no picture."""
        with blaming("picture"), self.reading:             # one at a time: each may need a gigabyte
            try:
                full = open_rgb(io.BytesIO(content), "white", "this", FORMATS)
            except ValueError as error:                    # it may name an object in memory, as <…>
                raise ValueError(f"{str(error).split(' <')[0]} (formats: {', '.join(FORMATS)})") from None
            picture = fit(full, min(self.model.size), self.model.vae.factor)
        name = hashlib.sha256(content).hexdigest()[:16]    # so that the same file is the same picture
        self.pictures.find(name, lambda: picture)
        return dict(picture=name, size=full.size, taken=picture.size, shows=url(picture))

    @cached_property
    @torch.no_grad()
    def to_colours(self):
        """(channels + 1, 3): a linear map from latents to colours, as one picture has them. Decoding is slower."""
        vae, blots = self.model.vae, to_image(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)
        small, large = (to_tensor(blots.resize((side, side))) for side in (32, 32 * vae.factor))
        z = vae.encode(large.to(next(vae.parameters())))[0]
        return torch.linalg.lstsq(with_one(z).flatten(0, 1), small[0].flatten(1).T).solution

    def answer(self, given, say):
        """What the page shows of these settings; say(message) hears of each step. Raises Superseded, ValueError."""
        must(given.keys() <= SETTINGS.keys(), "settings", f"some of {', '.join(SETTINGS)}", list(given))
        settings = SETTINGS | given
        for name, (is_kind, kind, low, high) in NUMBERS.items():
            with blaming(name):
                x = settings[name]
                must(is_kind(x) and low <= x <= high, name, f"{kind} from {low} to {high}", x)
        self.newest = request = object()

        def report(said, steps, desc=None):
            """The steps, each told to the page before it begins: the `progress` of a run."""
            for number, step in enumerate(steps, 1):
                if self.is_closed or self.newest is not request or not threading.main_thread().is_alive():
                    raise Superseded
                say(dict(said=said, step=number, of=len(steps)))
                yield step

        def watch(z_0, t):                                 # of one prompt, the source; of two, the target
            say(dict(prompt=len(z_0) - 1, shows=url(to_image((with_one(z_0[-1]) @ self.to_colours).movedim(-1, 0)))))
        key = json.dumps(settings, sort_keys=True)
        with self.running:
            return self.answers.find(key, lambda: self.compute(settings, report, watch))

    def compute(self, s, report, watch):
        model, prompts = self.model, [s["source"], s["target"]]
        run = partial(prompt_to_prompt, model, steps=s["steps"], guidance=s["guidance"], watch=watch)
        # Invalid prompts and edits are refused before anything runs.
        for name in ("source", "target"):
            with blaming(name):
                spans(model.tokenizer, s[name])
        recorder = Recorder(model.tokenizer, prompts, per_step=True)
        edit, self_edit, blend, code = self.edits(s, recorder)
        # The source, from which every edit begins: a run's or a picture's, by all that it depends on.
        depends_on = ["source", "steps", "guidance", "seed"]
        make = partial(run, prompts[:1], seed=s["seed"], progress=partial(report, "generating the source"))
        if s["picture"] is not None:
            depends_on = ["source", "steps", "picture", "method"] + ["guidance"] * (s["method"] == "null-text")
            picture = self.pictures.get(s["picture"])
            with blaming("picture"):
                must(picture is not None, "the picture", "one that is still here; choose it again", s["picture"])
            make = partial(invert, model, picture, *prompts[:1], s["method"], s["steps"], s["guidance"],
                           progress=partial(report, "inverting the picture"))
        key = tuple(s[name] for name in depends_on)
        run = partial(run, prompts, inversion=self.sources.find(key, make))
        # The target without injection, then with it.
        seen = Recorder(model.tokenizer, prompts, per_step=True)
        make = partial(run, recorder=seen, progress=partial(report, "generating the target without injection"))
        plain = self.plain.find((key, s["target"], s["guidance"]), lambda: (make(), seen))
        result = run(edit, self_edit, blend=blend, recorder=recorder, progress=partial(report, "generating the target"))
        # What the page shows of it. A blend takes z outside its mask and z_star inside: here zeros and ones.
        mask, zeros = None, torch.zeros_like(result.latents[:1])
        if blend:
            mask = blend.blend(zeros, zeros + 1, 1 / s["steps"])[0, 0] > 0
            mask = url(Image.fromarray(mask.cpu().numpy()))
        progress = partial(report, "decoding pictures")
        data = page_data(model, result, recorder, code["command"] or "", without=plain, progress=progress)
        unknown = {name: unknown_words(model.tokenizer, s[name]) for name in ("source", "target")}
        return dict(code, data=data, mask=mask, unknown=unknown)

    def edits(self, s, recorder):
        """cross_edit, self_edit, blend; and the code that does the same, dict(python=, command= or None)."""
        tokenizer, prompts, weights, layers = recorder.tokenizer, recorder.prompts, s["weights"], s["layers"]
        # Which maps are injected, and when.
        make, window = KINDS[s["kind"]], tuple(s["self"])
        cross = (0, 0) if s["kind"] == "none" else tuple(s["cross"])
        with blaming("kind"):
            edit, self_edit = make(tokenizer, prompts, cross), self_replace(window)
        code = [f"edit = p2p.{make.__name__}(model.tokenizer, prompts, {cross})",
                f"self_edit = p2p.self_replace({window})"]
        # The weights of words.
        if weights:
            with blaming("words"):
                edit = reweight(tokenizer, prompts, weights, edit)
            code += [f"edit = p2p.reweight(model.tokenizer, prompts, {weights}, edit)"]
        # In which layers.
        if layers:
            with blaming("layers"):
                few = ", ".join(name for name in self.layers if name.count(".") < 2)
                must(layers in self.layers, "layers", f"the name of a part of the model, such as {few}", layers)
            edit, self_edit = {layers: edit}, {layers: self_edit}
            code += [f"edit, self_edit = {{{layers!r}: edit}}, {{{layers!r}: self_edit}}"]
        # Where the picture may change: at words of the target, and at those of the source that answer to them.
        blend, words = None, []
        if s["blend"]:
            with blaming("words"):
                words = [recorder.partners(1, s["blend"]) or None, s["blend"]]
                blend = KeptBlend(tokenizer, prompts, words)
        code += [f"blend = p2p.LocalBlend(model.tokenizer, prompts, {words})" if blend else "blend = None"]
        # The source: a run's or a picture's, whose name the page does not know.
        model = ", ".join(f"{name}={value!r}" for name, value in self.options.items()).removeprefix("model=")
        run = f"steps={s['steps']}, guidance={s['guidance']}"
        source, options = f"prompt_to_prompt(model, prompts[:1], seed={s['seed']}, {run})", [f"--seed={s['seed']}"]
        if s["picture"] is not None:
            source = f'invert(model, "FILE", prompts[0], {s["method"]!r}, {run})'
            options = ["--image=FILE", f"--invert={s['method']}"]
        python = [
            "import p2p_min as p2p", "", f"model = p2p.load({model})", f"prompts = {prompts}", f"source = p2p.{source}",
            *code,
            f"result = p2p.prompt_to_prompt(model, prompts, edit, self_edit, blend=blend, inversion=source, {run})",
            'result.images[1].save("target.png")']
        command = [
            "python", "-m", "p2p_min", *prompts, *[f"--{name}={value}" for name, value in self.options.items()],
            f"--steps={s['steps']}", f"--guidance={s['guidance']}", f"--cross-steps={cross[0]},{cross[1]}",
            f"--self-steps={window[0]},{window[1]}", *options,
            *[f"--reweight={word}={c}" for word, c in weights.items()], *["--blend"] * bool(blend),
            *[(of_prompt or ["-"])[0] for of_prompt in words]]
        # The command line has no options for a kind, for layers, or for several words.
        fits = s["kind"] in ("auto", "none") and not layers and all(len(each or []) < 2 for each in words)
        return edit, self_edit, blend, dict(python="\n".join(python), command=shlex.join(command) if fits else None)
