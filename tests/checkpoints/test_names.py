"""Names of parameters, from those of any file to today's: a table, and whole models from originals.py."""
import re

import pytest
import torch

import originals
from p2p_min.checkpoints.names import sources, text, unet, unet_places, vae

QKV = [f"encoder.layers.3.self_attn.{x}_proj.bias" for x in "qkv"]
TABLE = [                              # what maps a name, the name in a file, today's
    (text, "text_model.encoder.layers.3.mlp.fc1.bias", ["encoder.layers.3.mlp.fc1.bias"]),
    (text, "encoder.layers.3.layer_norm1.bias", ["encoder.layers.3.layer_norm1.bias"]),
    (text, "text_model.embeddings.position_ids", []), (text, "embeddings.position_ids", []),
    (text, "token_embedding.weight", ["embeddings.token_embedding.weight"]),
    (text, "embeddings.token_embedding.weight", ["embeddings.token_embedding.weight"]),
    (text, "positional_embedding", ["embeddings.position_embedding.weight"]),
    (text, "transformer.resblocks.3.ln_1.weight", ["encoder.layers.3.layer_norm1.weight"]),
    (text, "transformer.resblocks.3.attn.in_proj_bias", QKV),
    (text, "transformer.resblocks.3.attn.out_proj.bias", ["encoder.layers.3.self_attn.out_proj.bias"]),
    (text, "transformer.resblocks.3.mlp.c_fc.weight", ["encoder.layers.3.mlp.fc1.weight"]),
    (text, "transformer.resblocks.3.mlp.c_proj.weight", ["encoder.layers.3.mlp.fc2.weight"]),
    (text, "ln_final.bias", ["final_layer_norm.bias"]), (text, "text_projection", ["text_projection.weight"]),
    (text, "text_projection.weight", ["text_projection.weight"]), (text, "stranger", ["stranger"]),
    (vae, "encoder.down.1.block.0.norm1.weight", ["encoder.down_blocks.1.resnets.0.norm1.weight"]),
    (vae, "encoder.down.1.downsample.conv.bias", ["encoder.down_blocks.1.downsamplers.0.conv.bias"]),
    (vae, "decoder.up.0.block.2.nin_shortcut.bias", ["decoder.up_blocks.3.resnets.2.conv_shortcut.bias"]),
    (vae, "decoder.up.3.upsample.conv.bias", ["decoder.up_blocks.0.upsamplers.0.conv.bias"]),
    (vae, "decoder.mid.block_2.conv1.bias", ["decoder.mid_block.resnets.1.conv1.bias"]),
    (vae, "encoder.norm_out.bias", ["encoder.conv_norm_out.bias"]), (vae, "quant_conv.bias", ["quant_conv.bias"]),
    *((vae, f"encoder.{old}.bias", [f"encoder.mid_block.attentions.0.{new}.bias"]) for old, new in [
        ("mid.attn_1.norm", "group_norm"), ("mid.attn_1.q", "to_q"), ("mid.attn_1.to_q", "to_q"),
        ("mid.attn_1.proj_out", "to_out.0"), ("mid.attn_1.to_out.0", "to_out.0"),
        ("mid_block.attentions.0.query", "to_q"), ("mid_block.attentions.0.key", "to_k"),
        ("mid_block.attentions.0.value", "to_v"), ("mid_block.attentions.0.proj_attn", "to_out.0"),
        ("mid_block.attentions.0.to_v", "to_v"), ("mid_block.attentions.0.group_norm", "group_norm")]),
    (unet, "input_blocks.0.0.weight", ["conv_in.weight"]), (unet, "out.2.bias", ["conv_out.bias"]),
    (unet, "label_emb.0.2.bias", ["add_embedding.linear_2.bias"]), (unet, "conv_in.weight", ["conv_in.weight"]),
    (unet, "middle_block.1.proj_in.bias", ["mid_block.attentions.0.proj_in.bias"]),
    (unet, "middle_block.2.in_layers.2.bias", ["mid_block.resnets.1.conv1.bias"]),
    (unet, "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0.bias",
     ["down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0.bias"])]


@pytest.mark.parametrize("today, name, expected", TABLE, ids=lambda value: value if isinstance(value, str) else "")
def test_name(today, name, expected):
    """Of CLIP and OpenCLIP, of a VAE in four spellings with four sizes, of a UNet outside of its blocks."""
    more = {text: (), vae: (4,), unet: ({},)}[today]
    assert [parameter for parameter, _ in today(name, *more)] == expected


def test_names_of_the_blocks_of_a_unet():
    """SD 1.5's twelve input and twelve output blocks, whose samplers have places of their own."""
    places = unet_places(set(name.removeprefix(originals.UNET) for name in originals.sd1(9, full=True)))
    for old, new in [
            ("input_blocks.1.0.", "down_blocks.0.resnets.0."), ("input_blocks.2.1.", "down_blocks.0.attentions.1."),
            ("input_blocks.3.0.op.", "down_blocks.0.downsamplers.0.conv."),
            ("input_blocks.11.0.", "down_blocks.3.resnets.1."), ("output_blocks.0.0.", "up_blocks.0.resnets.0."),
            ("output_blocks.2.1.conv.", "up_blocks.0.upsamplers.0.conv."),
            ("output_blocks.5.2.conv.", "up_blocks.1.upsamplers.0.conv."),
            ("output_blocks.11.1.", "up_blocks.3.attentions.2.")]:
        assert places[old] == new


@pytest.mark.parametrize("make", [originals.sd1, originals.sd2, originals.sdxl])
def test_names_of_a_whole_unet_and_vae(make):
    """No name of the original is left over, none is given twice, and today's names stay as they are."""
    names = list(make(9, full=True))
    for part, prefix in (("unet", originals.UNET), ("vae", originals.VAE)):
        today = sources(part, names, prefix)
        assert len(today) == sum(name.startswith(prefix) for name in names)
        old = re.compile(r"(^|.*\.)(input_blocks|middle_block|down|mid|up|block|out_layers)\.")
        assert not any(map(old.match, today))
        assert sources(part, list(today)).keys() == today.keys()


def test_name_that_is_there_twice():
    """A parameter in two spellings is refused: the two may differ."""
    with pytest.raises(ValueError, match="which are the same parameter"):
        sources("vae", ["encoder.mid.attn_1.k.bias", "encoder.mid.attn_1.to_k.bias"])


def test_conversions():
    """Thirds of a fused projection, a transposed one, matrices that were 1×1 convolutions; everything else as it is."""
    fused, matrix = torch.randn(6, 2), torch.randn(2, 3)
    thirds = [convert(fused) for _, convert in text("transformer.resblocks.0.attn.in_proj_weight")]
    assert torch.equal(torch.cat(thirds), fused) and len(thirds) == 3
    assert torch.equal(text("text_projection")[0][1](matrix), matrix.T)
    assert torch.equal(text("text_projection.weight")[0][1](matrix), matrix)
    for shape in ((2, 3), (2, 3, 1, 1)):
        assert torch.equal(vae("encoder.mid.attn_1.q.weight", 4)[0][1](matrix.view(shape)), matrix)
    assert vae("quant_conv.weight", 4)[0][1](torch.randn(8, 8, 1, 1)).shape == (8, 8, 1, 1)
