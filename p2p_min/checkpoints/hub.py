"""Where a checkpoint is: a folder, a file, or a model on the hub, in the local cache or to be downloaded."""
import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

from . import names

TOY = "weights/toy"                            # inside an installed package, or beside it in a clone
FOLDERS = (*names.STEMS, "tokenizer", "tokenizer_2", "scheduler")


def locate(path, dtype, own_vae):
    """The folder or file that `path` means; a model on the hub is downloaded, without its VAE unless `own_vae`."""
    local = Path(path)
    if local.as_posix() == TOY and not local.exists():     # the default: works in any folder, never a hub name
        package = Path(__file__).resolve().parents[1]
        local = next((root / TOY for root in (package, package.parent) if (root / TOY).is_dir()), local)
    if local.exists():
        return local
    is_file = local.suffix in (".safetensors", *names.PICKLED)
    if local.as_posix() == TOY or is_file or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", str(path)):
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    return fetch(str(path), dtype, own_vae)


def fetch(name, dtype, own_vae):
    """The folder of a model on the hub: its safetensors and json files (and the tokenizer's merges.txt), cached."""
    repository, _, revision = name.partition("@")
    revision = revision or None
    try:
        files = [file.rfilename for file in HfApi().model_info(repository, revision=revision, timeout=10).siblings]
    except Exception as error:                             # no network, or refused by the hub: is it in the cache?
        cached = try_to_load_from_cache(repository, "model_index.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        raise FileNotFoundError(f"there is no folder or file {name}, and no such model on the hub: "
                                f"{shorten(error)}") from None
    # One file of weights for each part, or the index of its shards and these.
    try:
        weights = {part: names.weights_file(part, [file[len(part) + 1:] for file in files
                                                   if file.startswith(f"{part}/")], dtype)
                   for part in names.STEMS if part != "vae" or own_vae}
    except ValueError as error:
        raise ValueError(f"{name} on the hub {error}") from None
    missing = [part for part, file in weights.items() if file is None and part != "text_encoder_2"]
    if missing:
        raise FileNotFoundError(f"{name} on the hub is not a diffusers folder with safetensors: it has none for "
                                + ", ".join(sorted(missing)))
    wanted = []
    for part, file in weights.items():
        if file is not None:
            variant = ".fp16" if ".fp16." in file else ""
            shards = [f"{part}/{names.STEMS[part]}{variant}-*-of-*.safetensors"] if ".index." in file else []
            wanted += [f"{part}/{file}", *shards]
    # The configs, and the files of the tokenizers.
    wanted += [file for file in files if file == "model_index.json" or (
        file.split("/")[0] in FOLDERS and file.endswith((".json", "merges.txt")) and ".index." not in file)]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise FileNotFoundError(f"{name} could not be downloaded from the hub: {shorten(error)}") from None


def shorten(error):
    return " ".join(str(error).split())[:200] or repr(error)
