"""A release as a torch dataset: one released array and the number of its class, clip by clip."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.labels import classes_among
from moretta.shared.core.terms import Modality
from moretta.shared.release.read_release import Release


class ReleasedClips(Dataset[tuple[torch.Tensor, int]]):
    """The clips of one modality, in the order of the clip list. Arrays are read when they are indexed.

    Forms, types and shapes are those of the released form: waveform float32 [samples] at 16 kHz, mfcc float32 [frames,
    coefficients], code float32 [d], frames uint8 [frames, height, width, 3] of RGB. Clips have different lengths, so a
    loader with batches needs a `collate_fn`.

    Raises:
        ReleaseError: nothing of this modality was released; on indexing: an array is damaged.
    """

    def __init__(self, release: Release, modality: Modality) -> None:
        self.release, self.modality = release, modality
        self.clips = tuple(clip for clip in release.clips if getattr(clip, modality) is not None)
        """With `speaker`, by which people are split, and `emotion`."""
        if not self.clips:
            released = ", ".join(release.modalities) or "nothing"
            raise ReleaseError(f"no released {modality} in {release.folder}", expected=f"one of: {released}")
        self.classes = classes_among(clip.emotion for clip in release.clips)
        """Names of the labels: entry n is class n."""

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        clip = self.clips[index]
        return torch.from_numpy(self.release.array(self.modality, clip)), self.classes.index(clip.emotion)
