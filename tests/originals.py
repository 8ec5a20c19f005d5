"""Single files in the original layouts, narrow and random: tensors' names and shapes as the original code builds them.

After CompVis' openaimodel.py and model.py, OpenCLIP's transformer.py and transformers' CLIP, as they number their
modules: nothing here comes from p2p_min, and diffusers reads the same files (test_single_files.py).
"""
import json

import torch
from safetensors.torch import load_file, save_file

UNET, VAE = "model.diffusion_model.", "first_stage_model."


def linear(at, inputs, outputs, bias=True):
    return {f"{at}.weight": (outputs, inputs), **({f"{at}.bias": (outputs,)} if bias else {})}


def conv(at, inputs, outputs, size=3):
    return {f"{at}.weight": (outputs, inputs, size, size), f"{at}.bias": (outputs,)}


def norm(at, width):
    return {f"{at}.weight": (width,), f"{at}.bias": (width,)}


def resblock(at, inputs, outputs, time):
    return (norm(f"{at}.in_layers.0", inputs) | conv(f"{at}.in_layers.2", inputs, outputs)
            | linear(f"{at}.emb_layers.1", time, outputs)
            | norm(f"{at}.out_layers.0", outputs) | conv(f"{at}.out_layers.3", outputs, outputs)
            | (conv(f"{at}.skip_connection", inputs, outputs, 1) if inputs != outputs else {}))


def transformer(at, width, context, depth, is_linear):
    proj = linear if is_linear else lambda *args: conv(*args, 1)
    shapes = norm(f"{at}.norm", width) | proj(f"{at}.proj_in", width, width) | proj(f"{at}.proj_out", width, width)
    for block in (f"{at}.transformer_blocks.{i}" for i in range(depth)):
        for attention, keys in (("attn1", width), ("attn2", context)):
            shapes |= linear(f"{block}.{attention}.to_q", width, width, False)
            shapes |= linear(f"{block}.{attention}.to_k", keys, width, False)
            shapes |= linear(f"{block}.{attention}.to_v", keys, width, False)
            shapes |= linear(f"{block}.{attention}.to_out.0", width, width)
        for i in (1, 2, 3):
            shapes |= norm(f"{block}.norm{i}", width)
        shapes |= linear(f"{block}.ff.net.0.proj", width, 8 * width) | linear(f"{block}.ff.net.2", 4 * width, width)
    return shapes


def unet(widths, down, middle, up, context, is_linear=False, inputs=4, adm=None):
    """down, up: the transformer layers behind each resblock, level by level, up from the deepest; middle: None for no
    block at all, 0 for one resblock alone.
    """
    time, at, width = 4 * widths[0], 0, widths[0]
    shapes = linear("time_embed.0", width, time) | linear("time_embed.2", time, time)
    shapes |= conv("input_blocks.0.0", inputs, width)
    if adm:
        shapes |= linear("label_emb.0.0", adm, time) | linear("label_emb.0.2", time, time)
    skips = [width]
    for level, depths in enumerate(down):
        for depth in depths:
            at += 1
            shapes |= resblock(f"input_blocks.{at}.0", width, widths[level], time)
            width = widths[level]
            shapes |= transformer(f"input_blocks.{at}.1", width, context, depth, is_linear) if depth else {}
            skips.append(width)
        if level < len(widths) - 1:
            at += 1
            shapes |= conv(f"input_blocks.{at}.0.op", width, width)
            skips.append(width)
    if middle is not None:
        shapes |= resblock("middle_block.0", width, width, time)
    if middle:
        shapes |= transformer("middle_block.1", width, context, middle, is_linear)
        shapes |= resblock("middle_block.2", width, width, time)
    at = 0
    for level, depths in zip(reversed(range(len(widths))), up):
        for i, depth in enumerate(depths):
            shapes |= resblock(f"output_blocks.{at}.0", width + skips.pop(), widths[level], time)
            width = widths[level]
            shapes |= transformer(f"output_blocks.{at}.1", width, context, depth, is_linear) if depth else {}
            if i == len(depths) - 1 and level:
                shapes |= conv(f"output_blocks.{at}.{2 if depth else 1}.conv", width, width)
            at += 1
    shapes |= norm("out.0", width) | conv("out.2", width, 4)
    return {UNET + name: shape for name, shape in shapes.items()}


def vae(widths, layers=2):
    def block(at, inputs, outputs):
        return (norm(f"{at}.norm1", inputs) | conv(f"{at}.conv1", inputs, outputs) | norm(f"{at}.norm2", outputs)
                | conv(f"{at}.conv2", outputs, outputs)
                | (conv(f"{at}.nin_shortcut", inputs, outputs, 1) if inputs != outputs else {}))

    def middle(at, width):
        shapes = block(f"{at}.block_1", width, width) | block(f"{at}.block_2", width, width)
        shapes |= norm(f"{at}.attn_1.norm", width)
        for name in ("q", "k", "v", "proj_out"):
            shapes |= conv(f"{at}.attn_1.{name}", width, width, 1)
        return shapes

    def levels(way, order, layers, resample):
        shapes, width = {}, widths[order[0]]
        for level in order:
            for i in range(layers):
                shapes |= block(f"{way}.{level}.block.{i}", width, widths[level])
                width = widths[level]
            shapes |= conv(f"{way}.{level}.{resample}.conv", width, width) if level != order[-1] else {}
        return shapes

    first, last, order = widths[0], widths[-1], list(range(len(widths)))
    shapes = conv("encoder.conv_in", 3, first) | levels("encoder.down", order, layers, "downsample")
    shapes |= middle("encoder.mid", last) | norm("encoder.norm_out", last) | conv("encoder.conv_out", last, 8)
    shapes |= conv("quant_conv", 8, 8, 1) | conv("post_quant_conv", 4, 4, 1)
    shapes |= conv("decoder.conv_in", 4, last) | middle("decoder.mid", last)
    shapes |= levels("decoder.up", order[::-1], layers + 1, "upsample")
    shapes |= norm("decoder.norm_out", first) | conv("decoder.conv_out", first, 3)
    return {VAE + name: shape for name, shape in shapes.items()}


def clip(prefix, tokens, width, layers):
    shapes = {"embeddings.token_embedding.weight": (tokens, width), "embeddings.position_embedding.weight": (77, width)}
    for layer in (f"encoder.layers.{i}" for i in range(layers)):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{name}", width, width)
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        shapes |= linear(f"{layer}.mlp.fc1", width, 4 * width) | linear(f"{layer}.mlp.fc2", 4 * width, width)
    return {f"{prefix}text_model.{name}": shape for name, shape in (shapes | norm("final_layer_norm", width)).items()}


def openclip(prefix, tokens, width, layers):
    shapes = {"token_embedding.weight": (tokens, width), "positional_embedding": (77, width),
              "text_projection": (width, width), "logit_scale": ()}
    for layer in (f"transformer.resblocks.{i}" for i in range(layers)):
        shapes |= {f"{layer}.attn.in_proj_weight": (3 * width, width), f"{layer}.attn.in_proj_bias": (3 * width,)}
        shapes |= linear(f"{layer}.attn.out_proj", width, width)
        shapes |= norm(f"{layer}.ln_1", width) | norm(f"{layer}.ln_2", width)
        shapes |= linear(f"{layer}.mlp.c_fc", width, 4 * width) | linear(f"{layer}.mlp.c_proj", 4 * width, width)
    return {prefix + name: shape for name, shape in (shapes | norm("ln_final", width)).items()}


# The blocks of the real ones, and as few of them as show every kind of block.
FULL = dict(down=[[1, 1], [1, 1], [1, 1], [0, 0]], middle=1, up=[[0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])
FULL_XL = dict(down=[[0, 0], [1, 1], [3, 3]], middle=3, up=[[3, 3, 3], [1, 1, 1], [0, 0, 0]])
FEW = dict(down=[[1], [0]], middle=1, up=[[0, 0], [1, 1]])
FEW_XL = dict(down=[[0], [2]], middle=2, up=[[2, 2], [0, 0]])


def sd1(tokens, full=False, **changes):
    shape = dict(FULL, widths=(32, 64, 32, 32)) if full else dict(FEW, widths=(32, 64))
    return (unet(**{**shape, "context": 64, **changes}) | (vae((32, 64, 32, 32)) if full else vae((32, 32), 1))
            | clip("cond_stage_model.transformer.", tokens, 64, 2))


def sd2(tokens, full=False, **changes):
    shape = dict(FULL, widths=(64, 128, 64, 64)) if full else dict(FEW, widths=(64, 128))
    return (unet(**{**shape, "context": 64, "is_linear": True, **changes})
            | (vae((32, 64, 32, 32)) if full else vae((32, 32), 1))
            | openclip("cond_stage_model.model.", tokens, 64, 24))


def sdxl(tokens, full=False, **changes):
    """Pooled text of 128 numbers, and six sizes of 32 each."""
    shape = dict(FULL_XL, widths=(64, 64, 128)) if full else dict(FEW_XL, widths=(64, 128))
    return (unet(**{**shape, "context": 192, "is_linear": True, "adm": 128 + 6 * 32, **changes})
            | (vae((32, 64, 32, 32)) if full else vae((32, 32), 1))
            | clip("conditioner.embedders.0.transformer.", tokens, 64, 2)
            | openclip("conditioner.embedders.1.model.", tokens, 128, 3))


def fill(shapes, seed=0, dtype=torch.float32):
    """Every tensor random, of a size that keeps a forward pass finite."""
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(shape, generator=generator) / (shape[1:].numel() if len(shape) > 1 else 10) ** 0.5
                   + (len(shape) == 1 and name.endswith("weight"))).to(dtype)
            for name, shape in ((name, torch.Size(shape)) for name, shape in shapes.items())}


def write(file, tensors, metadata=None):
    save_file(tensors, file, metadata={"format": "pt", **(metadata or {})})
    return file


def shard(file, variant="", shards=2):
    """A safetensors file as diffusers splits a large one: its shards and their index, which is returned."""
    tensors, stem, places = load_file(file), file.name.removesuffix(".safetensors"), {}
    for i in range(shards):
        name = f"{stem}{variant}-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(sorted(tensors.items()))[i::shards])
        save_file(part, file.with_name(name), metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    file.unlink()
    index = file.with_name(f"{stem}.safetensors.index{variant}.json")
    total = sum(tensor.nbytes for tensor in tensors.values())
    index.write_text(json.dumps(dict(metadata=dict(total_size=total), weight_map=places), indent=2))
    return index
