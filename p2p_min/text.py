"""Prompts to text states, through transformers' CLIP."""
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from .align import spans


def text_encoder(config):
    """transformers' CLIPTextModel from the dict of a `text_encoder/config.json`."""
    if config.get("model_type", "clip_text_model") not in ("clip_text_model", "clip"):
        raise ValueError(f"text encoder: its config has model_type = {config['model_type']!r}; p2p_min reads CLIP only")
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if key not in config:
            raise ValueError(f"text encoder: its config has no {key}; the keys it has are {', '.join(config)}")
    return CLIPTextModel(CLIPTextConfig.from_dict(config))


def encode(tokenizer, encoder, prompts):
    """The text states of all positions: the paper's P as the cross-attention sees it.

    prompts  list of texts
    returns  (prompts, tokens, width), on the encoder's device; padding included, as in Stable Diffusion
    Raises ValueError for a prompt that has more tokens than the encoder reads.
    """
    for prompt in prompts:
        spans(tokenizer, prompt)                           # raises where something would be cut off
    ids = tokenizer(prompts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(ids.to(encoder.device)).last_hidden_state
