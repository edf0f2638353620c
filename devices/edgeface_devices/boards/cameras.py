"""The cameras of this machine, as Linux names them."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

# linux/videodev2.h: VIDIOC_QUERYCAP; in struct v4l2_capability the second text is the card's name, the last number
# what this very device does.
_QUERY = 0x80685600
_CAPABILITY = struct.Struct("16s32s32sIII12x")
_CAPTURES = 0x1 | 0x1000  # V4L2_CAP_VIDEO_CAPTURE, also of several planes


@dataclass(frozen=True)
class VideoDevice:
    """One ``/dev/video*``."""

    path: Path
    name: str | None
    """As its driver calls it; None where it may not be opened."""


def video_devices(folder: Path = Path("/dev")) -> list[VideoDevice]:
    """Devices that give pictures, and those that may not be asked; a board's codecs and scalers are left out."""
    found = []
    numbered = (path for path in folder.glob("video*") if path.name.removeprefix("video").isdigit())
    for path in sorted(numbered, key=lambda path: int(path.name.removeprefix("video"))):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                found.append(VideoDevice(path, None))
            continue
        try:
            answer = fcntl.ioctl(descriptor, _QUERY, bytes(_CAPABILITY.size))
        except OSError:
            continue
        finally:
            os.close(descriptor)
        _, card, _, _, _, does = _CAPABILITY.unpack(answer)
        if does & _CAPTURES:
            found.append(VideoDevice(path, card.split(b"\0")[0].decode(errors="replace")))
    return found
