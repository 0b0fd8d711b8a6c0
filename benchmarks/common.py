"""What the benchmarks share: the reference work, an epoch of training, timing in turn, peak memory, medians and JSON."""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import psutil
import torch
from torch.utils.benchmark import Timer

from clipsent_nb.config import TrainConfig
from clipsent_nb.data import make_splits, read_split
from clipsent_nb.encoders import import_transformers
from clipsent_nb.features import Features, bf16_fast
from clipsent_nb.files import Workspace, write_csv
from clipsent_nb.hub import encoder_identity
from clipsent_nb.inputs import bucketed_batches
from clipsent_nb.sample import make_sample, sample_texts, tiny_clip, tiny_tokenizer
from clipsent_nb.state import RunInputs, new_state
from clipsent_nb.train import compute_gradient, make_class_loss, reserve_moments, update

CPU = torch.device("cpu")
DTYPES = ({"bf16": torch.bfloat16} if bf16_fast(CPU) else {}) | {"fp32": torch.float32}  # the fastest first


def parser(description: str) -> argparse.ArgumentParser:
    "The flags that all benchmarks have."
    own = argparse.ArgumentParser(description=description.splitlines()[0])
    own.add_argument("--project-root", type=Path, help="holds outputs/splits; default: a generated sample")
    own.add_argument("--data-root", type=Path, help="holds the posts; default: the project root")
    own.add_argument("--model-name", help="an encoder's folder; default: a ViT-B/32 with random weights")
    own.add_argument(
        "--quick", action="store_true", help="a tiny CLIP, fewer posts and repetitions: to see that it runs"
    )
    own.add_argument("--threads", type=int, default=os.cpu_count(), help="of the arithmetic; default: all processors")
    own.add_argument("--json", type=Path, help="also write the figures here")
    return own


def random_clip(folder: Path) -> Path:
    "A CLIP of the shape of ViT-B/32 with random weights; its tokenizer is the sample's with unused tokens added."
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = tiny_tokenizer(sample_texts())
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(text_config=marks)
    torch.manual_seed(0)
    for part in (CLIPModel(config), tokenizer, CLIPImageProcessor()):
        part.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    lacking = range(len(tokenizer), config.text_config.vocab_size)
    content["model"]["vocab"] |= {f"<unused {number}>": number for number in lacking}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def posts_project(options: argparse.Namespace, folder: Path) -> Path:
    "The project whose posts are used: the one that was named, or a generated sample."
    if options.project_root:
        return options.project_root
    make_splits(Workspace(make_sample(folder / "sample")), val_ratio=0.2)
    return folder / "sample"


@contextmanager
def reference(options: argparse.Namespace, train: int, val: int, **changes: object) -> Iterator[TrainConfig]:
    """Settings for so many posts of each split, taken from the classes in turn, or for all if there are fewer.

    The project is a temporary folder.
    """
    import_transformers()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root = posts_project(options, folder)
        for name, count in (("train", train), ("val", val)):
            posts = read_split(root / f"outputs/splits/{name}.csv")
            in_turn = (
                posts.groupby("label").cumcount().sort_values(kind="stable").index
            )  # the first of each class first
            write_csv(posts.loc[in_turn[:count]], folder / f"{name}.csv")
        places = {"project_root": folder, "data_root": options.data_root or root}
        files = {"train_csv": "train.csv", "val_csv": "val.csv"}
        model = options.model_name or str((tiny_clip if options.quick else random_clip)(folder / "clip"))
        plain = {"model_name": model, "freeze_epochs": 0, "head_lr": 1e-4}
        yield TrainConfig(**places, **files, **{**plain, **changes})


class Training:
    "An epoch as `fit` has it, begun at the first step every time."

    def __init__(self, config: TrainConfig, inputs: RunInputs, dtype: torch.dtype, device: torch.device = CPU) -> None:
        self.config, self.inputs, self.state = config, inputs, new_state(config, inputs, device, dtype)
        encoder = encoder_identity(inputs.encoder)
        self.features = Features(self.state.model, inputs.train, inputs.val, config, encoder, dtype)
        self.loss = make_class_loss(config, inputs.train.labels)
        self.targets = torch.from_numpy(inputs.train.labels).to(device)

    def epoch(self) -> list[float]:
        "Train for an epoch; the loss of each step."
        self.state.step, losses = 0, []
        self.features.freeze(False)
        reserve_moments(self.state.optimizer)
        for rows in bucketed_batches(self.inputs.train.lengths, self.config.batch_size, self.config.seed):
            targets = self.targets[torch.from_numpy(rows)]
            losses.append(compute_gradient(self.state, self.features, self.loss, rows, targets))
            update(self.state.optimizer, self.state.schedule, self.config.max_grad_norm, self.state.scaler)
            self.state.step += 1
        return losses


def seconds_of(call: Callable[[], object]) -> float:
    "How long a call takes."
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleave(sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    "Seconds of each side, repetition after repetition, the order turned each time; the first round is not timed."
    times: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()
    for repetition in range(repetitions):
        for place in range(len(sides)):
            name = list(sides)[(place + repetition) % len(sides)]
            times[name].append(seconds_of(sides[name]))
    return times


def matrix_rate(rows: int, dtype: torch.dtype, device: torch.device = CPU) -> float:
    "Operations per second of the product that a transformer block does most: [rows, 768] by [768, 3072]."
    one, other = (torch.randn(count, 768, dtype=dtype, device=device) for count in (rows, 3072))
    names = {"linear": torch.nn.functional.linear, "one": one, "other": other}
    timer = Timer("linear(one, other)", globals=names, num_threads=torch.get_num_threads())
    return 2 * rows * 768 * 3072 / timer.blocked_autorange(min_run_time=1).median


def private_memory() -> int:
    "Bytes of this process that no file backs; elsewhere than on Linux all that are its own."
    if sys.platform != "linux":
        return psutil.Process().memory_full_info().uss
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def seconds_and_peak(call: Callable[[], object]) -> tuple[float, int]:
    "How long a call takes, and the highest `private_memory` meanwhile."
    peak, done = private_memory(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, private_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return seconds_of(call), peak
    finally:
        done.set()
        watcher.join()


def in_own_process(call: Callable, *arguments: object) -> object:
    "What a call returns in a process that holds nothing yet."
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def summarize(title: str, times: Mapping[str, list[float]], work: int, unit: str = "pairs") -> dict[str, object]:
    "Print medians and ratios to the first side, and return them."
    medians = {name: statistics.median(values) for name, values in times.items()}
    own = next(iter(medians))
    print(title)
    for name, median in medians.items():
        spread = f"{min(times[name]):.3g} to {max(times[name]):.3g}"
        ratio = "" if name == own else f"  {median / medians[own]:.2f} times as long as {own}"
        print(f"  {name:28} median {median:8.3g} s ({spread}), {work / median:8.4g} {unit}/s{ratio}", flush=True)
    ratios = {name: median / medians[own] for name, median in medians.items()}
    return {"work": work, "seconds": dict(times), "medians": medians, "ratios": ratios}


def describe_machine() -> dict[str, object]:
    "What the figures were measured on."
    able = getattr(torch.cpu, "get_capabilities", dict)()
    wide = [name for name in ("avx512_bf16", "amx_bf16") if able.get(name)]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    own = {"date": date.today().isoformat(), "processor": able.get("cpu_name", platform.machine()), "bf16": wide}
    return own | {"threads": torch.get_num_threads(), "gpu": gpu, "torch": torch.__version__}


def write_figures(options: argparse.Namespace, figures: Mapping[str, object]) -> None:
    "Print the machine, and write all figures if asked to."
    print(describe_machine())
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), **figures}, indent=2) + "\n")
