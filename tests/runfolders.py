"""Run folders that a test alters, whose parts still agree."""

from pathlib import Path

import pandas as pd

from clipsent_nb.files import read_json, write_csv, write_json
from clipsent_nb.objective import score_answers
from clipsent_nb.runs import digest_parts


def put_predictions(folder: Path, table: pd.DataFrame) -> None:
    "Give a run other predictions, with the answers and the scores that follow from their probabilities."
    labels = [name.removeprefix("p_") for name in table if name.startswith("p_")]
    probabilities = table[[f"p_{label}" for label in labels]].astype(float).to_numpy()
    answers = [labels[number] for number in probabilities.argmax(axis=1)]
    table = table.assign(pred_label=answers, confidence=probabilities.max(axis=1))
    write_csv(table, folder / "val_predictions.csv")
    ids = ([labels.index(label) for label in table[column]] for column in ("true_label", "pred_label"))
    scores = {"best_val_f1_macro": score_answers(*ids, labels)["f1_macro"], "val_posts": len(table)}
    write_json(folder / "metrics.json", read_json(folder / "metrics.json") | scores)


def record_parts(folder: Path) -> None:
    "Record the files of a run as they are now."
    for name in ("config.json", "metrics.json"):
        values = read_json(folder / name)
        write_json(folder / name, values | digest_parts(folder, list(values.get("files", {}))))
