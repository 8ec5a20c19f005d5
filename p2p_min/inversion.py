"""Inversion: latents from which a picture's prompt generates that picture again, so that it can be edited.

All four methods follow the DDIM trajectory from the picture up to noise, without guidance (Song et al. 2020). On the
way down, guidance and rounding drift away from it. The methods differ in how they correct that:

    ddim             not at all
    null-text        unconditional embeddings, optimised step by step to stay on it (Mokady et al. 2022)
    negative-prompt  the source prompt as the unconditional prompt, so that guidance cancels (Miyake et al. 2023)
    direct           the source is reset to it after each step (Ju et al. 2023)
"""
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from .checks import METHODS, is_number, must
from .ddim import alphas, bar, inverse_step, step, timesteps
from .files import write
from .networks.text import Context, encode
from .pictures import fit, read_picture, to_tensor

LEARNING_RATE, INNER_STEPS = 1e-2, 10                      # null-text as published
STOP_BELOW, STOP_SLOPE = 1e-5, 1e-3                        # step i of N stops below STOP_BELOW + STOP_SLOPE · i/N
FAR = 0.2                                                  # 0.05 to 0.13 with a prompt that fits (toy, 10 steps)
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
    fingerprint    of the model that made it; None: unknown
    Raises ValueError for an invalid field.
    """
    latents: torch.Tensor
    prompt: str
    method: str
    guidance: float
    unconditional: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    fingerprint: dict | None = None

    def __post_init__(self):
        check_settings(self.method, self.prompt, self.guidance)
        must(are_finite(self.latents, 5) and self.steps and self.latents.shape[1] == 1, "latents of an inversion",
             "finite float32 numbers, (steps + 1, 1, channels, height, width)", self.latents)
        # Only two methods have embeddings of their own, and cannot do without; null-text can at guidance 1.
        states, has_some = self.unconditional, self.method in ("negative-prompt", "null-text")
        if has_some and not (states is None and self.method == "null-text" and self.guidance == 1):
            must(are_finite(states, 4) and len(states) == self.steps, f"unconditional of {self.method}",
                 f"finite float32 numbers, ({self.steps} steps, 1, tokens, width)", states)
            pooled = self.pooled
            must(pooled is None or are_finite(pooled, 2), "pooled", "finite float32 numbers, (1, width)", pooled)
        else:
            must(states is self.pooled is None, f"unconditional and pooled of {self.method}", "None", states)

    def __repr__(self):
        return f"Inversion({self.prompt!r}, {self.method}, {self.steps} steps)"

    @property
    def steps(self):
        return len(self.latents) - 1

    def save(self, path):
        """Write one safetensors file. Raises ValueError if it cannot be written."""
        tensors = dict(latents=self.latents, unconditional=self.unconditional, pooled=self.pooled)
        settings = dict(prompt=self.prompt, method=self.method, guidance=float(self.guidance),
                        fingerprint=self.fingerprint)
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
                settings.pop("facts", None)                # the fingerprint of earlier versions
                return cls(**{name: file.get_tensor(name) for name in file.keys()}, **settings)
        except (SafetensorError, KeyError, OSError, TypeError, ValueError) as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"{path} is not an inversion that p2p_min saved ({why})") from None


def check_settings(method, prompt, guidance):
    """Raises ValueError for an invalid setting."""
    must(method in METHODS, "method", " or ".join(METHODS), method)
    must(isinstance(prompt, str), "prompt", "one text", prompt)
    must(is_number(guidance), "guidance", "a finite number in float32", guidance)


def are_finite(numbers, dimensions):
    return (isinstance(numbers, torch.Tensor) and numbers.dtype == torch.float32 and numbers.ndim == dimensions
            and numbers.numel() > 0 and numbers.isfinite().all().item())


@torch.no_grad()
def invert(model, image, prompt, method="direct", steps=50, guidance=7.5, *, size=None, progress=False):
    """The `Inversion` of a picture, for `prompt_to_prompt(..., inversion=...)`.

    image     a PIL picture, or the path of one
    prompt    a description of it, which must be the first prompt of the edits
    method    "ddim", "null-text", "negative-prompt" or "direct"
    steps     number of DDIM steps, here and in the edits
    guidance  guidance scale of the edits; only null-text uses it
    size      pixels of the shorter side, or (height, width), to which the picture is resized and cropped; None: the
              model's own size for the shorter side
    progress  whether to show a progress bar on standard error; or a function (steps, desc) -> steps, like tqdm
    Raises ValueError or OSError for anything that cannot be done or read, saying why.
    """
    check_settings(method, prompt, guidance)
    guidance = float(guidance)                             # accepts Fraction and NumPy numbers
    times = timesteps(model.schedule, steps)
    # The picture's latents, and its prompt.
    picture = image if isinstance(image, Image.Image) else read_picture(image)
    if size is None and model.size is None:
        raise ValueError("this model has no size of its own; give size in pixels")
    pixels = to_tensor(fit(picture, min(model.size) if size is None else size, model.vae.factor))
    context = encode(model, [prompt], *pixels.shape[-2:])
    dtype = next(model.vae.parameters()).dtype
    z = model.vae.encode(pixels.to(model.device, dtype)).float()
    check_finite("the VAE's latents of the picture", z, dtype)
    # From them up to noise: the trajectory, z_T first.
    latents = [z]
    for i in bar(progress, range(steps)[::-1], "inverting"):
        z = inverse_step(model.schedule, z, model.unet(z.to(model.dtype), times[i], context).float(), times, i)
        latents.insert(0, z)
    latents = torch.stack(latents)
    check_finite("the latents of the inversion", latents, model.dtype)
    # What the unconditional rows will see, if the method says so.
    own = Context(None)
    if method == "negative-prompt":
        own = context._replace(states=context.states.float().expand(steps, 1, -1, -1))
    elif method == "null-text" and guidance != 1:          # at guidance 1 it is not used
        empty = encode(model, [""], *pixels.shape[-2:], is_negative=True)
        own = empty._replace(states=null_text(model, latents, context, empty, times, guidance, progress))
    states, pooled = (None if part is None else part.float().cpu() for part in own[:2])
    return Inversion(latents.cpu(), prompt, method, guidance, states, pooled, fingerprint(model, times))


def check_finite(what, numbers, dtype, or_why=""):
    """Raises ValueError if numbers are not finite; the picture would otherwise be black."""
    if not numbers.isfinite().all():
        narrow = f"{dtype} is too narrow for this model (try bfloat16 or float32), or " * (dtype == torch.float16)
        raise ValueError(f"{what} are not finite numbers: {or_why}{narrow}the weights are not finite")


def fingerprint(model, times):
    """What an inversion depends on in its model, by name: lists of numbers, which JSON can store."""
    parts = [part for part in (model.unet, model.vae, model.text_encoder, model.text_encoder_2) if part is not None]
    first = torch.stack([each[(0,) * each.ndim].float() for part in parts for each in part.parameters()])
    c = model.unet.config
    kind = [c["in_channels"], c["cross_attention_dim"], c["projection_class_embeddings_input_dim"] or 0,
            model.tokenizer.model_max_length, model.vae.factor, model.vae.config["scaling_factor"],
            float(model.schedule.prediction == "v_prediction")]
    levels = [alpha for i in range(len(times)) for alpha in alphas(model.schedule, times, i)]
    return {"kind of model": kind, "noise schedule": levels, "checkpoint": first.tolist()}


def check_same_model(inversion, ours):
    """Raises ValueError if a model of another kind or schedule than `ours` made it; warns if its weights differ."""
    for name, numbers in (inversion.fingerprint or {}).items():
        a, b = (torch.tensor(each, dtype=torch.float64) for each in (numbers, ours.get(name, ())))
        tolerance = 2 ** -8 if name == "checkpoint" else 1e-4                  # the rounding error of bfloat16
        if a.shape == b.shape and torch.allclose(a, b, tolerance, 1e-6, equal_nan=True):
            continue
        if name != "checkpoint":
            raise ValueError(f"the inversion was made for another {name}; invert the picture again with this model")
        warnings.warn("the inversion was made by another checkpoint, so edits preserve less of the picture; "
                      "to avoid that, invert it again with this model", stacklevel=2)


def null_text(model, latents, context, empty, times, guidance, progress=False):
    """The unconditional embeddings that keep guided sampling on `latents`, (steps, 1, tokens, width), as published
    (Algorithm 1): each is optimised from the one before; Adam, a rate that falls by half, early stopping."""
    if torch.is_inference_mode_enabled() or next(model.unet.parameters()).is_inference():
        raise ValueError("null-text needs gradients: load the model, and invert, outside of torch.inference_mode()")
    z, steps, embeddings = latents[0], len(times), []
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
            if loss < STOP_BELOW + STOP_SLOPE * i / steps:
                break
        embedding = embedding.detach()
        check_finite("the null-text embeddings", embedding, model.dtype, f"guidance {guidance:g} caused this, or ")
        embeddings.append(embedding)
        z = guided(embedding)
    if (off := (z - latents[-1]).norm() / latents[-1].norm()) > FAR:
        warnings.warn(f"null-text ends {off:.2f} of the latents' norm away from the picture, so edits will not look "
                      "like it: does the prompt describe it? Or take method='direct'", stacklevel=2)
    return torch.stack(embeddings)
