"""Safetensors files that are spoilt at random: refused in one line, or loaded as the files say."""
import json
import random
import re
import struct

import pytest
import torch

import originals
import p2p_min as p2p
from p2p_min.checkpoints import tokenizers
from p2p_min.checkpoints.folder import load_network
from p2p_min.networks.vae import VAE

VAE_ = dict(block_out_channels=[4], layers_per_block=1, norm_num_groups=2, down_block_types=["DownEncoderBlock2D"],
            up_block_types=["UpDecoderBlock2D"])
SIZES = dict(F64=8, F32=4, F16=2, BF16=2, I64=8, I32=4, I16=2, I8=1, U8=1, BOOL=1, F8_E4M3=1, F8_E5M2=1,
             F8_E8M0=1, U16=2, U32=4, C64=8, F4=1)


def split(data):
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size]), bytearray(data[8 + size:])


def join(header, body, pad=8):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % pad)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def truncated(rng, data):
    return data[:rng.choice([0, rng.randrange(9), rng.randrange(len(data)), len(data) - rng.randrange(1, 9)])]


def lengthened(rng, data):
    return data + rng.randbytes(rng.randrange(1, 64))


def header_bits_flipped(rng, data):
    data, end = bytearray(data), 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(8 if rng.random() < 0.2 else end)] ^= 1 << rng.randrange(8)
    return bytes(data)


def body_bits_flipped(rng, data):
    header, body = split(data)
    for _ in range(rng.randrange(1, 20)):
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return join(header, body)


def of_header(change):
    """A mutation of the parsed header: change(rng, header, name of one tensor, body)."""
    def mutate(rng, data):
        header, body = split(data)
        change(rng, header, rng.choice([name for name in header if name != "__metadata__"]), body)
        return join(header, body, rng.choice([1, 8]))
    mutate.__name__ = change.__name__
    return mutate


@of_header
def another_dtype(rng, header, name, body):
    header[name]["dtype"] = rng.choice(list(SIZES))


@of_header
def another_dtype_of_that_size(rng, header, name, body):
    entry = header[name]
    n, size = 1, entry["data_offsets"][1] - entry["data_offsets"][0]
    entry["dtype"] = rng.choice(list(SIZES))
    for side in entry["shape"]:
        n *= side
    if n * SIZES[entry["dtype"]] != size:
        entry["shape"] = [size // SIZES[entry["dtype"]]]


@of_header
def other_offsets(rng, header, name, body):
    start, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = rng.choice([
        [start, end + 4], [start + 4, end + 4], [start - 4, end], [end, start], [0, end - start], [start, 2 ** 63],
        [-4, end], [start + 1, end + 1], [start, None], [start]])


@of_header
def overlapping(rng, header, name, body):
    other = rng.choice([other for other in header if other != "__metadata__"])
    header[name] = dict(header[other])


@of_header
def renamed(rng, header, name, body):
    new = rng.choice([
        name + "x", name[:-1], name.replace(".", "/"), name.upper(), "", "a\nb\x1b[31m", "\u2028", "__metadata__",
        "1" * 5000, rng.choice(list(header)), name.replace("0", "1"), "lora_" + name, name.replace("weight", "bias")])
    header[new] = header.pop(name)


@of_header
def two_exchanged(rng, header, name, body):
    other = rng.choice([other for other in header if other != "__metadata__"])
    header[name], header[other] = header[other], header[name]


@of_header
def reshaped(rng, header, name, body):
    shape, n = header[name]["shape"], 1
    for side in shape:
        n *= side
    header[name]["shape"] = rng.choice([
        shape[::-1], [n], [1, *shape], [*shape, 1], shape[:-1], [n // 2, 2], [], [0, *shape], [-n, -1], [2 ** 62, 4],
        "x", [None], [n * 1.0], [n // 4, 2, 2, 1], [n // 16, 4, 2, 2]])


@of_header
def extra(rng, header, name, body):
    new = rng.choice(["stranger", name + ".stranger", "a\nb", "model_ema.decay", "position_ids",
                      "decoder.up_blocks.9.x", name.replace("to_q", "query"), name.replace("to_out.0", "proj_attn")])
    if new not in header:
        header[new] = dict(dtype="F32", shape=[2], data_offsets=[len(body), len(body) + 8])
        body += struct.pack("<ff", rng.random(), rng.random())


@of_header
def missing(rng, header, name, body):
    start, end = header.pop(name)["data_offsets"]
    if rng.random() < 0.7:                                 # with its bytes; else they belong to nobody
        del body[start:end]
        for entry in header.values():
            if entry.get("data_offsets", [0])[0] >= end:
                entry["data_offsets"] = [offset - (end - start) for offset in entry["data_offsets"]]


@of_header
def not_finite(rng, header, name, body):
    start, end = header[name]["data_offsets"]
    body[start:end] = struct.pack("<f", rng.choice([*map(float, ("nan", "inf", "-inf", 0))])) * ((end - start) // 4)


@of_header
def nonsense(rng, header, name, body):
    header[rng.choice([name, "__metadata__"])] = rng.choice([
        None, 1, [], {}, "x", {"a": 1}, {"format": "tf"}, {"dtype": "F32"},
        {"dtype": "F32", "shape": [], "data_offsets": [0, 4], "more": 1}])


MUTATIONS = [truncated, lengthened, header_bits_flipped, body_bits_flipped, another_dtype,
             another_dtype_of_that_size, other_offsets, overlapping, renamed, two_exchanged, reshaped, extra,
             missing, not_finite, nonsense]


# ---- what has to come out ------------------------------------------------------------------------------------------

REST = re.compile(r"model_ema\..*|.*\.position_ids")      # of the names that the mutations make up: those without a use
DTYPES = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16)


def stored(data):
    """{name: (shape, numbers)}, read without safetensors. A tensor of another type must not have been loaded."""
    header, body = split(data)
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        yield name, (entry["shape"], entry["dtype"], bytes(body[start:end]))


def numbers(dtype, data):
    return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).float()


def where(parameters, data):
    """{parameter: name in the file}, found by the values, all of which differ."""
    names = {content: name for name, (_, _, content) in stored(data)}
    return {parameter: names[tensor.numpy().tobytes()] for parameter, tensor in parameters.items()}


def replace(file, data):
    """In place, but as another file: one that is mapped must not change."""
    file.unlink()
    file.write_bytes(data)


def check(load, places, data, file):
    """Refused in one line with the file's name, or all parameters are what the file says and all it says is used."""
    replace(file, data)
    try:
        parameters = load(file)
    except (ValueError, FileNotFoundError) as error:
        assert str(file) in str(error) and str(error).isprintable() and len(str(error)) < 1000, error
        return False
    there = dict(stored(data))
    for parameter, tensor in parameters.items():
        shape, dtype, content = there.pop(places[parameter])
        assert shape in ([*tensor.shape], [*tensor.shape, 1, 1]), parameter
        assert torch.equal(tensor.flatten().view(torch.int32), numbers(dtype, content).view(torch.int32)), parameter
    assert all(map(REST.fullmatch, there)), there
    return True


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """(a file of a VAE in a folder, what loads it)."""
    folder = tmp_path_factory.mktemp("vae")
    (folder / "config.json").write_text(json.dumps(VAE_))
    shapes = {name: tensor.shape for name, tensor in VAE(VAE_).state_dict().items()}
    load = lambda file: dict(load_network("vae", folder, torch.device("cpu"), None, VAE_).named_parameters())
    return originals.write(folder / "diffusion_pytorch_model.safetensors", originals.fill(shapes)), load


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    """(a single file, what loads it)."""
    def load(file):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenizers, "load_tokenizer", lambda *_: tokenizer)        # not what is tried here, and slow
            model = p2p.load(file, "cpu", tokenizer="none")
        return {f"{part}.{name}": tensor for part in ("unet", "vae", "text_encoder")
                for name, tensor in getattr(model, part).named_parameters()}
    file = tmp_path_factory.mktemp("whole") / "file.safetensors"
    return originals.write(file, originals.fill(originals.sd1(len(tokenizer)))), load


@pytest.mark.parametrize("kind, count", [("part", 8), ("whole", 1)])
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_spoilt_file_is_refused_or_loaded_as_it_is(request, kind, count, mutate):
    """Each way a few times, the same every time; scripts/hostile tries many more."""
    file, load = request.getfixturevalue(kind)
    pristine = file.read_bytes()
    places = where(load(file), pristine)
    for i in range(count):
        check(load, places, mutate(random.Random(f"{mutate.__name__} {i}"), pristine), file)
    replace(file, pristine)
