"""The other side: training and answering as a competent user of `transformers` writes it, without this project's caches."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import nn

from clipsent_nb.cleaning import active_rules, clean_text
from clipsent_nb.data import LABELS, read_split
from clipsent_nb.decoding import read_text
from clipsent_nb.model import load_processors
from clipsent_nb.objective import make_loss
from clipsent_nb.runs import TrainConfig
from clipsent_nb.train import new_model, plain_config, under_root


class Posts(torch.utils.data.Dataset):
    "Cleaned text, picture file and class of each post."

    def __init__(self, config: TrainConfig, csv: Path) -> None:
        table, rules = read_split(under_root(config, csv)), active_rules(plain_config(config))
        self.texts = [clean_text(read_text(config.data_root / path)[0], rules) for path in table.text_path]
        self.files = [config.data_root / path for path in table.image_path]
        self.labels = table.label.map(LABELS.index).tolist()

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> tuple[str, Path, int]:
        return self.texts[row], self.files[row], self.labels[row]


def collate(encoder: Path, padding: str | bool) -> Callable[[Sequence[tuple[str, Path, int]]], dict[str, torch.Tensor]]:
    "Decode, preprocess and tokenize a batch, padded to its longest text or to the full length."
    tokenizer, image_processor = load_processors(encoder)

    def call(posts: Sequence[tuple[str, Path, int]]) -> dict[str, torch.Tensor]:
        texts, files, labels = zip(*posts, strict=True)
        tokens = tokenizer(list(texts), padding=padding, truncation=True, max_length=77, return_tensors="pt")
        pictures = [Image.open(file).convert("RGB") for file in files]
        pixels = image_processor(pictures, return_tensors="pt")["pixel_values"]
        wanted = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return {**wanted, "pixel_values": pixels, "labels": torch.tensor(labels)}

    return call


def batches(
    config: TrainConfig, encoder: Path, csv: Path, workers: int = 0, order: Sequence | None = None
) -> Iterator[dict]:
    "Batches in random order, or in a given one."
    options = {"batch_sampler": order} if order is not None else {"batch_size": config.batch_size, "shuffle": True}
    return torch.utils.data.DataLoader(
        Posts(config, csv), collate_fn=collate(encoder, True), num_workers=workers, **options
    )


def class_loss(posts: Posts) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    "Cross-entropy with rare classes weighted up, as `--loss ce` has it."
    return make_loss("ce", [posts.labels.count(i) for i in range(len(LABELS))])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader, frozen: bool = False) -> list[float]:
    "One epoch; the loss of each step. With `frozen`, only the head learns."
    criterion = class_loss(loader.dataset)
    model.train()
    if frozen:
        model.encoder.eval()
    losses = []
    for batch in loader:
        with torch.set_grad_enabled(not frozen):
            text, image = model.features(batch["input_ids"], batch["attention_mask"], batch["pixel_values"])
        loss = criterion(model.head(text, image), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def answer(model: nn.Module, loader) -> pd.Series:
    "The class of each post."
    model.eval()
    answers = []
    for batch in loader:
        answers += model(batch["input_ids"], batch["attention_mask"], batch["pixel_values"]).argmax(dim=1).tolist()
    return pd.Series(answers)


class WithLoss(nn.Module):
    "The model as the Trainer wants it: the loss comes out."

    def __init__(self, model: nn.Module, criterion: Callable) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, input_ids, attention_mask, pixel_values, labels):
        logits = self.model(input_ids, attention_mask, pixel_values)
        return {"loss": self.criterion(logits, labels), "logits": logits}


def trainer_of_transformers(config: TrainConfig, encoder: Path, folder: Path, **changes: object):
    "The Trainer of transformers with default arguments, but for those given, on texts padded to the full length."
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(folder / "hub"),
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=1,
        learning_rate=config.lr,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        logging_strategy="no",
        **changes,
    )
    posts, join = Posts(config, config.train_csv), collate(encoder, "max_length")
    model = WithLoss(new_model(config, encoder), class_loss(posts))
    return Trainer(model, arguments, data_collator=join, train_dataset=posts)
