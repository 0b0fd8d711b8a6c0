"""The other side: training and answering as a competent user of `transformers` writes it, without this project's caches."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from clipsent_nb.cleaning import active_rules, clean_text
from clipsent_nb.config import TrainConfig, config_values
from clipsent_nb.decoding import read_text
from clipsent_nb.labels import LABELS
from clipsent_nb.state import RunInputs, new_state
from clipsent_nb.train import make_class_loss


class Posts(Dataset):
    "Cleaned text, picture file and class of each post."

    def __init__(self, config: TrainConfig, posts: pd.DataFrame) -> None:
        rules, sources = active_rules(config_values(config)), zip(posts.text_file, posts.encoding, strict=True)
        self.texts = [clean_text(read_text(*source)[0], rules) for source in sources]
        self.files, self.labels = posts.image_file.tolist(), posts.label.map(LABELS.index).to_numpy()
        self.config = config

    @cached_property
    def loss(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        "The loss of `fit`."
        return make_class_loss(self.config, self.labels)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> tuple[str, str, int]:
        return self.texts[row], self.files[row], self.labels[row]


def make_collate(processors: tuple, padding: str | bool) -> Callable[[Sequence[tuple]], dict[str, torch.Tensor]]:
    "Decode, preprocess and tokenize a batch, padded to its longest text or to the full length."
    tokenizer, image_processor = processors

    def collate(posts: Sequence[tuple]) -> dict[str, torch.Tensor]:
        texts, files, labels = zip(*posts, strict=True)
        tokens = tokenizer(list(texts), padding=padding, truncation=True, max_length=77, return_tensors="pt")
        pictures = [Image.open(file).convert("RGB") for file in files]
        pixels = image_processor(pictures, return_tensors="pt")["pixel_values"]
        wanted = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return {**wanted, "pixel_values": pixels, "labels": torch.tensor(labels)}

    return collate


def batches(
    config: TrainConfig, inputs: RunInputs, posts: pd.DataFrame, workers: int = 0, order: Sequence | None = None
) -> DataLoader:
    "Batches in random order, or in a given one."
    options = {"batch_sampler": order} if order is not None else {"batch_size": config.batch_size, "shuffle": True}
    join = make_collate(inputs.processors, True)
    return DataLoader(Posts(config, posts), collate_fn=join, num_workers=workers, **options)


def new_model(config: TrainConfig, inputs: RunInputs) -> nn.Module:
    "The model that `fit` begins with."
    return new_state(config, inputs, torch.device("cpu"), torch.float32).model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, frozen: bool = False) -> list[float]:
    "One epoch; the loss of each step. With `frozen`, only the head learns."
    model.train()
    if frozen:
        model.encoder.eval()
    losses = []
    for batch in loader:
        with torch.set_grad_enabled(not frozen):
            text, image = model.features(batch["input_ids"], batch["attention_mask"], batch["pixel_values"])
        loss = loader.dataset.loss(model.head(text, image), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def predict(model: nn.Module, loader: DataLoader) -> np.ndarray:
    "The class of each post."
    model.eval()
    logits = [model(batch["input_ids"], batch["attention_mask"], batch["pixel_values"]) for batch in loader]
    return torch.cat(logits).argmax(dim=1).numpy()


class WithLoss(nn.Module):
    "The model as the Trainer wants it: the loss comes out."

    def __init__(self, model: nn.Module, loss: Callable) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, input_ids, attention_mask, pixel_values, labels):
        logits = self.model(input_ids, attention_mask, pixel_values)
        return {"loss": self.loss(logits, labels), "logits": logits}


def make_trainer(config: TrainConfig, inputs: RunInputs, **changes: object):
    "The Trainer of transformers with default arguments, but for those given, on texts padded to the full length."
    from transformers import PrinterCallback, Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(config.resolve("hub")),
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
    posts = Posts(config, inputs.train.posts)
    model, join = WithLoss(new_model(config, inputs), posts.loss), make_collate(inputs.processors, "max_length")
    trainer = Trainer(model, arguments, data_collator=join, train_dataset=posts)
    trainer.remove_callback(PrinterCallback)
    return trainer
