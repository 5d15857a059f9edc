"""Imported once by the server that workers are forked from, so that no worker imports torch
again.
"""

import av
import numpy
import soundfile
import torch
import torchaudio

from data_prep.media import clips

__all__ = ["av", "clips", "numpy", "soundfile", "torch", "torchaudio"]
