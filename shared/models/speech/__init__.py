"""A formant synthesizer with speakers and emotions: sound -> vocal tract -> waveform, numpy and scipy only.

Its emotion rules are ours. Its speakers were matched to real speech in how easily encoders tell them apart, and in
nothing else: emotion accuracy measured on it says nothing about recordings of people.
"""

from moretta.shared.models.speech.synthesize import synthesize
from moretta.shared.models.speech.voice import Voice, make_voice

__all__ = ["Voice", "make_voice", "synthesize"]
