"""Imported once by the server that workers are forked from, so that no worker imports torch again."""

import numpy
import soundfile
import torch
import torchaudio

__all__ = ["numpy", "soundfile", "torch", "torchaudio"]
