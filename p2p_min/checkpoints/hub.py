"""Where a checkpoint is: a folder, a file, or a model on the hub, in the local cache or to be downloaded."""
import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache

from . import names
from .tensors import read_index

TOY = "weights/toy"                            # inside an installed package, or beside it in a clone
FOLDERS = (*names.STEMS, "tokenizer", "tokenizer_2", "scheduler")


def find(path, dtype, own_vae):
    """The folder or file that `path` means; a model on the hub is downloaded, without its VAE unless `own_vae`."""
    found = Path(path)
    if found.as_posix() == TOY and not found.exists():     # the default: works in any folder, never a hub name
        package = Path(__file__).resolve().parents[1]
        found = next((root / TOY for root in (package, package.parent) if (root / TOY).is_dir()), None)
        if found is None:
            raise FileNotFoundError(f"{TOY}, the small model, is not beside p2p_min; reinstall p2p_min")
    if not found.exists():
        is_file = found.suffix in (".safetensors", *names.PICKLED)
        if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", str(path)) and not is_file:
            return fetch(str(path), dtype, own_vae)
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    return found


def fetch(name, dtype, own_vae):
    """The folder of a model on the hub: its safetensors and json files (and the tokenizer's merges.txt), cached."""
    repository, _, revision = name.partition("@")
    revision = revision or None
    try:
        there = [file.rfilename for file in HfApi().model_info(repository, revision=revision, timeout=10).siblings]
    except Exception as error:                             # no network, or refused by the hub: is it in the cache?
        cached = try_to_load_from_cache(repository, "model_index.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        raise FileNotFoundError(f"there is no folder or file {name}, and no such model on the hub: "
                                f"{in_short(error)}") from None
    try:
        weights = {part: names.weights(part, [file[len(part) + 1:] for file in there if file.startswith(f"{part}/")],
                                       dtype) for part in names.STEMS if part != "vae" or own_vae}
    except ValueError as error:
        raise ValueError(f"{name} on the hub {error}") from None
    missing = [part for part, file in weights.items() if file is None and part != "text_encoder_2"]
    if missing:
        raise FileNotFoundError(f"{name} on the hub is not a diffusers folder with safetensors: it has none for "
                                + ", ".join(sorted(missing)))
    wanted = [f"{part}/{file}" for part, file in weights.items() if file is not None]
    wanted += [file for file in there if file == "model_index.json" or (
        file.split("/")[0] in FOLDERS and file.endswith((".json", "merges.txt")) and ".index." not in file)]
    try:
        for index in [file for file in wanted if ".index." in file]:
            shards = set(read_index(Path(hf_hub_download(repository, index, revision=revision))).values())
            wanted += [f"{index.split('/')[0]}/{shard}" for shard in sorted(shards)]
        if lacking := set(wanted) - set(there):
            raise ValueError(f"its index names shards that are not there, {names.some(lacking)}")
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise FileNotFoundError(f"{name} could not be downloaded from the hub: {in_short(error)}") from None


def in_short(error):
    return " ".join(str(error).split())[:200] or repr(error)
