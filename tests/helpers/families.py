"""Tiny models of the families that the encoder ``auto`` reads, and samples for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedcmi_flwr.data.schema import ModalitySpec

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
SOUND = {**SMALL, "conv_dim": [8, 8], "conv_kernel": [10, 4], "conv_stride": [5, 4], "num_conv_pos_embeddings": 4,
         "num_conv_pos_embedding_groups": 2}  # fmt: skip
IMAGE = ModalitySpec(
    "image", "image", (3, 36, 40), "uint8", (120.0, 110.0, 100.0), (60.0, 50.0, 70.0)
)
WAVE = ModalitySpec("sound", "series", (1, 1600), "float32", (0.01,), (0.2,))
TEXT = ModalitySpec("text", "tokens", (8,), "int32")
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "flood",
    "fire",
    "river",
    "smoke",
    "water",
    "burns",
    "rises",
]


@dataclass(frozen=True)
class Family:
    """One of them."""

    modality: ModalitySpec
    model: Any
    """Its class."""
    config: Any
    processor: Any = None
    """Of images or sound; text has a tokenizer of its own."""


def family(name: str) -> Family:
    """Return a family by its name, one of FAMILIES."""
    import transformers as hf

    sizes = {"image_size": 32, "patch_size": 8}
    vision, text = {**SMALL, **sizes}, {**SMALL, "vocab_size": 60, "max_position_embeddings": 16}
    towers = {
        "vision_config": vision,
        "text_config": {**text, "eos_token_id": 3, "bos_token_id": 2},
    }
    clip = hf.CLIPConfig(**towers, projection_dim=8)
    square, centre = (
        {"size": {"height": 32, "width": 32}},
        {"size": {"shortest_edge": 34}, "crop_size": 32},
    )
    whisper = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
               "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 60,
               "max_source_positions": 50, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
               "decoder_start_token_id": 2}  # fmt: skip
    found = {
        "vit": lambda: Family(
            IMAGE, hf.ViTModel, hf.ViTConfig(**vision), hf.ViTImageProcessor(**square)
        ),
        "dinov2": lambda: Family(
            IMAGE,
            hf.Dinov2Model,
            hf.Dinov2Config(**vision),
            hf.BitImageProcessor(**centre, resample=3),
        ),
        "dinov2-backbone": lambda: Family(
            IMAGE,
            hf.Dinov2Backbone,
            hf.Dinov2Config(**vision, out_features=["stage1"]),
            hf.BitImageProcessor(**centre),
        ),
        "resnet": lambda: Family(
            IMAGE,
            hf.ResNetModel,
            hf.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"
            ),
        ),
        "convnext": lambda: Family(
            IMAGE,
            hf.ConvNextModel,
            hf.ConvNextConfig(hidden_sizes=[8, 8, 8, 12], depths=[1, 1, 1, 1]),
            hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        ),
        "clip-image": lambda: Family(IMAGE, hf.CLIPModel, clip, hf.CLIPImageProcessor(**centre)),
        "clip-text": lambda: Family(TEXT, hf.CLIPModel, clip),
        "bert": lambda: Family(TEXT, hf.BertModel, hf.BertConfig(**text)),
        "roberta": lambda: Family(TEXT, hf.RobertaModel, hf.RobertaConfig(**text, pad_token_id=1)),
        "distilbert": lambda: Family(
            TEXT,
            hf.DistilBertModel,
            hf.DistilBertConfig(dim=16, hidden_dim=24, n_heads=2, n_layers=1, vocab_size=60),
        ),
        "wav2vec2": lambda: Family(
            WAVE, hf.Wav2Vec2Model, hf.Wav2Vec2Config(**SOUND), hf.Wav2Vec2FeatureExtractor()
        ),
        "hubert": lambda: Family(
            WAVE,
            hf.HubertModel,
            hf.HubertConfig(**SOUND),
            hf.Wav2Vec2FeatureExtractor(do_normalize=False),
        ),
        "whisper": lambda: Family(
            WAVE,
            hf.WhisperModel,
            hf.WhisperConfig(**whisper),
            hf.WhisperFeatureExtractor(chunk_length=1),
        ),
    }
    return found[name]()


FAMILIES = ("vit", "dinov2", "dinov2-backbone", "resnet", "convnext", "clip-image", "clip-text", "bert", "roberta",
            "distilbert", "wav2vec2", "hubert", "whisper")  # fmt: skip


def save(directory: Path, name: str, seed: int = 0) -> Path:
    """Write a tiny model with random weights as its own class does, and its processor."""
    chosen = family(name)
    torch.manual_seed(seed)
    chosen.model(chosen.config).save_pretrained(directory)
    if chosen.processor is not None:
        chosen.processor.save_pretrained(directory)
    return directory


def save_tokenizer(directory: Path, padding: int = 0) -> Path:
    """Write a tokenizer of WORDS as its own class does; its padding may be any token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = list(WORDS)
    words[0], words[padding] = words[padding], words[0]
    numbers = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(mark, numbers[mark]) for mark in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=marks
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    tokenizer.save_pretrained(directory)
    return directory


def samples(modality: ModalitySpec, count: int, seed: int = 0) -> np.ndarray:
    """Return made-up samples in stored units; tokens end in padding."""
    rng = np.random.default_rng(seed)
    shape = (count, *modality.shape)
    if modality.kind == "tokens":
        tokens = rng.integers(5, len(WORDS), shape)
        tokens[:, 0] = 2
        ends = 3 + np.arange(count) % (modality.shape[0] - 3)
        tokens[np.arange(count), ends] = 3
        tokens[np.arange(modality.shape[0]) > ends[:, None]] = 0
        return tokens.astype(modality.dtype)
    if modality.kind == "series":
        return (0.3 * rng.standard_normal(shape)).astype(modality.dtype)
    return rng.integers(0, 256, shape).astype(modality.dtype)
