"""What the benchmarks share: the reference work, interleaved timing, medians and JSON."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from clipsent_nb.data import make_splits, read_split
from clipsent_nb.files import write_csv
from clipsent_nb.runs import TrainConfig
from clipsent_nb.sample import make_sample


def parser(description: str) -> argparse.ArgumentParser:
    "The flags that all benchmarks have."
    own = argparse.ArgumentParser(description=description)
    own.add_argument("--project-root", type=Path, help="holds outputs/splits; default: a generated sample")
    own.add_argument("--data-root", type=Path, help="holds the posts; default: the project root")
    own.add_argument("--model-name", help="an encoder's folder; default: a ViT-B/32 with random weights")
    own.add_argument("--quick", action="store_true", help="less work and fewer repetitions")
    own.add_argument("--threads", type=int, default=os.cpu_count(), help="of the arithmetic; default: all processors")
    own.add_argument("--json", type=Path, help="also write the figures here")
    return own


def random_clip(folder: Path) -> Path:
    "A CLIP of the shape of ViT-B/32 with random weights and the sample's tokenizer."
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from clipsent_nb.sample import sample_texts, tiny_tokenizer

    tokenizer = tiny_tokenizer(sample_texts())
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    for part in (CLIPModel(CLIPConfig(text_config=marks)), tokenizer, CLIPImageProcessor()):
        part.save_pretrained(folder)
    return folder


def reference(options: argparse.Namespace, folder: Path, train: int, val: int, **changes: object) -> TrainConfig:
    "A configuration for so many posts of each split, taken evenly; everything that is written goes to `folder`."
    torch.set_num_threads(options.threads)
    root = options.project_root
    if root is None:
        root = folder / "sample"
        make_splits(make_sample(root), val_ratio=0.2, progress=False)
    model = options.model_name or str(random_clip(folder / "clip"))
    for name, count in (("train", train), ("val", val)):
        posts = read_split(root / f"outputs/splits/{name}.csv").sort_values("label", kind="stable")  # all classes
        count = min(count, len(posts))
        write_csv(posts.iloc[[round(i * len(posts) / count) for i in range(count)]], folder / f"{name}.csv")
    files = {"train_csv": Path("train.csv"), "val_csv": Path("val.csv")}
    plain = TrainConfig(project_root=folder, data_root=options.data_root or root, model_name=model, **files)
    return replace(plain, **{"freeze_epochs": 0, "head_lr": 1e-4, **changes})


def interleave(
    sides: Mapping[str, Callable[[], object]], repetitions: int, warm: bool = True
) -> dict[str, list[float]]:
    "Seconds of each side, repetition after repetition, the order turned each time; with `warm`, after an untimed round."
    times: dict[str, list[float]] = {name: [] for name in sides}
    if warm:
        for call in sides.values():
            call()
    for repetition in range(repetitions):
        for place in range(len(sides)):
            name = list(sides)[(place + repetition) % len(sides)]
            started = time.perf_counter()
            sides[name]()
            times[name].append(time.perf_counter() - started)
    return times


def told(title: str, times: Mapping[str, list[float]], work: int, unit: str = "pairs") -> dict[str, object]:
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


def machine() -> dict[str, object]:
    "What the figures were measured on."
    able = torch.cpu.get_capabilities()
    wide = [name for name in ("avx512_bf16", "amx_bf16") if able.get(name)]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    own = {"date": date.today().isoformat(), "processor": able.get("cpu_name", platform.machine()), "bf16": wide}
    return own | {"threads": torch.get_num_threads(), "gpu": gpu, "torch": torch.__version__}


def write(options: argparse.Namespace, figures: Mapping[str, object]) -> None:
    "Print the machine, and write all figures if asked to."
    print(machine())
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
