"""Metric models of transformers at toy sizes with random weights, saved as the published ones are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    HubertConfig,
    HubertForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMForXVector,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

# Two convolutions for the seven of the published models: the same stride of 320 samples.
CONVOLUTIONS = {"conv_dim": (16, 16), "conv_stride": (20, 16), "conv_kernel": (25, 16), "num_feat_extract_layers": 2}
ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    **CONVOLUTIONS,
}
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|transcribe|>", "<|notimestamps|>"]


def make_whisper(folder: Path) -> Path:
    """A multilingual Whisper whose tokens are single bytes."""
    folder.mkdir(parents=True)
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, *SPECIAL])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=SPECIAL[0])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    end, start, english, chinese, transcribe, no_times = (vocabulary[token] for token in SPECIAL)
    config = WhisperConfig(
        vocab_size=len(vocabulary) + 1501, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=64, pad_token_id=end,
        eos_token_id=end, bos_token_id=end, decoder_start_token_id=start,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={"<|en|>": english, "<|zh|>": chinese},
        task_to_id={"transcribe": transcribe},
        no_timestamps_token_id=no_times,
        # The time stamps behind the vocabulary are no text; a random model would give little else.
        suppress_tokens=list(range(len(vocabulary), config.vocab_size)),
        max_length=40,
        decoder_start_token_id=start,
        pad_token_id=end,
        eos_token_id=end,
    )
    model.save_pretrained(folder)
    return folder


def make_hubert(folder: Path) -> Path:
    """A HuBERT with a CTC head over seven symbols."""
    folder.mkdir(parents=True)
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B"]
    (folder / "vocab.json").write_text(json.dumps({symbol: number for number, symbol in enumerate(symbols)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    HubertForCTC(HubertConfig(vocab_size=len(symbols), **ENCODER)).save_pretrained(folder)
    return folder


def make_xvector(folder: Path) -> Path:
    """A WavLM with an x-vector head."""
    torch.manual_seed(0)
    config = WavLMConfig(tdnn_dim=(8, 8, 8, 8, 24), xvector_output_dim=12, **ENCODER)
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder
