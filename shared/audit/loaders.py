"""How an auditor reads faces that never were released: found, cut out and sampled as a site would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class VideoFaces:
    """Reads the faces of one video: a frozen object, so that it reaches worker processes."""

    side: int
    """Pixels of the square crops."""
    fps: float
    """Frames kept per second of video."""

    def __call__(self, path: Path) -> npt.NDArray[np.uint8]:
        """uint8 [frames, side, side, 3], RGB.

        Raises:
            ClipError: the video cannot be read.
        """
        from moretta.shared.data.media import read_frames
        from moretta.shared.features.faces import FaceCropper

        frames = np.stack(list(read_frames(path, fps=self.fps)))
        return FaceCropper(self.side).crop_clip(frames).pictures
