"""What is a number, a window, a choice; and the checks of a run. The command line uses these without torch."""
import re
import warnings
from numbers import Integral, Real

LARGEST_NUMBER = 3.4028234663852886e38         # in float32
LARGEST_SIDE = 4096                            # pixels: beyond that, attention takes days or memory runs out

SPACINGS = ("leading", "trailing", "linspace")             # of the timesteps
PREDICTIONS = ("epsilon", "v_prediction")                  # of the UNet
WEBUI = re.compile(r"\(\([^()\n]+\)|\([^()\n]+:[\d.]+\)|\[[^][\n]+\]|\bBREAK\b|<\w+:[^<>\n]+>")     # in prompts
METHODS = ("ddim", "null-text", "negative-prompt", "direct")           # of inversion


def must(ok, name, be, got):
    """Raises ValueError, "`name` must be `be`, not `got`", unless it is ok."""
    if not ok:
        got = f"{got.dtype} of {tuple(got.shape)}" if getattr(got, "shape", ()) else shorten(repr(got))
        raise ValueError(f"{name} must be {be}, not {got}")


def shorten(text):
    """At most 100 characters of a text from a file or a user, all of them printable."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 100 else f"{text[:100]}…"


def is_number(x):
    """Whether x is a finite number in float32, with which everything is computed."""
    try:
        return isinstance(x, Real) and not isinstance(x, bool) and abs(float(x)) <= LARGEST_NUMBER
    except OverflowError:                      # not even a Python float
        return False


def is_whole(x):
    return isinstance(x, Integral) and not isinstance(x, bool)


def window(steps):
    """(a, b), the part of the schedule in which an edit acts, counted from pure noise: 0.8 means (0, 0.8).
    Raises ValueError unless 0 <= a <= b <= 1."""
    pair = tuple(steps) if isinstance(steps, (tuple, list)) else (0.0, steps)
    must(len(pair) == 2 and all(map(is_number, pair)) and 0 <= pair[0] <= pair[1] <= 1,
         "steps", "a fraction of the schedule from 0 to 1, or a window (from, to)", steps)
    return float(pair[0]), float(pair[1])


def check_prompts(prompts, targets=0, negative=""):
    """Raises ValueError unless prompts are texts, a source and at least so many targets; warns of webui's syntax."""
    must(isinstance(prompts, (list, tuple)) and len(prompts) > targets, "prompts",
         "a list of texts, the source first" + ", then at least one target" * (targets > 0), prompts)
    if found := WEBUI.search("\n".join(map(str, [*prompts, negative]))):
        warnings.warn(f"{shorten(found[0])!r} in a prompt is plain text here; reweight (on the command line --reweight "
                      "WORD=C) weights a word, and LoRAs are not supported", stacklevel=1)


def check_functions(prompts, guidance, **functions):
    """Raises ValueError for what is no function, or {prefix: edit}, and for what was built for other prompts."""
    must(is_number(guidance) or callable(guidance), "guidance",
         "a finite number in float32, or a function (eps_c, eps_u, t) -> eps", guidance)
    if guidance == 0:
        warnings.warn("guidance 0 leaves the prompts out, so all pictures are the negative prompt's; without guidance "
                      "is 1 here (0 in diffusers' recipes for turbo models)", stacklevel=2)
    for name, argument in functions.items():
        is_by_prefix = isinstance(argument, dict) and name in ("cross_edit", "self_edit")
        each_of = argument if is_by_prefix else {"": argument}
        for each in each_of.values():
            method = dict(blend="begin", recorder="look", sampler="", watch="").get(name, "attend")
            is_recorder = hasattr(each, "predictions")
            fits = each is None or is_recorder == (name == "recorder") and (hasattr(each, method) or callable(each))
            hint = " (give the recorder as recorder=)" * is_recorder
            must(fits, name, "a Recorder" if name == "recorder" else "a function" + hint, each)
            while each is not None:                        # an edit, and what it re-weights
                theirs = getattr(each, "prompts", None)
                must(theirs in (None, list(prompts)), "the run's prompts",
                     f"those that its {type(each).__name__} was built for, {theirs}", prompts)
                each = getattr(each, "base", None)


def check_inversion(inversion, source, steps, guidance, negative, latents):
    """Raises ValueError if the arguments of a run do not match its inversion."""
    must(hasattr(inversion, "unconditional"), "inversion", "what invert returns, or a Result", inversion)
    must(source == inversion.prompt, "the first prompt", f"the inversion's, {inversion.prompt!r}", source)
    must(steps == inversion.steps, "steps", f"the inversion's, {inversion.steps}", steps)
    if latents is not None:
        raise ValueError("give latents or an inversion, not both: an inversion has its own")
    if inversion.unconditional is not None and negative:
        raise ValueError(f"{inversion.method} has its own unconditional embeddings; leave the negative prompt empty")
    must(inversion.method != "null-text" or guidance == inversion.guidance, "guidance",
         f"that of the null-text inversion, {inversion.guidance:g}", guidance)


def latent_size(model, prompts, seed, height, width, latents):
    """[height/f, width/f] of a run. Raises ValueError if its seed, size or latents are invalid."""
    channels, f, sides = model.unet.config["in_channels"], model.vae.factor, dict(height=height, width=width)
    if latents is None:
        must(is_whole(seed) and 0 <= seed < 2 ** 63, "seed", "a whole number from 0 to 2^63 - 1", seed)
        must(model.size or None not in sides.values(), "the size", "given: this model has none of its own", sides)
        sides = {name: own if side is None else side for (name, side), own in zip(sides.items(), model.size or (0, 0))}
        for name, side in sides.items():
            must(is_whole(side) and f <= side <= LARGEST_SIDE and side % f == 0,
                 name, f"a multiple of {f} pixels, from {f} to {LARGEST_SIDE}", side)
        return [side // f for side in sides.values()]
    must(hasattr(latents, "isfinite") and latents.ndim == 4 and latents.numel()
         and latents.shape[0] in (1, prompts) and latents.shape[1] == channels and latents.float().isfinite().all(),
         "latents", f"a tensor of finite numbers, (1 or {prompts}, {channels}, height/{f}, width/{f})", latents)
    for (name, side), cells in zip(sides.items(), latents.shape[-2:]):
        must(side in (None, cells * f), name, f"{cells * f}, as the given latents make it", side)
    return list(latents.shape[-2:])
