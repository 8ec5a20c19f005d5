"""Single files against the folders that diffusers makes of them: the same model, tensor for tensor.

The files are written by originals.py and read by diffusers' own converters; its folders' configs are written by hand.
"""
import pytest

diffusers = pytest.importorskip("diffusers")

import json
from functools import partial

import torch
from diffusers.loaders import single_file_utils as utils
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import originals
import p2p_min as p2p
from conftest import same_parts
from originals import UNET, fill, write
from p2p_min.networks.text import encode

PROMPTS = ["a red bicycle", "a blue car on snow"]
FOUR = dict(cross_attention_dim=64, sample_size=64)
XL = dict(block_out_channels=(64, 64, 128), transformer_layers_per_block=(1, 1, 3), attention_head_dim=(1, 1, 2),
          down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=192,
          up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
          addition_embed_type="text_time", addition_time_embed_dim=32, projection_class_embeddings_input_dim=320,
          sample_size=128)
SD2 = dict(FOUR, block_out_channels=(64, 128, 64, 64), attention_head_dim=(1, 2, 1, 1), use_linear_projection=True,
           upcast_attention=True)
THEIRS = {                             # UNet; the first encoder's layers, activation, OpenCLIP's prefix; prediction
    "sd1": (dict(FOUR, block_out_channels=(32, 64, 32, 32), attention_head_dim=8), 2, "quick_gelu", None, "epsilon"),
    "sd2": (SD2, 23, "gelu", "cond_stage_model.model.", "epsilon"),
    "sd2-v": (dict(SD2, sample_size=96), 23, "gelu", "cond_stage_model.model.", "v_prediction"),
    "sdxl": (XL, 2, "quick_gelu", None, "epsilon")}


def save_text(folder, tokenizer, build, converted, **config):
    encoder = build(CLIPTextConfig(
        vocab_size=len(tokenizer), intermediate_size=4 * config["hidden_size"], projection_dim=config["hidden_size"],
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **config))
    short = {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}
    encoder.load_state_dict({name: short[name.removeprefix("text_model.")] for name in encoder.state_dict()})
    encoder.save_pretrained(folder)


def save_tokenizer(folder, tokenizer, pad):
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": pad}))


def make_folder(folder, kind, file, tokenizer):
    """What diffusers makes of the file."""
    unet, layers, activation, prefix, prediction = THEIRS[kind]
    vae = dict(block_out_channels=(32, 64, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
               up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.13025 if kind == "sdxl" else 0.18215,
               force_upcast=kind == "sdxl")
    for name, build, config in (("unet", diffusers.UNet2DConditionModel, unet), ("vae", diffusers.AutoencoderKL, vae)):
        build(**config).save_config(folder / name)
        build.from_single_file(str(file), config=str(folder), subfolder=name, local_files_only=True,
                               torch_dtype=torch.float32).save_pretrained(folder / name)
    stored = {name: tensor.float() for name, tensor in load_file(file).items()}
    narrow = CLIPTextModel(CLIPTextConfig(vocab_size=9, hidden_size=64, num_attention_heads=1, num_hidden_layers=1))
    convert = (partial(utils.convert_open_clip_checkpoint, narrow, prefix=prefix) if prefix
               else utils.convert_ldm_clip_checkpoint)
    save_text(folder / "text_encoder", tokenizer, CLIPTextModel, convert(stored), hidden_size=64, num_attention_heads=1,
              num_hidden_layers=layers, hidden_act=activation)
    save_tokenizer(folder / "tokenizer", tokenizer, "!" if prefix else "<|endoftext|>")
    if kind == "sdxl":
        save_text(folder / "text_encoder_2", tokenizer, CLIPTextModelWithProjection,
                  utils.convert_open_clip_checkpoint(narrow, stored, "conditioner.embedders.1.model."), hidden_size=128,
                  num_attention_heads=2, num_hidden_layers=3, hidden_act="gelu")
        save_tokenizer(folder / "tokenizer_2", tokenizer, "!")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(
        _class_name="DDIMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        set_alpha_to_one=False, clip_sample=False, prediction_type=prediction)))


@pytest.mark.parametrize("kind", THEIRS)
def test_a_file_and_the_folder_that_diffusers_makes_of_it_are_the_same_model(tokenizer, words, tmp_path, kind):
    """Tensor for tensor; the same schedule, tokens, text and prediction, so nothing of a config is guessed wrong."""
    tensors = fill(getattr(originals, kind.removesuffix("-v"))(len(tokenizer), full=True))
    if kind == "sd2":
        tensors[UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"] /= 10
    file = write(tmp_path / "file.safetensors", tensors)
    make_folder(tmp_path / "folder", kind, file, tokenizer)
    ours, theirs = p2p.load(file, "cpu", tokenizer=words), p2p.load(tmp_path / "folder", "cpu")
    assert same_parts(ours, theirs)
    assert torch.equal(ours.schedule.alphas_cumprod, theirs.schedule.alphas_cumprod)
    assert ours.schedule[1:] == theirs.schedule[1:] and ours.size == theirs.size
    assert ours.vae.config["scaling_factor"] == theirs.vae.config["scaling_factor"]
    for key in ("upcast_attention", "attention_head_dim", "addition_time_embed_dim"):
        assert ours.unet.config[key] == theirs.unet.config[key], key
    contexts = [encode(model, PROMPTS, 64, 64) for model in (ours, theirs)]
    for a, b in zip(*contexts):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-5)
    for a, b in zip(*(encode(model, ["wow!!! a cat, red!"], 64, 64) for model in (ours, theirs))):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-5)      # a typed "!" is text, here and there
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    a, b = (model.unet(z, 500, context) for model, context in zip((ours, theirs), contexts))
    assert (a - b).norm() / b.norm() < 1e-5
