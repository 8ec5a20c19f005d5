"""Safetensors to modules: strict, and without a second copy of the weights."""
import json
import re
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from safetensors import SafetensorError, safe_open

from ..networks.text import text_encoder
from ..networks.unet import UNet
from ..networks.vae import VAE
from .names import PICKLED, some

PARTS = dict(unet=UNet, vae=VAE, text_encoder=text_encoder, text_encoder_2=partial(text_encoder, projects=True))


def open_file(file):
    """An open safetensors file; its tensors stay on disk. Raises ValueError for any other file, such as a pickle."""
    refuse_pickle(file)
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        why = instead(file) or f"not a readable safetensors file: {' '.join(str(error).split())}"
        raise ValueError(f"{file} is {why}") from None


def refuse_pickle(file):
    if file.is_file() and file.suffix in PICKLED:
        raise ValueError(f"{file} is a pickled checkpoint: loading it can run any code that is hidden in it, so "
                         "p2p_min does not. Convert it to safetensors, or get the safetensors version")


def instead(file):
    """What a file is instead of the expected one, if its first bytes tell; otherwise None."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(100)
    except OSError:
        return None
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: run git lfs pull in the clone"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--)", start, re.IGNORECASE):
        return "a web page, not the file: download the file itself"
    return None


class Shards:
    """Several open safetensors files as one. places: {tensor: the file that it is in}."""

    def __init__(self, places):
        self.places = places

    def keys(self):
        return self.places.keys()

    def get_tensor(self, name):
        return self.places[name].get_tensor(name)


@contextmanager
def open_weights(file):
    """A safetensors file, or all the shards of an index as one. Raises ValueError if index and shards disagree."""
    with ExitStack() as stack:
        if file.suffix != ".json":
            yield stack.enter_context(open_file(file))
            return
        index, opened = read_index(file), {}
        for shard in sorted(set(index.values())):
            if not (file.parent / shard).is_file():
                raise FileNotFoundError(f"{file} names {shard}, which is missing")
            opened[shard] = stack.enter_context(open_file(file.parent / shard))
        said, there = set(index.items()), {(name, shard) for shard in opened for name in opened[shard].keys()}
        for problem, pairs in (("names tensors that are not in their shards,", said - there),
                               ("does not list what its shards have,", there - said)):
            if pairs:
                raise ValueError(f"{file} {problem} {some(f'{name} ({shard})' for name, shard in pairs)}")
        yield Shards({name: opened[shard] for name, shard in index.items()})


def read_index(file):
    """{tensor: shard}, as an index of shards says; each shard is a safetensors file beside it."""
    index = read_json(file).get("weight_map")
    is_name = lambda shard: isinstance(shard, str) and re.fullmatch(r"\w[\w.-]{0,200}\.safetensors", shard)
    if not isinstance(index, dict) or not index or not all(map(is_name, index.values())):
        raise ValueError(f"{file} is not an index of shards: its weight_map must give each tensor the name of a "
                         "safetensors file beside it")
    return index


def read_json(file):
    """The object in a JSON file. Raises ValueError for what Python would let pass: a key that is there twice, NaN."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is {instead(file) or f'not readable JSON: {error}'}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return config


def unique(pairs):
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {some([key])} is there twice")
        found[key] = value
    return found


def refuse_constant(name):
    raise ValueError(f"{name} is no number")


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
    """The module that `build(config)` makes, on the meta device, so that it takes no memory."""
    try:
        with torch.device("meta"):
            return build(config)
    except Exception as error:                             # whatever an invalid value leads to
        raise in_one_line(f"{file}:", error) from error


def fill(module, stored, sources, file, device, dtype):
    """The module with the parameters of an open file: memory-mapped from the file if dtype and device match, otherwise
    one converted copy each. Strict: no parameter may be missing, left over or of another shape.
    """
    own, there = module.state_dict(), set(stored.keys())
    tensors, wrong = {}, []
    for name, (stored_name, take) in sources.items():
        if stored_name not in there:
            continue
        try:
            tensor = stored.get_tensor(stored_name)
            tensor = tensor if take is None else take(tensor)
        except Exception as error:                         # a type that torch does not have, a shape without thirds
            raise in_one_line(f"{file}: {some([stored_name])} cannot be read:", error) from error
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(f"{file}: {some([stored_name])} is stored as {tensor.dtype}; p2p_min only reads "
                             "floating point of 16 bits or more")
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
    for owner in module.modules():                         # CLIP's position ids are not weights, and are not stored
        if getattr(getattr(owner, "position_ids", None), "is_meta", False):
            owner.position_ids = torch.arange(owner.position_ids.shape[-1], device=device)[None]
    return module.eval().requires_grad_(False)


def in_one_line(what, error):
    """A ValueError about `what`, with the last line of the error's message."""
    text = str(error).strip() or repr(error)
    return ValueError(f"{what} {text.splitlines()[-1].strip()}")
