"""A formant synthesizer with speakers and emotions: sound -> vocal tract -> waveform, numpy and scipy only.

Its emotion rules are ours. Its speakers were matched to real speech in how easily encoders tell them apart, and in
nothing else: emotion accuracy measured on it says nothing about recordings of people.
"""

from moretta.shared.models.speech.parallel import Utterance, drawn_voices, parallel_corpus, parallel_speech
from moretta.shared.models.speech.synthesize import synthesize
from moretta.shared.models.speech.voice import Voice, make_voice

__all__ = [
    "Utterance",
    "Voice",
    "drawn_voices",
    "make_voice",
    "parallel_corpus",
    "parallel_speech",
    "synthesize",
]
