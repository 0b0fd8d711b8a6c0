"""Encoders: parameters, the peak of training steps and posts per second of the shapes of known families, random weights.

python benchmarks/encoders.py [--quick] [--json FILE] [--model-name DIR] [--threads N]
"""

import statistics
import time
from collections.abc import Callable

import torch
import transformers
from common import CPU, DTYPES, in_own_process, interleave, parser, private_memory, seconds_and_peak, write_figures
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from clipsent_nb.encoders import import_transformers
from clipsent_nb.features import autocast
from clipsent_nb.model import DualEncoderClassifier

TOKENS = 25  # of a text, where they are not padded to full length
DTYPE = next(iter(DTYPES.values()))
B16 = {"patch_size": 16}


def shape(kind: str, text: dict, vision: dict, **more: object) -> Callable[[], PreTrainedConfig]:
    return lambda: getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **more)


TINY = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "projection_dim": 512}
SHAPES = {
    "TinyCLIP ViT-8M/16": shape("CLIP", {**TINY, "num_hidden_layers": 3}, {**TINY, **B16, "num_hidden_layers": 10}),
    "CLIP ViT-B/32": shape("CLIP", {}, {}),
    "CLIP ViT-B/16": shape("CLIP", {}, B16),
    "Chinese-CLIP ViT-B/16": shape("ChineseCLIP", {"vocab_size": 21128}, B16),
    "SigLIP 2 B/16": shape("Siglip", {"vocab_size": 256000}, {"image_size": 224}),
}


def build(name: str, folder: str | None) -> DualEncoderClassifier:
    config = AutoConfig.from_pretrained(folder) if name == folder else SHAPES[name]()
    import_transformers()
    torch.manual_seed(0)
    return DualEncoderClassifier(AutoModel.from_config(config))


def posts(model: DualEncoderClassifier, count: int) -> dict[str, torch.Tensor]:
    "Random texts and pictures of the size that the encoder takes."
    config = model.encoder.config
    length = config.text_config.max_position_embeddings if config.model_type == "siglip" else TOKENS
    size = config.vision_config.image_size
    size = 224 if config.vision_config.model_type == "dinov2" else size  # its positions are stretched
    ids = torch.randint(5, 1000, (count, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(count, 3, size, size)}


def train(name: str, folder: str | None, batch_size: int, steps: int, threads: int) -> tuple[list[float], int]:
    "Seconds of each training step after the first, and the highest memory of the model and its steps."
    torch.set_num_threads(threads)
    before, seconds = private_memory(), []

    def work() -> None:
        model = build(name, folder).train()
        optimizer, batch = torch.optim.AdamW(model.parameters(), fused=True), posts(model, batch_size)
        for _ in range(steps + 1):
            started = time.perf_counter()
            with autocast(CPU, DTYPE):
                logits = model(**batch)
            torch.nn.functional.cross_entropy(logits.float(), torch.arange(batch_size) % 3).backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - started)

    peak = seconds_and_peak(work)[1] - before
    return seconds[1:], peak


def measure_answers(names: list[str], folder: str | None, rounds: int) -> dict[str, dict[str, float]]:
    "Parameters of each encoder, and how many posts a second it encodes and its head answers."
    count, models = 32, {name: build(name, folder).eval() for name in names}
    batches = {name: posts(model, count) for name, model in models.items()}

    def answer(name: str) -> None:
        with torch.inference_mode(), autocast(CPU, DTYPE):
            models[name](**batches[name])

    times = interleave({name: lambda name=name: answer(name) for name in names}, rounds)
    sizes = {name: sum(value.numel() for value in model.encoder.parameters()) for name, model in models.items()}
    return {name: {"parameters": sizes[name], "answered": count / statistics.median(times[name])} for name in names}


def main() -> None:
    options = parser(__doc__).parse_args()
    names = [*(list(SHAPES)[: 1 if options.quick else None]), *filter(None, [options.model_name])]
    torch.set_num_threads(options.threads)
    rounds = 1 if options.quick else 3
    figures = measure_answers(names, options.model_name, rounds)
    for batch_size in (8,) if options.quick else (8, 32):
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds if batch_size == 8 else 1):
            for name in names:
                own, peak = in_own_process(train, name, options.model_name, batch_size, 2, options.threads)
                seconds[name] += own
                figures[name][f"peak {batch_size}"] = max(peak, figures[name].get(f"peak {batch_size}", 0))
        for name in names:
            figures[name][f"trained {batch_size}"] = batch_size / statistics.median(seconds[name])
    for name, own in figures.items():
        print(name, {key: float(f"{value:.3g}") for key, value in own.items()}, flush=True)
    write_figures(options, {"dtype": str(DTYPE), "encoders": figures})


if __name__ == "__main__":
    main()
