"""The names that real checkpoints have where they are not those of today."""

# Files of a part: the plain one, and the half-precision one that may stand beside it or instead of it.
WEIGHTS = dict(
    unet=("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
    vae=("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
    text_encoder=("model.safetensors", "model.fp16.safetensors"),
)
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

# Old spellings of the VAE's attention: (old, new), as parts of a name between dots.
VAE_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))

# Written by older transformers: not a weight, always 0, 1, 2, …
TEXT_IGNORED = ("embeddings.position_ids",)
TEXT_PREFIX = "text_model."


def vae(name):
    """A VAE parameter's name as it is today, from one of any age."""
    for old, new in VAE_ATTENTION:
        name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    return name


def text(name):
    """A text encoder parameter's name without the prefix that some versions of transformers write; None: no weight."""
    name = name.removeprefix(TEXT_PREFIX)
    return None if name in TEXT_IGNORED else name


def unet(name):
    return name
