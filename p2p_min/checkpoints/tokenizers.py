"""CLIP's tokenizers: the folder's own, or the one that goes with a single file, in which it does not come along."""
import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import CLIPTokenizerFast

from .names import is_openclip

CLIP_TOKENIZERS = (("openai/clip-vit-large-patch14", ""), ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
                   ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"))
OPENCLIP_PADDING = "!"                 # token 0, where CLIP's own encoder is padded with the end token


def load_tokenizer(folder, text_config):
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt")
    try:
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:                             # the tokenizers library raises bare Exceptions
        raise ValueError(f"the tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}") from None
    if len(tokenizer) > text_config["vocab_size"]:
        raise ValueError(f"the tokenizer in {folder} has {len(tokenizer)} tokens, the text encoder "
                         f"{text_config['vocab_size']}")
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_config["max_position_embeddings"])
    return tokenizer


def has_tokenizer(folder):
    files = folder / "vocab.json", folder / "merges.txt"
    return (folder / "tokenizer.json").is_file() or all(file.is_file() for file in files)


def find_tokenizer(file, given):
    """The folder of the tokenizer for a single file, in which it does not come along."""
    if given is not None:
        return Path(given)
    for folder in (file.with_suffix("") / "tokenizer", file.parent / "tokenizer", file.parent):
        if has_tokenizer(folder):
            return folder
    for repository, folder in CLIP_TOKENIZERS:
        files = [try_to_load_from_cache(repository, folder + name) for name in ("vocab.json", "merges.txt")]
        if all(isinstance(found, str) for found in files):
            return Path(files[0]).parent
    raise FileNotFoundError(f"{file} comes without a tokenizer: download vocab.json and merges.txt from "
                            f"https://huggingface.co/{CLIP_TOKENIZERS[0][0]} into {file.parent / 'tokenizer'}, or "
                            "name a folder that has them (--tokenizer DIR)")


def file_tokenizers(folder, prefixes, configs):
    """The tokenizer of each text encoder of a single file, whose config is told its special tokens."""
    found = {}
    for name in ("text_encoder", "text_encoder_2"):
        if name in configs:
            tokenizer = load_tokenizer(folder, configs[name])
            tokenizer.pad_token = OPENCLIP_PADDING if is_openclip(prefixes[name]) else tokenizer.eos_token
            configs[name] |= {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
            found[name.replace("text_encoder", "tokenizer")] = tokenizer
    return found


def spelling(tokenizer):
    """What decides a prompt's tokens, padding apart: the vocabulary, the merges in their order, the length."""
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return bpe["vocab"], bpe["merges"], tokenizer.model_max_length
