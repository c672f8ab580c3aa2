"""Parameters of the sounds of English, and the CREMA-D sentences spelled in sounds (ARPAbet).

Sources: vowel formants are the means of men in Peterson & Barney, "Control methods used in a study of the vowels",
JASA 24 (1952), Table II; AX, a neutral tube, is added. Formants of consonants and centres of noise are of the order of
Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67 (1980), Tables II and III, set by ear-free trial;
durations are of the order of Klatt, "Linguistic uses of segmental duration in English", JASA 59 (1976).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resonant:
    """A voiced sound that the vocal tract shapes: vowels, nasals, glides, liquids."""

    formants: tuple[float, float, float]
    """The first three resonances of a man's vocal tract, in Hz."""
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Noise:
    """Turbulence: noise through one resonance."""

    centre_hz: float
    bandwidth_hz: float
    level: float
    """Level relative to voicing."""
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Diphthong:
    """A glide from one vowel to another."""

    start: str
    end: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """A closure, then a burst."""

    burst_hz: float
    voiced: bool
    burst_milliseconds: float = 18.0


VOWELS = {
    "IY": Resonant((270, 2290, 3010), 110),
    "IH": Resonant((390, 1990, 2550), 80),
    "EH": Resonant((530, 1840, 2480), 90),
    "AE": Resonant((660, 1720, 2410), 120),
    "AA": Resonant((730, 1090, 2440), 130),
    "AO": Resonant((570, 840, 2410), 130),
    "UH": Resonant((440, 1020, 2240), 80),
    "UW": Resonant((300, 870, 2240), 110),
    "AH": Resonant((640, 1190, 2390), 80),
    "ER": Resonant((490, 1350, 1690), 110),
    "AX": Resonant((500, 1400, 2400), 50),
}
DIPHTHONGS = {
    "EY": Diphthong("EH", "IY", 150),
    "AY": Diphthong("AA", "IY", 170),
    "OW": Diphthong("AO", "UW", 150),
    "AW": Diphthong("AA", "UW", 170),
    "OY": Diphthong("AO", "IY", 180),
}
SONORANTS = {
    "M": Resonant((280, 1000, 2200), 65),
    "N": Resonant((280, 1500, 2500), 60),
    "NG": Resonant((280, 2000, 2600), 65),
    "L": Resonant((360, 1100, 2700), 60),
    "R": Resonant((330, 1060, 1380), 60),
    "W": Resonant((290, 650, 2200), 60),
    "Y": Resonant((260, 2200, 3000), 55),
    "V": Resonant((280, 1200, 2300), 55),
    "DH": Resonant((280, 1400, 2500), 40),
    "Z": Resonant((250, 1600, 2600), 75),
    "ZH": Resonant((250, 1800, 2500), 75),
}
"""Voiced fricatives stand here with their voice, and in `FRICATIVES` with their noise."""
FRICATIVES = {
    "S": Noise(5500, 1500, 0.50, 95),
    "SH": Noise(3000, 1200, 0.55, 100),
    "F": Noise(6500, 4000, 0.12, 80),
    "TH": Noise(6000, 4000, 0.10, 70),
    "HH": Noise(1500, 2500, 0.12, 50),
    "Z": Noise(5500, 1500, 0.28),
    "V": Noise(6500, 4000, 0.05),
    "DH": Noise(6000, 4000, 0.05),
    "ZH": Noise(3000, 1200, 0.30),
}
STOPS = {
    "P": Stop(900, voiced=False),
    "T": Stop(4200, voiced=False),
    "K": Stop(2200, voiced=False),
    "B": Stop(700, voiced=True),
    "D": Stop(3600, voiced=True),
    "G": Stop(1900, voiced=True),
    "CH": Stop(3000, voiced=False, burst_milliseconds=70),
    "JH": Stop(3000, voiced=True, burst_milliseconds=70),
}
CLOSURE_MILLISECONDS = 55.0
BURST_BANDWIDTH_HZ = 1800.0
BURST_LEVEL = 0.35

SENTENCE_SOUNDS = {
    "IEO": "IH T S AX L EH V AX N AX K L AA K",
    "TIE": "DH AE T IH Z IH G Z AE K T L IY W AH T HH AE P AX N D",
    "IOM": "AY M AA N M AY W EY T UW DH AX M IY T IH NG",
    "IWW": "AY W AH N D ER W AH T DH IH S IH Z AX B AW T",
    "TAI": "DH IY EH R P L EY N IH Z AO L M OW S T F UH L",
    "MTI": "M EY B IY T AX M AA R OW IH T W IH L B IY K OW L D",
    "IWL": "AY W UH D L AY K AX N Y UW AX L AA R M K L AA K",
    "ITH": "AY TH IH NG K AY HH AE V AX D AA K T ER Z AX P OY N T M AX N T",
    "DFA": "D OW N T F ER G EH T AX JH AE K IH T",
    "ITS": "AY TH IH NG K AY V S IY N DH IH S B IH F AO R",
    "TSI": "DH AX S ER F IH S IH Z S L IH K",
    "WSI": "W IY L S T AA P IH N AX K AH P AX L AX V M IH N IH T S",
}
"""By the sentence codes of `cremad.SENTENCES`."""
