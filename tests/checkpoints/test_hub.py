"""Models on the hub, against a stand-in for it on loopback: what is fetched, what is kept, what is said."""
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

import p2p_min as p2p
from conftest import refuses_to_load as refused
from originals import shard
from p2p_min.__main__ import main

NAME, COMMITS = "someone/small-model", {"main": "a" * 40, "v1": "b" * 40}
CLUTTER = ("README.md", "small-model.safetensors", "model.ckpt", "unet/diffusion_pytorch_model.bin", "unet/model.onnx",
           "vae/model.msgpack", "unet/diffusion_pytorch_model.non_ema.safetensors", "safety_checker/model.safetensors",
           "safety_checker/config.json", "feature_extractor/preprocessor_config.json", "text_encoder/pytorch_model.bin",
           "samples/cat.json", ".gitattributes")


class Hub(ThreadingHTTPServer):
    """The routes that huggingface_hub asks, for one repository; `asked` are the requests that it got."""
    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.is_down, self.is_gated = files, [], False, False
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True, kwargs=dict(poll_interval=0.01)).start()

    @property
    def fetched(self):
        return {path.split("/", 5)[5] for way, path in self.asked if way == "GET" and "/resolve/" in path}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path, files = unquote(urlsplit(self.path).path), self.server.files
        self.server.asked.append((self.command, path))
        api = re.fullmatch(rf"/api/models/{NAME}(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(rf"/{NAME}/resolve/([^/]+)/(.*)", path)
        if self.server.is_down:
            return self.answer(503)
        if not (api or file):
            return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        revision = (api[2] if api else file[1]) or "main"
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
            return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        if api and api[1] == "tree":
            found = [dict(type="file", path=name, size=len(data), oid=f"{i:040x}")
                     for i, (name, data) in enumerate(files.items())]
        elif api:
            found = dict(id=NAME, modelId=NAME, sha=commit, siblings=[dict(rfilename=name) for name in files])
        elif self.server.is_gated:
            return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access to this model is restricted")
        elif file[2] in files:
            return self.answer(200, files[file[2]], ETag=f'"{list(files).index(file[2]):040x}"', X_Repo_Commit=commit)
        else:
            return self.answer(404, X_Error_Code="EntryNotFound")
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    do_HEAD = do_GET


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    files |= {"model_index.json": b"{}", **dict.fromkeys(CLUTTER, b"?")}
    files |= {name.replace(".safetensors", ".fp16.safetensors"): data for name, data in files.items()
              if name.endswith("model.safetensors") and "/" in name and data != b"?"}
    hub = Hub(files)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    hub.shutdown()
    hub.server_close()


def test_only_what_is_needed_is_fetched(hub, model, folder):
    """Of each part the one safetensors file and its configs, and the tokenizer: no pickle, other copy or clutter."""
    loaded = p2p.load(NAME, "cpu")
    for part in ("unet", "vae", "text_encoder"):
        for name, tensor in getattr(loaded, part).state_dict().items():
            assert torch.equal(tensor, getattr(model, part).state_dict()[name])
    wanted = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert hub.fetched == {"model_index.json", *wanted}


def test_half_precision_fetches_the_files_of_half_precision(hub):
    """*.fp16.safetensors where there are such, and not the others."""
    p2p.load(NAME, "cpu", "float16")
    weights = {file for file in hub.fetched if file.endswith(".safetensors")}
    assert len(weights) == 3 and all(file.endswith(".fp16.safetensors") for file in weights)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_only_variant_that_there_is_is_fetched(hub, model, dtype):
    """Folders that were saved with variant="bf16", whatever is asked for."""
    for file in [file for file in hub.files if file.endswith(".fp16.safetensors")]:
        del hub.files[file]
    for file in [file for file in hub.files if "/" in file and file.endswith("model.safetensors")]:
        hub.files[file.replace(".safetensors", ".bf16.safetensors")] = hub.files.pop(file)
    unet = p2p.load(NAME, "cpu", dtype).unet
    assert {file.split(".", 1)[1] for file in hub.fetched if "safetensors" in file} == {"bf16.safetensors"}
    assert torch.equal(unet.conv_in.weight, model.unet.conv_in.weight.to(unet.conv_in.weight.dtype))


@pytest.mark.parametrize("address", ["https://huggingface.co/{}", "https://huggingface.co/{}/", "huggingface.co/{}",
                                     "https://huggingface.co/{}/tree/main?x=1#files", "http://www.hf.co/{}", "{}/"])
def test_a_pasted_address_is_the_models_name(hub, address):
    """From the browser's address bar, with or without the branch and a slash at the end."""
    assert COMMITS["main"] in p2p.load(address.format(NAME), "cpu").path
    if address == "{}/":
        assert COMMITS["v1"] in p2p.load(f"https://huggingface.co/{NAME}/tree/v1", "cpu").path


def test_without_a_network_it_says_so(hub, capsys):
    """And not that the model is missing: nobody can know."""
    hub.shutdown()
    hub.server_close()
    assert "no model on the hub" not in refused(NAME, NAME, "the hub cannot be reached", error=FileNotFoundError)


def test_a_gated_model_says_what_to_do(hub):
    """Accept its terms, log in. What it holds is public, its files are not."""
    hub.is_gated = True
    refused(NAME, f"{NAME} is gated", f"https://huggingface.co/{NAME}", "hf auth login", error=FileNotFoundError)


def test_a_revision_is_pinned_and_found_again(hub):
    """name@revision asks for that one alone, by its commit; one that is not there is named."""
    assert COMMITS["v1"] in p2p.load(f"{NAME}@v1", "cpu").path
    assert all(path.endswith("/revision/v1") or COMMITS["v1"] in path for way, path in hub.asked)
    assert hub.fetched
    assert COMMITS["v1"] in p2p.load(f"{NAME}@{COMMITS['v1']}", "cpu").path
    refused(f"{NAME}@v2", f"{NAME} on the hub has no revision v2", error=FileNotFoundError)


@pytest.mark.parametrize("how", ["closed", "down", "offline", "gone"])
def test_without_the_hub_the_cache_is_used(hub, monkeypatch, how):
    """No connection, a hub that fails, HF_HUB_OFFLINE=1, a model taken away: the second load is the first one's."""
    first = p2p.load(NAME, "cpu").path
    hub.asked.clear()
    if how == "closed":
        hub.shutdown()
        hub.server_close()
    elif how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "down":
        hub.is_down = True
    else:
        monkeypatch.setattr("test_hub.NAME", "someone/other")
    assert p2p.load("someone/small-model", "cpu").path == first
    assert (hub.asked == []) == (how in ("closed", "offline"))
    if how == "offline":
        refused("someone/small-model@v1", "someone/small-model", "the hub cannot be reached", error=FileNotFoundError)


def test_a_second_load_fetches_nothing(hub):
    """The hub is asked whether something changed, and that is all."""
    p2p.load(NAME, "cpu")
    hub.asked.clear()
    p2p.load(NAME, "cpu")
    assert hub.fetched == set()


def test_a_model_that_is_not_there_is_said_in_a_line(hub, capsys):
    """Of the library's paragraphs, one line, with the name; a file's name is not looked for on the hub."""
    refused("someone/nothing", "someone/nothing is no folder or file here and no model on the hub", "hf auth login",
            error=FileNotFoundError)
    assert main(["a car", "a dog", "--model", "someone/nothing"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("p2p-min: error: ") and "someone/nothing" in line
    hub.asked.clear()
    for path in ("someone/nothing.safetensors", "someone/nothing.ckpt", "./nothing", "some/where/nothing", "nothing",
                 "a b/c", "someone/nothing@", "/someone/nothing"):
        refused(path, "no checkpoint", path, error=FileNotFoundError)
    assert hub.asked == []


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_model_without_safetensors_is_refused_before_anything_is_fetched(hub, part):
    """Pickles alone in one part: that part is named."""
    for file in [file for file in hub.files if file.startswith(f"{part}/") and file.endswith(".safetensors")]:
        del hub.files[file]
    refused(NAME, NAME, "safetensors", part, error=FileNotFoundError)
    assert hub.fetched == set()


def test_progress_is_shown(hub, tmp_path, capsys, monkeypatch):
    """The command line does not switch the hub's bars off."""
    monkeypatch.setenv("TQDM_POSITION", "-1")              # as on a terminal
    enable_progress_bars()                                 # the scripts that other tests run switch them off
    assert main(["a red car", "a blue car", "--model", NAME, "--steps", "1", "--device", "cpu",
                 "--out", str(tmp_path / "out.png")]) == 0
    err = capsys.readouterr().err
    assert "100%" in err and not are_progress_bars_disabled(), err


# ---- shards --------------------------------------------------------------------------------------------------------

@pytest.fixture
def sharded(hub, folder, tmp_path):
    """The hub's UNet in two shards and their index, of both precisions."""
    whole = "diffusion_pytorch_model.safetensors"
    for variant, name in (("", whole), (".fp16", whole.replace(".safetensors", ".fp16.safetensors"))):
        (tmp_path / f"shards{variant}").mkdir()
        file = tmp_path / f"shards{variant}" / whole
        file.write_bytes(hub.files.pop(f"unet/{name}"))
        shard(file, variant)
        hub.files |= {f"unet/{file.name}": file.read_bytes() for file in file.parent.iterdir()}
    return hub


@pytest.mark.parametrize("dtype, variant", [(None, ""), ("float16", ".fp16")])
def test_of_shards_only_those_of_the_wanted_index_are_fetched(sharded, model, dtype, variant):
    """And the index; the same weights."""
    loaded = p2p.load(NAME, "cpu", dtype)
    for name, tensor in loaded.unet.state_dict().items():
        assert torch.equal(tensor, model.unet.state_dict()[name].to(tensor.dtype))
    assert {file for file in sharded.fetched if file.startswith("unet/")} == {
        "unet/config.json", f"unet/diffusion_pytorch_model.safetensors.index{variant}.json",
        *(f"unet/diffusion_pytorch_model{variant}-0000{i}-of-00002.safetensors" for i in (1, 2))}
    sharded.asked.clear()
    p2p.load(NAME, "cpu", dtype)
    assert sharded.fetched == set()


def test_shard_that_the_hub_lacks(sharded):
    """A shard that is not there is named; and so are weights that are there twice."""
    gone = "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
    del sharded.files[gone]
    refused(NAME, f"{gone} is missing", error=FileNotFoundError)
    sharded.files["unet/diffusion_pytorch_model.safetensors"] = b"?"
    refused(NAME, NAME, "twice", error=ValueError)


def test_a_vae_of_ones_own_is_not_fetched(hub, folder):
    """Nor need the hub's model have one."""
    for file in [file for file in hub.files if file.startswith("vae/") and file.endswith(".safetensors")]:
        del hub.files[file]
    assert p2p.load(NAME, "cpu", vae=folder / "vae").about == f"with the VAE of {folder / 'vae'}"
    assert not any(file.startswith("vae/") and file.endswith(".safetensors") for file in hub.fetched)
