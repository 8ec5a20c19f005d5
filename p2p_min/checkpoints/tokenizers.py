"""CLIP's tokenizers: the folder's own, or one from elsewhere for a single file, which does not contain it."""
import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer
from transformers import CLIPTokenizerFast

from ..networks.config import read_config
from .names import some
from .tensors import blaming, read_json

CLIP_TOKENIZERS = (("openai/clip-vit-large-patch14", ""), ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
                   ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"))
ENCODERS = ("text_encoder", "text_encoder_2")
START, END = "<|startoftext|>", "<|endoftext|>"
FILES = "tokenizer.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json", "added_tokens.json"
SETTINGS = dict(model_max_length=(None, int), known_words=(None, [str]))
OPENCLIP_ACTIVATION = "gelu"           # of its text encoders; CLIP's own have "quick_gelu"
OPENCLIP_PADDING = "!"                 # token 0; CLIP's own encoder is padded with the end token


def load_tokenizer(folder):
    """CLIP's tokenizer with the vocabulary, the merges and the added words (textual inversion) of a folder. Only those
    words, the start and the end token are special; everything else is plain text, even "!" if the folder pads with it.
    What else the files say, as about the side of the padding, does not count. Raises ValueError for another's files.
    """
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt")
    files = {name: read_json(folder / name) for name in FILES if (folder / name).is_file()}
    config = folder / "tokenizer_config.json"
    settings = read_config(files.get(config.name, {}), str(config), SETTINGS, ignored=None)
    with blaming(f"the tokenizer in {folder} cannot be read:"):
        read = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True, unk_token=END)
        written = json.loads(read.backend_tokenizer.to_str()) | dict(padding=None, truncation=None)
        check_clip(read, written)
        text = written["model"]["vocab"].keys() - {START, END}
        written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] not in text]
        tokenizer = CLIPTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(written)), padding_side="right", name_or_path=str(folder),
            **settings)
    tokenizer.pad_token = read.pad_token                   # set afterwards, so that no word becomes special
    return tokenizer


def check_clip(tokenizer, written):
    """Raises ValueError for what is not CLIP's. written: the backend's own account of itself."""
    bpe = written["model"]
    if (tokenizer.bos_token, tokenizer.eos_token) != (START, END) or not {START, END} <= bpe["vocab"].keys():
        raise ValueError(f"it must have a start token {START} and an end token {END}")
    made = {"".join(pair) for pair in bpe["merges"]} | {token["content"] for token in written["added_tokens"]}
    if lone := [token for token in bpe["vocab"].keys() - made if len(token.removesuffix("</w>")) > 1]:
        raise ValueError(f"its merges, which may be cut off, do not make its tokens {some(lone)}")


def choose_tokenizer(given, own, configs):
    """The one tokenizer of a model: it decides the tokens for all text encoders, which differ only in their padding.

    given    its folder, or None: the first encoder's own
    own      {text encoder: the folder of the tokenizer that came with it}; a single file has none
    configs  {part: config}; those of the text encoders get their start, end and padding tokens
    """
    came = {name: load_tokenizer(folder) for name, folder in own.items() if given is None or has_tokenizer(folder)}
    chosen = came["text_encoder"] if given is None else load_tokenizer(Path(given))
    if given is None and any(spelling(each) != spelling(chosen) for each in came.values()):
        raise ValueError(f"{own['text_encoder'].parent}: its two tokenizers differ, so one alignment cannot serve both "
                         "text encoders")
    paddings = {}
    for name in (name for name in ENCODERS if name in configs):
        usual = OPENCLIP_PADDING if configs[name].get("hidden_act") == OPENCLIP_ACTIVATION else chosen.eos_token
        paddings[name] = name in came and came[name].pad_token or usual
        if paddings[name] not in chosen.get_vocab():
            raise ValueError(f"the tokenizer in {chosen.name_or_path} has no {paddings[name]!r}, which the text "
                             "encoder uses as padding")
        configs[name] |= dict(bos_token_id=chosen.bos_token_id, eos_token_id=chosen.eos_token_id,
                              pad_token_id=chosen.convert_tokens_to_ids(paddings[name]))
    chosen.pad_token = paddings["text_encoder"]
    return chosen


def fit_tokenizer(tokenizer, encoders):
    """Limits the tokenizer to the length of the encoders, given as configs. Raises ValueError if one lacks tokens."""
    needs = 1 + max(tokenizer.get_vocab().values())
    for config in encoders:
        if needs > config.vocab_size:
            raise ValueError(f"the tokenizer in {tokenizer.name_or_path} has {needs} tokens, the text encoder "
                             f"{config.vocab_size}")
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)


def has_tokenizer(folder):
    files = folder / "vocab.json", folder / "merges.txt"
    return (folder / "tokenizer.json").is_file() or all(file.is_file() for file in files)


def find_tokenizer(file, given):
    """The folder of the tokenizer for a single file, which does not contain one."""
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


def spelling(tokenizer):
    """What decides a prompt's tokens: the vocabulary, the merges in their order, the added words."""
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token["id"] for token in written["added_tokens"]}
    return written["model"]["vocab"], written["model"]["merges"], added
