"""Checkpoints of random weights in Stable Diffusion's shapes: what they cost and compute needs no published file.

    python scripts/full_size.py sd15|sd21|sdxl FOLDER [--narrow]

Writes a folder in the diffusers layout, of 4.3 GB (sd15), 5.2 GB (sd21) or 7.1 GB (sdxl, fp16); --narrow has thin
layers, and takes seconds. Then `python scripts/paper.py --model FOLDER --only parity cost` compares with diffusers.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

from p2p_min.networks.text import text_encoder
from p2p_min.networks.unet import UNet as build_unet
from p2p_min.networks.vae import VAE as build_vae

# The configs of runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-2-1 and stable-diffusion-xl-base-1.0.
UNET = dict(
    act_fn="silu", attention_head_dim=8, block_out_channels=[320, 640, 1280, 1280], center_input_sample=False,
    cross_attention_dim=768, down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], downsample_padding=1,
    flip_sin_to_cos=True, freq_shift=0, in_channels=4, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-05,
    norm_num_groups=32, out_channels=4, sample_size=64, up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
VAE = dict(
    act_fn="silu", block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4, in_channels=3,
    latent_channels=4, layers_per_block=2, norm_num_groups=32, out_channels=3, sample_size=512,
    up_block_types=["UpDecoderBlock2D"] * 4)
TEXT = dict(
    architectures=["CLIPTextModel"], attention_dropout=0.0, bos_token_id=0, dropout=0.0, eos_token_id=2,
    hidden_act="quick_gelu", hidden_size=768, initializer_factor=1.0, initializer_range=0.02, intermediate_size=3072,
    layer_norm_eps=1e-05, max_position_embeddings=77, model_type="clip_text_model", num_attention_heads=12,
    num_hidden_layers=12, pad_token_id=1, projection_dim=768, torch_dtype="float32", vocab_size=49408)
SCHEDULER = dict(
    _class_name="PNDMScheduler", beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085, clip_sample=False,
    num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None)
MODELS = dict(
    sd15=dict(unet=UNET, vae=VAE, text_encoder=TEXT, scheduler=SCHEDULER),
    sd21=dict(
        unet=dict(UNET, attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, dual_cross_attention=False,
                  only_cross_attention=False, sample_size=96, use_linear_projection=True, upcast_attention=True),
        vae=dict(VAE, sample_size=768),
        text_encoder=dict(TEXT, hidden_act="gelu", hidden_size=1024, intermediate_size=4096, num_attention_heads=16,
                          num_hidden_layers=23, projection_dim=512),
        scheduler=dict(SCHEDULER, _class_name="DDIMScheduler", prediction_type="v_prediction")),
    sdxl=dict(
        unet=dict(UNET, addition_embed_type="text_time", addition_time_embed_dim=256, attention_head_dim=[5, 10, 20],
                  block_out_channels=[320, 640, 1280], cross_attention_dim=2048, sample_size=128,
                  down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
                  projection_class_embeddings_input_dim=2816, transformer_layers_per_block=[1, 2, 10],
                  up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], upcast_attention=None,
                  use_linear_projection=True),
        vae=dict(VAE, force_upcast=True, sample_size=1024, scaling_factor=0.13025),
        text_encoder=TEXT,
        text_encoder_2=dict(TEXT, architectures=["CLIPTextModelWithProjection"], hidden_act="gelu", hidden_size=1280,
                            intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, projection_dim=1280),
        scheduler=dict(SCHEDULER, _class_name="EulerDiscreteScheduler", timestep_spacing="leading")))
STORED = dict(sd15=torch.float32, sd21=torch.float32, sdxl=torch.float16)
FILES = dict.fromkeys(("unet", "vae"), "diffusion_pytorch_model") | dict(text_encoder="model", text_encoder_2="model")


def narrow(configs):
    """The same model with thin layers."""
    unet, heads = configs["unet"], configs["unet"]["attention_head_dim"]
    thin = dict(configs)
    for name in [name for name in configs if name.startswith("text")]:
        thin[name] = dict(configs[name], hidden_size=128, intermediate_size=256, num_attention_heads=2,
                          num_hidden_layers=3, projection_dim=128)
    thin["vae"] = dict(configs["vae"], block_out_channels=[32, 64, 64, 64])
    thin["unet"] = dict(unet, block_out_channels=[n // 5 for n in unet["block_out_channels"]],
                        attention_head_dim=heads if heads == 8 else [n // 5 for n in heads],
                        cross_attention_dim=128 * sum(name.startswith("text") for name in thin))
    if "text_encoder_2" in thin:
        thin["unet"].update(projection_class_embeddings_input_dim=128 + 6 * 256, transformer_layers_per_block=[1, 2, 3])
    return thin


def networks(configs):
    """{part: its network}, without weights: on the meta device a tensor has a shape and nothing else."""
    with torch.device("meta"):
        parts = dict(unet=build_unet(configs["unet"]), vae=build_vae(configs["vae"]))
        for name in [name for name in configs if name.startswith("text")]:
            parts[name] = text_encoder(configs[name], projects=name == "text_encoder_2")
    return parts


def random_weights(shapes, dtype):
    """Weights of those names and shapes. Norms and biases are not 1 and 0 either, which would hide their branch."""
    weights = {}
    for name, like in shapes.items():
        mean, spread = (float(name.endswith("weight")), 0.1) if like.ndim == 1 else (0.0, like[0].numel() ** -0.5)
        tensor = torch.empty(like.shape).normal_(mean, spread)
        weights[name] = tensor.to(dtype)
    return weights


def write_tokenizer(folder, padding):
    """CLIP's letters without merges; the end token has the highest number, as in the real one."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
    tokenizer.pad_token = padding
    tokenizer.save_pretrained(folder)


def write(kind, folder, is_narrow=False):
    """Writes the checkpoint, part by part. The same kind has the same weights each time."""
    configs, dtype = narrow(MODELS[kind]) if is_narrow else MODELS[kind], STORED[kind]
    torch.manual_seed(0)
    for part, network in networks(configs).items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(configs[part]))
        save_file(random_weights(network.state_dict(), dtype), folder / part / f"{FILES[part]}.safetensors",
                  metadata={"format": "pt"})
    write_tokenizer(folder / "tokenizer", "!" if kind == "sd21" else "<|endoftext|>")
    if kind == "sdxl":
        write_tokenizer(folder / "tokenizer_2", "!")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kind", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--narrow", action="store_true", help="thin layers")
    args = parser.parse_args()
    write(args.kind, args.folder, args.narrow)


if __name__ == "__main__":
    main()
