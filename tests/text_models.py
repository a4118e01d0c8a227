"""Tiny text models with random weights of the classes that trainers use, saved as their makers save them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WORDS = "pick up the red cup and put it down on a table robot video of recorded from point view instruction following"
SENTENCE_HEADS = 2


def vocabulary(folder: Path, kind: str) -> None:
    """Writes a small ``tokenizer.json`` with the marks of ``kind``, and what pads."""
    marks = {
        "t5": ["<pad>", "</s>", "<unk>"],
        "clip": ["<unk>", "<|startoftext|>", "<|endoftext|>"],
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
    }[kind]
    unknown = next(mark for mark in marks if "unk" in mark.lower())
    tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind != "t5":
        tokenizer.normalizer = normalizers.Lowercase()
    # the end of CLIP has the largest id, which is how old configurations find it
    order = marks if kind != "clip" else []
    tokenizer.train_from_iterator([WORDS], trainers.WordLevelTrainer(special_tokens=order or marks[:1]))
    if kind == "clip":
        tokenizer.add_special_tokens(marks[1:])
    ids = {mark: tokenizer.token_to_id(mark) for mark in marks}
    around = {"t5": "$A </s>", "clip": "<|startoftext|> $A <|endoftext|>", "bert": "[CLS] $A [SEP]"}[kind]
    used = [(mark, ids[mark]) for mark in marks if mark in around]
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=used)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    pad = {"t5": "<pad>", "clip": "<|endoftext|>", "bert": "[PAD]"}[kind]
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))


def size_of(folder: Path) -> int:
    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size())


def write_model(folder: Path, name: str, seed: int = 0) -> Any:
    """Writes a model for the encoder ``name`` with its vocabulary into ``folder`` and returns it."""
    kind = {"umt5": "t5", "t5": "t5", "clip": "clip", "sentence": "bert"}[name]
    vocabulary(folder, kind)
    size = size_of(folder)
    torch.manual_seed(seed)
    small = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    if name == "umt5":
        model: Any = transformers.UMT5EncoderModel(transformers.UMT5Config(vocab_size=size, **small))
    elif name == "t5":
        model = transformers.T5EncoderModel(transformers.T5Config(vocab_size=size, **small))
    elif name == "clip":
        config = transformers.CLIPTextConfig(
            vocab_size=size,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=12,
            bos_token_id=size - 2,
            eos_token_id=size - 1,
            pad_token_id=1,
        )
        model = transformers.CLIPTextModelWithProjection(config)
    else:
        config = transformers.BertConfig(
            vocab_size=size,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=300,
        )
        model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # small initial weights would make all tokens alike
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.eval().save_pretrained(folder)
    return model
