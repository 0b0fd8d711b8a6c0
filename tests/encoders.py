"""Small encoders with random weights: each of the real class, with a tokenizer and an image processor of its family's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clipsent_nb.encoders import load_encoder, load_processors
from clipsent_nb.export import OnnxClassifier, write_export
from clipsent_nb.inputs import inputs_from_memory
from clipsent_nb.model import DualEncoderClassifier
from clipsent_nb.sample import tiny_clip

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 32, "patch_size": 16}
TEXTS = [
    "so happy today 今天很开心",
    "it broke again 又坏掉了",
    "a much longer text than the other one 比另一个长得多的文字",
]


def clip_tokenizer() -> PreTrainedTokenizerBase:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return transformers.AutoTokenizer.from_pretrained(tiny_clip(Path(folder)))


def letters() -> list[str]:
    return sorted(
        {letter for text in TEXTS for letter in text if not letter.isspace()} | set("abcdefghijklmnopqrstuvwxyz")
    )


def bert_tokenizer() -> PreTrainedTokenizerBase:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters(), *(f"##{letter}" for letter in letters())]
    return transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def roberta_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return transformers.RobertaTokenizer(vocab=tokenizer.get_vocab(), merges=[])


def xlm_roberta_tokenizer() -> PreTrainedTokenizerBase:
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", *letters(), "<mask>"]
    return transformers.XLMRobertaTokenizer(vocab=[(word, -float(number)) for number, word in enumerate(words)])


def gemma_tokenizer() -> PreTrainedTokenizerBase:
    "As the hub has it for SigLIP 2: capitals stay, although the encoder was trained without."
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *letters(), *map(chr, range(65, 91))]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.GemmaTokenizer(vocab=vocabulary, merges=[], add_bos_token=False, add_eos_token=True)


def siglip_tokenizer() -> PreTrainedTokenizerBase:
    import io
    import tempfile

    import sentencepiece

    model = io.BytesIO()
    options = {
        "vocab_size": 60,
        "hard_vocab_limit": False,
        "pad_id": -1,
        "bos_id": -1,
        "eos_id": 1,
        "unk_id": 2,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **options)
    with tempfile.NamedTemporaryFile(suffix=".model") as file:
        Path(file.name).write_bytes(model.getvalue())
        return transformers.SiglipTokenizer(file.name)


def text_sizes(tokenizer: PreTrainedTokenizerBase, **more: int) -> dict:
    ids = {f"{mark}_token_id": getattr(tokenizer, f"{mark}_token_id") for mark in ("bos", "eos", "pad")}
    return {
        **SIZES,
        **{name: 0 if number is None else number for name, number in ids.items()},
        "vocab_size": len(tokenizer),
        **more,
    }


def clip(kind: str, text: dict, vision: dict = VISION) -> PreTrainedModel:
    config, model = getattr(transformers, f"{kind}Config"), getattr(transformers, f"{kind}Model")
    return model(config(text_config=text, vision_config=vision, projection_dim=16))


def siglip(text: dict, vision: dict = VISION) -> PreTrainedModel:
    text = {**text, "max_position_embeddings": 64, "projection_size": 32}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))


def joined(seer: str, reader: str, text: dict, vision: dict = VISION) -> PreTrainedModel:
    "A VisionTextDualEncoder of a picture model and a text model."
    parts = []
    for kind, sizes in ((seer, vision), (reader, text)):
        model = getattr(transformers, f"{kind}Model")
        parts.append(model(model.config_class(**sizes)))
    return transformers.VisionTextDualEncoderModel(vision_model=parts[0], text_model=parts[1])


def alt_clip(text: dict, vision: dict = VISION) -> PreTrainedModel:
    return clip("AltCLIP", {**text, "max_position_embeddings": 60, "project_dim": 16}, vision)


def tiny_towers(text: dict, vision: dict = VISION) -> PreTrainedModel:
    "As TinyCLIP is: towers of other depth and width than each other, and the end mark's number of the first CLIP."
    text = {**text, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "eos_token_id": 2}
    return clip("CLIP", text, {**vision, "hidden_size": 48, "num_hidden_layers": 3})


Build = tuple[Callable[[], PreTrainedTokenizerBase], Callable[[dict], PreTrainedModel]]
FAMILIES: dict[str, Build] = {
    "clip": (clip_tokenizer, partial(clip, "CLIP")),
    "siglip": (siglip_tokenizer, siglip),
    "siglip2": (gemma_tokenizer, siglip),
    "chinese_clip": (bert_tokenizer, partial(clip, "ChineseCLIP")),
    "metaclip_2": (xlm_roberta_tokenizer, partial(clip, "MetaClip2")),
    "altclip": (xlm_roberta_tokenizer, alt_clip),
    "tinyclip": (clip_tokenizer, tiny_towers),
}
SEERS = {"vit": "ViT", "dinov2": "Dinov2", "siglip": "SiglipVision"}
READERS = {
    "bert": (bert_tokenizer, "Bert"),
    "roberta": (roberta_tokenizer, "Roberta"),
    "xlm_roberta": (xlm_roberta_tokenizer, "XLMRoberta"),
}
FAMILIES |= {
    f"{seer}_{reader}": (tokenizer, partial(joined, kind, text))
    for seer, kind in SEERS.items()
    for reader, (tokenizer, text) in READERS.items()
}

SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
FAMILIES["swin_bert"] = (bert_tokenizer, partial(joined, "Swin", "Bert", vision=SWIN))


def write_encoder(folder: Path, family: str) -> Path:
    "A small encoder of a family in save_pretrained layout, for pictures of 32 by 32."
    make_tokenizer, build = FAMILIES[family]
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    image_processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    for part in (build(text_sizes(tokenizer)), tokenizer, image_processor):
        part.save_pretrained(folder)
    return folder


def export_difference(folder: Path, output: Path) -> float:
    "By how much the probabilities of a graph differ from those of an untrained model on this encoder, at most."
    torch.manual_seed(0)
    model, processors = DualEncoderClassifier(load_encoder(folder)).eval(), load_processors(folder)
    options = {"config": {}, "adjustment": None, "temperature": 1.0, "may_lack": set()}
    write_export(
        SimpleNamespace(model=model, tokenizer=processors[0], image_processor=processors[1], **options), output
    )
    graph, differences = OnnxClassifier.load(output, threads=1), []
    pictures = [Image.effect_noise(size, 80).convert("RGB") for size in ((50, 80), (99, 33), (64, 64))]
    for count in (1, 3):
        batch = inputs_from_memory(TEXTS[:count], pictures[:count], processors, {}).batch(range(count))
        batch.pop("labels")
        with torch.no_grad():
            expected = model(**batch).softmax(-1).numpy()
        found = graph.predict(TEXTS[:count], pictures[:count]).filter(like="p_").to_numpy()
        differences.append(abs(found - expected).max())
    return max(differences)
