"""Folders in the diffusers layout: what does not fit is named, what is fine is read as it lies in the file."""
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig

import p2p_min as p2p
from conftest import SCHEDULER, VAE_, XL_UNET, configure, refuses, rewrite, same_parts
from conftest import refuses_to_load as refused
from originals import shard
from p2p_min import ddim
from p2p_min.checkpoints import names
from p2p_min.checkpoints.folder import load_network, read_config_file
from p2p_min.checkpoints.tensors import default_dtype, open_weights
from p2p_min.ddim import Schedule
from p2p_min.networks import text, unet, vae
from p2p_min.networks.text import text_encoder
from p2p_min.networks.unet import UNet
from p2p_min.networks.vae import VAE as Autoencoder

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
TEXT_FILE = "text_encoder/model.safetensors"


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the checkpoint, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def part_of(copy, part, dtype=None):
    """A part of the checkpoint, loaded alone."""
    config = read_config_file(part, copy / part, False)
    return load_network(part, copy / part, torch.device("cpu"), dtype, config)


# ---- tensors -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file, name", [
    (UNET_FILE, "conv_in.weight"), (UNET_FILE, "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
    (VAE_FILE, "quant_conv.bias"), (VAE_FILE, "encoder.mid_block.attentions.0.to_q.weight"),
    (TEXT_FILE, "final_layer_norm.weight")])
@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_tensor_that_is_missing_unexpected_or_wrongly_shaped_is_named(copy, file, name, change):
    """Nothing is filled with noise, dropped or broadcast: the tensor is named, and for a shape both shapes are."""
    def spoil(tensors):
        full = next(key for key in tensors if key.endswith(name))
        if change == "missing":
            del tensors[full]
        elif change == "unexpected":
            tensors[full.replace("weight", "stranger").replace("bias", "stranger")] = tensors[full].clone()
        else:
            tensors[full] = torch.zeros(*tensors[full].shape, 1)
    rewrite(copy / file, spoil)
    stem = name.rpartition(".")[0]
    line = refused(copy, str(copy / file), f"{stem}.stranger" if change == "unexpected" else name)
    assert {"missing": "lacks", "unexpected": "without a place", "shape": ", 1), not ("}[change] in line


def test_the_first_of_many_wrong_tensors_are_named_and_the_others_counted(copy):
    """A file of another model gives a line that can be read, not a page."""
    rewrite(copy / UNET_FILE, lambda tensors: {"strange": torch.zeros(1)})
    assert " more" in refused(copy, "lacks") and len(refused(copy)) < 600


def test_tensors_of_integers_are_refused(copy):
    """Quantised weights are not silently read as floating point."""
    rewrite(copy / UNET_FILE, lambda tensors: tensors.update({"conv_in.bias": tensors["conv_in.bias"].to(torch.int8)}))
    refused(copy, "conv_in.bias", "int8")


def test_vae_with_the_old_names_of_its_attention(copy, model):
    """VAE files with query, key, value, proj_attn load to the same weights."""
    old = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    for today, name in old:
        rewrite(copy / VAE_FILE, lambda tensors, *names: {k.replace(today, name): t for k, t in tensors.items()})
    assert not any("to_q" in name for name in load_file(copy / VAE_FILE))
    assert same_parts(p2p.load(copy, "cpu"), model)


@pytest.mark.parametrize("prefixed", [True, False])
def test_text_encoders_load_with_and_without_prefix_and_with_position_ids(copy, model, prefixed):
    """`text_model.` or not, and a stray position_ids: the same encoder."""
    def spell(tensors):
        tensors = {k.removeprefix("text_model."): v for k, v in tensors.items()}
        tensors["embeddings.position_ids"] = torch.arange(77)[None]
        return {"text_model." * prefixed + k: v for k, v in tensors.items()}
    rewrite(copy / TEXT_FILE, spell)
    loaded = p2p.load(copy, "cpu").text_encoder
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).last_hidden_state, model.text_encoder(ids).last_hidden_state)


# ---- configs -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("part, key, value", [
    ("unet", "some_new_setting", 3), ("unet", "act_fn", "gelu"), ("unet", "class_embed_type", "timestep"),
    ("unet", "addition_embed_type", "image"), ("unet", "flip_sin_to_cos", False), ("unet", "freq_shift", 1),
    ("unet", "resnet_time_scale_shift", "scale_shift"), ("unet", "dual_cross_attention", True),
    ("unet", "only_cross_attention", True), ("unet", "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
    ("unet", "conv_in_kernel", 5), ("unet", "encoder_hid_dim_type", "text_proj"), ("unet", "num_attention_heads", 4),
    ("unet", "time_cond_proj_dim", 256), ("vae", "some_new_setting", "x"), ("vae", "act_fn", "relu"),
    ("vae", "shift_factor", 0.1), ("vae", "latents_mean", [0.0]), ("text_encoder", "hidden_act", "some_new_act"),
    ("text_encoder", "some_new_setting", 3), ("text_encoder", "use_attention_mask", True),
    ("text_encoder", "model_type", "t5"), ("scheduler", "prediction_type", "sample"),
    ("scheduler", "beta_schedule", "squaredcos_cap_v2"), ("scheduler", "rescale_betas_zero_snr", True),
    ("scheduler", "thresholding", True), ("scheduler", "timestep_spacing", "random")])
def test_config_with_a_setting_that_is_not_implemented(copy, part, key, value):
    """An unknown key or a value that is not implemented is an error: nothing that changes the maths is passed over."""
    file = copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    configure(file, **{key: value})
    refused(copy, f"{file}: ", f": {key} in its config must be ", repr(value))


@pytest.mark.parametrize("part, values, says", [
    ("unet", dict(down_block_types=["CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"]), "AttnDownBlock2D"),
    ("unet", dict(up_block_types=["UpBlock2D"]), "up_block_types must be one value or a list of 3"),
    ("unet", dict(attention_head_dim=[2, 2]), "attention_head_dim must be one value or a list of 3"),
    ("unet", dict(attention_head_dim=5), "a number that divides 32, not 5"), ("unet", dict(norm_num_groups=7), "unet"),
    ("unet", dict(block_out_channels="wide"), "unet"), ("unet", dict(block_out_channels=[]), "unet"),
    ("unet", dict(cross_attention_dim=48), "unet"), ("unet", dict(attention_head_dim=0), "unet"),
    ("unet", dict(layers_per_block="two"), "unet"),
    ("vae", dict(down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"]), "AttnDown"),
    ("text_encoder", dict(num_attention_heads=5), "text_encoder"),
    ("text_encoder", dict(vocab_size=10), "text_encoder"),
    ("scheduler", dict(num_train_timesteps="many"), "num_train_timesteps"),
    ("scheduler", dict(beta_start="low"), "beta_start"),
    ("scheduler", dict(beta_schedule=None, _class_name="EDMEulerScheduler"), "neither beta_schedule nor trained")])
def test_a_config_that_makes_no_network_is_an_error(copy, part, values, says):
    """Wrong block names, counts, widths or types: one line, no traceback of the library beneath."""
    configure(copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **values)
    refused(copy, says)


def test_a_config_of_another_width_names_a_tensor_and_both_shapes(copy):
    """A config and a file that do not belong together."""
    configure(copy / "unet" / "config.json", cross_attention_dim=48)
    refused(copy, "does not fit its config", "attn2.to_k.weight is (32, 32), not (32, 48)")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff\xfe", None])
def test_an_unreadable_config_is_named(copy, part, content):
    """Empty, cut off, no object, no text, not there: the file is named."""
    file = copy / part / "config.json"
    file.unlink() if content is None else file.write_bytes(content.encode("latin-1"))
    refused(copy, str(file))


TEXT_ = dict(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
BUILDERS = dict(                       # part: what makes it, a config that is right, its table of keys
    unet=(UNet, XL_UNET, unet.KEYS), vae=(Autoencoder, VAE_, vae.KEYS), text_encoder=(text_encoder, TEXT_, text.KEYS),
    scheduler=(Schedule.from_config, SCHEDULER, ddim.KEYS))


FLAGS = [key for _, _, keys in BUILDERS.values() for key, (default, *_) in keys.items() if isinstance(default, bool)]


@pytest.mark.parametrize("part, key", [(part, key) for part, (_, _, keys) in BUILDERS.items() for key in keys])
def test_config_value_of_a_wrong_type(part, key):
    """A value of a wrong type is refused by its key: truth for numbers, numbers for truth, text, lists of these."""
    build, config, _ = BUILDERS[part]
    wrong = ["strange", "", {}, [], [None], ["strange"], math.nan, math.inf, *([0, 1, 1.0] if key in FLAGS else [True])]
    with torch.device("cpu" if part == "scheduler" else "meta"):
        build(config)
        for value in wrong:
            refuses(lambda value=value: build({**config, key: value}), f": {key} in its config must be ")


@pytest.mark.parametrize("part, values", [
    ("unet", dict(sample_size=[96, 64], layers_per_block=[2, 2, 1], attention_head_dim=[1, 2, 4])),
    ("unet", dict(transformer_layers_per_block=[0, [2], [4]], reverse_transformer_layers_per_block=[[4, 1], 2, 0])),
    ("unet", dict(mid_block_type=None, resnet_out_scale_factor=1.0, dropout=0.0, act_fn="swish")),
    ("vae", dict(scaling_factor=1, sample_size=[1, "x"], force_upcast=True, act_fn="swish")),
    ("vae", dict(mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False)),
    ("text_encoder", dict(num_hidden_layers=32, vocab_size=49408, model_type="clip", return_dict=False, dropout=0.1)),
    ("text_encoder", CLIPTextConfig().to_dict()),
    ("scheduler", dict(beta_schedule="linear", beta_start=1e-6, beta_end=0.01, set_alpha_to_one=None, _x=[[]])),
    ("scheduler", dict(trained_betas=[0.01] * 1000, timestep_spacing="linspace", prediction_type="v_prediction"))])
def test_real_values_of_every_kind_are_read(part, values):
    """The tables keep out nothing that checkpoints have, and keys that do not matter may be anything."""
    build, config, _ = BUILDERS[part]
    with torch.device("cpu" if part == "scheduler" else "meta"):
        build({**config, **values})


@pytest.mark.parametrize("file", ["vae/config.json", "scheduler/scheduler_config.json", "model_index.json",
                                  "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"])
@pytest.mark.parametrize("content, says", [('{"a": 1', "is not readable JSON"), ("<!doctype html>", "is a web page")])
def test_json_that_is_cut_off_or_something_else(copy, file, content, says):
    """Of every JSON file, the tokenizer's too, which a library reads: the file is named."""
    (copy / file).write_text(content)
    refused(copy, f"{copy / file} {says}")


@pytest.mark.parametrize("value", ["false", 0])
def test_model_index_answers_with_true_or_false(xl_folder, tmp_path, value):
    """"false" is not false, and was taken for true."""
    copy = Path(shutil.copytree(xl_folder, tmp_path / "copy"))
    (copy / "model_index.json").write_text(json.dumps(dict(force_zeros_for_empty_prompt=value)))
    refused(copy, str(copy / "model_index.json"), "force_zeros_for_empty_prompt", "true or false")


@pytest.mark.parametrize("value", ["0.18215", True, [0.18215]])
def test_scale_that_is_none_where_another_vae_is_given(folder, copy, value):
    """Of the checkpoint's own VAE, which is not built then."""
    configure(copy / "vae" / "config.json", scaling_factor=value)
    refused(copy, f"{copy / 'vae/config.json'}: scaling_factor in its config must be a number", vae=folder / "vae")


# ---- files ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file", [UNET_FILE, VAE_FILE, TEXT_FILE])
@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_named(copy, file, keep):
    """Cut anywhere, down to nothing: an error with the file's name, and if its beginning is there, what to do."""
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[:keep])
    refused(copy, str(copy / file), *["is cut off, or damaged: download it again"] * (keep == -1))
    refused(copy, str(copy / file), *["is cut off"] * (keep == 100))


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt"])
def test_a_pickled_checkpoint_is_refused_with_the_reason(copy, suffix):
    """Reading a pickle can run any code; both a pickled file and a folder that has only pickles are refused for it."""
    pickled = (copy / UNET_FILE).with_suffix(suffix)
    (copy / UNET_FILE).rename(pickled)
    refused(copy, str(pickled), "pickled", "run any code")
    refused(pickled, "pickled", "run any code")


@pytest.mark.parametrize("make, says", [
    (lambda p: p / "nowhere", "no checkpoint"), (lambda p: (p / "empty").mkdir() or p / "empty", "nothing"),
    (lambda p: (p / "note.txt").write_text("x") and p / "note.txt", "note.txt"),
    (lambda p: (p / "other" / "text").mkdir(parents=True) or p / "other", "text")])
def test_a_path_that_is_no_checkpoint_says_what_is_there(tmp_path, make, says):
    """Nowhere, an empty folder, a file, some other folder."""
    path = make(tmp_path)
    refused(path, str(path), says)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_folder_is_named(copy, name):
    """Each of the five parts is needed."""
    shutil.rmtree(copy / name)
    refused(copy, f"{name}/", error=FileNotFoundError)


@pytest.mark.parametrize("name", [UNET_FILE, VAE_FILE, TEXT_FILE, "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named(copy, name):
    """A part without its weights, a scheduler without its config."""
    (copy / name).unlink()
    refused(copy, Path(name).name, Path(name).parent.name, error=FileNotFoundError)


# ---- shards --------------------------------------------------------------------------------------------------------

def test_shards_are_one_file(copy, model):
    """Of every part: the same tensors as the file that was split."""
    for file in (UNET_FILE, VAE_FILE, TEXT_FILE):
        shard(copy / file, shards=3)
    loaded = p2p.load(copy, "cpu")
    assert same_parts(loaded, model)


@pytest.mark.parametrize("dtype, marked, halves", [
    (None, 1.0, "sharded"), ("float16", 2.0, "sharded"), ("float32", 1.0, "whole"), ("float16", 2.0, "whole")])
def test_of_two_precisions_in_shards_the_wanted_one_is_read(copy, dtype, marked, halves):
    """*.index.fp16.json beside *.index.json, or one file beside an index."""
    shutil.copy(copy / UNET_FILE, copy / "spare")
    rewrite(copy / UNET_FILE, lambda tensors: tensors["conv_in.bias"].fill_(1) is None)
    shard(copy / UNET_FILE)
    shutil.copy(copy / "spare", copy / UNET_FILE)
    rewrite(copy / UNET_FILE, lambda tensors: tensors["conv_in.bias"].fill_(2) is None)
    if halves == "sharded":
        assert shard(copy / UNET_FILE, ".fp16").name == "diffusion_pytorch_model.safetensors.index.fp16.json"
    else:
        (copy / UNET_FILE).rename((copy / UNET_FILE).with_suffix(".fp16.safetensors"))
    unet = part_of(copy, "unet", dtype and getattr(torch, dtype))
    assert (unet.conv_in.bias == marked).all()


def test_weights_that_are_there_twice_are_refused(copy):
    """One file and an index of the same precision may differ, and nothing says which is meant."""
    shutil.copy(copy / UNET_FILE, copy / "spare")
    shard(copy / UNET_FILE)
    shutil.copy(copy / "spare", copy / UNET_FILE)
    refused(copy, str(copy / "unet"), "twice", "diffusion_pytorch_model.safetensors.index.json", error=ValueError)


def test_index_that_is_none(copy):
    """JSON of another kind in its place."""
    index = shard(copy / UNET_FILE)
    index.write_text(json.dumps(dict(metadata={})))
    refused(copy, f"{index} is not an index of shards")


def test_shards_that_are_missing_or_of_another_model(copy):
    """A shard of another model; then one that is not there; one that the index does not name; then the index itself."""
    index = shard(copy / UNET_FILE)
    first, second = sorted(copy.glob("unet/*-of-*"))
    content = load_file(second)
    rewrite(second, lambda tensors: {"stranger": torch.zeros(1)})
    refused(copy, f"{index} lacks ")
    rewrite(second, lambda tensors: content | {"stranger": torch.zeros(1)})
    refused(copy, f"{index} has tensors without a place in its network, stranger")
    second.unlink()
    refused(copy, f"{second} is missing", error=FileNotFoundError)
    index.write_text(index.read_text().replace(second.name, first.name))
    refused(copy, f"{index} lacks ")
    index.unlink()
    refused(copy, "no index", index.name, error=FileNotFoundError)


# ---- what is no file of weights ------------------------------------------------------------------------------------

@pytest.mark.parametrize("content, says", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    (b"<!DOCTYPE html>\n<html><body>Please log in</body></html>", "web page"), (b"\xef\xbb\xbf <HTML>", "web page"),
    (b"Entry not found", "error message"), (b"Invalid username or password.", "error message"),
    (b"GGUF\x03\0\0\0", "GGUF"), (b"PK\x03\x04\0\0archive/data.pkl", "pickled"), (b"\x80\x02}q\0", "pickled")])
def test_what_came_in_place_of_weights_is_named(copy, content, says):
    """A Git LFS pointer and a web page, in a folder, as a shard, as a single file, as a config."""
    index = shard(copy / VAE_FILE)
    first = sorted(copy.glob("vae/*-of-*"))[0]
    for file, path in ((first, copy), (copy / UNET_FILE, copy), (copy / "file.safetensors", copy / "file.safetensors"),
                       (copy / "unet/config.json", copy)):
        file.write_bytes(content)
        assert index.exists() and refused(path, f"{file} is ", says)


@pytest.mark.parametrize("key, value, says", [
    ("time_cond_proj_dim", 256, "an LCM"), ("class_embed_type", "projection", "an unCLIP model")])
def test_kinds_that_are_not_run_are_named_by_their_config(copy, key, value, says):
    """Not only the setting, but what it means."""
    configure(copy / "unet" / "config.json", **{key: value})
    refused(copy, says, key)


@pytest.mark.parametrize("inputs, says", [(5, "depth"), (8, "instruct-pix2pix"), (9, "inpainting")])
def test_kinds_that_are_not_run_are_named_by_their_channels(copy, inputs, says):
    """Of the UNet's input."""
    rewrite(copy / UNET_FILE, lambda tensors: tensors.update({"conv_in.weight": torch.zeros(32, inputs, 3, 3)}))
    configure(copy / "unet" / "config.json", in_channels=inputs)
    refused(copy, says, str(inputs))


def test_a_unet_that_gives_other_channels_than_it_takes_is_refused(copy):
    """As those do that predict a variance too."""
    rewrite(copy / UNET_FILE, lambda tensors: tensors.update({"conv_out.weight": torch.zeros(8, 32, 3, 3),
                                                         "conv_out.bias": torch.zeros(8)}))
    configure(copy / "unet" / "config.json", out_channels=8)
    refused(copy, "the UNet takes 4 and gives 8")


# ---- configs of their age ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("version, size, wanted", [
    ("0.8.1", 32, 64), ("0.2.2", 32, 64), ("0.9.0", 32, 32), ("0.10.2", 32, 32), (None, 32, 32), ("0.6.0", 48, 48)])
def test_a_size_of_32_meant_64_before_diffusers_0_9(copy, version, size, wanted):
    """Where the config says by which version it was written."""
    configure(copy / "unet" / "config.json", sample_size=size, _diffusers_version=version)
    assert part_of(copy, "unet").config["sample_size"] == wanted


@pytest.mark.parametrize("key, value, expected", [
    ("absent", None, torch.float32), ("force_upcast", None, torch.float32), ("force_upcast", False, torch.float16)])
def test_an_xl_vae_that_does_not_say_so_is_upcast(xl_folder, folder, tmp_path, key, value, expected):
    """The key came in 2023-07: until then SDXL's VAE, and it alone, is float32 in an fp16 model without it."""
    for source, wanted in ((xl_folder, expected), (folder, torch.float16))[:2 if key == "absent" else 1]:
        file = Path(shutil.copytree(source, tmp_path / source.name)) / "vae" / "config.json"
        config = {name: content for name, content in json.loads(file.read_text()).items() if name != "force_upcast"}
        file.write_text(json.dumps(config if key == "absent" else config | {key: value}))
        assert p2p.load(tmp_path / source.name, "cpu", "float16").vae.quant_conv.weight.dtype == wanted


def test_clip_skip_is_honoured(copy, model):
    """A config that names fewer layers than the file has: the last ones are skipped, and the model says so."""
    configure(copy / "text_encoder" / "config.json", num_hidden_layers=1)
    loaded, ids = p2p.load(copy, "cpu"), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = model.text_encoder(ids, output_hidden_states=True).hidden_states[1]
        norm = next(part for name, part in model.text_encoder.named_modules() if name.endswith("final_layer_norm"))
        assert torch.equal(loaded.text_encoder(ids).last_hidden_state, norm(before))
    assert (model.about, loaded.about) == ("", "text_encoder without the last 1 of its layers: CLIP skip")


# ---- a VAE from elsewhere ------------------------------------------------------------------------------------------

def test_a_vae_from_another_folder_is_taken_and_said(folder, copy, tmp_path):
    """In place of the checkpoint's own, which may be missing; the message about that names the option."""
    other = tmp_path / "other"
    shutil.copytree(folder / "vae", other)
    rewrite(other / Path(VAE_FILE).name, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    for step in ("beside its own", "alone"):
        loaded = p2p.load(copy, "cpu", vae=other)
        taken = load_file(other / Path(VAE_FILE).name)["quant_conv.weight"]
        assert torch.equal(loaded.vae.quant_conv.weight, taken), step
        assert loaded.about == f"with the VAE of {other}"
        shutil.rmtree(copy / "vae", ignore_errors=True)
    refused(copy, "no folder vae/", "--vae", error=FileNotFoundError)


def test_a_fixed_vae_makes_an_xl_vae_of_half_precision(xl_folder, tmp_path):
    """force_upcast false in the config of the VAE that is given, as that of the fp16-fixed one."""
    configure(Path(shutil.copytree(xl_folder / "vae", tmp_path / "fixed")) / "config.json", force_upcast=False)
    assert p2p.load(xl_folder, "cpu", "float16", vae=tmp_path / "fixed").vae.quant_conv.weight.dtype == torch.float16


def test_a_vae_that_is_not_there_not_one_or_of_another_kind_is_refused(folder, xl_folder, tmp_path):
    """Nowhere; pickled; a checkpoint, a UNet; SD 1's for SDXL, whose latents are scaled otherwise."""
    refused(folder, "nowhere", "--vae", vae="nowhere", error=FileNotFoundError)
    (tmp_path / "vae.pt").write_bytes(b"\x80")
    refused(folder, "pickled", vae=tmp_path / "vae.pt")
    refused(folder, "is a whole checkpoint", str(folder / "vae"), vae=folder)
    refused(folder, str(folder / UNET_FILE), "lacks", "encoder", vae=folder / UNET_FILE)
    refused(xl_folder, str(folder / "vae"), "0.18215", "0.13025", vae=folder / "vae")


# ---- dtypes and memory ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_half_precision_file_is_loaded_as_float32_on_the_cpu(copy, stored):
    """Stored in half precision, computed in float32: the same numbers."""
    for file in (UNET_FILE, VAE_FILE, TEXT_FILE):
        rewrite(copy / file, lambda tensors: {k: v.to(stored) for k, v in tensors.items()})
    model = p2p.load(copy, "cpu")
    assert model.dtype == torch.float32
    for part in (model.unet, model.vae, model.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert torch.equal(model.unet.conv_in.weight, load_file(copy / UNET_FILE)["conv_in.weight"].float())


@pytest.mark.parametrize("dtype", [torch.float16, "float16", "bfloat16", torch.float32])
def test_a_dtype_may_be_asked_for_by_name_or_as_it_is(folder, dtype):
    """All networks have it; the VAE too, where its config does not force it up."""
    model = p2p.load(folder, "cpu", dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {model.dtype, model.vae.quant_conv.weight.dtype, next(model.text_encoder.parameters()).dtype} == {wanted}


def test_a_vae_that_overflows_in_fp16_stays_in_float32(copy):
    """force_upcast: the VAE is float32 in an fp16 model."""
    configure(copy / "vae" / "config.json", force_upcast=True)
    model = p2p.load(copy, "cpu", "float16")
    assert model.dtype == torch.float16 and model.vae.quant_conv.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype, marked", [(None, 1.0), ("float32", 1.0), ("float16", 2.0), ("bfloat16", 2.0)])
def test_of_two_files_the_one_of_the_wanted_precision_is_read(copy, dtype, marked):
    """*.fp16.safetensors beside the plain name."""
    spare = copy / "unet" / "spare"
    for file, mark in ((UNET_FILE, 1.0), (UNET_FILE.replace(".safetensors", ".fp16.safetensors"), 2.0)):
        shutil.copy(copy / UNET_FILE, spare) if mark == 1 else shutil.move(spare, copy / file)
        rewrite(copy / file, lambda tensors, mark=mark: tensors["conv_in.bias"].fill_(mark) is None)
    assert (p2p.load(copy, "cpu", dtype).unet.conv_in.bias == marked).all()


@pytest.mark.parametrize("there, dtype, chosen", [
    (["bf16"], None, "bf16"), (["bf16"], "float16", "bf16"), (["fp32", "fp16"], None, "fp32"),
    (["fp32", "fp16"], "float16", "fp16"), (["fp16", "bf16"], "bfloat16", "bf16"),
    (["", "fp16"], "bfloat16", "fp16"), (["", "bf16"], "float16", ""), (["", "non_ema"], None, ""),
    (["non_ema"], "float16", "non_ema"), (["fp16", "non_ema"], None, "fp16"), (["", "bf16", "fp16"], "float32", "")])
@pytest.mark.parametrize("in_shards", [False, True])
def test_the_variant_that_fits_is_read(copy, there, dtype, chosen, in_shards):
    """The plain one first, unless half precision is asked for; what there is, if nothing else; one file or shards."""
    shutil.move(copy / UNET_FILE, copy / "spare")
    for mark, variant in enumerate(there):
        dot = f".{variant}" if variant else ""
        file = copy / UNET_FILE.replace(".safetensors", f"{'' if in_shards else dot}.safetensors")
        shutil.copy(copy / "spare", file)
        rewrite(file, lambda tensors: tensors["conv_in.bias"].fill_(mark) is None)
        if in_shards:
            shard(file, dot)
    assert (part_of(copy, "unet", dtype and getattr(torch, dtype)).conv_in.bias == there.index(chosen)).all()


def test_two_variants_that_fit_equally_are_refused(copy):
    """Nothing says which is meant."""
    for name in (".non_ema.safetensors", ".other.safetensors"):
        shutil.copy(copy / UNET_FILE, (copy / UNET_FILE).with_suffix(name))
    part_of(copy, "unet")                                  # the plain one is there
    (copy / UNET_FILE).unlink()
    refused(copy, str(copy / "unet"), "twice", "non_ema", "other", error=ValueError)


@pytest.mark.parametrize("kept, dtype", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_the_dtype_is_that_of_most_of_the_unet(copy, kept, dtype):
    """Not of its first tensor: norms and biases may be kept in another. On the CPU it is float32."""
    rewrite(copy / UNET_FILE, lambda tensors: {
        name: tensor.to(kept if tensor.ndim == 1 else dtype) for name, tensor in tensors.items()})
    with open_weights(copy / UNET_FILE) as stored:
        sources = names.sources("unet", stored)
        assert default_dtype(stored, sources, torch.device("cuda")) == dtype
        assert default_dtype(stored, sources, torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("left", ["lora_A.default_0.weight", "base_layer.weight", "lora_down.weight"])
def test_what_fuse_lora_leaves_is_named_as_a_lora(copy, left):
    """diffusers saves it beside the weights unless unload_lora_weights was called; one says what to do."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    rewrite(copy / UNET_FILE, lambda tensors: tensors.update({f"{name}.{left}": tensors[f"{name}.weight"].clone()}))
    refused(copy, str(copy / UNET_FILE), "LoRA", f"{name}.{left}", "unload_lora_weights()")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_and_merges_as_windows_editors_save_them(copy, model, encoding):
    """With a byte order mark and carriage returns: the same model."""
    for file in copy.rglob("*.json"):
        file.write_bytes(file.read_text(encoding="utf-8").replace("\n", "\r\n").encode(encoding))
    assert same_parts(p2p.load(copy, "cpu"), model)
    # And a tokenizer in its old form.
    words = copy / "tokenizer"
    bpe = json.loads((words / "tokenizer.json").read_bytes())["model"]
    (words / "tokenizer.json").unlink()
    (words / "vocab.json").write_bytes(json.dumps(bpe["vocab"]).encode(encoding))
    merges = "#version: 0.2\r\n" + "".join(f"{' '.join(pair)}\r\n" for pair in bpe["merges"])
    (words / "merges.txt").write_bytes(merges.encode("utf-8-sig"))
    prompt = "a red bicycle, watercolor!"
    assert p2p.load(copy, "cpu").tokenizer(prompt).input_ids == model.tokenizer(prompt).input_ids


def test_a_path_from_the_home_folder_and_one_with_a_slash(copy, folder, monkeypatch):
    """No shell expands ~ in --model=~/model, nor Python."""
    monkeypatch.setenv("HOME", str(copy.parent))
    model = p2p.load("~/copy/", "cpu", tokenizer="~/copy/tokenizer", vae="~/copy/vae")
    assert model.path == str(copy) and model.about == "with the VAE of ~/copy/vae"


def test_a_file_of_half_precision_alone_is_found(copy):
    """*.fp16.safetensors instead of the plain name, in every part."""
    for file in (UNET_FILE, VAE_FILE, TEXT_FILE):
        (copy / file).rename((copy / file).with_suffix(".fp16.safetensors"))
    p2p.load(copy, "cpu")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's table of mapped files")
@pytest.mark.parametrize("part, file", [("unet", UNET_FILE), ("vae", VAE_FILE), ("text_encoder", TEXT_FILE)])
def test_parameters_are_the_mapped_file_where_the_dtype_agrees(folder, part, file):
    """No second copy of the weights: every parameter lies in the memory that the file is mapped to."""
    network = getattr(p2p.load(folder, "cpu"), part)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()
             if line.endswith(str(folder / file))]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    for name, parameter in network.named_parameters():
        assert any(a <= parameter.data_ptr() < b for a, b in ranges), name


def test_loaded_networks_are_in_eval_mode_without_gradients_and_whole(model):
    """Nothing is left on the meta device, nothing wants gradients."""
    for part in (model.unet, model.vae, model.text_encoder):
        assert not part.training and not any(p.requires_grad or p.is_meta for p in part.parameters())
        assert not any(buffer.is_meta for buffer in part.buffers())


@pytest.mark.parametrize("arguments, says", [
    (dict(device="nonsense"), "nonsense"), (dict(device="cuda:99"), "cuda:99"), (dict(device="meta"), "meta"),
    (dict(dtype="float64"), "float64"), (dict(dtype="nonsense"), "nonsense"),
    (dict(dtype="load"), "load"), (dict(dtype=torch.int8), "int8"), (dict(dtype=16), "16"), (dict(dtype=""), "dtype")])
def test_an_impossible_device_or_dtype_is_named(folder, arguments, says):
    """Devices that are not here and types that nobody computes in."""
    refused(folder, says, **arguments)


def test_unknown_keyword_arguments_are_errors(folder):
    """Trap 7: keyword arguments are not swallowed."""
    with pytest.raises(TypeError):
        p2p.load(folder, torch_dtype="float16")


def test_a_scheduler_of_another_name_gives_its_betas(model):
    """A folder that names PNDM: DDIM with its betas, offset and prediction; diffusers' defaults for absent keys."""
    s = model.schedule
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2
    torch.testing.assert_close(s.alphas_cumprod, (1 - betas).cumprod(0))
    assert (s.offset, s.spacing, s.prediction) == (1, "leading", "epsilon")
    assert s.final_alpha == pytest.approx(1 - 0.00085)


def test_config_error_is_plain_text(copy):
    """One line that begins with the file: no quotes around it, no escapes in it."""
    configure(copy / "unet" / "config.json", conv_in_kernel=5)
    message = refused(copy)
    assert message == f"{copy / 'unet' / 'config.json'}: UNet: conv_in_kernel in its config must be 3, not 5"


def test_what_training_scripts_leave_in_a_config_does_no_harm(copy):
    """diffusers' EMA writes its bookkeeping into the UNet's config; it changes nothing that is computed."""
    configure(copy / "unet" / "config.json", decay=0.9999, inv_gamma=1.0, min_decay=0.0, optimization_step=3,
              power=0.75, update_after_step=0, use_ema_warmup=False)
    p2p.load(copy, "cpu")


@pytest.mark.parametrize("size", ["16", [16], [16, "16"], 1.5])
def test_a_size_of_its_own_that_is_none_is_an_error(copy, size):
    """sample_size is a number or [height, width]."""
    configure(copy / "unet" / "config.json", sample_size=size)
    refused(copy, "sample_size")
