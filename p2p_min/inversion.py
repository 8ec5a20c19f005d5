"""Inversion: latents from which a picture's prompt generates that picture again, so that it can be edited.

All four methods follow the DDIM trajectory from the picture up to noise (Song et al. 2020). When sampling back down,
guidance and rounding drift away from this trajectory. The methods differ in how they correct that:

    ddim             not at all
    null-text        unconditional embeddings, optimised step by step to stay on it (Mokady et al. 2022)
    negative-prompt  the source prompt as the unconditional prompt, so that guidance cancels (Miyake et al. 2023)
    direct           the source is reset to it after each step (Ju et al. 2023)
"""
import json
import reprlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from .checks import METHODS, is_number, is_whole
from .ddim import alphas, bar, inverse_step, step, timesteps
from .files import write
from .networks.text import Context, encode
from .pictures import fit, read_picture, to_tensor

LEARNING_RATE, INNER_STEPS = 1e-2, 10                      # null-text as published
ENOUGH, MORE_ENOUGH = 1e-5, 1e-3                           # step i of N stops below ENOUGH + MORE_ENOUGH · i/N
GRADIENT_SCALE = 2.0 ** 14                                 # keeps the gradient in the range of fp16


@dataclass(frozen=True, repr=False, eq=False)
class Inversion:
    """A picture as the source of edits. It belongs to the model that made it, and can be used for any number of runs.

    latents        (steps + 1, 1, 4, h, w), fp32, on the CPU: the trajectory, from z_T to the picture's latents
    prompt         the source prompt
    method         one of `METHODS`
    guidance       the guidance that null-text was optimised for (the others do not depend on it)
    unconditional  (steps, 1, tokens, width), fp32, on the CPU: what the unconditional rows see in each step; None: the
                   negative prompt of the run
    pooled         (1, width), SDXL's pooled text embedding that goes with it
    facts          the `facts` of the model that made it; None: unknown, as in files of earlier versions
    Raises ValueError for a field that is not so.
    """
    latents: torch.Tensor
    prompt: str
    method: str
    guidance: float
    unconditional: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    facts: dict | None = None

    def __post_init__(self):
        check_fields(self)

    def __repr__(self):
        return f"Inversion({self.prompt!r}, {self.method}, {self.steps} steps)"

    @property
    def steps(self):
        return len(self.latents) - 1

    def unconditional_context(self, empty):
        """A `Context` for each step: `empty`, but with the embeddings that the method found."""
        pooled = None if self.pooled is None else self.pooled.to(empty.pooled)
        return [empty._replace(states=states, pooled=pooled) for states in self.unconditional.to(empty.states)]

    def save(self, path):
        """Write one safetensors file. Raises ValueError if it cannot be written."""
        tensors = dict(latents=self.latents, unconditional=self.unconditional, pooled=self.pooled)
        settings = dict(prompt=self.prompt, method=self.method, guidance=float(self.guidance), facts=self.facts)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
        write(path, to_bytes(tensors, metadata={"p2p_min inversion": json.dumps(settings)}))

    @classmethod
    def load(cls, path):
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError for a file that is not an inversion."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no inversion at {path}")
        try:
            with safe_open(path, "pt") as file:
                settings = json.loads((file.metadata() or {})["p2p_min inversion"])
                return cls(**{name: file.get_tensor(name) for name in file.keys()}, **settings)
        except (SafetensorError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"{path} is not an inversion that p2p_min saved ({why})") from None


def check_settings(method, prompt, guidance):
    """Raises ValueError for a setting of an inversion that cannot be."""
    if method not in METHODS:
        raise ValueError(f"method must be {', '.join(METHODS[:-1])} or {METHODS[-1]}, not {method!r}")
    if not is_number(guidance):
        raise ValueError(f"guidance must be a finite number in float32, not {guidance!r}")
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be one text, not {prompt!r}")


def check_fields(inversion):
    """Raises ValueError for a field that is not what `Inversion` says, in one that was loaded or made by hand."""
    def must(name, fits, be):
        if not fits:
            value = getattr(inversion, name)
            got = f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, torch.Tensor) else reprlib.repr(value)
            raise ValueError(f"{name} of an inversion by {method} must be {be}, not {got}")

    def are_numbers(x, *shape):
        return (isinstance(x, torch.Tensor) and x.dtype == torch.float32 and x.ndim == len(shape) and x.numel()
                and all(n in (None, side) for n, side in zip(shape, x.shape)) and x.isfinite().all())

    method, z, states, pooled = inversion.method, inversion.latents, inversion.unconditional, inversion.pooled
    check_settings(method, inversion.prompt, inversion.guidance)
    must("latents", are_numbers(z, None, 1, None, None, None) and len(z) > 1,
         "finite float32 numbers, (steps + 1, 1, channels, height, width)")
    if method in ("ddim", "direct"):
        must("unconditional", states is None, "None")
    elif states is not None or method != "null-text" or inversion.guidance != 1:
        must("unconditional", are_numbers(states, len(z) - 1, 1, None, None),
             f"finite float32 numbers, ({len(z) - 1} steps, 1, tokens, width)")
    must("pooled", pooled is None or states is not None and are_numbers(pooled, 1, None),
         "None" if states is None else "None or finite float32 numbers, (1, width)")
    known = inversion.facts
    must("facts", known is None or isinstance(known, dict) and all(
        isinstance(x, float) or is_whole(x) and abs(x) < 2 ** 31
        for numbers in known.values() for x in (numbers if isinstance(numbers, list) else [numbers])),
         "None, or numbers and lists of numbers by name")


@torch.no_grad()
def invert(model, image, prompt, method="direct", steps=50, guidance=7.5, *, size=None, progress=False):
    """The `Inversion` of a picture, for `prompt_to_prompt(..., inversion=...)`.

    image     a PIL picture, or the path of one
    prompt    a description of it, which must be the first prompt of the edits
    method    "ddim", "null-text", "negative-prompt" or "direct"
    steps     number of DDIM steps, here and in the edits
    guidance  guidance scale of the edits; only null-text uses it
    size      the size in pixels to which the picture is first resized: its shorter side, or (height, width), cropped
              evenly to fit; None: the model's own size for the shorter side
    progress  whether to show a progress bar on standard error; or a function (steps, desc) -> steps, like tqdm
    Raises ValueError or OSError for anything that cannot be done or read, saying why.
    """
    check_settings(method, prompt, guidance)
    guidance = float(guidance)                             # of a Fraction too
    times = timesteps(model.schedule, steps)
    picture = image if isinstance(image, Image.Image) else read_picture(image)
    if size is None and model.size is None:
        raise ValueError("this model has no size of its own; give size in pixels")
    pixels = to_tensor(fit(picture, min(model.size) if size is None else size, model.vae.factor))
    context = encode(model, [prompt], *pixels.shape[-2:])
    dtype = next(model.vae.parameters()).dtype
    z = model.vae.encode(pixels.to(model.device, dtype)).float()
    check_finite("the VAE's latents of the picture", z, dtype)
    latents = [z]
    for i in bar(progress, range(steps)[::-1], "inverting"):
        z = inverse_step(model.schedule, z, model.unet(z.to(model.dtype), times[i], context).float(), times, i)
        latents.insert(0, z)
    latents = torch.stack(latents)
    check_finite("the latents of the inversion", latents, model.dtype)
    found = Context(None)
    if method == "negative-prompt":
        found = context._replace(states=context.states.float().expand(steps, 1, -1, -1))
    elif method == "null-text" and guidance != 1:          # at guidance 1 it is not used
        empty = encode(model, [""], *pixels.shape[-2:], is_negative=True)
        found = empty._replace(states=null_text(model, latents, context, empty, times, guidance, progress))
    states, pooled = (None if part is None else part.float().cpu() for part in found[:2])
    return Inversion(latents.cpu(), prompt, method, guidance, states, pooled, facts(model, times))


def check_finite(what, numbers, dtype, or_why=""):
    """Raises ValueError if numbers are not finite; the picture would otherwise be black."""
    if not numbers.isfinite().all():
        narrow = f"{dtype} is too narrow for this model (try bfloat16 or float32), or " * (dtype == torch.float16)
        raise ValueError(f"{what} are not finite numbers: {or_why}{narrow}the weights are not finite")


def facts(model, times):
    """What an inversion depends on in its model, by name: numbers, or lists of numbers, that JSON can store."""
    levels = [alpha for i in range(len(times)) for alpha in alphas(model.schedule, times, i)]
    predicts = [float(model.schedule.prediction == "v_prediction")]
    parts = [part for part in (model.unet, model.vae, model.text_encoder, model.text_encoder_2) if part is not None]
    weights = torch.stack([each[(0,) * each.ndim].float() for part in parts for each in part.parameters()])
    c = model.unet.config
    return {"text width": c["cross_attention_dim"], "number of tokens": model.tokenizer.model_max_length,
            "pooled text width": 0 if model.text_encoder_2 is None else model.text_encoder_2.config.projection_dim,
            "number of latent channels": c["in_channels"], "VAE factor": model.vae.factor,
            "scale of latents": model.vae.config["scaling_factor"], "noise schedule": levels, "prediction": predicts,
            "weights": weights.tolist()}                   # the first number of each


def check_facts(inversion, ours):
    """Raises ValueError if an inversion does not fit a model with the facts `ours`; warns if the checkpoint differs."""
    theirs = {**(inversion.facts or {}), "number of latent channels": inversion.latents.shape[2]}
    if inversion.unconditional is not None:
        pooled = 0 if inversion.pooled is None else inversion.pooled.shape[1]
        theirs |= zip(("number of tokens", "text width", "pooled text width"),
                      (*inversion.unconditional.shape[-2:], pooled))

    def differ(name, tolerance):
        a, b = (torch.tensor(numbers[name], dtype=torch.float64) for numbers in (ours, theirs))
        return a.shape != b.shape or not torch.allclose(a, b, tolerance, 1e-6, equal_nan=True)

    other = [name if isinstance(ours[name], list) else f"{name} ({theirs[name]}, not {ours[name]})"
             for name in ours.keys() & theirs.keys() - {"weights"} if differ(name, 1e-4)]
    if other:
        raise ValueError(f"the inversion was made for another {' and another '.join(sorted(other))}; invert the "
                         "picture again with this model")
    if "weights" in theirs and differ("weights", 2 ** -8):                     # the rounding error of bfloat16
        warnings.warn("the inversion was made by another checkpoint, so edits preserve less of the picture; "
                      "to avoid that, invert it again with this model", stacklevel=2)


def null_text(model, latents, context, empty, times, guidance, progress=False):
    """The unconditional embeddings that keep guided sampling on `latents`: (steps, 1, tokens, width).

    Each starts from the one before and is optimised until the guided step lands on the trajectory, as published
    (Algorithm 1): Adam, a rate that falls by half over the run, at most 10 iterations a step, early stopping.
    """
    z, steps, found = latents[0], len(times), []
    embedding = empty.states.float()
    for i in bar(progress, range(steps), "null-text"):
        eps = model.unet(z.to(model.dtype), times[i], context).float()

        def guided(embedding):
            eps_u = model.unet(z.to(model.dtype), times[i], empty._replace(states=embedding.to(model.dtype))).float()
            return step(model.schedule, z, eps_u + guidance * (eps - eps_u), times, i)

        embedding = embedding.clone().requires_grad_()
        adam = torch.optim.Adam([embedding], lr=LEARNING_RATE * (1 - i / (2 * steps)))
        for _ in range(INNER_STEPS):
            with torch.enable_grad():
                loss = F.mse_loss(guided(embedding), latents[i + 1])
                embedding.grad = torch.autograd.grad(loss * GRADIENT_SCALE, embedding)[0] / GRADIENT_SCALE
            adam.step()
            if loss < ENOUGH + MORE_ENOUGH * i / steps:
                break
        embedding = embedding.detach()
        check_finite("the null-text embeddings", embedding, model.dtype, f"guidance {guidance:g} caused this, or ")
        found.append(embedding)
        z = guided(embedding)
    return torch.stack(found)
