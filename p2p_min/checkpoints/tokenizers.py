"""CLIP's tokenizers: the folder's own, or one from elsewhere for a single file, which does not contain it."""
import json
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer
from transformers import CLIPTokenizerFast

from .names import some
from .tensors import blaming, read_json, read_settings

CLIP_TOKENIZERS = (("openai/clip-vit-large-patch14", ""), ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
                   ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"))
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_FILES = "vocab.json", "merges.txt"
FILES = "tokenizer.json", "tokenizer_config.json", *CLIP_FILES, "special_tokens_map.json", "added_tokens.json"
SETTINGS = dict(model_max_length=(None, int), known_words=(None, [str]))
OPENCLIP_ACTIVATION = "gelu"           # of its text encoders; CLIP's own have "quick_gelu"
OPENCLIP_PADDING = "!"                 # token 0; CLIP's own encoder is padded with the end token


def load_tokenizer(folder):
    """CLIP's tokenizer with a folder's vocabulary, merges and added words (textual inversion). Only those words, the
    start and the end token are special, not even "!" if the folder pads with it; what else its files say is ignored."""
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt")
    settings = read_settings(folder / "tokenizer_config.json", SETTINGS)
    with blaming(f"the tokenizer in {folder} cannot be read:"), TemporaryDirectory() as clean:
        # The same files in UTF-8, with the ends of lines of Unix.
        for file in filter(Path.is_file, map(folder.joinpath, FILES)):
            content = json.dumps(read_json(file)) if file.suffix == ".json" else file.read_text(encoding="utf-8-sig")
            Path(clean, file.name).write_bytes(content.encode())
        read = CLIPTokenizerFast.from_pretrained(clean, local_files_only=True, unk_token=END)
        written = json.loads(read.backend_tokenizer.to_str()) | dict(padding=None, truncation=None)
        # It must be CLIP's, and whole.
        bpe, added = written["model"], written["added_tokens"]
        if (read.bos_token, read.eos_token) != (START, END) or not {START, END} <= bpe["vocab"].keys():
            raise ValueError(f"it must have a start token {START} and an end token {END}")
        made = {"".join(pair) for pair in bpe["merges"]} | {token["content"] for token in added}
        if lone := [token for token in bpe["vocab"].keys() - made if len(token.removesuffix("</w>")) > 1]:
            raise ValueError(f"its merges, which may be cut off, do not make its tokens {some(lone)}")
        # The same again, in which nothing in the vocabulary but the start and the end token is special.
        text = bpe["vocab"].keys() - {START, END}
        written["added_tokens"] = [token for token in added if token["content"] not in text]
        tokenizer = CLIPTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(written)), **settings,
                                      padding_side="right", name_or_path=str(folder))
    tokenizer.pad_token = read.pad_token                   # set afterwards, so that no word becomes special
    # A textual inversion of several vectors is saved by diffusers as <x>, <x>_1, <x>_2; CLIP reads lower case.
    ids = {name.lower(): token for name, token in tokenizer.get_added_vocab().items()}
    tokenizer.vectors = {token: list(takewhile(bool, (ids.get(f"{name}_{n}") for n in range(1, len(ids)))))
                         for name, token in ids.items()}
    return tokenizer


def choose_tokenizer(given, own, configs):
    """The one tokenizer of a model and all its text encoders: that of the folder `given`, or the first encoder's `own`,
    {text encoder: its folder}. The encoders differ in their padding, which goes into their `configs`."""
    came = {name: load_tokenizer(folder) for name, folder in own.items() if given is None or has_tokenizer(folder)}
    chosen = came["text_encoder"] if given is None else load_tokenizer(given)
    written = [json.loads(each.backend_tokenizer.to_str()) for each in came.values()]
    spellings = [(bpe["vocab"], bpe["merges"], {token["content"]: token["id"] for token in added})
                 for bpe, added in ((each["model"], each["added_tokens"]) for each in written)]
    if given is None and any(spelling != spellings[0] for spelling in spellings):
        raise ValueError(f"{own['text_encoder'].parent}: its two tokenizers differ, so one alignment cannot serve both "
                         "text encoders")
    paddings = {}
    for name in [name for name in configs if name.startswith("text")]:
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
            raise ValueError(f"the tokenizer in {tokenizer.name_or_path} has {needs} tokens, "
                             f"the text encoder {config.vocab_size}")
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)


def has_tokenizer(folder):
    return any(all((folder / name).is_file() for name in files) for files in (["tokenizer.json"], CLIP_FILES))


def find_tokenizer(file):
    """The folder of the tokenizer for a single file, which does not contain one."""
    for folder in (file.with_suffix("") / "tokenizer", file.parent / "tokenizer", file.parent):
        if has_tokenizer(folder):
            return folder
    for repository, folder in CLIP_TOKENIZERS:
        files = [try_to_load_from_cache(repository, folder + name) for name in CLIP_FILES]
        if all(isinstance(found, str) for found in files):
            return Path(files[0]).parent
    raise FileNotFoundError(f"{file} comes without a tokenizer: download vocab.json and merges.txt from "
                            f"https://huggingface.co/{CLIP_TOKENIZERS[0][0]} into {file.parent / 'tokenizer'}, or "
                            "name a folder that has them (--tokenizer DIR)")
