"""Every way in which the hub can fail, made to happen on a small hub of our own."""

import builtins
import json
import logging
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import psutil
import pytest
import torch
from filelock import FileLock
from hub import FakeHub, commit, hang_up, reset, silence, status, trickle
from transformers import AutoConfig

from clipsent_nb.cli import main
from clipsent_nb.config import TrainConfig, identity
from clipsent_nb.encoders import load_encoder, load_processors
from clipsent_nb.files import ClipsentError
from clipsent_nb.hub import cached_encoder, encoder_identity, fetch_encoder, remove_halves
from clipsent_nb.sample import tiny_clip, write_sample

NAME = "someone/clip"
WEIGHTS = "GET .*model.safetensors"
ELSEWHERE = "fetch it where there is a network with `hf download someone/clip`, or give a local folder as --model-name"
OFFERS = f"set HF_ENDPOINT to a mirror of the hub, {ELSEWHERE}"


def running_downloads() -> list[psutil.Process]:
    "Child processes of this one that download; other tests may have left helpers of multiprocessing."
    return [one for one in psutil.Process().children(recursive=True) if "report_download" in " ".join(one.cmdline())]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A fresh cache of the hub, and a process that is not allowed to reach for the network itself."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING")) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))  # the waits between tries
    monkeypatch.setattr(logging.getLogger("clipsent_nb"), "propagate", True)  # where caplog listens

    def guard(*arguments, **options):
        raise AssertionError(f"this process reached for the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", guard)
    monkeypatch.setattr(socket.socket, "connect_ex", guard)
    monkeypatch.setattr(socket, "getaddrinfo", guard)
    return tmp_path / "home" / "hub" / "models--someone--clip"


@pytest.fixture
def hub(cache, tiny, monkeypatch):
    hub = FakeHub(NAME, main=tiny)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    yield hub
    hub.close()


def no_process(monkeypatch) -> None:
    """Let any attempt to start a process, such as a download, fail the test."""

    def guard(*arguments, **options):
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", guard)


def refused(name: str = NAME, **options) -> str:
    with pytest.raises(ClipsentError) as caught:
        fetch_encoder(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_nothing_taken(cache: Path) -> None:
    """No half file is left, and what is there is not taken for a model."""
    assert not list(cache.parent.rglob("*.incomplete"))
    assert not list(cache.glob("snapshots/*/model.safetensors"))
    assert "not in the local cache, or not all of it" in refused(offline=True)


# The way it should be


def test_a_model_is_fetched_once_and_then_needs_no_hub(hub, cache, tiny, monkeypatch):
    found = fetch_encoder(NAME)
    assert found == cache / "snapshots" / commit("main")
    assert (found / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    asked = len(hub.requests)
    assert asked > 5
    no_process(monkeypatch)
    assert fetch_encoder(NAME) == fetch_encoder(NAME, offline=True) == found
    assert len(hub.requests) == asked
    hub.close()
    assert fetch_encoder(NAME) == found
    load_processors(found), load_encoder(found)


def test_without_weights_none_are_fetched(hub, cache):
    found = fetch_encoder(NAME, weights=False)
    assert not any("safetensors" in request for request in hub.requests)
    load_processors(found), load_encoder(found, weights=False)
    assert_nothing_taken(cache)
    assert (fetch_encoder(NAME) / "model.safetensors").is_file()


def test_a_model_of_open_clip_needs_only_its_own_two_files(hub, cache, tmp_path):
    hub.folders["main"] = tmp_path
    for name in ("open_clip_config.json", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"{}")
    found = fetch_encoder(f"hf-hub:{NAME}")
    assert (found / "open_clip_pytorch_model.bin").is_file()
    assert found == fetch_encoder(NAME, offline=True) == cached_encoder(f"hf-hub:{NAME}")


def test_a_revision_is_its_own_model(hub, cache, tiny, tmp_path):
    hub.folders["v1"] = Path(shutil.copytree(tiny, tmp_path / "v1"))
    (tmp_path / "v1" / "mark.json").write_text("{}")
    assert "--revision v1" in refused(f"{NAME}@v1", offline=True)
    found = fetch_encoder(f"{NAME}@v1")
    assert found.name == commit("v1") and (found / "mark.json").is_file()
    assert not (fetch_encoder(NAME) / "mark.json").exists()
    asked = len(hub.requests)
    assert fetch_encoder(f"{NAME}@v1") == fetch_encoder(f"{NAME}@{commit('v1')}") == found
    assert len(hub.requests) == asked


def test_one_description_of_all_processors_is_enough(hub, cache, tiny, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(tiny, tmp_path / "combined"))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    hub.folders["main"] = folder
    found, asked = fetch_encoder(NAME), len(hub.requests)
    no_process(monkeypatch)
    assert fetch_encoder(NAME) == fetch_encoder(NAME, offline=True) == found
    assert len(hub.requests) == asked
    assert load_processors(found)[1].size["shortest_edge"] == settings["size"]["shortest_edge"]


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_a_cache_that_others_filled_in_part_is_completed(hub, cache, missing):
    found = fetch_encoder(NAME)
    shutil.rmtree(cache / "trees")  # caches filled by other programs have no list of files
    (found / missing).unlink()
    huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE.clear()
    assert "not all of it" in refused(offline=True)
    assert (fetch_encoder(NAME) / missing).is_file()


# A hub that cannot be reached, or does not answer


def test_refused_connection(cache, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    message = refused()
    expected = (
        r"--model-name someone/clip: no such folder here, and the hub does not deliver it \(ConnectError: .*refused\); "
    )
    assert re.fullmatch(expected + r"given up after 4 tries in \d+ s; " + re.escape(OFFERS), message)
    assert [caplog.text.count(f"next try in {wait} s") for wait in (1, 4, 15)] == [1, 1, 1]
    assert not cache.exists() or not any(cache.iterdir())


@pytest.mark.parametrize(
    "place, fault", [(WEIGHTS, trickle), pytest.param("api/models", silence, marks=pytest.mark.slow)]
)
def test_patience_bounds_a_hub_that_hangs(hub, cache, place, fault):
    hub.fail(place, fault)
    began = time.monotonic()
    message = refused(patience=4)
    assert 4 <= time.monotonic() - began < 12
    assert any(re.search(place, request) for request in hub.requests)
    expected = (
        r"--model-name someone/clip: no such folder here, and the hub does not deliver it \(not finished in time\); "
    )
    assert re.fullmatch(expected + r"given up after 1 try in \d+ s; " + re.escape(OFFERS), message)
    assert not running_downloads()
    assert_nothing_taken(cache)


def test_patience_bounds_the_waits(hub, cache):
    hub.fail("api/models", status(503))
    assert "given up after 3 tries" in refused(patience=15)  # a fourth would have to wait 15 s


def test_an_interrupt_ends_the_download(hub, cache):
    pressed = []

    def interrupted(request):
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
        trickle(request)

    hub.fail(WEIGHTS, interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch_encoder(NAME, patience=30)
        assert time.monotonic() - pressed[0] < 2
    finally:
        signal.signal(signal.SIGINT, before)
    assert not running_downloads()
    assert_nothing_taken(cache)


def test_an_ended_download_leaves_the_files_of_others(cache):
    blobs, locks = cache / "blobs", cache.parent / ".locks" / cache.name
    blobs.mkdir(parents=True)
    halves = [blobs / f"{etag}.0123abcd.incomplete" for etag in ("orphan", "written")]
    for half in halves:
        half.write_bytes(b"half")
    with FileLock(locks / "written.lock"):  # as the hub's client holds it while it writes
        remove_halves(NAME)
        assert [half.exists() for half in halves] == [False, True]
    remove_halves(NAME)
    assert not any(blobs.iterdir())


# Connections that break


@pytest.mark.parametrize("fault", [reset, hang_up])
def test_a_broken_connection_is_tried_again(hub, cache, tiny, fault):
    hub.fail(WEIGHTS, fault, times=1)
    found = fetch_encoder(NAME)
    assert (found / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert sum(bool(re.search(WEIGHTS, request)) for request in hub.requests) == 2
    load_encoder(found)


@pytest.mark.parametrize("fault", [reset, pytest.param(hang_up, marks=pytest.mark.slow)])
def test_a_connection_that_always_breaks(hub, cache, tiny, fault):
    hub.fail(WEIGHTS, fault)
    message = refused()
    expected = r"--model-name someone/clip: no such folder here, and the hub does not deliver it \((ReadError|RemoteProtocolError)\b.*\); "
    assert re.fullmatch(expected + r"given up after 4 tries in \d+ s; " + re.escape(OFFERS), message)
    assert_nothing_taken(cache)
    hub.faults.clear()
    hub.requests.clear()
    assert (fetch_encoder(NAME) / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert not any("tokenizer.json" in request for request in hub.requests)  # whole files are kept


# Refusals that no further try mends


@pytest.mark.parametrize(
    "name, place, fault, what, remedy",
    [
        (f"{NAME}@v9", None, None, "the hub has the model, but not this revision", "write a branch, a tag or a commit"),
        ("someone/clap", None, None, "neither a folder here nor a model that the hub shows you", "check the name"),
        (NAME, "api/models", status(401), "the hub refuses it (HfHubHTTPError: Client error '401", "check the name"),
        (
            NAME,
            "/resolve/",
            status(403, "GatedRepo"),
            "it is gated: its owners give it to accounts they accepted",
            "ask for access",
        ),
        (
            NAME,
            "api/models",
            status(401, "GatedRepo"),
            "it is gated: its owners give it to accounts they accepted",
            "ask for access",
        ),
        (NAME, "api/models", status(403), "the hub refuses it (HfHubHTTPError: 403 Forbidden", "check the name"),
    ],
)
def test_refusals_are_not_tried_again(hub, cache, caplog, name, place, fault, what, remedy):
    if place:
        hub.fail(place, fault)
    message = refused(name)
    assert message.startswith(f"--model-name {name}: {what}") and f"; not tried again; {remedy}" in message
    assert sum("/revision/" in request for request in hub.requests) == 1
    assert "next try" not in caplog.text
    assert_nothing_taken(cache)


def test_names_that_no_hub_has(hub, cache):
    for name in ("someone/clip@", "a b", "someone/cl--ip", "./clip", "some/where/clip", "long" * 99):
        assert refused(name).startswith(f"--model-name {name}: no such folder, and no name")
    assert not hub.requests


def test_a_disk_that_is_full(hub, cache, capfd):
    """Files of more than 300 kB cannot be written, which is how a quota shows itself."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        message = refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    what = "--model-name someone/clip: it cannot be kept in the cache (OSError: [Errno 27] File too large); not tried again; "
    assert message == what + "make room there and check its rights, or set HF_HOME to another folder"
    assert_nothing_taken(cache)


def test_a_cache_that_cannot_be_made(hub, cache, tmp_path):
    (tmp_path / "home").write_text("a file where the cache should be")
    assert "it cannot be kept in the cache (" in refused()
    assert (tmp_path / "home").read_text() == "a file where the cache should be"


# A hub in trouble


@pytest.mark.parametrize("number", [429, 500, 503])
def test_a_hub_in_trouble_is_tried_again(hub, cache, number):
    hub.fail("/revision/", status(number))
    message = refused()
    assert re.search(rf"the hub does not deliver it \(HfHubHTTPError: .*\b{number}\b", message)
    assert "given up after 4 tries" in message and message.endswith(OFFERS)
    assert len(hub.requests) == 4
    assert_nothing_taken(cache)
    hub.faults[0] = ("/revision/", [None], status(number))
    assert fetch_encoder(NAME).is_dir()


def test_a_login_page_instead_of_the_hub(hub, cache):
    hub.fail("/", lambda request: request.answer(200, b"<html>Please log in to this network</html>"))
    assert "the hub does not deliver it (JSONDecodeError" in refused()
    assert_nothing_taken(cache)


# Mirrors


@pytest.mark.parametrize("header", ["Content-Length", "X-Linked-Size"])
def test_a_mirror_may_leave_out_what_is_not_needed(hub, cache, tiny, header):
    hub.without, hub.stores_elsewhere = header, header.startswith("X-Linked")
    found = fetch_encoder(NAME)
    assert (found / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert encoder_identity(found) == f"{NAME}@{commit('main')}"


@pytest.mark.parametrize("header", ["X-Linked-ETag", "X-Repo-Commit"])
def test_a_mirror_without_what_the_client_needs_is_named(hub, cache, header):
    hub.without, hub.stores_elsewhere = header, header.startswith("X-Linked")
    message = refused()
    assert "what answers is not the hub, or a mirror that does not pass on the hub's headers ETag and X-Repo" in message
    assert message.endswith("let HF_ENDPOINT name another mirror, or look whether this network wants a login")
    assert "not tried again" in message
    assert_nothing_taken(cache)


# Which model it is


def test_a_run_knows_the_commit_of_a_hub_model(hub, cache, tiny, tmp_path):
    hub.folders["v1"] = Path(shutil.copytree(tiny, tmp_path / "v1"))
    assert cached_encoder(NAME) is None
    fetch_encoder(NAME), fetch_encoder(f"{NAME}@v1")
    asked = len(hub.requests)
    assert encoder_identity(cached_encoder(NAME)) == f"{NAME}@{commit('main')}"
    assert encoder_identity(cached_encoder(f"{NAME}@v1")) == f"{NAME}@{commit('v1')}"
    assert encoder_identity(cached_encoder(f"{NAME}@{commit('v1')}", weights=False)) == f"{NAME}@{commit('v1')}"
    (tmp_path / "own.csv").write_text("guid,text_path,image_path,label\n1,1.txt,1.jpg,neutral\n")
    config = TrainConfig(tmp_path, model_name=NAME, train_csv=Path("own.csv"), val_csv=Path("own.csv"))
    assert identity(config)["model_name"] == f"{NAME}@{commit('main')}"
    assert identity(replace(config, model_name=f"{NAME}@v1"))["model_name"] == f"{NAME}@{commit('v1')}"
    assert len(hub.requests) == asked


# No network wanted


def test_offline_asks_nobody(hub, cache, monkeypatch):
    no_process(monkeypatch)
    what = "not in the local cache, or not all of it, and --offline is set; the hub was not asked"
    assert refused(offline=True) == f"--model-name {NAME}: {what}; {ELSEWHERE}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused()
    assert not hub.requests and not cache.exists()


def test_the_guard_against_the_network_works(cache):
    with pytest.raises(AssertionError, match="reached for the network"):
        huggingface_hub.snapshot_download(NAME, endpoint="http://127.0.0.1:9")


def test_the_command_ends_with_one_line(hub, cache, tmp_path, capfd):
    root = tmp_path / "project"
    write_sample(root)
    assert main(["splits", "--project-root", str(root)]) == 0
    capfd.readouterr()
    flags = ["optimize", "--project-root", str(root), "--model-name"]
    assert main([*flags, f"{NAME}@v9"]) == 2
    error = capfd.readouterr().err.splitlines()
    assert [line for line in error if line.startswith("clipsent optimize: error: --model-name someone/clip@v9: ")]
    assert not any("Traceback" in line for line in error)
    asked = len(hub.requests)
    assert main([*flags, NAME, "--offline"]) == 2
    assert "--offline is set" in capfd.readouterr().err and len(hub.requests) == asked


# Code that comes with a model


def stranger(folder: Path, tiny: Path, asks: str) -> Path:
    """A model whose file `asks` has the file strange.py run, which would leave a mark."""
    shutil.copytree(tiny, folder)
    code = f"open({str(folder / 'ran')!r}, 'w')\nfrom transformers import CLIPConfig\nclass Strange(CLIPConfig): pass\n"
    (folder / "strange.py").write_text(code)
    settings = json.loads((folder / asks).read_text())
    loaders = ("AutoConfig", "AutoModel", "AutoImageProcessor")
    settings["auto_map"] = dict.fromkeys(loaders, "strange.Strange") | {"AutoTokenizer": ["strange.Strange"] * 2}
    kind = {"config.json": "model_type", "tokenizer_config.json": "tokenizer_class"}.get(asks, "image_processor_type")
    settings[kind] = "Strange"
    (folder / asks).write_text(json.dumps(settings))
    return folder


@pytest.fixture
def no_prompt(monkeypatch):
    prompts = []
    monkeypatch.setattr(builtins, "input", lambda text="": prompts.append(text) or "n")
    yield
    assert not prompts


@pytest.mark.parametrize(
    "asks, load",
    [
        ("config.json", load_processors),
        ("config.json", load_encoder),
        ("config.json", lambda folder: load_encoder(folder, weights=False)),
        ("preprocessor_config.json", load_processors),
    ],
)
def test_code_of_a_model_is_not_run(cache, tiny, tmp_path, no_prompt, asks, load):
    folder = stranger(tmp_path / "stranger", tiny, asks)
    with pytest.raises(ClipsentError) as caught:
        load(folder)
    what = "the model wants to run code of its own; that is refused, and none of it ran"
    assert str(caught.value).startswith(f"--model-name {folder}: {what}; take a model that transformers has")
    assert not (folder / "ran").exists()


def test_a_tokenizer_that_transformers_has_replaces_one_with_code(cache, tiny, tmp_path, no_prompt):
    folder = stranger(tmp_path / "stranger", tiny, "tokenizer_config.json")
    assert type(load_processors(folder)[0]).__module__.startswith("transformers.")
    assert not (folder / "ran").exists()


def test_code_of_a_model_on_the_hub_is_not_even_fetched(hub, cache, tiny, tmp_path, no_prompt):
    hub.folders["main"] = stranger(tmp_path / "stranger", tiny, "config.json")
    found = fetch_encoder(NAME)
    assert not any("strange.py" in request for request in hub.requests)
    for load in (load_processors, load_encoder):
        with pytest.raises(ClipsentError, match="code of its own; that is refused"):
            load(found)
    assert not (tmp_path / "stranger" / "ran").exists()


def test_the_code_would_have_run(cache, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = stranger(tmp_path / "stranger", tiny, "config.json")
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (folder / "ran").exists()


@pytest.mark.parametrize("kernel", ["someone/kernel", "flash_attention_2", {"text_config": "someone/kernel"}])
def test_kernels_from_the_hub_are_refused(cache, tiny, tmp_path, kernel):
    folder = Path(shutil.copytree(tiny, tmp_path / "kernel"))
    settings = json.loads((folder / "config.json").read_text()) | {"attn_implementation": kernel}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ClipsentError, match="code of its own; that is refused"):
        load_encoder(folder)


class Call:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_code_is_not_run(hub, cache, tiny, tmp_path):
    folder = Path(shutil.copytree(tiny, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale": Call(tmp_path / "ran")}, folder / "pytorch_model.bin")
    hub.folders["main"] = folder
    for place in (folder, fetch_encoder(NAME)):
        with pytest.raises(ClipsentError) as caught:
            load_encoder(place)
        what = "its weights are no plain numbers, or damaged; nothing of them was run"
        assert str(caught.value) == f"--model-name {place}: {what}; take a model with a .safetensors file"
        assert not (tmp_path / "ran").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").exists()  # as it would have done


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"<html>"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"])
def test_damaged_files_are_named(cache, tiny, tmp_path, name, damage):
    folder = Path(shutil.copytree(tiny, tmp_path / "damaged"))
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(ClipsentError, match="cannot be loaded .*; nothing of it was used; save it again"):
        load_processors(folder), load_encoder(folder)
