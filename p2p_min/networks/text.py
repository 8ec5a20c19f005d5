"""Prompts to the UNet's text conditioning, with transformers' CLIP: one encoder in SD 1.x and 2.x, two in SDXL."""
import unicodedata
from typing import NamedTuple

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..checks import must
from .config import read_config

KEYS = dict(                           # of transformers' CLIPTextConfig, with its defaults
    model_type=("clip_text_model", "clip_text_model", "clip"), hidden_act=("quick_gelu", "quick_gelu", "gelu"),
    vocab_size=(49408, int), hidden_size=(512, int), intermediate_size=(2048, int), projection_dim=(512, int),
    num_hidden_layers=(12, int), num_attention_heads=(8, int), max_position_embeddings=(77, int),
    layer_norm_eps=(1e-5, float), bos_token_id=(49406, int), eos_token_id=(49407, int), pad_token_id=(1, int))
# What transformers writes beside them: notes, training and what it returns.
IGNORED = """
    architectures transformers_version torch_dtype dtype dropout attention_dropout initializer_factor initializer_range
    gradient_checkpointing return_dict output_hidden_states output_attentions use_cache tie_word_embeddings is_decoder
    is_encoder_decoder id2label label2id problem_type finetuning_task task_specific_params chunk_size_feed_forward
    """.split()


class Context(NamedTuple):
    """The UNet's conditioning for some prompts, one row each. Without SDXL, the last two are None."""
    states: torch.Tensor               # (rows, tokens, width): the paper's ψ(P), as the cross-attention sees it
    pooled: torch.Tensor | None = None             # (rows, width): each prompt as one vector
    sizes: torch.Tensor | None = None              # (rows, 6): height, width, crop (top, left), target height, width

    def expand(self, rows):
        return Context(*(None if part is None else part.expand(rows, *part.shape[1:]) for part in self))

    def like(self, other, name="context"):
        """`other`, a user's Context or its states, in the dtype of this one. Raises ValueError for other shapes."""
        other = Context(other) if isinstance(other, torch.Tensor) else other
        ours, theirs = ([tuple(getattr(part, "shape", ())) for part in each] if isinstance(each, Context) else
                        type(each).__name__ for each in (self, other))
        must(ours == theirs, name, f"a Context as networks.text.encode makes it, of shapes {ours}", theirs)
        return Context(*(None if part is None else part.to(mine) for part, mine in zip(other, self)))

    def join(self, other):
        """The rows of both, these first."""
        return Context(*(None if a is None else torch.cat([a, b]) for a, b in zip(self, other)))


def read_prompt(tokenizer, prompt):
    """(ids, spans) of a prompt's tokens, the start and the end token included: (start, end) in its characters, (0, 0)
    for those two. Raises ValueError if they are more than the model reads, saying what would be lost."""
    if not isinstance(prompt, str):
        raise ValueError(f"a prompt must be text, not {type(prompt).__name__}: {prompt!r}")
    if any(unicodedata.category(letter) == "Cs" for letter in prompt):
        raise ValueError(f"the prompt {prompt!r} has bytes that are not text")
    read, ids, spans = tokenizer(prompt, return_offsets_mapping=True, verbose=False), [], []
    for token, span in zip(read["input_ids"], read["offset_mapping"]):
        # A textual inversion <x> stands for all its vectors, unless the prompt has them written out.
        more = getattr(tokenizer, "vectors", {}).get(token, [])
        vectors = [token, *(each for each in more if each not in read["input_ids"])]
        ids += vectors
        spans += [span] * len(vectors)
    limit = tokenizer.model_max_length
    if len(ids) > limit:
        raise ValueError(f"the prompt has {len(ids)} tokens and the model reads {limit}; shorten it, or this would be "
                         f"lost: {prompt[spans[limit - 1][0]:]!r}")
    return ids, spans


def spans(tokenizer, prompt):
    return read_prompt(tokenizer, prompt)[1]


def text_encoder(config, projects=False):
    """transformers' CLIP from a dict; SDXL's second `projects`. Raises ValueError for settings that are unknown."""
    build = CLIPTextModelWithProjection if projects else CLIPTextModel
    config = read_config(config, "text encoder", KEYS, IGNORED)
    del config["model_type"]
    return build(CLIPTextConfig(**config))


@torch.no_grad()
def encode(model, prompts, height=None, width=None, is_negative=False):
    """The `Context` of some prompts, in the UNet's dtype. Raises ValueError for one that is too long for the encoder.

    prompts        list of texts
    height, width  of the pictures, in pixels, on which SDXL is conditioned; None: the model's own size
    is_negative    whether these are for the unconditional rows, where SDXL was trained with zeros in place of ""
    """
    def read(encoder):
        ids = tokens(model.tokenizer, prompts, encoder.config.pad_token_id)
        return encoder(ids.to(model.device), output_hidden_states=True)

    if model.text_encoder_2 is None:
        return Context(read(model.text_encoder).last_hidden_state.to(model.dtype))
    first, second = read(model.text_encoder), read(model.text_encoder_2)
    states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1).to(model.dtype)
    pooled = second.text_embeds.to(model.dtype)
    if is_negative and model.zeros_for_empty:
        written = torch.tensor([prompt != "" for prompt in prompts]).to(states)
        states, pooled = states * written[:, None, None], pooled * written[:, None]
    height, width = height or model.size[0], width or model.size[1]
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=model.device)
    return Context(states, pooled, sizes.expand(len(prompts), -1))


def tokens(tokenizer, prompts, padding):
    """(prompts, tokens), padded to the length that the encoder reads, each encoder with the padding it knows."""
    rows = [read_prompt(tokenizer, prompt)[0] for prompt in prompts]     # a tokenizer that pads is not safe in threads
    return torch.tensor([ids + [padding] * (tokenizer.model_max_length - len(ids)) for ids in rows])
