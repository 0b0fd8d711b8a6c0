"Texts in which no blanks separate the words: nothing takes a whole sentence for one word, a name or a link."

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipsent_nb.augment import drop_names, vary_ending
from clipsent_nb.copies import normalised_text
from clipsent_nb.corruptions import corrupt_text
from clipsent_nb.errors import text_traits
from clipsent_nb.files import ClipsentError
from clipsent_nb.members import WordModel
from clipsent_nb.sample import make_sample

POST = "#西湖十景##杭州 一日游#今天天气真好，玩得很开心！http://t.cn/A6xYz收起 @Tom_张 [微笑]"


def test_a_link_or_a_name_does_not_hide_the_text_behind_it():
    one, other = "看http://t.cn/A6xYz今天天气真好大家都出来玩吧", "看http://t.cn/B7aBc今天天气真差谁都不想出门了呢"
    assert normalised_text(one) == "看今天天气真好大家都出来玩吧" != normalised_text(other)
    assert normalised_text("//@小明:走老路去火车站") == normalised_text("走老路去火车站！") == "走老路去火车站"
    assert normalised_text("转发微博") == ""


def test_words_and_topics_are_counted():
    traits = text_traits(POST)
    assert (traits["hashtags"], traits["urls"], traits["mentions"]) == (2, 1, 1) and 25 < traits["words"] < 50


def test_a_bag_of_words_reads_characters():
    texts = ["今天真开心", "开心的一天", "太难过了", "我很难过"]
    model = WordModel.fit(texts, np.array([1, 1, 0, 0]), ["negative", "positive"])
    assert model.text_probabilities(["大家都开心", "他难过"]).argmax(1).tolist() == [1, 0]


def test_rewrites_end_a_sentence_as_chinese_does():
    draw = random.Random(0)
    assert vary_ending("真好！", draw) == "真好" and vary_ending("真好", draw) == "真好。"
    assert drop_names("来自@李雷 今天@小明真好，是吧", draw) == "来自 今天@小明真好，是吧"


@pytest.mark.parametrize("name", ["word_drop", "word_order", "framed"])
def test_corruptions_damage_chinese_by_degrees(name):
    text = "今天天气真好，玩得很开心，明天还想和大家一起再来一次！"
    weak, strong = (corrupt_text(text, "1", name, severity) for severity in (1, 5))
    assert len({text, weak, strong}) == 3
    assert {"word_drop": 5 < len(strong) < len(weak), "word_order": len(strong) == len(text)}.get(name, True)
    assert not set(strong) & set("aeiou")


def test_a_topic_is_dropped_and_what_follows_stays():
    assert corrupt_text("#西湖十景##杭州 一日游#今天天气真好", "1", "hashtag_drop", 5) == "今天天气真好"


def test_a_sample_is_not_written_in_a_language_that_it_lacks(tmp_path):
    with pytest.raises(ClipsentError, match="--language: 'fr' is not a choice; use en or zh"):
        make_sample(tmp_path / "posts", language="fr")
    assert not (tmp_path / "posts").exists()


@pytest.mark.slow
def test_the_whole_stage_on_the_chinese_sample(tmp_path):
    command, settings = [sys.executable, "-m", "clipsent_nb.cli"], Path(__file__).parents[1] / "nbs/demo.toml"
    subprocess.run([*command, "sample", tmp_path, "--language", "zh"], check=True)
    done = subprocess.run([*command, "run", "--project-root", tmp_path, "--settings", settings], capture_output=True)
    assert done.returncode == 0 and b"all 14 steps are done" in done.stdout
    assert (tmp_path / "outputs/reports/index.html").is_file()
    predictions = pd.read_csv(tmp_path / "outputs/optimize/final_clip_aug/val_predictions.csv", dtype=str)
    assert (predictions.pred_label == predictions.true_label).mean() > 0.65
