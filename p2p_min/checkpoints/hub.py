"""Where a checkpoint is: a folder, a file, or a model on the hub, in the local cache or to be downloaded."""
import os
import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from . import names

TOY = "weights/toy"                            # inside an installed package, or beside it in a clone
FOLDERS = *names.STEMS, "tokenizer", "tokenizer_2", "scheduler"
# owner/name or owner/name@revision, also as the address of its page.
NAME = re.compile(r"(?:(?:https?://)?(?:www\.)?(?:huggingface|hf)\.co/)?(\w[\w.-]*/\w[\w.-]*)(?:(?:@|/tree/)([\w./-]+))?")


def locate(path, dtype, own_vae):
    """The folder or file that `path` means; a model on the hub is downloaded, without its VAE unless `own_vae`."""
    local = Path(os.path.expanduser(path))
    if local.as_posix() == TOY and not local.exists():     # the default: works in any folder, never a hub name
        package = Path(__file__).resolve().parents[1]
        local = next((root / TOY for root in (package, package.parent) if (root / TOY).is_dir()), local)
    if local.exists():
        return local
    name = NAME.fullmatch(re.sub(r"/?([?#].*)?$", "", str(path)))
    if local.as_posix() == TOY or local.suffix in (".safetensors", *names.PICKLED) or not name:
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    return fetch(*name.groups(), dtype, own_vae)


def fetch(repository, revision, dtype, own_vae):
    """The folder of a model on the hub: its safetensors and json files (and the tokenizer's merges.txt), cached."""
    try:
        files = [file.rfilename for file in HfApi().model_info(repository, revision=revision, timeout=10).siblings]
    except Exception as error:                             # no network, or refused by the hub: is it in the cache?
        cached = try_to_load_from_cache(repository, "model_index.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        raise hub_error(repository, revision, error) from None
    # One file of weights for each part, or the index of its shards and these.
    wanted, missing = [], []
    for part in (part for part in names.STEMS if part != "vae" or own_vae):
        inside = [file.removeprefix(f"{part}/") for file in files if file.startswith(f"{part}/")]
        try:
            chosen = names.weights_file(part, inside, dtype)
        except ValueError as error:
            raise ValueError(f"{repository} on the hub {error}") from None
        missing += [part] * (chosen is None and part != "text_encoder_2")
        variant = chosen and names.variant_of(part, chosen)
        wanted += [f"{part}/{file}" for file in inside if chosen and names.variant_of(part, file) == variant]
    if missing:
        raise FileNotFoundError(f"{repository} on the hub has no folder with safetensors for {', '.join(missing)}")
    # The configs, and the files of the tokenizers.
    wanted += [file for file in files if file == "model_index.json" or (
        file.split("/")[0] in FOLDERS and file.endswith((".json", "merges.txt")) and ".index." not in file)]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise hub_error(repository, revision, error) from None


def hub_error(repository, revision, error):
    """What an error of the hub's client means for a user, as an exception."""
    said, login = " ".join(str(error).split())[:200] or repr(error), "log in with: hf auth login"
    reasons = {                        # the first that fits
        GatedRepoError: f"is gated: accept its terms on https://huggingface.co/{repository}, then {login}",
        RepositoryNotFoundError: f"is no folder or file here and no model on the hub; for a private one, {login}",
        RevisionNotFoundError: f"on the hub has no revision {revision}",
        Exception: f"is no folder or file here, and the hub cannot be reached, or did not send it: {said}"}
    return FileNotFoundError(f"{repository} {next(why for kind, why in reasons.items() if isinstance(error, kind))}")
