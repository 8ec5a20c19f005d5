"""Safetensors to modules: strict, and without a second copy of the weights."""
from functools import partial

import torch
from safetensors import SafetensorError, safe_open

from ..networks.text import text_encoder
from ..networks.unet import UNet
from ..networks.vae import VAE
from .names import some

PARTS = dict(unet=UNet, vae=VAE, text_encoder=text_encoder, text_encoder_2=partial(text_encoder, projects=True))


def open_file(file):
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from None


def default_dtype(stored, device, prefix=""):
    """The UNet's own dtype, but float32 on the CPU."""
    if device.type == "cpu":
        return torch.float32
    name = next((name for name in stored.keys() if name.startswith(prefix)), None)
    return None if name is None else stored.get_tensor(name).dtype


def part_dtype(name, config, dtype):
    """SDXL's VAE overflows in fp16."""
    return torch.float32 if name == "vae" and config.get("force_upcast") and dtype == torch.float16 else dtype


def describe(build, config, file):
    """The module that `build(config)` describes, on the meta device, so without memory."""
    try:
        with torch.device("meta"):
            return build(config)
    except Exception as error:                             # whatever a senseless value leads to
        raise in_one_line(f"{file}:", error) from error


def fill(module, stored, sources, file, device, dtype):
    """The module with the parameters of an open file: the mapped file itself where dtype and device agree with it, else
    one converted copy each. Strict: nothing may lack, nothing be left over, no shape differ.
    """
    own, there = module.state_dict(), set(stored.keys())
    tensors, wrong = {}, []
    for name, (stored_name, take) in sources.items():
        if stored_name not in there:
            continue
        try:
            tensor = stored.get_tensor(stored_name)
            tensor = tensor if take is None else take(tensor)
        except Exception as error:                         # a type that torch does not have, a shape that has no thirds
            raise in_one_line(f"{file}: {some([stored_name])} cannot be read:", error) from error
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(f"{file}: {some([stored_name])} is stored as {tensor.dtype}; p2p_min reads floating "
                             "point of 16 bits or more only")
        target = own.get(name)
        if target is not None and target.shape != tensor.shape:
            wrong.append(f"{stored_name} is {tuple(tensor.shape)}, not {tuple(target.shape)}")
        tensors[name] = tensor.to(device, dtype).contiguous()
    lacking = [sources.get(name, (name,))[0] for name in own.keys() - tensors.keys()]
    extra = tensors.keys() - own.keys()
    for problem, names in (("lacks", lacking), ("has tensors that its config does not describe,", extra),
                           ("does not fit its config:", wrong)):
        if names:
            raise ValueError(f"{file} {problem} {some(names)}")
    module.load_state_dict(tensors, assign=True)
    for owner in module.modules():                         # CLIP's position numbers are no weights, and stored nowhere
        if getattr(getattr(owner, "position_ids", None), "is_meta", False):
            owner.position_ids = torch.arange(owner.position_ids.shape[-1], device=device)[None]
    return module.eval().requires_grad_(False)


def in_one_line(what, error):
    """A ValueError about `what`: ours as it is, a library's by its last line."""
    text = str(error).strip() or repr(error)
    return ValueError(f"{what} {text.splitlines()[-1].strip()}")
