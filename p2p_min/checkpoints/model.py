"""A checkpoint as a `Model`: its tokenizer, networks and schedule, wherever it is stored."""
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..checks import PREDICTIONS, SPACINGS, must
from ..ddim import Schedule
from ..networks.config import one_each
from ..networks.unet import UNet
from ..networks.vae import VAE
from .detect import INPUTS
from .folder import load_folder
from .hub import locate
from .single_file import load_file, load_vae


@dataclass(frozen=True, repr=False, eq=False)
class Model:
    tokenizer: object
    text_encoder: nn.Module
    unet: UNet
    vae: VAE
    schedule: Schedule
    path: str
    text_encoder_2: nn.Module | None = None                # SDXL's, which reads the same tokens, padded differently
    zeros_for_empty: bool = True                           # SDXL: an empty negative prompt is zeros
    about: str = ""                                        # what it was recognised as, and why; what is ignored
    options: dict = field(default_factory=dict)            # how it was loaded: the arguments of `load`, path as model

    def __repr__(self):
        return f"Model({self.path!r} on {self.device}, {str(self.dtype).removeprefix('torch.')})"

    @property
    def device(self):
        return next(self.unet.parameters()).device

    @property
    def dtype(self):
        return next(self.unet.parameters()).dtype

    @property
    def size(self):
        """(height, width) of its own pictures, in pixels; None if its config has no size."""
        sides = one_each(self.unet.config["sample_size"], 2, "sample_size")
        return None if None in sides else tuple(self.vae.factor * side for side in sides)


def load(path="weights/toy", device=None, dtype=None, *, prediction=None, spacing=None, tokenizer=None, vae=None):
    """A Stable Diffusion 1.x, 2.x or XL checkpoint.

    path        a folder in the diffusers layout; a .safetensors file in the original layout; or a model on the hub,
                "owner/name", "owner/name@revision" or its page's address, from the local cache or downloaded
    device      "cpu", "cuda", "cuda:1", "mps" or a torch.device; None: cuda if there is one, else mps, else cpu
    dtype       torch.float32, float16 or bfloat16, or its name; None: that of most of the UNet; on the CPU float32
    prediction  "epsilon" or "v_prediction", what the UNet was trained to predict; None: as the folder or the file says
    spacing     of the timesteps, "leading", "trailing" (as turbo and lightning need) or "linspace"; None: as the folder
                says; for a file "leading", but "trailing" in SD Turbo's layout
    tokenizer   a folder with the tokenizer; None: the one in the folder, beside the file, or in the local hub cache
    vae         a diffusers vae/ folder, or a file with only a VAE, to use instead of the checkpoint's own
    Returns a `Model` without gradients. Raises FileNotFoundError or ValueError, in one line, for what does not fit.
    """
    options = dict(model=path, device=device, dtype=dtype, prediction=prediction, spacing=spacing, tokenizer=tokenizer,
                   vae=vae)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(f"the device {device!r} cannot be used here, but maybe cpu, cuda, cuda:1 or mps: "
                         f"{str(error).splitlines()[0]}") from None
    device, dtype = torch.device(device), getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    must(dtype in (None, torch.float32, torch.float16, torch.bfloat16), "dtype", "float32, float16 or bfloat16", dtype)
    must(prediction in (None, *PREDICTIONS), "prediction", " or ".join(PREDICTIONS), prediction)
    must(spacing in (None, *SPACINGS), "spacing", " or ".join(SPACINGS), spacing)
    path = locate(path, dtype, vae is None)
    load_parts = load_folder if path.is_dir() else load_file
    words = None if tokenizer is None else Path(tokenizer).expanduser()
    parts = load_parts(path, device, dtype, prediction, spacing, words, vae is None)
    if vae is not None:
        parts["vae"] = load_vae(Path(vae).expanduser(), path, parts, device)
    about = parts["about"]
    if not path.is_dir():                                  # the size depends on the kind only: too large for XL Turbo
        side = parts["unet"].config["sample_size"] * parts["vae"].factor
        about.append(f"{side} × {side} pixels, see --height and --width")
    if vae is not None:
        about.append(f"with the VAE of {vae}")
    model = Model(**parts | dict(path=str(path), about="; ".join(about), options=options))
    # Its parts must fit each other, and its size must be one: else this raises ValueError.
    _ = model.size
    c, latent, second = model.unet.config, model.vae.config["latent_channels"], model.text_encoder_2
    width = model.text_encoder.config.hidden_size + (second.config.hidden_size if second else 0)
    needs = c["cross_attention_dim"]
    must(width == needs, f"{path}: the text's width", f"the UNet's, {needs}", width)
    if (second is None) != (model.unet.add_embedding is None):
        raise ValueError(f"{path}: an SDXL UNet and a second text encoder go together; this has one without the other")
    if not latent == c["in_channels"] == c["out_channels"]:
        kind = INPUTS.get(c["in_channels"], "another kind of model")
        raise ValueError(f"{path}: the VAE has {latent} latent channels, the UNet takes {c['in_channels']} and gives "
                         f"{c['out_channels']}: p2p_min does not run {kind}")
    return model
